"""Looks for inputs near a given one that get another label: evidence against a radius, if it is wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lipmodel.audit.ascent import MOMENTUM, steepest, unit
from lipmodel.audit.foolbox_attacks import attacked_by, check_methods
from lipmodel.audit.gradient import GradientEngine
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.norms import Array, Norm, bound_vector_norm, vector_norm
from lipmodel.progress import Progress, part, silent

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
            gradient = _margin_gradient(engine, points, label, speed)[1]
            momentum = MOMENTUM * momentum + unit(gradient)
            length = inside * (2.0 if step < steps // 2 else 0.25)
            delta = _into_ball(delta - length[:, None] * steepest(momentum, norm), inside, norm)
            note(inputs + delta)
            note(inputs - inside[:, None] * steepest(gradient, norm))
    return Attack(flipped, adversarial, bound_vector_norm(adversarial - inputs, norm, axis=1))


def nearest_flips(
    predictor: CertifiedPredictor,
    engine: GradientEngine,
    inputs: Array,
    norm: Norm,
    *,
    steps: int = 60,
    restarts: int = 3,
    seed: int = 0,
    progress: Progress = silent,
) -> Attack:
    """The least change of each input that is found to alter its label: an upper bound on its true radius.

    Fast minimum-norm attack (Pintor et al. 2021), by momentum: descends the margin within a ball that
    shrinks where the label has changed, and grows where it has not: to where the margin would vanish
    were it linear, as long as no change is known. Both kinds of step get finer with time.

    Args:
        predictor: the classifier attacked.
        engine: gradients of its graph.
        inputs: (N, d).
        norm: that distances are measured in.
        steps: of each restart.
        restarts: from the inputs themselves, then from random points about as far as the best so far.
        seed: of the random starts.
        progress: told the share done.

    Returns:
        Distances are infinite where no change of label was found.
    """
    rng = np.random.default_rng(seed)
    label = predictor.predict(inputs, norm).radii.label
    speed = np.maximum(predictor.bounds(norm).bound_per_pair[label], np.finfo(float).tiny)
    nearest, adversarial = np.full(len(inputs), np.inf), inputs.copy()
    for restart in range(restarts):
        known = np.isfinite(nearest)
        delta, momentum = np.zeros_like(inputs), np.zeros_like(inputs)
        if restart:
            away = np.where(known, nearest, 0.0) * rng.uniform(0.5, 2.0, size=len(inputs))
            delta = away[:, None] * steepest(rng.normal(size=inputs.shape), norm)
        budget = np.where(known, 2.0 * nearest, np.inf)
        for step in range(steps):
            decay = 0.5 * (1.0 + np.cos(np.pi * step / steps))
            points = inputs + delta
            distance = bound_vector_norm(points - inputs, norm, axis=1)
            flipped = predictor.predict(points, norm).radii.label != label
            closer = flipped & (distance < nearest)
            nearest[closer], adversarial[closer] = distance[closer], points[closer]
            known = np.isfinite(nearest)
            margin, gradient = _margin_gradient(engine, points, label, speed)
            gain = vector_norm(gradient, norm.dual)
            reach = np.divide(np.abs(margin), gain, out=np.zeros_like(gain), where=gain > 0)
            change = 0.002 + 0.1 * decay
            tighter = np.where(
                flipped, np.minimum(budget, distance) * (1.0 - change), budget * (1.0 + change)
            )
            budget = np.where(known, tighter, distance + 1.02 * reach)
            momentum = MOMENTUM * momentum + unit(gradient)
            length = budget * np.where(known, 0.02 + 0.5 * decay, 2.0)
            delta = _into_ball(delta - length[:, None] * steepest(momentum, norm), budget, norm)
            progress((restart + (step + 1) / steps) / restarts)
    return Attack(np.isfinite(nearest), adversarial, nearest)


def nearest_changes(
    predictor: CertifiedPredictor,
    engine: GradientEngine,
    inputs: Array,
    norm: Norm,
    *,
    methods: tuple[str, ...] = (),
    seed: int = 0,
    progress: Progress = silent,
) -> Attack:
    """The nearest that :func:`nearest_flips` finds and attacks of foolbox, judged by the predictor alone.

    Args:
        predictor: the classifier attacked.
        engine: gradients of its graph.
        inputs: (N, d).
        norm: that distances are measured in.
        methods: names in :data:`lipmodel.audit.foolbox_attacks.METHODS`.
        seed: of the random starts.
        progress: told the share done.

    Raises:
        InputError, MissingExtraError: see :func:`lipmodel.audit.foolbox_attacks.check_methods`.
    """
    check_methods(methods, norm)
    share = 1.0 / (1 + len(methods))
    found = nearest_flips(predictor, engine, inputs, norm, seed=seed, progress=part(progress, 0.0, share))
    nearest, adversarial = found.distance.copy(), found.adversarial.copy()
    label = predictor.predict(inputs, norm).radii.label
    for done, method in enumerate(methods, 2):
        changed = attacked_by(method, engine, inputs, label, norm)
        distance = bound_vector_norm(changed - inputs, norm, axis=1)
        closer = (predictor.predict(changed, norm).radii.label != label) & (distance < nearest)
        nearest[closer], adversarial[closer] = distance[closer], changed[closer]
        progress(done * share)
    return Attack(np.isfinite(nearest), adversarial, nearest)


def attack_radii(
    predictor: CertifiedPredictor,
    engine: GradientEngine,
    inputs: Array,
    radius: Array,
    norm: Norm,
    *,
    methods: tuple[str, ...] = (),
    seed: int = 0,
    progress: Progress = silent,
) -> Attack:
    """Searches for the nearest change of label at all, and then inside each radius.

    Args:
        predictor: the classifier attacked.
        engine: gradients of its graph.
        inputs: (N, d).
        radius: (N,) certified; where it is 0, nothing is inside it.
        norm: of the radii.
        methods: names in :data:`lipmodel.audit.foolbox_attacks.METHODS`, beside our own.
        seed: of the random starts.
        progress: told the share done.

    Returns:
        Distances are infinite where no change of label was found. One that is at most the radius
        refutes it.

    Raises:
        InputError, MissingExtraError: see :func:`lipmodel.audit.foolbox_attacks.check_methods`.
    """
    nearest = nearest_changes(
        predictor, engine, inputs, norm, methods=methods, seed=seed, progress=part(progress, 0.0, 0.7)
    )
    distance, adversarial = nearest.distance.copy(), nearest.adversarial.copy()
    certified = np.flatnonzero(radius > 0.0)
    if len(certified):
        inside = attack_within(
            predictor, engine, inputs[certified], radius[certified], norm, seed=seed, steps=15
        )
        closer = inside.flipped & (inside.distance < distance[certified])
        rows = certified[closer]
        distance[rows], adversarial[rows] = inside.distance[closer], inside.adversarial[closer]
    progress(1.0)
    return Attack(np.isfinite(distance), adversarial, distance)


def _margin_gradient(
    engine: GradientEngine, points: Array, label: Indices, speed: Array
) -> tuple[Array, Array]:
    """Margin (N,) over the class nearest for its speed (N, K), and the margin's gradient (N, d)."""
    count = engine.graph.output_shape[0]
    rows = np.arange(len(points))
    if count == 1:
        sign = np.where(label == 1, 1.0, -1.0)
        scores, gradient = engine(points, sign[:, None])
        return scores[:, 0] * sign, gradient
    scores = engine.scores(points)
    margins = scores[rows, label][:, None] - scores
    distance = margins / speed
    distance[rows, label] = np.inf
    nearest = distance.argmin(axis=1)
    cotangents = np.zeros_like(scores)
    cotangents[rows, label] = 1.0
    cotangents[rows, nearest] = -1.0
    return margins[rows, nearest], engine(points, cotangents)[1]


def _into_ball(delta: Array, radius: Array, norm: Norm) -> Array:
    """Scaled or clipped into the l_p ball, row by row."""
    if norm is Norm.INF:
        return np.clip(delta, -radius[:, None], radius[:, None])
    size = vector_norm(delta, norm)[:, None]
    factor = np.divide(radius[:, None], size, out=np.ones_like(size), where=size > radius[:, None])
    return np.asarray(delta * factor)
