"""Evaluate a classifier on labelled data: clean accuracy, certified accuracy and accuracy under attack."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist, fmean
from typing import Any, NamedTuple

import numpy as np

from lipmodel.audit.attacks.attack import AttackTask
from lipmodel.audit.attacks.registry import check_methods, find_nearest
from lipmodel.audit.findings import as_json
from lipmodel.audit.gradient import GradientEngine
from lipmodel.audit.shard_task import ATTACK_COST
from lipmodel.certify.boxed_radius import UNBOUNDED
from lipmodel.certify.head import Indices
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.shards import ShardExecutor, batches_within, chosen_rows, cut
from lipmodel.data.stream import Stream, in_memory
from lipmodel.errors import InputError
from lipmodel.norms import Array, Norm
from lipmodel.progress import Progress, part, silent
from lipmodel.threat import Threat, as_threat

BATCH_ROWS, TIGHTENED_ROWS = 1000, 20
SAMPLE_SEED = 0
"""Seed of the choice of inputs to attack: equal labels give an equal choice."""
CURVE_POINTS = 201
CONFIDENCE = 0.95
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)

Interval = tuple[float, float]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Accuracies:
    """Accuracies on N inputs: all inputs, those of one class, or those attacked.

    Attributes:
        samples: N, number of inputs.
        attacked_samples: number of inputs attacked, see :func:`sample`.
        clean_accuracy: share of correct predictions.
        certified_accuracy: share of correct predictions with a radius of at least epsilon, by epsilon.
        attacked_accuracy: accuracy under attack, by epsilon: share of the inputs attacked whose prediction
            is correct and for which no change of it within epsilon was found; never below the true robust
            accuracy.
        clean_accuracy_interval, certified_accuracy_intervals, attacked_accuracy_intervals: 95% confidence
            intervals (Wilson 1927) for the population from which the inputs were drawn.
        average_certified_radius: mean certified radius, counting wrong predictions as 0 (Zhai et al. 2020),
            of the samples whose radius is bounded.
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
    """Accuracies on the inputs attacked, where certified accuracy and accuracy under attack are comparable.

    Attributes:
        curve: certified accuracy and accuracy under attack at 201 equally spaced epsilons, up to the largest
            radius of all inputs or the largest requested epsilon.
    """

    curve: dict[str, list[float]]


