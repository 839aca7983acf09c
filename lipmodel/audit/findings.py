"""What an audit found: of gradients, per functional and where; of attacks, per input; and its report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lipmodel.norms import Array, Norm

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
BINS = 1000  # of gradient norm / bound over [0, 1]: the resolution of quantiles
HISTOGRAM_BINS = 20
Counts = np.ndarray[Any, np.dtype[np.int64]]
FoundOn = Literal["data", "box", "ascent"]


@dataclass(frozen=True)
class PairAudit:
    """One score (second class None), or the difference of two.

    Attributes:
        classes: their names.
        bound: certified Lipschitz constant.
        observed: the largest gradient norm; ``observed_slope``: the largest slope between two inputs,
            rounding taken off.
        tightness: observed / bound.
        full_gradient_share: share of the points with a gradient norm of at least 0.99 of the bound
            (1 where the network preserves the gradient's norm).
        quantiles: of gradient norm / bound over the points, to 0.001; ``histogram``: counts of it in
            the bins of the report's histogram.
        extreme_value_estimate: what the largest gradient norm may be, from random points (CLEVER); an
            estimate that may err to either side, and proves nothing. None for fewer than 320 random
            points, or without an end.
        extreme_value_capped: whether the law that was fitted ends above the proved bound, where no gradient
            can be: the estimate is then the bound (were that refuted, the largest gradient observed).
    """

    classes: tuple[str, str | None]
    bound: float
    observed: float
    observed_slope: float
    tightness: float
    full_gradient_share: float
    quantiles: dict[str, float]
    histogram: tuple[int, ...]
    extreme_value_estimate: float | None
    extreme_value_capped: bool


@dataclass(frozen=True)
class Witness:
    """The input where a gradient comes nearest to its bound, and one beside it.

    Attributes:
        classes: of the functional.
        found_on: which search found it.
        observed: gradient norm at ``input``.
        bound: certified Lipschitz constant.
        input: numbers of the input.
        second_input: the score (or difference) changes from ``input`` to here by ``observed_slope``
            times their distance, or more: evidence that any runtime can check.
        observed_slope: see there.
    """

    classes: tuple[str, str | None]
    found_on: FoundOn
    observed: float
    bound: float
    input: tuple[float, ...]
    second_input: tuple[float, ...]
    observed_slope: float


@dataclass(frozen=True)
class Counterexample:
    """An input whose label changes inside its certified radius.

    Attributes:
        input: numbers of the input; ``adversarial``: of the changed one.
        label: answer to the input; ``adversarial_label``: to the changed one.
        certified_radius: of the input.
        observed_distance: of the two, rounded up.
    """

    input: tuple[float, ...]
    adversarial: tuple[float, ...]
    label: str
    adversarial_label: str
    certified_radius: float
    observed_distance: float


@dataclass(frozen=True)
class AttackFindings:
    """The nearest change of label that attacks found, beside the certified radius.

    Attributes:
        inputs: how many were attacked.
        found: of how many a change of label was found, at any distance.
        methods: that were tried: ``ascent`` is our own.
        certified_radius: of each input, in the order given, data first.
        observed_distance: of each, to the nearest change of label found, rounded up; None without one.
        ratio: of each, radius over distance: 1 where the radius is exact; None without a change.
        ratio_quantiles: of those known.
        inside: the changes found within the radius; there are none if the certificate holds.
    """

    inputs: int
    found: int
    methods: tuple[str, ...]
    certified_radius: tuple[float, ...]
    observed_distance: tuple[float | None, ...]
    ratio: tuple[float | None, ...]
    ratio_quantiles: dict[str, float]
    inside: tuple[Counterexample, ...]

    @property
    def reached_outside(self) -> int:
        """Inputs for which a change of label was found, but none inside the radius."""
        return self.found - len(self.inside)


@dataclass(frozen=True)
class AuditReport:
    """Evidence about one model in one norm.

    Attributes:
        verdict: whether anything observed contradicts the bounds or the claim.
        reasons: what does, one line each.
        sha256: digest of the model file.
        norm: norm of the input; gradients are measured in the dual one.
        execution: the format whose labels and radii were attacked.
        bound: certified Lipschitz constant of a score; ``claim``: what the file says, if anything.
        observed: largest gradient norm of a score; ``observed_error``: what its rounding may add.
        observed_slope: largest slope of a score between two inputs, its rounding taken off: the true
            constant is at least that.
        tightness: observed / bound.
        full_gradient_share: share of points and functionals with at least 0.99 of the bound.
        per_pair: every score and difference of scores looked at.
        quantiles, histogram: of gradient norm / bound over the points given or drawn, all functionals.
        witness: where the largest ratio was found; ``witnesses``: that of the next functionals too.
        points: how many inputs came from the data, from the box, and how many were attacked inside
            their certified radius.
        flips: how many of the attacked got another label inside their certified radius.
        warnings: reasons to doubt that the inputs are what the model was trained for, in words.
        attack: the nearest change of label found beside the certified radius, input by input.
    """

    verdict: Literal["consistent", "refuted"]
    reasons: tuple[str, ...]
    sha256: str
    norm: Norm
    execution: str
    bound: float
    claim: float | None
    observed: float
    observed_error: float
    observed_slope: float
    tightness: float
    full_gradient_share: float
    per_pair: tuple[PairAudit, ...]
    quantiles: dict[str, float]
    histogram: dict[str, list[float]]
    witness: Witness
    witnesses: tuple[Witness, ...]
    points: dict[str, int]
    flips: int
    warnings: tuple[str, ...]
    attack: AttackFindings

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        note = "An audit is evidence: it can refute a bound, never prove one."
        return {**as_json(self), "norm": self.norm.value, "note": note}


def quantiles(values: Array) -> dict[str, float]:
    """By the share below them; none of no values."""
    return {f"{q:g}": float(np.quantile(values, q)) for q in QUANTILES} if len(values) else {}


def binned_quantiles(counts: Counts, least: float, largest: float) -> dict[str, float]:
    """The same from counts in bins over [0, 1]: the upper end of the bin, within what was seen."""
    below = np.cumsum(counts)
    places = np.searchsorted(below, [max(1.0, q * below[-1]) for q in QUANTILES])
    ends = np.clip((places + 1.0) / BINS, least, largest)
    ends[0], ends[-1] = least, largest
    return {f"{q:g}": float(end) for q, end in zip(QUANTILES, ends, strict=True)}


def coarse(counts: Counts) -> Counts:
    """Counts in the bins of the report, from those that observations keep: (…, 1000) to (…, 20)."""
    return np.asarray(counts.reshape(*counts.shape[:-1], HISTOGRAM_BINS, -1).sum(axis=-1))


def as_json(value: Any) -> Any:
    """Dataclasses to dictionaries and tuples to lists, all the way down."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: as_json(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, tuple | list) else value
