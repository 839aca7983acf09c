"""Audit one model: compare observations with certified bounds.

An audit is evidence, never a proof. ``refuted`` means that an observation contradicts a claim or a certified
bound; ``consistent`` that none does, which is weaker than a proof: a network whose claimed constant is wrong
may show no gradient above it at the points observed.
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
from lipmodel.audit.shard_task import AttackedPoints, AuditTask, merged
from lipmodel.audit.survey import Survey, survey
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.shards import ShardExecutor
from lipmodel.data.stream import Stream, in_memory
from lipmodel.errors import InputError
from lipmodel.network.metadata import LARGEST_INPUT
from lipmodel.norms import Norm
from lipmodel.progress import Progress, part, silent
from lipmodel.threat import BALLS

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
    executor: ShardExecutor | None = None,
) -> AuditReport:
    """Measure gradients of the deployed graph and attack its certified radii.

    Args:
        predictor: the model.
        norm: norm of the input; the model's default if None.
        inputs: (N, d) points, or a stream of them.
        box: least and largest coordinate of random points; by default the range of the data in the file's
            metadata, or [-1, 1].
        samples: number of random points.
        attacked: number of points to attack, data first.
        methods: attacks in addition to the built-in one; see ``lipmodel.audit.attacks.registry``.
        seed: seed of the random numbers; equal seeds give equal reports.
        progress: callback for the share done.
        executor: runs the work in several processes; the report is the same.

    Raises:
        InputError: inputs do not fit the model; the box is empty or infinite; a number of points is
            negative; an attack is unknown or does not work in the norm.
        MissingExtraError: a package that an attack needs is not installed.
    """
    norm = norm or predictor.default_norm
    low, high = box or predictor.claims.input_box or (-1.0, 1.0)
    if not -LARGEST_INPUT <= low <= high <= LARGEST_INPUT:
        raise InputError(
            f"[{low}, {high}] is not a box; low <= high in the range of float32 is required", field="box"
        )
    empty = inputs is None or (isinstance(inputs, Stream) and not inputs.rows)
    if samples < 0 or (samples == 0 and empty):
        raise InputError(
            f"{samples} random points and no inputs: at least one point is required", field="samples"
        )
    if attacked < 0:
        raise InputError(f"{attacked} inputs to attack: at least 0 is required", field="attacked")
    check_methods(methods, BALLS[norm])
    data = inputs
    if inputs is not None and not isinstance(inputs, Stream):
        data = in_memory("inputs", predictor.check_inputs(inputs))
    rows = data.rows if data is not None else 0
    task = AuditTask(norm, rows, (low, high), seed, attacked, methods)
    observing = part(progress, 0.0, 0.8)
    parts = (
        [task(predictor, data, range(rows + samples), observing)]
        if executor is None
        else executor(task, task.shards(data, samples), observing)
    )
    points, attacks = merged(parts)
    found = survey(predictor, GradientEngine(predictor.file.graph), task, points, part(progress, 0.8, 1.0))
    attack = _findings(attacks, methods)
    names = [_names(predictor, pair) for pair in found.functions.pairs]
    bounds = predictor.bounds(norm)
    claim = predictor.claims.lipschitz if predictor.claims.norm is norm else None
    scores = np.array([j is None for _, j in found.functions.pairs])
    reasons = _reasons(found, names, claim)
    if attack.inside:
        reasons.append(f"{len(attack.inside)} inputs changed label inside their certified radius")
    progress(1.0)
    ratios, largest, slopes = points.ratios(found.observed), points.ratios(points.largest), found.slopes
    witnesses = tuple(
        Witness(
            classes=names[i],
            found_on=found.found_on[i],
            observed=float(found.observed[i]),
            bound=float(points.limits[i]),
            input=tuple(found.witness[i].tolist()),
            second_input=tuple(found.partner[i].tolist()),
            observed_slope=float(found.witness_slopes[i]),
        )
        for i in np.argsort(-ratios, kind="stable")[:MAX_WITNESSES].tolist()
    )
    counts, far = coarse(points.counts), points.outside
    return AuditReport(
        verdict="refuted" if reasons else "consistent",
        reasons=tuple(reasons),
        sha256=predictor.file.sha256,
        norm=norm,
        execution=predictor.execution.__name__,
        bound=bounds.bound_global,
        claim=claim,
        observed=float(found.observed[scores].max()),
        observed_error=found.error,
        observed_slope=float(slopes[scores].max()),
        tightness=float(found.observed[scores].max() / bounds.bound_global) if bounds.bound_global else 0.0,
        full_gradient_share=float(points.full.mean() / points.points),
        per_pair=tuple(
            PairAudit(
                classes=names[i],
                bound=float(points.limits[i]),
                observed=float(found.observed[i]),
                observed_slope=float(slopes[i]),
                tightness=float(ratios[i]),
                full_gradient_share=float(points.full[i] / points.points),
                quantiles=binned_quantiles(points.counts[i], points.least[i], float(largest[i])),
                histogram=tuple(counts[i].tolist()),
                **_estimate(found, i),
            )
            for i in range(len(names))
        ),
        quantiles=binned_quantiles(
            points.counts.sum(axis=0), float(points.least.min()), float(largest.max())
        ),
        histogram={
            "edges": np.linspace(0.0, 1.0, HISTOGRAM_BINS + 1).tolist(),
            "counts": counts.sum(axis=0).tolist(),
        },
        witness=witnesses[0],
        witnesses=witnesses,
        points={
            "data": rows,
            "box": samples,
            "attacked": sum(radius > 0.0 for radius in attack.certified_radius),
        },
        flips=len(attack.inside),
        warnings=(predictor.claims.outside_warning(far, rows),) if far else (),
        attack=attack,
    )


def _names(predictor: CertifiedPredictor, pair: tuple[int, int | None]) -> tuple[str, str | None]:
    i, j = pair
    if predictor.file.graph.output_shape == (1,):
        return predictor.class_names[1], predictor.class_names[0]
    return predictor.class_names[i], None if j is None else predictor.class_names[j]


def _reasons(found: Survey, names: list[tuple[str, str | None]], claim: float | None) -> list[str]:
    """Return the contradictions of the bounds and of the claim.

    A gradient is compared only with a bound: at a kink it may combine linear pieces that never meet; a bound
    computed layer by layer is never below that, but a true claim may be. Slopes are compared with both.
    """
    reasons = []
    for kind, values, slack in (("gradient", found.observed, found.error), ("slope", found.slopes, 0.0)):
        for index in np.flatnonzero(values - slack > found.points.limits):
            exceeds = f"{values[index]:.9g} exceeds the bound {found.points.limits[index]:.9g}"
            reasons.append(f"{kind} {exceeds} of {' - '.join(filter(None, names[index]))}")
    slope = max(found.slopes[i] for i, (_, j) in enumerate(found.functions.pairs) if j is None)
    if claim is not None and slope > claim:
        reasons.append(f"slope {slope:.9g} exceeds the claimed constant {claim:.9g}")
    return reasons


def _estimate(found: Survey, index: int) -> dict[str, Any]:
    """Return the extreme-value estimate, capped at the bound, which by the proof no gradient exceeds."""
    fitted = found.estimates[index]
    most = max(float(found.points.limits[index]), float(found.observed[index]))
    capped = fitted is not None and fitted > most
    return {"extreme_value_estimate": most if capped else fitted, "extreme_value_capped": capped}


def _findings(attacked: AttackedPoints, methods: tuple[str, ...]) -> AttackFindings:
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
