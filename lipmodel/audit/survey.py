"""Looks for the largest gradients and slopes of one model: on data, in a box, and by ascent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lipmodel.audit.ascent import ascend, steepest
from lipmodel.audit.extremes import estimate_right_end
from lipmodel.audit.findings import FoundOn
from lipmodel.audit.gradient import GradientEngine
from lipmodel.audit.observe import (
    CHUNK_ROWS,
    Functionals,
    Observations,
    Steps,
    bound_gradient_error,
    functionals,
    observed_slopes,
    pairs_within,
)
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.norms import Array, Norm
from lipmodel.progress import Progress
from lipmodel.stream import Stream

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
        first: the first points, to attack.
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
    first: Array

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
    norm: Norm,
    data: Stream | None,
    box: tuple[float, float],
    samples: int,
    seed: int,
    keep: int,
    progress: Progress,
) -> Survey:
    """Looks at the data, at random points of the box, and climbs from the best of them.

    Args:
        predictor: the model.
        engine: its gradients.
        norm: of the input.
        data: inputs to look at.
        box: least and largest coordinate of random points.
        samples: how many of those.
        seed: of the random numbers.
        keep: how many of the first points to return.
        progress: told the share done.
    """
    rng = np.random.default_rng(seed)
    functions, bounds = functionals(engine.graph), predictor.bounds(norm)
    limits = np.array(
        [bounds.bound_global if j is None else bounds.bound_per_pair[i, j] for i, j in functions.pairs]
    )
    rows = data.rows if data is not None else 0
    points = Observations(engine, functions, limits, norm)
    slopes, first = np.zeros(len(limits)), np.empty((0, engine.graph.input_size))
    on_data = 0
    for chunk in _chunks(predictor, data, box, samples, rng):
        scores = points.add(chunk)
        for steps in pairs_within(chunk, scores, rng):
            found = observed_slopes(steps, functions.cotangents, predictor.rounding(), norm)
            slopes = np.maximum(slopes, found.max(axis=0))
        if len(first) < keep:
            first = np.concatenate([first, chunk[: keep - len(first)]])
        if points.points == rows:
            on_data = len(points.maxima)  # block maxima are of random points only
        progress(0.5 * points.points / (rows + samples))
    maxima = np.array(points.maxima[on_data:]).reshape(-1, len(limits))

    side = max(box[1] - box[0], 1e-3)
    cotangents = np.tile(functions.cotangents, (ASCENT_STARTS, 1))
    elsewhere = rng.uniform(*box, size=((ASCENT_STARTS - 1) * len(limits), engine.graph.input_size))
    starts = np.concatenate([points.witness, elsewhere])
    climbed, where = ascend(
        engine, cotangents, starts, norm, scale=side, steps=ASCENT_STEPS, rng=rng,
        progress=lambda share: progress(0.5 + 0.5 * share),
    )  # fmt: skip
    climbed, where = climbed.reshape(ASCENT_STARTS, -1), where.reshape(ASCENT_STARTS, len(limits), -1)
    every, best = np.arange(len(limits)), climbed.argmax(axis=0)
    by_ascent = climbed[best, every] > points.largest
    witness = np.where(by_ascent[:, None], where[best, every], points.witness)
    partner, beside = _slopes_beside(predictor, engine, functions, witness, norm, side)
    return Survey(
        functions=functions,
        limits=limits,
        error=bound_gradient_error(engine.graph, norm),
        points=points,
        data=rows,
        observed=np.maximum(climbed[best, every], points.largest),
        witness=witness,
        by_ascent=by_ascent,
        partner=partner,
        witness_slopes=beside,
        slopes=np.maximum(slopes, beside),
        estimates=[estimate_right_end(column) for column in maxima.T],
        first=first,
    )


def _chunks(
    predictor: CertifiedPredictor,
    data: Stream | None,
    box: tuple[float, float],
    samples: int,
    rng: np.random.Generator,
) -> Iterator[Array]:
    """The data, then random points, at most 256 at a time."""
    if data is not None:
        for number, (inputs, _) in enumerate(data.batches(CHUNK_ROWS)):
            yield predictor.check_inputs(inputs, first_row=number * CHUNK_ROWS)
    for start in range(0, samples, CHUNK_ROWS):
        count = min(CHUNK_ROWS, samples - start)
        yield rng.uniform(*box, size=(count, predictor.file.graph.input_size))


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