@dataclass(frozen=True, eq=False)
class Evaluation(Accuracies):
    """Evaluation of a classifier on labelled data.

    Attributes:
        threat: threat set of radii and epsilons.
        execution: floating-point format; predictions and radii hold for evaluations in this format.
        tightened: true if the radii are tightened.
        majority_share: majority-class baseline: share of the most common class, which is also the certified
            accuracy, at every epsilon, of the classifier that always predicts this class.
        majority_class: the most common class.
        balanced_accuracy, balanced_certified_accuracy: means over the classes that occur of clean accuracy
            and, by epsilon, of certified accuracy; with k classes the majority-class baseline has 1/k.
        attacked_sample: accuracies on the inputs attacked; None if none were.
        inputs_outside_box: number of inputs far outside the input box in the file's metadata.
        warnings: signs that the inputs differ from those that the model was trained for.
        certified_radius_quantiles: 5, 25, 50, 75 and 95% quantiles of the radii of correct predictions.
        curve: certified accuracy at 201 equally spaced epsilons up to the largest radius.
        per_class: accuracies by label.
        labels: (N,) labels.
        predictions: (N,) predicted classes.
        radii: (N,) certified radii.
        distances: (N,) distances to the nearest adversarial inputs found, infinite if none was; NaN where no
            attack ran.
    """

    threat: Threat
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
    predictions: Indices
    radii: Array
    distances: Array

    @property
    def norm(self) -> Norm:
        """Norm of radii and epsilons."""
        return self.threat.norm

    @property
    def correct(self) -> Flags:
        """(N,) true where the prediction is the label."""
        return np.asarray(self.predictions == self.labels)

    def summary(self) -> dict[str, Any]:
        """Return the main figures as JSON types, short enough for a model's metadata."""
        names = ("tightened", "samples", "majority_share", "clean_accuracy", "balanced_accuracy",
                 "certified_accuracy", "average_certified_radius", "certified_radius_quantiles")  # fmt: skip
        return self.threat.to_json() | {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Return everything except the arrays, as JSON types."""
        names = (*Accuracies.__dataclass_fields__, "execution", "majority_class",
                 "balanced_certified_accuracy", "attacked_sample", "inputs_outside_box", "warnings", "curve",
                 "per_class")  # fmt: skip
        return self.summary() | {name: as_json(getattr(self, name)) for name in names}


def evaluate(
    predictor: CertifiedPredictor,
    inputs: Any,
    labels: Sequence[int] | np.ndarray[Any, Any] | None = None,
    threat: Threat | Norm | None = None,
    epsilons: Iterable[float] = (),
    progress: Progress = silent,
    *,
    tighten: bool = False,
    attacked: int = 0,
    methods: tuple[str, ...] = (),
    executor: ShardExecutor | None = None,
) -> Evaluation:
    """Return the evaluation of a classifier on labelled data.

    Args:
        predictor: the classifier.
        inputs: (N, d) or (N, *input_shape), possibly a memory map; or a stream of inputs and labels.
        labels: (N,) class indices; None for a stream, which contains them.
        threat: threat set of radii and attacks, or the norm of a ball; the predictor's default norm if None.
        epsilons: sizes of change >= 0 at which to report certified accuracy.
        progress: callback for the share done.
        tighten: prove larger radii, slowly; see ``CertifiedPredictor.predict``.
        attacked: number of inputs to attack for the accuracy under attack; :func:`sample` chooses them.
        methods: attacks in addition to the built-in one; see ``lipmodel.audit.attacks.registry``.
        executor: runs the work on a stream in several processes; the figures are the same.

    Raises:
        InputError: inputs do not fit the model; a label is not a class index; an epsilon or the number of
            inputs to attack is negative; an attack is unknown or does not work for the threat set.
        MissingExtraError: a package that an attack needs is not installed.
    """
    threat = as_threat(threat or predictor.default_norm)
    sizes = sorted({float(e) for e in epsilons})
    if any(not 0.0 <= e < np.inf for e in sizes):
        raise InputError("must be finite numbers of at least 0", field="epsilons")
    if attacked < 0:
        raise InputError(f"{attacked} inputs to attack: at least 0 is required", field="attacked")
    check_methods(methods, threat)
    if isinstance(inputs, Stream):
        data = inputs
    else:
        x, y = inputs if isinstance(inputs, np.ndarray) else np.asarray(inputs), np.asarray(labels)
        count = len(x) if x.ndim else 0
        if y.shape != (count,):
            raise InputError(f"must be {count} class indices, not {y.dtype} {list(y.shape)}", field="labels")
        data = in_memory("inputs", x, y)
    if not data.rows:
        raise InputError("has no rows; at least one is required")
    attacked = min(attacked, data.rows)
    share = data.rows / (data.rows + ATTACK_COST * attacked)
    evaluating, attacking = part(progress, 0.0, share), part(progress, share, 1.0)
    task = EvaluationTask(threat, tighten)
    if executor is None:
        parts = [task(predictor, data, range(data.rows), evaluating)]
    else:
        parts = list(executor(task, cut(data.rows, task.step, data.starts), evaluating))
    results = RowResults(*map(np.concatenate, zip(*parts, strict=True)))
    distances = np.full(data.rows, np.nan)
    if attacked:
        rows = sample(results.labels, attacked)
        attack = AttackRowsTask(threat, methods, tuple(rows.tolist()))
        if executor is None:
            found = [attack(predictor, data, range(attacked), attacking)]
        else:
            found = list(
                executor(attack, cut(attacked, BATCH_ROWS, range(0, attacked, BATCH_ROWS)), attacking)
            )
        distances[rows] = np.concatenate(found)
    return _evaluation(predictor, threat, sizes, tighten, results, distances)


def sample(labels: Indices, count: int) -> Indices:
    """Return the rows to attack, in ascending order: a seeded random sample, stratified by label.

    Every class has its share of the sample, to within one row: rows are ordered by class, at random within
    each class, and rows at equal distances are chosen.
    """
    shuffled = np.random.default_rng(SAMPLE_SEED).permutation(len(labels))
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return np.sort(ordered[(2 * np.arange(count) + 1) * len(labels) // (2 * count)])


class RowResults(NamedTuple):
    """Results of n rows.

    Attributes:
        labels: (n,) labels.
        predictions: (n,) predicted classes.
        radii: (n,) certified radii.
        outside: (n,) true for inputs far outside the input box in the file's metadata.
    """

    labels: Indices
    predictions: Indices
    radii: Array
    outside: Flags


@dataclass(frozen=True)
class EvaluationTask:
    """A :class:`~lipmodel.data.shards.ShardTask` that evaluates rows by batches, for a threat set."""

    threat: Threat
    tighten: bool

    @property
    def step(self) -> int:
        """Number of rows of a batch."""
        return TIGHTENED_ROWS if self.tighten else BATCH_ROWS

    def __call__(
        self, predictor: CertifiedPredictor, data: Stream | None, rows: range, progress: Progress
    ) -> RowResults:
        """Return the results of consecutive rows that begin at the start of a batch.

        Raises:
            InputError: inputs do not fit the model, or a label is not a class index.
        """
        assert data is not None
        parts: list[RowResults] = []
        for first, inputs, given in batches_within(data, rows, self.step):
            x = predictor.check_inputs(inputs, first_row=first)
            truth = _check_labels(given, len(x), len(predictor.class_names), data, first)
            found = predictor.predict(x, self.threat, tighten=self.tighten).radii
            outside = predictor.claims.far_outside(x)
            outside = np.zeros(len(x), dtype=np.bool_) if outside is None else outside
            parts.append(RowResults(truth, found.label, found.certified_radius, outside))
            progress((first + len(x) - rows.start) / len(rows))
        return RowResults(*map(np.concatenate, zip(*parts, strict=True)))


@dataclass(frozen=True)
class AttackRowsTask:
    """A :class:`~lipmodel.data.shards.ShardTask` that attacks chosen rows, in groups with one seed.

    Attributes:
        threat: threat set, in whose units distances are.
        methods: attacks in addition to the built-in one.
        rows: indices of the chosen rows, in ascending order.
    """

    threat: Threat
    methods: tuple[str, ...]
    rows: tuple[int, ...]

    def __call__(
        self, predictor: CertifiedPredictor, data: Stream | None, rows: range, progress: Progress
    ) -> Array:
        """Return distances (n,) to the nearest adversarial inputs found; infinite if none was.

        ``rows`` are positions among the chosen rows, beginning at the start of a group.
        """
        assert data is not None
        engine, distances = GradientEngine(predictor.file.graph), []
        for first in rows[::BATCH_ROWS]:
            places = range(first, min(first + BATCH_ROWS, rows.stop))
            x = predictor.check_inputs(chosen_rows(data, self.rows[places.start : places.stop], BATCH_ROWS))
            before, after = ((place - rows.start) / len(rows) for place in (places.start, places.stop))
            task = AttackTask(predictor, engine, x, self.threat)
            distances.append(find_nearest(task, self.methods, part(progress, before, after)).distance)
        return np.concatenate(distances)


def wilson_interval(hits: int, samples: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the confidence interval of a probability, from ``hits`` in ``samples`` trials (Wilson 1927).

    It consists of the probabilities p with |hits/samples - p| <= z sqrt(p(1 - p) / samples); (0, 1) for no
    trials.
    """
    if not samples:
        return 0.0, 1.0
    z, share = NormalDist().inv_cdf((1.0 + confidence) / 2.0), hits / samples
    denominator = 1.0 + z * z / samples
    centre = (share + z * z / (2.0 * samples)) / denominator
    half = z / denominator * (share * (1.0 - share) / samples + z * z / (4.0 * samples**2)) ** 0.5
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    return low, 1.0 if hits == samples else min(1.0, centre + half)


def _check_labels(labels: Any, rows: int, classes: int, data: Stream, first: int) -> Indices:
    if labels is None:
        raise InputError("are missing; one class index per input is required", field="labels")
    y = np.asarray(labels)
    if y.shape != (rows,) or y.dtype.kind not in "iu":
        raise InputError(f"must be {rows} class indices, not {y.dtype} {list(y.shape)}", field="labels")
    wrong = np.flatnonzero((y < 0) | (y >= classes))
    if len(wrong):
        label = f"{y[wrong[0]]} of {data.place(first + int(wrong[0]))}"
        raise InputError(f"must be class indices from 0 to {classes - 1}, not {label}", field="labels")
    return y.astype(np.intp)


def _evaluation(
    predictor: CertifiedPredictor,
    threat: Threat,
    sizes: list[float],
    tighten: bool,
    results: RowResults,
    distances: Array,
) -> Evaluation:
    labels, predictions, radii, outside = results
    correct, tried = predictions == labels, ~np.isnan(distances)
    certified = np.where(correct, radii, 0.0)  # a radius of 0 certifies nothing
    grid = np.linspace(0.0, float(certified.max()), CURVE_POINTS)
    quantiles = np.quantile(radii[correct], LEVELS) if correct.any() else np.zeros(len(LEVELS))
    names, counts = predictor.class_names, np.bincount(labels, minlength=len(predictor.class_names))
    shares = partial(_shares, correct, radii, distances, sizes)
    per_class = {name: Accuracies(**shares(labels == k)) for k, name in enumerate(names)}
    present = [part for part in per_class.values() if part.samples]
    whole = np.ones(len(labels), dtype=np.bool_)
    attacked_sample = None
    if tried.any():
        longer = np.linspace(0.0, max([grid[-1], *sizes]), CURVE_POINTS)
        curve = {
            "epsilon": longer.tolist(),
            "certified_accuracy": _share_of_at_least(certified[tried], longer),
            "attacked_accuracy": _share_of_more(np.where(correct, distances, 0.0)[tried], longer),
        }
        attacked_sample = AttackedSample(**shares(tried), curve=curve)
    far = int(outside.sum())
    return Evaluation(
        **shares(whole),
        threat=threat,
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
        predictions=predictions,
        radii=radii,
        distances=distances,
    )


def _share_of_at_least(radii: Array, grid: Array) -> list[float]:
    """Return the shares of radii that are positive and at least each number of an ascending grid."""
    reached = np.sort(radii[radii > 0.0])
    counts = len(reached) - np.searchsorted(reached, grid, side="left")
    return list((counts / len(radii)).tolist())


def _share_of_more(distances: Array, grid: Array) -> list[float]:
    """Return the shares of distances that exceed each number of an ascending grid."""
    counts = len(distances) - np.searchsorted(np.sort(distances), grid, side="right")
    return list((counts / len(distances)).tolist())


def _shares(
    correct: Flags, radii: Array, distances: Array, sizes: list[float], chosen: Flags
) -> dict[str, Any]:
    """Return the fields of :class:`Accuracies` for the inputs chosen; zeros if there are none."""
    attacked = chosen & ~np.isnan(distances)
    nearest, clean_attacked = distances[attacked], correct[attacked]
    correct, radii = correct[chosen], radii[chosen]
    clean = int(correct.sum())
    certified = {f"{e:g}": int((correct & (radii >= e) & (radii > 0.0)).sum()) for e in sizes}
    any_attacked = not np.isnan(distances).all()
    withstood = {f"{e:g}": int((clean_attacked & (nearest > e)).sum()) for e in sizes} if any_attacked else {}
    samples, tried = len(correct), len(nearest)
    return {
        "samples": samples,
        "attacked_samples": tried,
        "clean_accuracy": clean / max(1, samples),
        "certified_accuracy": {e: hits / max(1, samples) for e, hits in certified.items()},
        "attacked_accuracy": {e: hits / max(1, tried) for e, hits in withstood.items()},
        "clean_accuracy_interval": wilson_interval(clean, samples),
        "certified_accuracy_intervals": {e: wilson_interval(h, samples) for e, h in certified.items()},
        "attacked_accuracy_intervals": {e: wilson_interval(h, tried) for e, h in withstood.items()},
        "average_certified_radius": _mean_radius(np.where(correct, radii, 0.0)),
    }


def _mean_radius(radii: Array) -> float:
    """Return the mean of bounded radii; a sum of unbounded ones would overflow."""
    bounded = radii[radii < UNBOUNDED / 2.0]
    return float(bounded.mean()) if bounded.size else 0.0
