"""Distributions of served radii, and their test against a reference: drift shows before errors do.

True labels are unknown in service, but radii are known: when the inputs change, so does the distribution of
radii. Only radii of the plain (Lipschitz) tier count, of right and wrong predictions alike, so that
served and reference radii are measured in the same way.
"""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.certify.radius import Radii
from lipmodel.norms import Array, Norm
from service.models.policy import is_certified
from service.models.registry import Model

KEPT = 10_000
"""Number of latest radii kept for each model and norm."""
EDGES = np.array([0.0] + [float(f"{digit}e{power}") for power in range(-3, 3) for digit in (1, 2, 5)])
"""Upper edges of histogram bins, in units of the input; the last bin has none."""
TERMS = 100


class ClassHistograms:
    """Counts and sums of values by class, binned as in Prometheus: value <= upper edge."""

    def __init__(self, classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((classes, len(EDGES) + 1), dtype=np.int64)
        self.sums: Array = np.zeros(classes)

    def add(self, labels: NDArray[np.int64], values: Array) -> None:
        """Count (N,) values, each for the class in (N,) ``labels``."""
        np.add.at(self.counts, (labels, np.searchsorted(EDGES, values)), 1)
        np.add.at(self.sums, labels, values)


class Distribution:
    """Margins and certified radii served by one version of a model in one norm.

    Attributes:
        model, version, norm: names of the model and the version, and the norm.
        class_names: classes of the model.
        margins, certified_radii: histograms since the start of the process.
    """

    def __init__(self, model: Model, norm: Norm) -> None:
        self.model, self.version, self.norm = model.name, model.version, norm
        self.class_names = model.predictor.class_names
        self._predictor = weakref.ref(model.predictor)  # must not keep an unloaded model in memory
        classes = len(self.class_names)
        self.margins, self.certified_radii = ClassHistograms(classes), ClassHistograms(classes)
        self._latest: Array = np.zeros(KEPT)
        self._times: Array = np.zeros(KEPT)
        self._count = 0

    def add(self, radii: Radii) -> None:
        """Count the predictions of one request."""
        self.margins.add(radii.label, radii.margin)
        self.certified_radii.add(radii.label, radii.certified_radius)
        latest = radii.certified_radius[-KEPT:]
        places = (self._count + np.arange(len(latest))) % KEPT
        self._latest[places], self._times[places] = latest, time.time()
        self._count += len(latest)

    def is_of(self, predictor: CertifiedPredictor | None = None) -> bool:
        """Return True if the distribution is the predictor's; by default, if its own is still loaded."""
        own = self._predictor()
        return own is not None and predictor in (None, own)

    @property
    def latest(self) -> Array:
        """Radii of the latest predictions, at most ``KEPT``, in no order."""
        return self._latest[: self._count]

    @property
    def since(self) -> float | None:
        """Time of the oldest radius in :attr:`latest`, in seconds since 1970; None if there are none."""
        return float(self._times[: self._count].min()) if self._count else None


class ServedRadii:
    """Distributions of a process by model, version and norm. Used on the event loop alone.

    Attributes:
        abstentions: number of labels withheld by the policy of each model, by its name.
    """

    def __init__(self) -> None:
        self._distributions: dict[tuple[str, str, Norm], Distribution] = {}
        self.abstentions: Counter[str] = Counter()

    def of(self, model: Model, norm: Norm) -> Distribution:
        """Return the distribution of a model in a norm, a new one if the file of the version has changed."""
        key = (model.name, model.version, norm)
        found = self._distributions.get(key)
        if found is None or not found.is_of(model.predictor):
            self._distributions = {k: d for k, d in self._distributions.items() if d.is_of()}
            found = self._distributions[key] = Distribution(model, norm)
        return found

    def __iter__(self) -> Iterator[Distribution]:
        return (distribution for distribution in self._distributions.values() if distribution.is_of())


@dataclass(frozen=True)
class KolmogorovSmirnov:
    """Result of the two-sample test of Kolmogorov and Smirnov.

    Attributes:
        statistic: largest difference of the empirical distribution functions, from 0 to 1.
        p_value: probability of a statistic at least as large if both samples have one distribution;
            asymptotic, and too large where values repeat (radii of 0), so the test errs towards no drift.
    """

    statistic: float
    p_value: float


def kolmogorov_smirnov(a: Array, b: Array) -> KolmogorovSmirnov:
    """Return the two-sample test (Smirnov 1948), p by Kolmogorov's series with Stephens' correction (1970).

    Args:
        a: (n,) values, n >= 1.
        b: (m,) values, m >= 1.
    """
    a, b = np.sort(a), np.sort(b)
    both = np.concatenate([a, b])
    shares = [np.searchsorted(x, both, side="right") / len(x) for x in (a, b)]
    statistic = float(np.abs(shares[0] - shares[1]).max())
    root = np.sqrt(len(a) * len(b) / (len(a) + len(b)))
    scaled = (root + 0.12 + 0.11 / root) * statistic
    if scaled < 0.2:  # 1 - p is under 1e-12, and the series slow
        return KolmogorovSmirnov(statistic, 1.0)
    k = np.arange(1, TERMS)
    p = 2.0 * float(np.sum((-1.0) ** (k - 1) * np.exp(-2.0 * (k * scaled) ** 2)))
    return KolmogorovSmirnov(statistic, min(max(p, 0.0), 1.0))


def share_below(radii: Array, epsilon: float) -> float:
    """Return the share of radii that certify nothing at ``epsilon``."""
    return float(1.0 - is_certified(radii, epsilon).mean())
