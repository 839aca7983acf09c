"""Larger radii, slowly: mixtures of target scores, then a search for a ball on which the answer is proved.

Local bounds need not be monotone in the radius: a radius counts if the proof succeeds at that very radius.
For every competitor j whose pair radius (``mixtures.py``) is not beyond r, λ the weights of target scores
against it, and x' anywhere in the closed ball,

    Σ λ_i ŷ_i(x') - ŷ_j(x') >= Σ λ_i F_i(x') - F_j(x') - E(ρ + κr) >= bound_below - E(ρ + κr) > 0.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lipmodel.certify.boxed_radius import UNBOUNDED, BoxedRule
from lipmodel.certify.head import Indices
from lipmodel.certify.radius import Radii
from lipmodel.certify.tight.functionals import Ball
from lipmodel.certify.tight.local_bounds import LocalBounds
from lipmodel.certify.tight.mixtures import ClassMargins, Mixer
from lipmodel.deadline import Deadline, OutOfTimeError
from lipmodel.norms import Array, down

PROBES = 12
RESOLUTION = 1e-3
"""Relative gain below which the search ends."""


@dataclass(frozen=True, eq=False)
class Tightening:
    """Record of the slower tier for N inputs.

    Attributes:
        method: (N,) bound that the radius comes from: "local", "mixture", "box" (with mixtures, ``box.py``),
            or "lipschitz" where none is better.
        seconds: (N,) time of computation.
        probes: (N,) number of radii at which a proof was tried.
        complete: (N,) whether the search came to its end; else more time may prove a larger radius.
        reason: reason for the lack of local bounds for the model; None where they are available.
    """

    method: np.ndarray[tuple[int], np.dtype[np.str_]]
    seconds: Array
    probes: Indices
    complete: NDArray[np.bool_]
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class Tightener:
    """The slower, tighter tier of radii for one model and threat set.

    Attributes:
        mixer: mixtures of target scores.
        local: local bounds, or the reason for their lack.
    """

    mixer: Mixer
    local: LocalBounds | str

    def __call__(
        self, raw: Array, inputs: Array, radii: Radii, deadline: Deadline | None = None
    ) -> tuple[Radii, Tightening]:
        """Return radii at least as large as those given, from raw scores (N, M) and inputs (N, d).

        Inputs are taken one after another until the deadline: each has the largest radius proved by then.

        Raises:
            CancelledError: raised by the deadline.
        """
        deadline = deadline or Deadline()
        certified, runner_up = radii.certified_radius.copy(), radii.runner_up.copy()
        seconds, probes = np.zeros(len(inputs)), np.zeros(len(inputs), dtype=np.intp)
        method = np.full(len(inputs), "box" if isinstance(self.mixer.rule, BoxedRule) else "lipschitz", "<U9")
        complete = np.ones(len(inputs), dtype=bool)
        inputs = self.mixer.rule.located(inputs)
        most = self.mixer.rule.overflow_radius(inputs)
        for n, (scores, x) in enumerate(zip(raw, inputs, strict=True)):
            started = time.perf_counter()
            try:
                deadline.check()
            except OutOfTimeError:
                complete[n:] = False
                break
            if certified[n] > 0.0:  # else even the scores at x itself are not separated
                margins = self.mixer.class_margins(scores, x, int(radii.label[n]), mix=True)
                nearest = int(margins.pair_radius.argmin())
                mixed = float(min(margins.pair_radius[nearest], most[n]))
                several = "mixture" if len(margins.targets) > 1 else "lipschitz"
                several = "box" if isinstance(self.mixer.rule, BoxedRule) else several
                ways = [(several, mixed, int(margins.competitors[nearest]))]
                if isinstance(self.local, LocalBounds) and self.local.has_nonlinearities:
                    low = max(certified[n], mixed)
                    found, rival, probes[n], complete[n] = self._search(self.local, margins, x, low, deadline)
                    ways.append(("local", found, rival))
                for name, found, rival in ways:
                    if (radius := found * self.mixer.rule.client_factor) > certified[n]:
                        certified[n], runner_up[n], method[n] = radius, self.mixer.head.owners[rival], name
            seconds[n] = time.perf_counter() - started
        reason = None if isinstance(self.local, LocalBounds) else self.local
        return (
            radii._replace(certified_radius=certified, runner_up=runner_up),
            Tightening(method, seconds, probes, complete, reason),
        )

    def proves(self, margins: ClassMargins, x: Array, radius: float) -> bool:
        """Return whether the answer to x is proved on the closed ball of exactly that radius."""
        near = np.flatnonzero(~(margins.pair_radius > radius))  # over the others it is proved already
        if not near.size:
            return True
        local = self.local
        if not isinstance(local, LocalBounds) or not local.has_nonlinearities:
            return False
        return bool((self._slack(local, margins, near, local.ball(local.centre(x), radius)) > 0.0).all())

    def _search(
        self, local: LocalBounds, margins: ClassMargins, x: Array, low: float, deadline: Deadline
    ) -> tuple[float, int, int, bool]:
        """Return the largest radius proved from ``low`` on, its competitor, the probes, and completeness."""
        centre = local.centre(x)

        def slack(radius: float) -> tuple[float, int]:
            near = np.flatnonzero(~(margins.pair_radius > radius))  # over the others it is proved already
            each = self._slack(local, margins, near, local.ball(centre, radius, deadline))
            nearest = int(each.argmin())  # NaN counts as least
            return float(each[nearest]), int(margins.competitors[near[nearest]])

        low = max(low, float(margins.pair_radius.min()))  # so that there is a rival to look at
        left, rival, high, over = 0.0, int(margins.competitors[0]), np.inf, 0.0
        tried, complete = 1, True
        try:
            left, rival = slack(low)
            while left > 0.0 and tried < PROBES:
                if high == np.inf:  # what is left by the Lipschitz bound, and half as much again
                    step = 1.5 * left
                else:  # to where a line would cross zero
                    share = left / (left - over) if np.isfinite(over) else 0.5
                    step = (high - low) * min(max(share, 0.05), 0.95)
                step = min(step, UNBOUNDED - low)
                if step < RESOLUTION * low:
                    break
                tried += 1
                now, nearest = slack(low + step)
                if now > 0.0:
                    low, left, rival = low + step, now, nearest
                else:
                    high, over = low + step, now
        except OutOfTimeError:  # low is proved wherever something is left there
            complete = False
        return (low if left > 0.0 else 0.0), rival, tried, complete

    @np.errstate(divide="ignore", invalid="ignore", over="ignore")  # NaN and infinity prove nothing
    def _slack(self, local: LocalBounds, margins: ClassMargins, near: Indices, ball: Ball) -> Array:
        """Return the slack of each margin on the ball, over the pair's constant; a proof where it is > 0."""
        rule, x = self.mixer.rule, ball.centre[0]
        assert x is not None
        # ρ + κr in the norm of the error bounds, which need not be the one that the ball measures itself in.
        size = local.bound_size(x, ball.radius, rule.promised.norm)
        if not rule.promised.magnitude.at(size) < rule.promised.limit:
            return np.full(len(near), np.nan)  # something might overflow
        targets, weights, competitors = margins.targets, margins.weights[near], margins.competitors[near]
        error = self.mixer.error_of(rule.promised, targets, weights, competitors, size)
        below = local.bound_below(ball, self._differences(targets, weights, competitors), error)
        left: Array = down(below - error) / margins.bound_lipschitz[near]
        return left

    def _differences(self, targets: Indices, weights: Array, competitors: Indices) -> Array:
        """Return (R, M) functionals Σ λ_i score_i - score_j of the tensor of raw scores."""
        head = self.mixer.head
        rows = np.zeros((len(competitors), len(head.owners)))
        rows[:, targets] = weights
        rows[np.arange(len(competitors)), competitors] = -1.0
        return rows[:, 1:] if head.binary else rows  # the score in front of a binary one's is 0
