"""Larger radii from local bounds: a search for a ball on which the answer is proved not to change.

Nothing is assumed about how the bounds depend on the radius: a radius counts if the proof succeeds
at that very radius. For answered score i and every foreign j, with x' anywhere in the closed ball,

    ŷ_i(x') - ŷ_j(x') >= F_i(x') - F_j(x') - E_ij(ρ + κr) >= bound_below - E_ij(ρ + κr) > 0.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from lipmodel.certify.head import Head, Indices
from lipmodel.certify.lipschitz import LipschitzBounds
from lipmodel.certify.local import LocalBounds
from lipmodel.certify.radius import Radii, for_clients
from lipmodel.certify.rounding import RoundingBounds
from lipmodel.norms import Array, down

PROBES = 12
RESOLUTION = 1e-3
"""The search ends where it could gain no more than this share of the radius."""


@dataclass(frozen=True, eq=False)
class Tightening:
    """What the slower tier did for N inputs.

    Attributes:
        method: (N,) which bound the radius comes from: "local", or "lipschitz" where it is no better.
        seconds: (N,) of computation.
        probes: (N,) radii at which a proof was tried.
        reason: why the tier is not available for the model; None where it is.
    """

    method: np.ndarray[tuple[int], np.dtype[np.str_]]
    seconds: Array
    probes: Indices
    reason: str | None = None


def unavailable(count: int, reason: str) -> Tightening:
    """Nothing was done for that many inputs, and why."""
    return Tightening(np.full(count, "lipschitz"), np.zeros(count), np.zeros(count, dtype=np.intp), reason)


@dataclass(frozen=True, eq=False)
class Tightener:
    """The tier for one model and norm."""

    local: LocalBounds
    head: Head
    lipschitz: LipschitzBounds
    rounding: RoundingBounds

    def __call__(self, raw: Array, inputs: Array, radii: Radii) -> tuple[Radii, Tightening]:
        """The same radii, each at least as large, from raw scores (N, M) and inputs (N, d)."""
        certified, runner_up = radii.certified_radius.copy(), radii.runner_up.copy()
        seconds, probes = np.zeros(len(inputs)), np.zeros(len(inputs), dtype=np.intp)
        for n, (scores, x) in enumerate(zip(raw, inputs, strict=True)):
            started = time.perf_counter()
            if certified[n] > 0.0:  # else even the scores at x itself are not told apart
                found, rival, probes[n] = self._search(scores, x, certified[n])
                found = float(for_clients(found, len(x)))
                if found > certified[n]:
                    certified[n], runner_up[n] = found, self.head.owners[rival]
            seconds[n] = time.perf_counter() - started
        method = np.where(certified > radii.certified_radius, "local", "lipschitz")
        return (
            replace(radii, certified_radius=certified, runner_up=runner_up),
            Tightening(method, seconds, probes),
        )

    def _search(self, scores: Array, x: Array, start: float) -> tuple[float, int, int]:
        """The largest radius proved, the rival that is nearest there, and how many were tried."""
        owners = self.head.owners
        best = int(self.head.best(scores[None])[0])
        rivals = np.flatnonzero((owners != owners[best]) & (owners >= 0))
        centre = self.local.centre(x)

        def room(radius: float) -> tuple[float, int]:
            each = self._room(centre, radius, best, rivals)
            nearest = int(each.argmin())  # NaN counts as least
            return float(each[nearest]), int(rivals[nearest])

        low, (left, rival), high, over = start, room(start), np.inf, 0.0
        tried = 1
        while left > 0.0 and tried < PROBES:
            if high == np.inf:  # by what is left at the speed of the Lipschitz bound, and half as much again
                step = 1.5 * left
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
        return (low if left > 0.0 else 0.0), rival, tried

    @np.errstate(divide="ignore", invalid="ignore", over="ignore")  # NaN and infinity prove nothing
    def _room(self, centre: list[Array | None], radius: float, best: int, rivals: Indices) -> Array:
        """(R,) what is left of each margin on the ball, over its Lipschitz constant; it proves where > 0."""
        ball = self.local.ball(centre, radius)
        if not self.rounding.peak.at(np.array(ball.size)) < self.rounding.limit:
            return np.full(len(rivals), np.nan)  # something might overflow
        error = self.rounding.pair_error(np.array([best]), np.array([ball.size]))[0, rivals]
        below = self.local.bound_below(ball, self._differences(best, rivals), error)
        left: Array = down(below - error) / self.lipschitz.bound_per_score_pair[best, rivals]
        return left

    def _differences(self, best: int, rivals: Indices) -> Array:
        """(R, M) functionals score_best - score_j of the tensor of raw scores."""
        eye = np.eye(len(self.head.owners))
        rows: Array = eye[best] - eye[rivals]
        return rows[:, 1:] if self.head.binary else rows  # the score in front of a binary one's is 0
