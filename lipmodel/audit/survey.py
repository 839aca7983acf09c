"""Find the largest gradients and slopes of one model: at given points, and by ascent from the best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lipmodel.audit.ascent import ascend, steepest
from lipmodel.audit.extremes import estimate_right_end
from lipmodel.audit.findings import FoundOn
from lipmodel.audit.gradient import GradientEngine
from lipmodel.audit.observe import Functionals, Observations, Steps, bound_gradient_error, observed_slopes
from lipmodel.audit.shard_task import AuditTask, audited
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.norms import Array
from lipmodel.progress import Progress

ASCENT_STEPS, ASCENT_STARTS = 60, 2
STEP_SIZES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # of slopes from a witness, as multiples of the side of the box


@dataclass(frozen=True, eq=False)
class Survey:
    """Largest gradients and slopes of F functionals.

    Attributes:
        functions: the functionals.
        error: bound on the rounding error of an observed gradient norm.
        points: observations at the points of the data and the box, with the certified bounds.
        observed: (F,) largest gradient norm, at those points and by ascent.
        witness: (F, d) input of the largest gradient norm.
        found_on: the search that found each witness.
        partner: (F, d) second input near the witness.
        witness_slopes: (F,) slope between witness and partner.
        slopes: (F,) largest slope between any two points, less the rounding error.
        estimates: extreme-value estimate from random points, per functional.
    """

    functions: Functionals
    error: float
    points: Observations
    observed: Array
    witness: Array
    found_on: list[FoundOn]
    partner: Array
    witness_slopes: Array
    slopes: Array
    estimates: list[float | None]


def survey(
    predictor: CertifiedPredictor,
    engine: GradientEngine,
    task: AuditTask,
    points: Observations,
    progress: Progress,
) -> Survey:
    """Climb from the best points observed, and search for the steepest slopes from the witnesses."""
    functions, limits = audited(predictor, task.norm)
    box, given = task.box, points.point < task.data
    rng = np.random.default_rng((task.seed, points.points))
    maxima = np.array(points.maxima).reshape(-1, len(limits))

    side = max(box[1] - box[0], 1e-3)
    cotangents = np.tile(functions.cotangents, (ASCENT_STARTS, 1))
    elsewhere = rng.uniform(*box, size=((ASCENT_STARTS - 1) * len(limits), engine.graph.input_size))
    starts = np.concatenate([points.witness, elsewhere])
    climbed, where = ascend(
        engine, cotangents, starts, task.norm, scale=side, steps=ASCENT_STEPS, rng=rng, progress=progress
    )
    climbed, where = climbed.reshape(ASCENT_STARTS, -1), where.reshape(ASCENT_STARTS, len(limits), -1)
    every, best = np.arange(len(limits)), climbed.argmax(axis=0)
    by_ascent = climbed[best, every] > points.largest
    witness = np.where(by_ascent[:, None], where[best, every], points.witness)

    # Steepest slopes from each witness along its gradient, forwards and backwards: short steps stay on its
    # linear piece, where the slope is the gradient norm; long ones lose less to rounding.
    scores, gradient = engine(witness, functions.cotangents)
    along = steepest(gradient, task.norm)
    beside, partner = np.zeros(len(witness)), witness.copy()
    for step in (sign * size * side for size in STEP_SIZES for sign in (1.0, -1.0)):
        second = witness + step * along
        steps = Steps(witness, second, (scores, engine.scores(second)))
        slope = observed_slopes(steps, functions.cotangents, predictor.rounding(), task.norm)[every, every]
        higher = slope > beside
        beside[higher], partner[higher] = slope[higher], second[higher]
    return Survey(
        functions=functions,
        error=bound_gradient_error(engine.graph, task.norm),
        points=points,
        observed=np.maximum(climbed[best, every], points.largest),
        witness=witness,
        found_on=[
            "ascent" if ascended else "data" if known else "box"
            for ascended, known in zip(by_ascent, given, strict=True)
        ],
        partner=partner,
        witness_slopes=beside,
        slopes=np.maximum(points.slopes, beside),
        estimates=[estimate_right_end(column) for column in maxima.T],
    )
