"""Built-in attacks by descent of the margin: inside a ball, and to the nearest adversarial input."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lipmodel.audit.ascent import MOMENTUM, steepest, unit
from lipmodel.audit.attacks.attack import AttackResult, AttackTask
from lipmodel.norms import Array, Norm, vector_norm
from lipmodel.progress import Progress, silent


@dataclass(frozen=True, eq=False)
class ProjectedGradientDescent:
    """Projected gradient descent on the margin inside each input's ball (Madry et al. 2018).

    Each step goes to the edge of the ball along the steepest descent of the margin to the class that is
    nearest there (least margin for its Lipschitz constant), averaged with the steps before (momentum). The
    second of the two restarts begins at a random point of the ball.

    Attributes:
        budget: (N,) radii of the balls.
        steps: of each restart.
    """

    budget: Array
    steps: int = 30

    def __call__(self, task: AttackTask, progress: Progress = silent) -> AttackResult:
        """Return the first adversarial inputs found within the budget."""
        rng = np.random.default_rng(task.seed)
        inputs, norm = task.inputs, task.norm
        flipped = np.zeros(len(inputs), dtype=np.bool_)
        adversarial = inputs.copy()
        inside = self.budget * (1.0 - 1e-12)  # allows for the rounding of x + δ

        def note(points: Array) -> None:
            new = task.changed(points) & (task.distances(points) <= self.budget) & ~flipped
            adversarial[new] = points[new]
            flipped[new] = True

        for restart in range(2):
            start = task.in_units(rng.normal(size=inputs.shape)) if restart else np.zeros_like(inputs)
            delta = _into_ball(start, inside * rng.uniform(size=len(inputs)), norm)
            momentum = np.zeros_like(inputs)
            for step in range(self.steps):
                gradient = _margin_gradient(task, task.moved(delta))[1]
                momentum = MOMENTUM * momentum + unit(gradient)
                length = inside * (2.0 if step < self.steps // 2 else 0.25)
                delta = _into_ball(delta - length[:, None] * steepest(momentum, norm), inside, norm)
                note(task.moved(delta))
                note(task.moved(-inside[:, None] * steepest(gradient, norm)))
                progress((restart + (step + 1) / self.steps) / 2)
        return AttackResult(adversarial, np.where(flipped, task.distances(adversarial), np.inf))


@dataclass(frozen=True)
class MinimumNormDescent:
    """Fast minimum-norm attack (Pintor et al. 2021) with momentum: an upper bound on each true radius.

    Descends the margin within a ball that shrinks where the label has changed and grows where it has not;
    as long as no change is known, to where the margin would vanish were it linear. Steps of the input and
    of the ball get finer with time.

    Attributes:
        steps: of each restart.
        restarts: the first begins at the inputs, the others at random points about as far as the nearest
            adversarial input so far.
    """

    steps: int = 60
    restarts: int = 3
    norms: ClassVar[Collection[Norm]] = tuple(Norm)

    def require(self) -> None:
        """Do nothing: no optional package is needed."""

    def __call__(self, task: AttackTask, progress: Progress = silent) -> AttackResult:
        """Return the nearest adversarial inputs found, at any distance."""
        rng = np.random.default_rng(task.seed)
        inputs, norm = task.inputs, task.norm
        nearest, adversarial = np.full(len(inputs), np.inf), inputs.copy()
        for restart in range(self.restarts):
            known = np.isfinite(nearest)
            delta, momentum = np.zeros_like(inputs), np.zeros_like(inputs)
            if restart:
                away = np.where(known, nearest, 0.0) * rng.uniform(0.5, 2.0, size=len(inputs))
                delta = away[:, None] * steepest(task.in_units(rng.normal(size=inputs.shape)), norm)
            budget = np.where(known, 2.0 * nearest, np.inf)
            for step in range(self.steps):
                decay = 0.5 * (1.0 + np.cos(np.pi * step / self.steps))
                points = task.moved(delta)
                distance = task.distances(points)
                flipped = task.changed(points)
                closer = flipped & (distance < nearest)
                nearest[closer], adversarial[closer] = distance[closer], points[closer]
                known = np.isfinite(nearest)
                margin, gradient = _margin_gradient(task, points)
                gain = vector_norm(gradient, norm.dual)
                # The distance at which a linear margin would vanish.
                linear = np.divide(np.abs(margin), gain, out=np.zeros_like(gain), where=gain > 0)
                change = 0.002 + 0.1 * decay
                tighter = np.where(
                    flipped, np.minimum(budget, distance) * (1.0 - change), budget * (1.0 + change)
                )
                budget = np.where(known, tighter, distance + 1.02 * linear)
                momentum = MOMENTUM * momentum + unit(gradient)
                length = budget * np.where(known, 0.02 + 0.5 * decay, 2.0)
                delta = _into_ball(delta - length[:, None] * steepest(momentum, norm), budget, norm)
                progress((restart + (step + 1) / self.steps) / self.restarts)
        return AttackResult(adversarial, nearest)


def _margin_gradient(task: AttackTask, points: Array) -> tuple[Array, Array]:
    """Return the margin (N,) to the class nearest for its Lipschitz constant, and its gradient (N, d).

    The gradient is by changes in units of the threat set.
    """
    engine, label, rows = task.engine, task.labels, np.arange(len(points))
    if engine.graph.output_shape[0] == 1:
        sign = np.where(label == 1, 1.0, -1.0)
        scores, gradient = engine(points, sign[:, None])
        return scores[:, 0] * sign, task.in_units(gradient)
    scores = engine.scores(points)
    margins = scores[rows, label][:, None] - scores
    distance = margins / task.lipschitz
    distance[rows, label] = np.inf
    nearest = distance.argmin(axis=1)
    cotangents = np.zeros_like(scores)
    cotangents[rows, label] = 1.0
    cotangents[rows, nearest] = -1.0
    return margins[rows, nearest], task.in_units(engine(points, cotangents)[1])


def _into_ball(delta: Array, radius: Array, norm: Norm) -> Array:
    """Return each row (N, d) scaled or clipped into the l_p ball of its radius."""
    if norm is Norm.INF:
        return np.clip(delta, -radius[:, None], radius[:, None])
    size = vector_norm(delta, norm)[:, None]
    factor = np.divide(radius[:, None], size, out=np.ones_like(size), where=size > radius[:, None])
    return np.asarray(delta * factor)
