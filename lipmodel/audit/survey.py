"""The largest gradients and slopes of one model: those seen at points, and those found by climbing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lipmodel.audit.ascent import ascend, steepest
from lipmodel.audit.extremes import estimate_right_end
from lipmodel.audit.findings import FoundOn
from lipmodel.audit.gradient import GradientEngine
from lipmodel.audit.observe import (
    Functionals,
    Observations,
    Steps,
    bound_gradient_error,
    observed_slopes,
)
from lipmodel.audit.shard_task import Look, audited
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.norms import Array, Norm
from lipmodel.progress import Progress

ASCENT_STEPS, ASCENT_STARTS = 60, 2
STEP_SIZES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # of slopes beside a witness, in sides of the box


@dataclass(frozen=True, eq=False)
class Survey:
    """What was seen of F functionals.

    Attributes:
        functions: the functionals.
        limits: (F,) their certified bounds; ``error``: of an observed gradient norm.
        points: gradients at the points of the data and the box.
        data: how many of them are of the data, which come first.
        observed: (F,) the largest gradient norm, over those points and by ascent.
        witness: (F, d) where; ``by_ascent``: (F,) whether the ascent found it.
        partner: (F, d) a second point beside the witness, ``witness_slopes``: (F,) and the slope there.
        slopes: (F,) the largest slope between any two points, rounding taken off.
        estimates: per functional, the extreme-value estimate from the box.
    """

    functions: Functionals
    limits: Array
    error: float
    points: Observations
    data: int
    observed: Array
    witness: Array
    by_ascent: np.ndarray[tuple[int], np.dtype[np.bool_]]
    partner: Array
    witness_slopes: Array
    slopes: Array
    estimates: list[float | None]

    def ratios(self, norms: Array) -> Array:
        """Gradient norms over their bounds; 0 where the bound is 0."""
        return self.points.ratios(norms)

    def found_on(self, index: int) -> FoundOn:
        """Which search found the witness of a functional."""
        if self.by_ascent[index]:
            return "ascent"
        return "data" if self.points.point[index] < self.data else "box"


def survey(
    predictor: CertifiedPredictor,
    engine: GradientEngine,
    look: Look,
    points: Observations,
    progress: Progress,
) -> Survey:
    """Climbs from the best of the points, and looks for the steepest slopes beside what is found.

    Args:
        predictor: the model.
        engine: its gradients.
        look: how the points were looked at.
        points: what was seen there.
        progress: told the share done.
    """
    functions, limits = audited(predictor, look.norm)
    box = look.box
    rng = np.random.default_rng((look.seed, points.points))
    maxima = np.array(points.maxima).reshape(-1, len(limits))

    side = max(box[1] - box[0], 1e-3)
    cotangents = np.tile(functions.cotangents, (ASCENT_STARTS, 1))
    elsewhere = rng.uniform(*box, size=((ASCENT_STARTS - 1) * len(limits), engine.graph.input_size))
    starts = np.concatenate([points.witness, elsewhere])
    climbed, where = ascend(
        engine, cotangents, starts, look.norm, scale=side, steps=ASCENT_STEPS, rng=rng, progress=progress
    )
    climbed, where = climbed.reshape(ASCENT_STARTS, -1), where.reshape(ASCENT_STARTS, len(limits), -1)
    every, best = np.arange(len(limits)), climbed.argmax(axis=0)
    by_ascent = climbed[best, every] > points.largest
    witness = np.where(by_ascent[:, None], where[best, every], points.witness)
    partner, beside = _slopes_beside(predictor, engine, functions, witness, look.norm, side)
    return Survey(
        functions=functions,
        limits=limits,
        error=bound_gradient_error(engine.graph, look.norm),
        points=points,
        data=look.data,
        observed=np.maximum(climbed[best, every], points.largest),
        witness=witness,
        by_ascent=by_ascent,
        partner=partner,
        witness_slopes=beside,
        slopes=np.maximum(points.slopes, beside),
        estimates=[estimate_right_end(column) for column in maxima.T],
    )


def _slopes_beside(
    predictor: CertifiedPredictor,
    engine: GradientEngine,
    functions: Functionals,
    witness: Array,
    norm: Norm,
    side: float,
) -> tuple[Array, Array]:
    """(F, d) and (F,): the steepest slope of each functional from its witness along its gradient.

    Steps of several sizes, forwards and backwards: short ones stay on the witness's linear piece, where
    the slope is the gradient norm, long ones lose less to rounding.
    """
    every = np.arange(len(witness))
    scores, gradient = engine(witness, functions.cotangents)
    along = steepest(gradient, norm)
    best, partner = np.zeros(len(witness)), witness.copy()
    for size in STEP_SIZES:
        for sign in (1.0, -1.0):
            second = witness + sign * size * side * along
            steps = Steps(witness, second, (scores, engine.scores(second)))
            slope = observed_slopes(steps, functions.cotangents, predictor.rounding(), norm)[every, every]
            higher = slope > best
            best[higher], partner[higher] = slope[higher], second[higher]
    return partner, best
