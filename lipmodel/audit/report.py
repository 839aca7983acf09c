"""Observed against certified: the audit of one model.

The audit measures and never proves. ``refuted`` means that something measured contradicts what is
claimed or certified; ``consistent`` that nothing found does, which is weaker than a proof: a net
whose claimed constant is wrong may well show no gradient above it at the points looked at.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lipmodel.audit.attacks.registry import BUILT_IN, check_methods
from lipmodel.audit.findings import (
    HISTOGRAM_BINS,
    AttackFindings,
    AuditReport,
    PairAudit,
    Witness,
    binned_quantiles,
    coarse,
    quantiles,
)
from lipmodel.audit.gradient import GradientEngine
from lipmodel.audit.shard_task import Attacked, Look, merged
from lipmodel.audit.survey import Survey, survey
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.shards import Spread
from lipmodel.data.stream import Stream, in_memory
from lipmodel.errors import InputError
from lipmodel.network.metadata import LARGEST_INPUT
from lipmodel.norms import Norm
from lipmodel.progress import Progress, part, silent

MAX_ATTACKED = 200
MAX_WITNESSES = 5


def audit(
    predictor: CertifiedPredictor,
    *,
    norm: Norm | None = None,
    inputs: Any = None,
    box: tuple[float, float] | None = None,
    samples: int = 1000,
    attacked: int = MAX_ATTACKED,
    methods: tuple[str, ...] = (),
    seed: int = 0,
    progress: Progress = silent,
    spread: Spread | None = None,
) -> AuditReport:
    """Measures gradients of the deployed graph and attacks its certified radii.

    Args:
        predictor: the model.
        norm: of the input; the model's own by default.
        inputs: (N, d) points to look at, or a stream of them.
        box: least and largest coordinate of random points; by default the data's range that the
            file names, or failing that, and without inputs, [-1, 1].
        samples: how many random points of the box.
        attacked: how many points to attack, data first.
        methods: attacks in addition to the built-in one; see ``lipmodel.audit.attacks.registry``.
        seed: of the random numbers; the same seed gives the same report.
        progress: told the share done.
        spread: has other processes look at the points and attack them; the report is the same.

    Raises:
        InputError: inputs that do not fit; an empty or infinite box; a negative number of samples; an
            unknown attack, or one of another norm.
        MissingExtraError: attacks of foolbox, which is not installed.
    """
    norm = norm or predictor.default_norm
    low, high = box or predictor.claims.input_box or (-1.0, 1.0)
    if not -LARGEST_INPUT <= low <= high <= LARGEST_INPUT:
        raise InputError(f"[{low}, {high}] is not a box; low <= high within float32 is accepted", field="box")
    empty = inputs is None or (isinstance(inputs, Stream) and not inputs.rows)
    if samples < 0 or (samples == 0 and empty):
        raise InputError(f"{samples} random points and no inputs leave nothing to audit", field="samples")
    if attacked < 0:
        raise InputError(f"{attacked} inputs to attack; 0 or more is accepted", field="attacked")
    check_methods(methods, norm)
    data = inputs if isinstance(inputs, Stream) or inputs is None else _stream(predictor, inputs)
    look = Look(norm, data.rows if data is not None else 0, (low, high), seed, attacked, methods)
    looking = part(progress, 0.0, 0.8)
    parts = (
        [look(predictor, data, range(look.data + samples), looking)]
        if spread is None
        else spread(look, look.shards(data, samples), looking)
    )
    points, attacks = merged(parts)
    seen = survey(predictor, GradientEngine(predictor.file.graph), look, points, part(progress, 0.8, 1.0))
    attack = _findings(attacks, methods)
    names = [_names(predictor, pair) for pair in seen.functions.pairs]
    bounds = predictor.bounds(norm)
    claim = predictor.claims.lipschitz if predictor.claims.norm is norm else None
    scores = np.array([j is None for _, j in seen.functions.pairs])
    reasons = _reasons(seen, names, claim)
    if attack.inside:
        reasons.append(f"{len(attack.inside)} inputs changed label inside their certified radius")
    progress(1.0)
    ratios, slopes = seen.ratios(seen.observed), seen.slopes
    order = np.argsort(-ratios, kind="stable")[:MAX_WITNESSES]
    witnesses = tuple(_witness(seen, int(index), names) for index in order)
    counts = coarse(seen.points.counts)
    far = seen.points.outside
    return AuditReport(
        verdict="refuted" if reasons else "consistent",
        reasons=tuple(reasons),
        sha256=predictor.file.sha256,
        norm=norm,
        execution=predictor.execution.__name__,
        bound=bounds.bound_global,
        claim=claim,
        observed=float(seen.observed[scores].max()),
        observed_error=seen.error,
        observed_slope=float(slopes[scores].max()),
        tightness=float(seen.observed[scores].max() / bounds.bound_global) if bounds.bound_global else 0.0,
        full_gradient_share=float(seen.points.full.mean() / seen.points.points),
        per_pair=tuple(
            PairAudit(
                classes=names[i],
                bound=float(seen.limits[i]),
                observed=float(seen.observed[i]),
                observed_slope=float(slopes[i]),
                tightness=float(ratios[i]),
                full_gradient_share=float(seen.points.full[i] / seen.points.points),
                quantiles=binned_quantiles(
                    seen.points.counts[i],
                    seen.points.least[i],
                    float(seen.ratios(seen.points.largest)[i]),
                ),
                histogram=tuple(counts[i].tolist()),
                **_estimate(seen, i),
            )
            for i in range(len(names))
        ),
        quantiles=binned_quantiles(
            seen.points.counts.sum(axis=0),
            float(seen.points.least.min()),
            float(seen.ratios(seen.points.largest).max()),
        ),
        histogram={
            "edges": np.linspace(0.0, 1.0, HISTOGRAM_BINS + 1).tolist(),
            "counts": counts.sum(axis=0).tolist(),
        },
        witness=witnesses[0],
        witnesses=witnesses,
        points={
            "data": look.data,
            "box": samples,
            "attacked": sum(radius > 0.0 for radius in attack.certified_radius),
        },
        flips=len(attack.inside),
        warnings=(predictor.claims.outside_warning(far, look.data),) if far else (),
        attack=attack,
    )


def _stream(predictor: CertifiedPredictor, inputs: Any) -> Stream:
    return in_memory("inputs", predictor.check_inputs(inputs))


def _names(predictor: CertifiedPredictor, pair: tuple[int, int | None]) -> tuple[str, str | None]:
    i, j = pair
    if predictor.file.graph.output_shape == (1,):
        return predictor.class_names[1], predictor.class_names[0]
    return predictor.class_names[i], None if j is None else predictor.class_names[j]


def _reasons(seen: Survey, names: list[tuple[str, str | None]], claim: float | None) -> list[str]:
    """What contradicts the bounds, and the claim.

    A gradient is held against a bound only: at a kink it may be that of pieces which never meet, and
    no bound of ours, made layer by layer, is below that, but a true claim might be. Slopes are held
    against both.
    """
    reasons = []
    for what, values, doubt in (("gradient", seen.observed, seen.error), ("slope", seen.slopes, 0.0)):
        for index in np.flatnonzero(values - doubt > seen.limits):
            exceeds = f"{values[index]:.9g} exceeds the bound {seen.limits[index]:.9g}"
            reasons.append(f"{what} {exceeds} of {' - '.join(filter(None, names[index]))}")
    slope = max(seen.slopes[i] for i, (_, j) in enumerate(seen.functions.pairs) if j is None)
    if claim is not None and slope > claim:
        reasons.append(f"slope {slope:.9g} exceeds the claimed constant {claim:.9g}")
    return reasons


def _estimate(seen: Survey, index: int) -> dict[str, Any]:
    """Return the extreme-value estimate, no larger than the bound: by the proof no gradient is."""
    fitted = seen.estimates[index]
    most = max(float(seen.limits[index]), float(seen.observed[index]))
    capped = fitted is not None and fitted > most
    return {"extreme_value_estimate": most if capped else fitted, "extreme_value_capped": capped}


def _witness(seen: Survey, index: int, names: list[tuple[str, str | None]]) -> Witness:
    return Witness(
        classes=names[index],
        found_on=seen.found_on(index),
        observed=float(seen.observed[index]),
        bound=float(seen.limits[index]),
        input=tuple(seen.witness[index].tolist()),
        second_input=tuple(seen.partner[index].tolist()),
        observed_slope=float(seen.witness_slopes[index]),
    )


def _findings(attacked: Attacked, methods: tuple[str, ...]) -> AttackFindings:
    radius, distance, inside = attacked
    known = np.isfinite(distance)
    ratio = np.divide(radius, distance, out=np.zeros_like(radius), where=known & (distance > 0.0))
    return AttackFindings(
        inputs=len(radius),
        found=int(known.sum()),
        methods=(BUILT_IN, *methods),
        certified_radius=tuple(radius.tolist()),
        observed_distance=tuple(float(d) if k else None for d, k in zip(distance, known, strict=True)),
        ratio=tuple(float(r) if k else None for r, k in zip(ratio, known, strict=True)),
        ratio_quantiles=quantiles(ratio[known]),
        inside=inside,
    )
