"""Observed against certified: the audit of one model.

The audit measures and never proves. ``refuted`` means that something measured contradicts what is
claimed or certified; ``consistent`` that nothing found does, which is weaker than a proof: a net
whose claimed constant is wrong may well show no gradient above it at the points looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lipmodel.audit.attack import attack_within
from lipmodel.audit.gradient import GradientEngine
from lipmodel.audit.search import Observed, bound_gradient_error, climb, functionals, observe_gradients
from lipmodel.certify.claims import LARGEST_INPUT
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import InputError
from lipmodel.norms import Array, Norm
from lipmodel.progress import Progress, silent

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
HISTOGRAM_BINS = 20
CLIMB_STEPS = 40
MAX_ATTACKED = 200


@dataclass(frozen=True)
class PairAudit:
    """One score (second class None), or the difference of two."""

    classes: tuple[str, str | None]
    bound: float
    observed: float
    tightness: float


@dataclass(frozen=True)
class Witness:
    """The input where a gradient comes nearest to its bound."""

    classes: tuple[str, str | None]
    found_on: Literal["data", "box", "climb"]
    observed: float
    bound: float
    input: tuple[float, ...]


@dataclass(frozen=True)
class AuditReport:
    """Evidence about one model in one norm.

    Attributes:
        verdict: whether anything observed contradicts the bounds or the claim.
        reasons: what does, one line each.
        sha256: digest of the model file.
        norm: norm of the input; gradients are measured in the dual one.
        bound: certified Lipschitz constant of a score; ``claim``: what the file says, if anything.
        observed: largest gradient norm of a score; ``observed_error``: what its rounding may add.
        tightness: observed / bound.
        per_pair: every score and difference of scores looked at.
        quantiles, histogram: of gradient norm / bound over the points given or drawn, all functionals.
        witness: where the largest ratio was found.
        points: how many inputs came from the data, from the box, and how many were attacked.
        flips: how many of the attacked got another label inside their certified radius.
    """

    verdict: Literal["consistent", "refuted"]
    reasons: tuple[str, ...]
    sha256: str
    norm: Norm
    bound: float
    claim: float | None
    observed: float
    observed_error: float
    tightness: float
    per_pair: tuple[PairAudit, ...]
    quantiles: dict[str, float]
    histogram: dict[str, list[float]]
    witness: Witness
    points: dict[str, int]
    flips: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            **{k: v for k, v in vars(self).items() if k not in ("norm", "per_pair", "witness", "reasons")},
            "reasons": list(self.reasons),
            "norm": self.norm.value,
            "per_pair": [{**vars(p), "classes": list(p.classes)} for p in self.per_pair],
            "witness": {
                **vars(self.witness),
                "classes": list(self.witness.classes),
                "input": list(self.witness.input),
            },
            "note": "An audit is evidence: it can refute a bound, never prove one.",
        }


def audit(
    predictor: CertifiedPredictor,
    *,
    norm: Norm | None = None,
    inputs: Any = None,
    box: tuple[float, float] | None = None,
    samples: int = 1000,
    seed: int = 0,
    progress: Progress = silent,
) -> AuditReport:
    """Measures gradients of the deployed graph and attacks its certified radii.

    Args:
        predictor: the model.
        norm: of the input; the model's own by default.
        inputs: (N, d) points to look at.
        box: least and largest coordinate of random points; by default the data's range that the
            file names, or failing that, and without inputs, [-1, 1].
        samples: how many random points of the box.
        seed: of the random numbers; the same seed gives the same report.
        progress: told the share done.

    Raises:
        InputError: inputs that do not fit; an empty or infinite box; a negative number of samples.
    """
    norm = norm or predictor.default_norm
    low, high = box or predictor.claims.input_box or (-1.0, 1.0)
    if not -LARGEST_INPUT <= low <= high <= LARGEST_INPUT:
        raise InputError(f"[{low}, {high}] is not a box; low <= high within float32 is accepted", field="box")
    if samples < 0 or (samples == 0 and inputs is None):
        raise InputError(f"{samples} random points and no inputs leave nothing to audit", field="samples")
    graph = predictor.file.graph
    rng = np.random.default_rng(seed)
    data = np.empty((0, graph.input_size)) if inputs is None else predictor.check_inputs(inputs)
    drawn = rng.uniform(low, high, size=(samples, graph.input_size))
    points = np.concatenate([data, drawn])

    engine, functions = GradientEngine(graph), functionals(graph)
    seen = observe_gradients(engine, functions, points, norm)
    progress(0.3)
    climbed = climb(engine, functions, seen, norm, max(high - low, 1e-3), CLIMB_STEPS, seed)
    bounds = predictor.bounds(norm)
    limits = np.array(
        [bounds.bound_global if j is None else bounds.bound_per_pair[i, j] for i, j in functions.pairs]
    )
    error = bound_gradient_error(graph, norm)
    observed = np.maximum(seen.largest, climbed.largest)
    names = [_names(predictor, pair) for pair in functions.pairs]
    is_score = np.array([j is None for _, j in functions.pairs])

    progress(0.6)
    attacked = _attack(predictor, engine, points, norm, seed)
    reasons = []
    for index in np.flatnonzero(observed - error > limits):
        reasons.append(
            f"gradient {observed[index]:.9g} exceeds the bound {limits[index]:.9g} of {names[index]}"
        )
    claim = predictor.claims.lipschitz if predictor.claims.norm is norm else None
    if claim is not None and observed[is_score].max() - error > claim:
        reasons.append(f"gradient {observed[is_score].max():.9g} exceeds the claimed constant {claim:.9g}")
    if attacked.sum():
        reasons.append(f"{int(attacked.sum())} inputs changed label inside their certified radius")

    progress(1.0)
    safe = np.where(limits > 0, limits, 1.0)
    ratios = np.where(limits > 0, seen.norms / safe, 0.0)
    counts, edges = np.histogram(ratios, bins=HISTOGRAM_BINS, range=(0.0, max(1.0, float(ratios.max()))))
    return AuditReport(
        verdict="refuted" if reasons else "consistent",
        reasons=tuple(reasons),
        sha256=predictor.file.sha256,
        norm=norm,
        bound=bounds.bound_global,
        claim=claim,
        observed=float(observed[is_score].max()),
        observed_error=error,
        tightness=float(observed[is_score].max() / bounds.bound_global) if bounds.bound_global else 0.0,
        per_pair=tuple(
            PairAudit(names[i], float(limits[i]), float(observed[i]), float(observed[i] / safe[i]))
            for i in range(len(names))
        ),
        quantiles={f"{q:g}": float(np.quantile(ratios, q)) for q in QUANTILES},
        histogram={"edges": edges.tolist(), "counts": counts.tolist()},
        witness=_witness(seen, climbed, safe, limits, names, len(data)),
        points={"data": len(data), "box": samples, "attacked": len(attacked)},
        flips=int(attacked.sum()),
    )


def _names(predictor: CertifiedPredictor, pair: tuple[int, int | None]) -> tuple[str, str | None]:
    i, j = pair
    if predictor.file.graph.output_shape == (1,):
        return predictor.class_names[1], predictor.class_names[0]
    return predictor.class_names[i], None if j is None else predictor.class_names[j]


def _attack(
    predictor: CertifiedPredictor, engine: GradientEngine, points: Array, norm: Norm, seed: int
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether each of the first points that have a radius could be made to change label inside it."""
    chosen = points[:MAX_ATTACKED]
    radius = predictor.predict(chosen, norm).radii.certified_radius
    chosen, radius = chosen[radius > 0], radius[radius > 0]
    if not len(chosen):
        return np.zeros(0, dtype=np.bool_)
    return attack_within(predictor, engine, chosen, radius, norm, seed=seed).flipped


def _witness(
    seen: Observed,
    climbed: Observed,
    safe: Array,
    limits: Array,
    names: list[tuple[str, str | None]],
    data: int,
) -> Witness:
    higher = climbed.largest > seen.largest
    largest = np.maximum(seen.largest, climbed.largest)
    index = int(np.argmax(largest / safe))
    point = climbed.witness[index] if higher[index] else seen.witness[index]
    on_data = int(seen.norms[:, index].argmax()) < data
    return Witness(
        classes=names[index],
        found_on="climb" if higher[index] else "data" if on_data else "box",
        observed=float(largest[index]),
        bound=float(limits[index]),
        input=tuple(float(v) for v in point),
    )
