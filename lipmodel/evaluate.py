"""Labelled data to clean, certified and attacked accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from lipmodel.audit.attack import nearest_changes
from lipmodel.audit.gradient import GradientEngine
from lipmodel.audit.peers import check_methods
from lipmodel.certify.head import Indices
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import InputError
from lipmodel.norms import Array, Norm
from lipmodel.progress import Progress, part, silent
from lipmodel.shards import Spread, batches_within, cut
from lipmodel.stream import Stream, in_memory

BATCH_ROWS, TIGHTENED_ROWS = 1000, 20
CURVE_POINTS = 201
CONFIDENCE = 0.95
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)

Interval = tuple[float, float]


@dataclass(frozen=True)
class Accuracies:
    """Shares of N inputs, all of them or those of one class.

    Attributes:
        samples: N.
        clean_accuracy: share answered with the right label.
        certified_accuracy: for each epsilon, share answered right with a radius of at least epsilon.
        attacked_accuracy: for each epsilon, share of the inputs attacked that are answered right and for
            which no change within epsilon was found to alter that; no less than the true robust accuracy.
        clean_accuracy_interval, certified_accuracy_intervals, attacked_accuracy_intervals: the same as 95%
            confidence intervals (Wilson 1927) for the population that the inputs were drawn from.
        average_certified_radius: mean radius, counting 0 where the answer is wrong (Zhai et al. 2020).
    """

    samples: int
    clean_accuracy: float
    certified_accuracy: dict[str, float]
    attacked_accuracy: dict[str, float]
    clean_accuracy_interval: Interval
    certified_accuracy_intervals: dict[str, Interval]
    attacked_accuracy_intervals: dict[str, Interval]
    average_certified_radius: float


@dataclass(frozen=True, eq=False)
class Evaluation(Accuracies):
    """What a classifier achieves on labelled data.

    Attributes:
        norm: the norm that radii and epsilons are in.
        tightened: whether radii are those of the slower tier.
        attacked_samples: how many inputs, the first, were attacked.
        certified_radius_quantiles: 0.05, 0.25, 0.5, 0.75, 0.95 of the radii of right answers.
        curve: certified accuracy over epsilon, at 201 even steps up to the largest radius.
        per_class: the same figures by the true class.
        labels: (N,) the true classes; answers: (N,) those given; radii: (N,) certified, in that order.
        distances: of the first inputs, to the nearest change of label found; infinite without one.
    """

    norm: Norm
    tightened: bool
    attacked_samples: int
    certified_radius_quantiles: dict[str, float]
    curve: dict[str, list[float]]
    per_class: dict[str, Accuracies]
    labels: Indices
    answers: Indices
    radii: Array
    distances: Array

    @property
    def right(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(N,) whether the answer is the label."""
        return np.asarray(self.answers == self.labels)

    def summary(self) -> dict[str, Any]:
        """The figures of the whole, as JSON types: short enough for a model's metadata."""
        names = ("tightened", "samples", "clean_accuracy", "certified_accuracy", "average_certified_radius",
                 "certified_radius_quantiles")  # fmt: skip
        return {"norm": self.norm.value} | {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON types."""
        return {
            **self.summary(),
            **_accuracies(self),
            "attacked_samples": self.attacked_samples,
            "curve": self.curve,
            "per_class": {name: _accuracies(shares) for name, shares in self.per_class.items()},
        }


def evaluate(
    predictor: CertifiedPredictor,
    inputs: Any,
    labels: Sequence[int] | np.ndarray[Any, Any] | None = None,
    norm: Norm | None = None,
    epsilons: Iterable[float] = (),
    progress: Progress = silent,
    *,
    tighten: bool = False,
    attacked: int = 0,
    methods: tuple[str, ...] = (),
    spread: Spread | None = None,
) -> Evaluation:
    """Certified accuracy on labelled data.

    Args:
        predictor: the classifier.
        inputs: (N, d) or (N, *input_shape), perhaps a memory map; or a stream of inputs and labels.
        labels: (N,) class indices; none beside a stream, which has its own.
        norm: of the radii; the predictor's own by default.
        epsilons: sizes >= 0 to give the certified accuracy at.
        progress: told the share done.
        tighten: prove larger radii, slowly; see ``CertifiedPredictor.predict``.
        attacked: how many inputs, the first, to attack for the accuracy under attack.
        methods: attacks of foolbox beside our own; see ``lipmodel.audit.peers``.
        spread: has other processes measure the rows of the stream; the figures are the same.

    Raises:
        InputError: inputs that do not fit; labels that are not class indices; a bad epsilon; a
            negative number of inputs to attack; an unknown attack, or one of another norm.
        MissingExtraError: attacks of foolbox, which is not installed.
    """
    norm = norm or predictor.default_norm
    sizes = sorted({float(e) for e in epsilons})
    if any(not 0.0 <= e < np.inf for e in sizes):
        raise InputError("finite numbers of at least 0 are accepted", field="epsilons")
    if attacked < 0:
        raise InputError(f"{attacked} inputs to attack; 0 or more is accepted", field="attacked")
    check_methods(methods, norm)
    data = inputs if isinstance(inputs, Stream) else _arrays(inputs, labels)
    if not data.rows:
        raise InputError("is empty; at least one row is accepted")
    look = Measure(norm, tighten, attacked, methods)
    if spread is None:
        parts = [look(predictor, data, range(data.rows), progress)]
    else:
        parts = list(spread(look, cut(data.rows, look.step, data.starts, attacked), progress))
    measured = Measured(*map(np.concatenate, zip(*parts, strict=True)))
    return _evaluation(predictor.class_names, norm, sizes, tighten, *measured)


class Measured(NamedTuple):
    """What is measured of n rows.

    Attributes:
        labels: (n,) the true classes; answers: (n,) those given; radii: (n,) certified.
        distances: of those that are attacked, to the nearest change of label found; infinite without one.
    """

    labels: Indices
    answers: Indices
    radii: Array
    distances: Array


@dataclass(frozen=True)
class Measure:
    """Measures rows, batch by batch.

    Attributes:
        norm: of the radii.
        tighten: whether radii are those of the slower tier.
        attacked: how many rows of the data, the first, are attacked.
        methods: attacks of foolbox beside our own.
    """

    norm: Norm
    tighten: bool
    attacked: int
    methods: tuple[str, ...]

    @property
    def step(self) -> int:
        """Rows of a batch."""
        return TIGHTENED_ROWS if self.tighten else BATCH_ROWS

    def __call__(
        self, predictor: CertifiedPredictor, data: Stream | None, rows: range, progress: Progress
    ) -> Measured:
        """What is measured of some consecutive rows, from the beginning of a batch on.

        Raises:
            InputError: inputs that do not fit; labels that are not class indices.
        """
        assert data is not None
        engine = GradientEngine(predictor.file.graph) if rows.start < self.attacked else None
        parts: list[Measured] = []
        for first, inputs, given in batches_within(data, rows, self.step):
            x = predictor.check_inputs(inputs, first_row=first)
            truth = _check_labels(given, len(x), len(predictor.class_names), data, first)
            found = predictor.predict(x, self.norm, tighten=self.tighten).radii
            before, after = ((first + n - rows.start) / len(rows) for n in (0, len(x)))
            distance = np.empty(0)
            if engine is not None and first < self.attacked:
                distance = nearest_changes(
                    predictor, engine, x[: self.attacked - first], self.norm,
                    methods=self.methods, progress=part(progress, before, after),
                ).distance  # fmt: skip
            parts.append(Measured(truth, found.label, found.certified_radius, distance))
            progress(after)
        return Measured(*map(np.concatenate, zip(*parts, strict=True)))


def wilson_interval(hits: int, samples: int, confidence: float = CONFIDENCE) -> Interval:
    """Confidence interval of a probability from ``hits`` of ``samples`` independent trials (Wilson 1927).

    The probabilities p for which |hits/samples - p| <= z sqrt(p(1 - p) / samples); (0, 1) of no trials.
    """
    if not samples:
        return 0.0, 1.0
    z, share = NormalDist().inv_cdf((1.0 + confidence) / 2.0), hits / samples
    denominator = 1.0 + z * z / samples
    centre = (share + z * z / (2.0 * samples)) / denominator
    half = z / denominator * (share * (1.0 - share) / samples + z * z / (4.0 * samples**2)) ** 0.5
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    return low, 1.0 if hits == samples else min(1.0, centre + half)


def _arrays(inputs: Any, labels: Any) -> Stream:
    if not isinstance(inputs, np.ndarray):
        inputs = np.asarray(inputs)
    y = np.asarray(labels)
    rows = len(inputs) if inputs.ndim else 0
    if y.shape != (rows,):
        raise InputError(f"{rows} class indices are accepted, not {y.dtype} {list(y.shape)}", field="labels")
    return in_memory("inputs", inputs, y)


def _check_labels(labels: Any, rows: int, classes: int, data: Stream, first: int) -> Indices:
    if labels is None:
        raise InputError("are missing; a class index for each input is needed", field="labels")
    y = np.asarray(labels)
    if y.shape != (rows,) or y.dtype.kind not in "iu":
        raise InputError(f"{rows} class indices are accepted, not {y.dtype} {list(y.shape)}", field="labels")
    wrong = np.flatnonzero((y < 0) | (y >= classes))
    if len(wrong):
        told = f"{y[wrong[0]]} of {data.place(first + int(wrong[0]))}"
        raise InputError(f"class indices from 0 to {classes - 1} are accepted, not {told}", field="labels")
    return y.astype(np.intp)


def _evaluation(
    names: Sequence[str],
    norm: Norm,
    sizes: list[float],
    tighten: bool,
    labels: Indices,
    answers: Indices,
    radii: Array,
    distances: Array,
) -> Evaluation:
    right = answers == labels
    # Ordered, so that a share of at least epsilon is found by bisection; a radius of 0 certifies nothing.
    reached = np.sort(radii[right & (radii > 0.0)])
    grid = np.linspace(0.0, float(reached[-1]) if len(reached) else 0.0, CURVE_POINTS)
    counts = len(reached) - np.searchsorted(reached, grid, side="left")
    quantiles = np.quantile(radii[right], LEVELS) if right.any() else np.zeros(len(LEVELS))
    every = np.ones(len(labels), dtype=np.bool_)
    return Evaluation(
        **_shares(every, right, radii, distances, sizes),
        norm=norm,
        tightened=tighten,
        attacked_samples=len(distances),
        certified_radius_quantiles={f"{q:g}": float(v) for q, v in zip(LEVELS, quantiles, strict=True)},
        curve={"epsilon": grid.tolist(), "certified_accuracy": (counts / len(labels)).tolist()},
        per_class={
            name: Accuracies(**_shares(labels == k, right, radii, distances, sizes))
            for k, name in enumerate(names)
        },
        labels=labels,
        answers=answers,
        radii=radii,
        distances=distances,
    )


def _shares(
    chosen: np.ndarray[Any, np.dtype[np.bool_]],
    right: np.ndarray[Any, np.dtype[np.bool_]],
    radii: Array,
    distances: Array,
    sizes: list[float],
) -> dict[str, Any]:
    """The fields of :class:`Accuracies` for the inputs chosen; zeros where there are none."""
    attacked = chosen[: len(distances)]
    safe, fine = distances[attacked], right[: len(distances)][attacked]
    right, radii = right[chosen], radii[chosen]
    clean = int(right.sum())
    certified = {f"{e:g}": int((right & (radii >= e) & (radii > 0.0)).sum()) for e in sizes}
    withstood = {f"{e:g}": int((fine & (safe > e)).sum()) for e in sizes} if len(distances) else {}
    samples, tried = len(right), len(safe)
    return {
        "samples": samples,
        "clean_accuracy": clean / max(1, samples),
        "certified_accuracy": {e: hits / max(1, samples) for e, hits in certified.items()},
        "attacked_accuracy": {e: hits / max(1, tried) for e, hits in withstood.items()},
        "clean_accuracy_interval": wilson_interval(clean, samples),
        "certified_accuracy_intervals": {e: wilson_interval(h, samples) for e, h in certified.items()},
        "attacked_accuracy_intervals": {e: wilson_interval(h, tried) for e, h in withstood.items()},
        "average_certified_radius": float(np.where(right, radii, 0.0).mean()) if samples else 0.0,
    }


def _accuracies(shares: Accuracies) -> dict[str, Any]:
    """Its fields as JSON types, those of :class:`Accuracies` alone."""
    intervals = ("certified_accuracy_intervals", "attacked_accuracy_intervals")
    return {
        **{name: getattr(shares, name) for name in Accuracies.__dataclass_fields__},
        "clean_accuracy_interval": list(shares.clean_accuracy_interval),
        **{name: {e: list(ends) for e, ends in getattr(shares, name).items()} for name in intervals},
    }
