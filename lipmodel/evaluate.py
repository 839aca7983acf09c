"""Labelled data to clean, certified and attacked accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist, fmean
from typing import Any, NamedTuple

import numpy as np

from lipmodel.audit.attacks.attack import AttackTask
from lipmodel.audit.attacks.registry import check_methods, find_nearest
from lipmodel.audit.gradient import GradientEngine
from lipmodel.audit.shard_task import ATTACK_COST
from lipmodel.certify.head import Indices
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.shards import ShardExecutor, batches_within, chosen_rows, cut
from lipmodel.data.stream import Stream, in_memory
from lipmodel.errors import InputError
from lipmodel.norms import Array, Norm
from lipmodel.progress import Progress, part, silent

BATCH_ROWS, TIGHTENED_ROWS = 1000, 20
SAMPLE_SEED = 0
"""Of the choice of inputs to attack: the same of the same labels."""
CURVE_POINTS = 201
CONFIDENCE = 0.95
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)

Interval = tuple[float, float]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Accuracies:
    """Shares of N inputs, all of them or those of one class.

    Attributes:
        samples: N; ``attacked_samples``: how many of them were attacked, see :func:`sample`.
        clean_accuracy: share answered with the right label.
        certified_accuracy: for each epsilon, share answered right with a radius of at least epsilon.
        attacked_accuracy: for each epsilon, share of the inputs attacked that are answered right and for
            which no change within epsilon was found to alter that; no less than the true robust accuracy.
        clean_accuracy_interval, certified_accuracy_intervals, attacked_accuracy_intervals: the same as 95%
            confidence intervals (Wilson 1927) for the population that the inputs were drawn from.
        average_certified_radius: mean radius, counting 0 where the answer is wrong (Zhai et al. 2020).
    """

    samples: int
    attacked_samples: int
    clean_accuracy: float
    certified_accuracy: dict[str, float]
    attacked_accuracy: dict[str, float]
    clean_accuracy_interval: Interval
    certified_accuracy_intervals: dict[str, Interval]
    attacked_accuracy_intervals: dict[str, Interval]
    average_certified_radius: float


@dataclass(frozen=True)
class AttackedSample(Accuracies):
    """Figures of the inputs that were attacked, which certified and attacked accuracy can be compared over.

    Attributes:
        curve: certified and attacked accuracy over epsilon, at 201 even steps up to the largest radius of all
            inputs or the largest epsilon asked for.
    """

    curve: dict[str, list[float]]


@dataclass(frozen=True, eq=False)
class Evaluation(Accuracies):
    """What a classifier achieves on labelled data.

    Attributes:
        norm: the norm that radii and epsilons are in.
        execution: the format that was evaluated in: answers and radii are those of evaluations in it.
        tightened: whether radii are those of the slower tier.
        majority_share: share of the most common class, ``majority_class``: the majority-class baseline, which
            is also its certified accuracy at every epsilon.
        balanced_accuracy, balanced_certified_accuracy: means of the classes' clean accuracies, and of the
            certified ones for each epsilon, over the classes that occur; the majority-class baseline has one
            over their number.
        attacked_sample: the figures of these inputs alone; None where none were attacked.
        inputs_outside_box: how many inputs lie far outside the box that the file names.
        warnings: reasons to doubt that the inputs are what the model was trained for, in words.
        certified_radius_quantiles: 0.05, 0.25, 0.5, 0.75, 0.95 of the radii of right answers.
        curve: certified accuracy over epsilon, at 201 even steps up to the largest radius.
        per_class: the same figures by the true class.
        labels: (N,) the true classes; answers: (N,) those given; radii: (N,) certified, in that order.
        distances: (N,) of inputs attacked, to the nearest change of label found, infinite without one; NaN of
            the others.
    """

    norm: Norm
    execution: str
    tightened: bool
    majority_share: float
    majority_class: str
    balanced_accuracy: float
    balanced_certified_accuracy: dict[str, float]
    attacked_sample: AttackedSample | None
    inputs_outside_box: int
    warnings: tuple[str, ...]
    certified_radius_quantiles: dict[str, float]
    curve: dict[str, list[float]]
    per_class: dict[str, Accuracies]
    labels: Indices
    answers: Indices
    radii: Array
    distances: Array

    @property
    def correct(self) -> Flags:
        """(N,) true where the predicted class is the label."""
        return np.asarray(self.answers == self.labels)

    def summary(self) -> dict[str, Any]:
        """The figures of the whole, as JSON types: short enough for a model's metadata."""
        names = ("tightened", "samples", "majority_share", "clean_accuracy", "balanced_accuracy",
                 "certified_accuracy", "average_certified_radius", "certified_radius_quantiles")  # fmt: skip
        return {"norm": self.norm.value} | {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON types."""
        return {
            **self.summary(),
            **_accuracies(self),
            "execution": self.execution,
            "majority_class": self.majority_class,
            "balanced_certified_accuracy": self.balanced_certified_accuracy,
            "attacked_sample": None
            if self.attacked_sample is None
            else {**_accuracies(self.attacked_sample), "curve": self.attacked_sample.curve},
            "inputs_outside_box": self.inputs_outside_box,
            "warnings": list(self.warnings),
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
    executor: ShardExecutor | None = None,
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
        attacked: how many inputs to attack for the accuracy under attack; which, :func:`sample` says.
        methods: attacks in addition to the built-in one; see ``lipmodel.audit.attacks.registry``.
        executor: runs the work on a stream in several processes; the figures are the same.

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
    attacked = min(attacked, data.rows)
    share = data.rows / (data.rows + ATTACK_COST * attacked)
    measuring, attacking = part(progress, 0.0, share), part(progress, share, 1.0)
    measure = EvaluationTask(norm, tighten)
    if executor is None:
        parts = [measure(predictor, data, range(data.rows), measuring)]
    else:
        parts = list(executor(measure, cut(data.rows, measure.step, data.starts), measuring))
    measured = RowResults(*map(np.concatenate, zip(*parts, strict=True)))
    distances = np.full(data.rows, np.nan)
    if attacked:
        rows = sample(measured.labels, attacked)
        attack = AttackRowsTask(norm, methods, tuple(rows.tolist()))
        if executor is None:
            found = [attack(predictor, data, range(attacked), attacking)]
        else:
            found = list(
                executor(attack, cut(attacked, BATCH_ROWS, range(0, attacked, BATCH_ROWS)), attacking)
            )
        distances[rows] = np.concatenate(found)
    return _evaluation(predictor, norm, sizes, tighten, measured, distances)


def sample(labels: Indices, count: int) -> Indices:
    """Return which rows are attacked, in ascending order: a seeded random choice, stratified by label.

    Every class has its share of the sample, to within one row: of the rows ordered by class, and at random
    within one, those at even distances are taken.
    """
    shuffled = np.random.default_rng(SAMPLE_SEED).permutation(len(labels))
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return np.sort(ordered[(2 * np.arange(count) + 1) * len(labels) // (2 * count)])


class RowResults(NamedTuple):
    """What is measured of n rows.

    Attributes:
        labels: (n,) the true classes; answers: (n,) those given; radii: (n,) certified.
        outside: (n,) whether the input lies far outside the box that the file names.
    """

    labels: Indices
    answers: Indices
    radii: Array
    outside: Flags


@dataclass(frozen=True)
class EvaluationTask:
    """Measures rows, batch by batch.

    Attributes:
        norm: of the radii.
        tighten: whether radii are those of the slower tier.
    """

    norm: Norm
    tighten: bool

    @property
    def step(self) -> int:
        """Rows of a batch."""
        return TIGHTENED_ROWS if self.tighten else BATCH_ROWS

    def __call__(
        self, predictor: CertifiedPredictor, data: Stream | None, rows: range, progress: Progress
    ) -> RowResults:
        """What is measured of some consecutive rows, from the beginning of a batch on.

        Raises:
            InputError: inputs that do not fit; labels that are not class indices.
        """
        assert data is not None
        parts: list[RowResults] = []
        for first, inputs, given in batches_within(data, rows, self.step):
            x = predictor.check_inputs(inputs, first_row=first)
            truth = _check_labels(given, len(x), len(predictor.class_names), data, first)
            found = predictor.predict(x, self.norm, tighten=self.tighten).radii
            outside = predictor.claims.far_outside(x)
            outside = np.zeros(len(x), dtype=np.bool_) if outside is None else outside
            parts.append(RowResults(truth, found.label, found.certified_radius, outside))
            progress((first + len(x) - rows.start) / len(rows))
        return RowResults(*map(np.concatenate, zip(*parts, strict=True)))


@dataclass(frozen=True)
class AttackRowsTask:
    """Attacks chosen rows of the data, group by group: where an attack begins depends on its group.

    Attributes:
        norm: that distances are measured in.
        methods: attacks of foolbox beside our own.
        rows: their numbers, in ascending order.
    """

    norm: Norm
    methods: tuple[str, ...]
    rows: tuple[int, ...]

    def __call__(
        self, predictor: CertifiedPredictor, data: Stream | None, rows: range, progress: Progress
    ) -> Array:
        """Return (n,) distances to the nearest change of label found; infinite without one.

        Args:
            predictor: the classifier.
            data: to read from.
            rows: places among the rows chosen, from the beginning of a group on.
            progress: told the share done.
        """
        assert data is not None
        engine, distances = GradientEngine(predictor.file.graph), []
        for first in rows[::BATCH_ROWS]:
            places = range(first, min(first + BATCH_ROWS, rows.stop))
            x = predictor.check_inputs(chosen_rows(data, self.rows[places.start : places.stop], BATCH_ROWS))
            before, after = ((place - rows.start) / len(rows) for place in (places.start, places.stop))
            task = AttackTask(predictor, engine, x, self.norm)
            distances.append(find_nearest(task, self.methods, part(progress, before, after)).distance)
        return np.concatenate(distances)


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
    predictor: CertifiedPredictor,
    norm: Norm,
    sizes: list[float],
    tighten: bool,
    measured: RowResults,
    distances: Array,
) -> Evaluation:
    labels, answers, radii, outside = measured
    right, tried = answers == labels, ~np.isnan(distances)
    certified = np.where(right, radii, 0.0)  # a radius of 0 certifies nothing
    grid = np.linspace(0.0, float(certified.max()), CURVE_POINTS)
    quantiles = np.quantile(radii[right], LEVELS) if right.any() else np.zeros(len(LEVELS))
    names, counts = predictor.class_names, np.bincount(labels, minlength=len(predictor.class_names))
    shares = partial(_shares, right, radii, distances, sizes)
    per_class = {name: Accuracies(**shares(labels == k)) for k, name in enumerate(names)}
    present = [part for part in per_class.values() if part.samples]
    whole = np.ones(len(labels), dtype=np.bool_)
    attacked_sample = None
    if tried.any():
        longer = np.linspace(0.0, max([grid[-1], *sizes]), CURVE_POINTS)
        curve = {
            "epsilon": longer.tolist(),
            "certified_accuracy": _share_of_at_least(certified[tried], longer),
            "attacked_accuracy": _share_of_more(np.where(right, distances, 0.0)[tried], longer),
        }
        attacked_sample = AttackedSample(**shares(tried), curve=curve)
    far = int(outside.sum())
    return Evaluation(
        **shares(whole),
        norm=norm,
        execution=predictor.execution.__name__,
        tightened=tighten,
        majority_share=float(counts.max() / len(labels)),
        majority_class=names[counts.argmax()],
        balanced_accuracy=fmean(part.clean_accuracy for part in present),
        balanced_certified_accuracy={
            e: fmean(part.certified_accuracy[e] for part in present) for e in present[0].certified_accuracy
        },
        attacked_sample=attacked_sample,
        inputs_outside_box=far,
        warnings=(predictor.claims.outside_warning(far, len(labels)),) if far else (),
        certified_radius_quantiles={f"{q:g}": float(v) for q, v in zip(LEVELS, quantiles, strict=True)},
        curve={"epsilon": grid.tolist(), "certified_accuracy": _share_of_at_least(certified, grid)},
        per_class=per_class,
        labels=labels,
        answers=answers,
        radii=radii,
        distances=distances,
    )


def _share_of_at_least(radii: Array, grid: Array) -> list[float]:
    """Return the share of radii that are positive and at least each number of an ascending grid."""
    reached = np.sort(radii[radii > 0.0])
    counts = len(reached) - np.searchsorted(reached, grid, side="left")
    return list((counts / len(radii)).tolist())


def _share_of_more(distances: Array, grid: Array) -> list[float]:
    """Return the share of distances that are more than each number of an ascending grid."""
    counts = len(distances) - np.searchsorted(np.sort(distances), grid, side="right")
    return list((counts / len(distances)).tolist())


def _shares(
    right: Flags, radii: Array, distances: Array, sizes: list[float], chosen: Flags
) -> dict[str, Any]:
    """The fields of :class:`Accuracies` for the inputs chosen; zeros where there are none."""
    attacked = chosen & ~np.isnan(distances)
    safe, fine = distances[attacked], right[attacked]
    right, radii = right[chosen], radii[chosen]
    clean = int(right.sum())
    certified = {f"{e:g}": int((right & (radii >= e) & (radii > 0.0)).sum()) for e in sizes}
    any_attacked = not np.isnan(distances).all()
    withstood = {f"{e:g}": int((fine & (safe > e)).sum()) for e in sizes} if any_attacked else {}
    samples, tried = len(right), len(safe)
    return {
        "samples": samples,
        "attacked_samples": tried,
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
