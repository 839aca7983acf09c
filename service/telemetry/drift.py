"""What was served lately, against a reference: a drift towards the boundary is seen before it errs.

Labels are not known in service, but radii are: when the inputs change, so does the distribution of
radii. Only radii of the plain (Lipschitz) tier are looked at, of right and wrong answers alike, so that
what is compared was measured in one way.
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
"""Radii kept a model and norm: the latest."""
EDGES = np.array([0.0] + [float(f"{digit}e{power}") for power in range(-3, 3) for digit in (1, 2, 5)])
"""Upper ends of a histogram's bins, in units of the input; one more bin has none."""
TERMS = 100


class Histogram:
    """Counts and sums of values, class by class, as Prometheus counts: value <= end of the bin."""

    def __init__(self, classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((classes, len(EDGES) + 1), dtype=np.int64)
        self.sums: Array = np.zeros(classes)

    def add(self, labels: NDArray[np.int64], values: Array) -> None:
        """Counts (N,) values, each to its class."""
        np.add.at(self.counts, (labels, np.searchsorted(EDGES, values)), 1)
        np.add.at(self.sums, labels, values)


class Distribution:
    """Margins and radii that one version of a model served in one norm.

    Attributes:
        model, version, norm: whose; names.
        class_names: of the model.
        margins, certified_radii: of all that was served since the start.
    """

    def __init__(self, model: Model, norm: Norm) -> None:
        self.model, self.version, self.norm = model.name, model.version, norm
        self.class_names = model.predictor.class_names
        self._predictor = weakref.ref(model.predictor)  # must not keep what is served no more in memory
        classes = len(self.class_names)
        self.margins, self.certified_radii = Histogram(classes), Histogram(classes)
        self._latest: Array = np.zeros(KEPT)
        self._times: Array = np.zeros(KEPT)
        self._count = 0

    def add(self, radii: Radii) -> None:
        """Counts the answers to one request."""
        self.margins.add(radii.label, radii.margin)
        self.certified_radii.add(radii.label, radii.certified_radius)
        latest = radii.certified_radius[-KEPT:]
        places = (self._count + np.arange(len(latest))) % KEPT
        self._latest[places], self._times[places] = latest, time.time()
        self._count += len(latest)

    def is_of(self, predictor: CertifiedPredictor | None = None) -> bool:
        """Whether it is of that one; by default, whether its own is still there."""
        mine = self._predictor()
        return mine is not None and predictor in (None, mine)

    @property
    def latest(self) -> Array:
        """The radii of the latest answers, at most ``KEPT``, in no order."""
        return self._latest[: self._count]

    @property
    def since(self) -> float | None:
        """When the first of those was served; None where there are none."""
        return float(self._times[: self._count].min()) if self._count else None


class Served:
    """The distributions of a server, since its start. Used on the event loop alone.

    Attributes:
        abstentions: labels withheld by the policy of a model, by its name.
    """

    def __init__(self) -> None:
        self._distributions: dict[tuple[str, str, Norm], Distribution] = {}
        self.abstentions: Counter[str] = Counter()

    def of(self, model: Model, norm: Norm) -> Distribution:
        """That of a model in a norm; begun anew where the version has another file by now."""
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
    """Whether two samples may come from one distribution.

    Attributes:
        statistic: the largest difference of their distribution functions, from 0 to 1.
        p_value: how likely one at least as large is if they do; asymptotic, and too large where values
            repeat (radii of 0), so drift is told rather too late than without reason.
    """

    statistic: float
    p_value: float


def kolmogorov_smirnov(a: Array, b: Array) -> KolmogorovSmirnov:
    """The two-sample test (Smirnov 1948), p by Kolmogorov's series with Stephens' correction (1970).

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
    """The share that is not certified at epsilon."""
    return float(1.0 - is_certified(radii, epsilon).mean())
