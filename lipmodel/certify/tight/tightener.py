"""Larger radii, slowly: mixtures of own scores, then a search for a ball on which the answer is proved.

Nothing is assumed about how local bounds depend on the radius: a radius counts if the proof succeeds
at that very radius. For every foreign score j whose reach (``mixtures.py``) is not beyond r, λ the weights of
own scores against it, and x' anywhere in the closed ball,

    Σ λ_i ŷ_i(x') - ŷ_j(x') >= Σ λ_i F_i(x') - F_j(x') - E(ρ + κr) >= bound_below - E(ρ + κr) > 0.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lipmodel.certify.head import Indices
from lipmodel.certify.radius import Radii, for_clients
from lipmodel.certify.tight.functionals import Ball
from lipmodel.certify.tight.local_bounds import LocalBounds
from lipmodel.certify.tight.mixtures import Mixer, Standing
from lipmodel.deadline import Deadline, OutOfTimeError
from lipmodel.norms import Array, bound_vector_norm, down, up

PROBES = 12
RESOLUTION = 1e-3
"""The search ends where it could gain no more than this share of the radius."""


@dataclass(frozen=True, eq=False)
class Tightening:
    """What the slower tier did for N inputs.

    Attributes:
        method: (N,) which bound the radius comes from: "local", "mixture", or "lipschitz" where neither is
            better.
        seconds: (N,) of computation.
        probes: (N,) radii at which a proof was tried.
        complete: (N,) whether the search came to its end; else more time may prove a larger radius.
        reason: why local bounds are not available for the model; None where they are.
    """

    method: np.ndarray[tuple[int], np.dtype[np.str_]]
    seconds: Array
    probes: Indices
    complete: NDArray[np.bool_]
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class Tightener:
    """The tier for one model and norm.

    Attributes:
        mixer: mixtures of own scores.
        local: local bounds, or why there are none.
    """

    mixer: Mixer
    local: LocalBounds | str

    def __call__(
        self, raw: Array, inputs: Array, radii: Radii, deadline: Deadline | None = None
    ) -> tuple[Radii, Tightening]:
        """The same radii, each at least as large, from raw scores (N, M) and inputs (N, d).

        One input after another, until the time is up: each has the largest radius that was proved by then.

        Raises:
            CancelledError: by the deadline.
        """
        deadline = deadline or Deadline()
        certified, runner_up = radii.certified_radius.copy(), radii.runner_up.copy()
        seconds, probes = np.zeros(len(inputs)), np.zeros(len(inputs), dtype=np.intp)
        method, complete = np.full(len(inputs), "lipschitz"), np.ones(len(inputs), dtype=bool)
        most = self.mixer.rule.overflow_radius(inputs)
        for n, (scores, x) in enumerate(zip(raw, inputs, strict=True)):
            started = time.perf_counter()
            try:
                deadline.check()
            except OutOfTimeError:
                complete[n:] = False
                break
            if certified[n] > 0.0:  # else even the scores at x itself are not told apart
                standing = self.mixer.stand(scores, x, int(radii.label[n]), mix=True)
                nearest = int(standing.reach.argmin())
                mixed = float(min(standing.reach[nearest], most[n]))
                several = "mixture" if len(standing.own) > 1 else "lipschitz"
                ways = [(several, mixed, int(standing.foreign[nearest]))]
                if isinstance(self.local, LocalBounds) and self.local.bends:
                    low = max(certified[n], mixed)
                    found, rival, probes[n], complete[n] = self._search(
                        self.local, standing, x, low, deadline
                    )
                    ways.append(("local", found, rival))
                for name, found, rival in ways:
                    if (radius := float(for_clients(found, len(x)))) > certified[n]:
                        certified[n], runner_up[n], method[n] = radius, self.mixer.head.owners[rival], name
            seconds[n] = time.perf_counter() - started
        reason = None if isinstance(self.local, LocalBounds) else self.local
        return (
            radii._replace(certified_radius=certified, runner_up=runner_up),
            Tightening(method, seconds, probes, complete, reason),
        )

    def proves(self, standing: Standing, x: Array, radius: float) -> bool:
        """Whether the answer to x is proved on the closed ball of exactly that radius."""
        near = np.flatnonzero(~(standing.reach > radius))  # over the others it is proved already
        if not near.size:
            return True
        local = self.local
        if not isinstance(local, LocalBounds) or not local.bends:
            return False
        return bool((self._room(local, standing, near, local.ball(local.centre(x), radius)) > 0.0).all())

    def _search(
        self, local: LocalBounds, standing: Standing, x: Array, low: float, deadline: Deadline
    ) -> tuple[float, int, int, bool]:
        """The largest radius proved from ``low`` on, its rival, how many were tried, and whether all were."""
        centre = local.centre(x)

        def room(radius: float) -> tuple[float, int]:
            near = np.flatnonzero(~(standing.reach > radius))  # over the others it is proved already
            each = self._room(local, standing, near, local.ball(centre, radius, deadline))
            nearest = int(each.argmin())  # NaN counts as least
            return float(each[nearest]), int(standing.foreign[near[nearest]])

        low = max(low, float(standing.reach.min()))  # so that there is a rival to look at
        left, rival, high, over = 0.0, int(standing.foreign[0]), np.inf, 0.0
        tried, complete = 1, True
        try:
            left, rival = room(low)
            while left > 0.0 and tried < PROBES:
                if high == np.inf:
                    step = (
                        1.5 * left
                    )  # what is left at the speed of the Lipschitz bound, and half as much again
                else:  # to where a line would cross zero
                    share = left / (left - over) if np.isfinite(over) else 0.5
                    step = (high - low) * min(max(share, 0.05), 0.95)
                if step < RESOLUTION * low:
                    break
                tried += 1
                now, nearest = room(low + step)
                if now > 0.0:
                    low, left, rival = low + step, now, nearest
                else:
                    high, over = low + step, now
        except OutOfTimeError:  # low is proved wherever something is left there
            complete = False
        return (low if left > 0.0 else 0.0), rival, tried, complete

    @np.errstate(divide="ignore", invalid="ignore", over="ignore")  # NaN and infinity prove nothing
    def _room(self, local: LocalBounds, standing: Standing, near: Indices, ball: Ball) -> Array:
        """What is left on the ball of each margin over a near rival, over its constant; a proof where > 0."""
        rule, x = self.mixer.rule, ball.centre[0]
        assert x is not None
        # ρ + κr in the norm of the error bounds, which need not be the one that the ball measures itself in.
        size = up(bound_vector_norm(x, rule.promised.norm) + up(rule.kappa * ball.radius))
        if not rule.promised.peak.at(size) < rule.promised.limit:
            return np.full(len(near), np.nan)  # something might overflow
        own, weights, foreign = standing.own, standing.weights[near], standing.foreign[near]
        error = self.mixer.error(own, weights, foreign, size)
        below = local.bound_below(ball, self._differences(own, weights, foreign), error)
        left: Array = down(below - error) / standing.bound_lipschitz[near]
        return left

    def _differences(self, own: Indices, weights: Array, foreign: Indices) -> Array:
        """(R, M) functionals Σ λ_i score_i - score_j of the tensor of raw scores."""
        head = self.mixer.head
        rows = np.zeros((len(foreign), len(head.owners)))
        rows[:, own] = weights
        rows[np.arange(len(foreign)), foreign] = -1.0
        return rows[:, 1:] if head.binary else rows  # the score in front of a binary one's is 0
