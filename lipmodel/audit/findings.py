"""Results of an audit: gradients of each functional, attacks on each input, and the report of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lipmodel.norms import Array, Norm

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
BINS = 1000  # of gradient norm / bound in [0, 1]; the resolution of quantiles
HISTOGRAM_BINS = 20
Counts = np.ndarray[Any, np.dtype[np.int64]]
FoundOn = Literal["data", "box", "ascent"]


@dataclass(frozen=True)
class PairAudit:
    """Gradients of one score (second class None), or of the difference of two.

    Attributes:
        classes: names of the classes.
        bound: certified Lipschitz constant.
        observed: largest gradient norm observed.
        observed_slope: largest slope between two inputs, less the rounding error.
        tightness: observed / bound.
        full_gradient_share: share of the points with a gradient norm of at least 0.99 of the bound
            (1 if the network preserves the gradient's norm).
        quantiles: quantiles of gradient norm / bound over the points, to 0.001.
        histogram: counts of gradient norm / bound, in the bins of the report's histogram.
        extreme_value_estimate: estimate of the largest gradient norm from random points (CLEVER), which may
            err to either side and proves nothing. None for fewer than 320 random points, or without an end.
        extreme_value_capped: true if the fitted law ends above the proved bound, where no gradient can be:
            the estimate is then the bound (or the largest gradient observed, should that refute the bound).
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
    """The input where a gradient comes nearest to its bound, and a second input near it.

    Attributes:
        classes: classes of the functional.
        found_on: the search that found the input.
        observed: gradient norm at ``input``.
        bound: certified Lipschitz constant.
        input: coordinates of the input.
        second_input: coordinates of the second input. From one to the other the score (or difference) changes
            by at least ``observed_slope`` times their distance, which any runtime can check.
        observed_slope: slope between the two inputs, less the rounding error.
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
        input: coordinates of the input.
        adversarial: coordinates of the changed input.
        label: predicted class of the input.
        adversarial_label: predicted class of the changed input.
        certified_radius: certified radius of the input.
        observed_distance: distance of the two, rounded up.
    """

    input: tuple[float, ...]
    adversarial: tuple[float, ...]
    label: str
    adversarial_label: str
    certified_radius: float
    observed_distance: float


@dataclass(frozen=True)
class AttackFindings:
    """Certified radii compared with the nearest adversarial inputs that attacks found.

    Attributes:
        inputs: number of inputs attacked.
        found: number of inputs for which an adversarial input was found, at any distance.
        methods: attacks that ran; ``ascent`` is the built-in one.
        certified_radius: radius of each input, in the order given, data first.
        observed_distance: distance of each input to its nearest adversarial input, rounded up; None if none
            was found.
        ratio: radius / distance of each input: 1 if the radius is exact; None if none was found.
        ratio_quantiles: quantiles of the known ratios.
        inside: adversarial inputs within the radius; none if the certificate holds.
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
        """Number of inputs with an adversarial input found, but none inside the radius."""
        return self.found - len(self.inside)


@dataclass(frozen=True)
class AuditReport:
    """Evidence about one model in one norm.

    Attributes:
        verdict: "refuted" if an observation contradicts the bounds or the claim.
        reasons: contradictions, one line each.
        sha256: digest of the model file.
        norm: norm of the input; gradients are measured in its dual.
        execution: floating-point format whose labels and radii were attacked.
        bound: certified Lipschitz constant of a score.
        claim: constant claimed in the file, if any.
        observed: largest gradient norm of a score.
        observed_error: bound on the rounding error of ``observed``.
        observed_slope: largest slope of a score between two inputs, less the rounding error: a lower bound on
            the true constant.
        tightness: observed / bound.
        full_gradient_share: share of points and functionals with at least 0.99 of the bound.
        per_pair: every score and difference of scores audited.
        quantiles, histogram: gradient norm / bound over all points and functionals.
        witness: the input with the largest ratio.
        witnesses: inputs with the largest ratio of several functionals, largest first.
        points: number of inputs from the data, of random points in the box, and of inputs attacked inside
            their certified radius.
        flips: number of inputs with another label inside their certified radius.
        warnings: signs that the inputs differ from those that the model was trained for.
        attack: certified radii compared with attacks, input by input.
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
        """Return the report as JSON types."""
        note = "An audit is evidence: it can refute a bound, never prove one."
        return {**as_json(self), "norm": self.norm.value, "note": note}


def quantiles(values: Array) -> dict[str, float]:
    """Return quantiles by the share of values below; empty if there are no values."""
    return {f"{q:g}": float(np.quantile(values, q)) for q in QUANTILES} if len(values) else {}


def binned_quantiles(counts: Counts, least: float, largest: float) -> dict[str, float]:
    """Return quantiles from counts in bins of [0, 1]: upper ends of bins, clipped to the values seen."""
    below = np.cumsum(counts)
    places = np.searchsorted(below, [max(1.0, q * below[-1]) for q in QUANTILES])
    ends = np.clip((places + 1.0) / BINS, least, largest)
    ends[0], ends[-1] = least, largest
    return {f"{q:g}": float(end) for q, end in zip(QUANTILES, ends, strict=True)}


def coarse(counts: Counts) -> Counts:
    """Return counts in the bins of the report (…, 20), from those of the observations (…, 1000)."""
    return np.asarray(counts.reshape(*counts.shape[:-1], HISTOGRAM_BINS, -1).sum(axis=-1))


def as_json(value: Any) -> Any:
    """Return dataclasses as dictionaries and tuples as lists, recursively."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: as_json(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, tuple | list) else value
