"""Looks for inputs near a given one that get another label: evidence against a radius, if it is wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lipmodel.audit.gradient import GradientEngine
from lipmodel.audit.search import steepest
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.norms import Array, Norm, bound_vector_norm, vector_norm

Indices = np.ndarray[tuple[int], np.dtype[np.intp]]


@dataclass(frozen=True, eq=False)
class Attack:
    """What an attack on N inputs found.

    Attributes:
        flipped: (N,) whether an input within the budget got another label.
        adversarial: (N, d) that input, or the last one tried.
        distance: (N,) its l_p distance, rounded up, so that a flip is within the budget beyond doubt.
    """

    flipped: np.ndarray[tuple[int], np.dtype[np.bool_]]
    adversarial: Array
    distance: Array


def attack_within(
    predictor: CertifiedPredictor,
    engine: GradientEngine,
    inputs: Array,
    budget: Array,
    norm: Norm,
    *,
    steps: int = 30,
    seed: int = 0,
) -> Attack:
    """Projected gradient descent on the margin inside each input's ball (Madry et al. 2018).

    Each step goes to the edge of the ball along the steepest descent of the margin to the class that
    is nearest there (least margin for its Lipschitz constant), averaged with the steps before
    (momentum). The second restart begins at a random point of the ball. The labels that count are
    the predictor's own.

    Args:
        predictor: the classifier attacked.
        engine: gradients of its graph.
        inputs: (N, d).
        budget: (N,) radii of the balls.
        norm: of the balls.
        steps: of each of the two restarts.
        seed: of the random starts.
    """
    rng = np.random.default_rng(seed)
    label = predictor.predict(inputs, norm).radii.label
    speed = np.maximum(predictor.bounds(norm).bound_per_pair[label], np.finfo(float).tiny)
    flipped = np.zeros(len(inputs), dtype=np.bool_)
    adversarial = inputs.copy()
    inside = budget * (1.0 - 1e-12)  # what rounding of x + δ could add

    def note(points: Array) -> None:
        distance = bound_vector_norm(points - inputs, norm, axis=1)
        new = (predictor.predict(points, norm).radii.label != label) & (distance <= budget) & ~flipped
        adversarial[new] = points[new]
        flipped[new] = True

    for restart in range(2):
        start = rng.normal(size=inputs.shape) if restart else np.zeros_like(inputs)
        delta = _into_ball(start, inside * rng.uniform(size=len(inputs)), norm)
        momentum = np.zeros_like(inputs)
        for step in range(steps):
            points = inputs + delta
            gradient = _margin_gradient(engine, points, label, speed)
            size = vector_norm(gradient, Norm.TWO)[:, None]
            momentum = 0.75 * momentum + np.divide(
                gradient, size, out=np.zeros_like(gradient), where=size > 0
            )
            length = inside * (2.0 if step < steps // 2 else 0.25)
            delta = _into_ball(delta - length[:, None] * steepest(momentum, norm), inside, norm)
            note(inputs + delta)
            note(inputs - inside[:, None] * steepest(gradient, norm))
    return Attack(flipped, adversarial, bound_vector_norm(adversarial - inputs, norm, axis=1))


def _margin_gradient(engine: GradientEngine, points: Array, label: Indices, speed: Array) -> Array:
    """Gradient of the answered class's score less that of the class nearest to it, for its speed (N, K)."""
    count = engine.graph.output_shape[0]
    rows = np.arange(len(points))
    if count == 1:
        return engine(points, np.where(label == 1, 1.0, -1.0)[:, None])[1]
    scores, _ = engine(points, np.zeros((len(points), count)))
    distance = (scores[rows, label][:, None] - scores) / speed
    distance[rows, label] = np.inf
    cotangents = np.zeros_like(scores)
    cotangents[rows, label] = 1.0
    cotangents[rows, distance.argmin(axis=1)] = -1.0
    return engine(points, cotangents)[1]


def _into_ball(delta: Array, radius: Array, norm: Norm) -> Array:
    """Scaled or clipped into the l_p ball, row by row."""
    if norm is Norm.INF:
        return np.clip(delta, -radius[:, None], radius[:, None])
    size = vector_norm(delta, norm)[:, None]
    factor = np.divide(radius[:, None], size, out=np.ones_like(size), where=size > radius[:, None])
    return np.asarray(delta * factor)
