"""From scores and bounds to a certified radius, rounded towards safety.

For the largest raw score i and any j of another class than i's, with m_j = ŷ_i - ŷ_j as computed,
E°_ij(ρ) its rounding error, E_ij(ρ) = A_ij + B_ij ρ that of the evaluations the radius speaks of (both
for inputs of size ρ), κ = sup ‖v‖_q / ‖v‖_p and L_ij the Lipschitz constant:

    r = min over j of (m_j - E°_ij(ρ) - E_ij(ρ)) / (L_ij + κ B_ij),        0 where that is not positive.

For ‖x' - x‖_p <= r: ŷ_i(x') - ŷ_j(x') >= F_i(x') - F_j(x') - E(ρ + κr)
>= F_i(x) - F_j(x) - L r - E(ρ + κr) >= m_j - E°(ρ) - E(ρ) - (L + κB) r > 0. So inside r score i stays
above the scores of all other classes, and every evaluation in the format of E gives the same answer.
A radius of 0 means *abstain*: nothing is certified; the label is still given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lipmodel.certify.head import Indices
from lipmodel.certify.lipschitz import LipschitzBounds
from lipmodel.certify.rounding import RoundingBounds
from lipmodel.norms import Array, Norm, bound_equivalence, bound_vector_norm, down, up


@dataclass(frozen=True, eq=False)
class Radii:
    """What is certified of N inputs.

    Attributes:
        label: (N,) index of the class of the largest score (the first of equals).
        margin: (N,) its score less the largest of another class, rounded down.
        certified_radius: (N,) in the l_p norm of the input; 0 means that nothing is certified.
        runner_up: (N,) index of the class that sets the radius; where nothing is certified, the
            class of the second largest score.
    """

    label: Indices
    margin: Array
    certified_radius: Array
    runner_up: Indices


class RadiusRule:
    """The formula for one model and norm; what depends on no input is computed once.

    Attributes:
        owners: (M,) the class of each raw score; -1 for one that belongs to none; see ``head.py``.
        lipschitz: bounds in the norm p that radii are wanted in.
        evaluated: error bounds for the format that scores were computed in, E°.
        promised: the same for the evaluations that the radius speaks of, E; often the same bounds.
    """

    def __init__(
        self,
        owners: Indices,
        lipschitz: LipschitzBounds,
        evaluated: RoundingBounds,
        promised: RoundingBounds | None = None,
    ) -> None:
        self.owners, self.lipschitz = owners, lipschitz
        self.evaluated, self.promised = evaluated, promised or evaluated
        self._speed: Array | None = None

    @property
    def ready(self) -> bool:
        """Whether what depends on no input is known; for thousands of scores that takes seconds."""
        return self._speed is not None

    def kappa(self, size: int) -> float:
        """κ for inputs of that many numbers."""
        return bound_equivalence(self.lipschitz.norm, self.promised.norm, size)

    def __call__(self, scores: Array, inputs: Array) -> Radii:
        """Certifies a batch.

        Args:
            scores: (N, M) raw scores as computed.
            inputs: (N, d), the float64 numbers that they were computed from.
        """
        owners, owned = self.owners, self.owners >= 0
        finite = np.isfinite(scores[:, owned]).all(axis=1)
        scores = np.where(owned, scores, -np.inf)
        best = scores.argmax(axis=1)
        label = owners[best]
        foreign = (owners != label[:, None]) & owned
        sizes = self._sizes(inputs)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            leads = np.where(foreign, scores.max(axis=1, keepdims=True) - scores, np.inf)
            reach = np.where(foreign, self._reach(leads, best, None, sizes, inputs.shape[1]), np.inf)
        radius = np.minimum(reach.min(axis=1), self.overflow_radius(inputs))
        radius = np.maximum(for_clients(radius, inputs.shape[1]), 0.0)
        radius = np.where(finite & (radius > 0.0), radius, 0.0)  # NaN compares false
        return Radii(
            label=label,
            margin=np.maximum(down(leads.min(axis=1)), 0.0),
            certified_radius=radius,
            runner_up=owners[np.where(radius > 0.0, reach.argmin(axis=1), leads.argmin(axis=1))],
        )

    def reach_of_pairs(self, scores: Array, x: Array, own: Indices, foreign: Indices) -> Array:
        """(I, J): how far a change of one input x (d,) must go before score j may pass score i.

        Args:
            scores: (M,) at x.
            x: the input.
            own: (I,) scores i.
            foreign: (J,) scores j.
        """
        first, second = own[:, None], foreign[None, :]
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            return self._reach(scores[first] - scores[second], first, second, self._sizes(x[None]), len(x))

    def _reach(
        self, leads: Array, first: Indices, second: Indices | None, sizes: tuple[Array, Array], size: int
    ) -> Array:
        """(m - E° - E) / (L + κB), rounded down, of leads ŷ_i - ŷ_j, for pairs as in ``pair_error``."""
        promised = self.promised.pair_error(first, second, sizes[1])
        same = self.evaluated is self.promised
        error = 2.0 * promised if same else up(self.evaluated.pair_error(first, second, sizes[0]) + promised)
        speed = self._speeds(size)[first if second is None else (first, second)]
        # Twice down: once for the rounding, once to be strictly inside, which covers ties.
        result: Array = down(down(down(down(leads) - error) / speed))
        return result

    def _speeds(self, size: int) -> Array:
        """(M, M) L + κB, rounded up."""
        if self._speed is None:
            every = np.arange(len(self.owners))
            self._speed = up(
                self.lipschitz.bound_per_score_pair
                + up(self.kappa(size) * self.promised.pair_slope(every, None))
            )
        return self._speed

    def _sizes(self, inputs: Array) -> tuple[Array, Array]:
        """(N,) never below ‖x‖_q, in the norms of the two error bounds."""
        given = bound_vector_norm(inputs, self.evaluated.norm, axis=1)
        if self.promised.norm is self.evaluated.norm:
            return given, given
        return given, bound_vector_norm(inputs, self.promised.norm, axis=1)

    def overflow_radius(self, inputs: Array) -> Array:
        """(N,) the largest r for which nothing overflows: peak(ρ + κr) < limit, and at x itself for E°."""
        promised, evaluated = self.promised, self.evaluated
        given, size = self._sizes(inputs)
        slope = up(promised.peak.slope)
        room = down(down(down(promised.limit - promised.peak.constant) / slope) - size)
        most = np.maximum(down(room / self.kappa(inputs.shape[1])), 0.0)
        return np.where(evaluated.peak.at(given) < evaluated.limit, most, 0.0)


def for_clients(radius: Any, size: int) -> Any:
    """A radius less what a caller who measures distance in float64 may find it short by, in that size."""
    return down(radius * (1.0 - (size + 4) * 2.0**-52))


def after_rounding_inputs(radius: Array, given: Array, rounded: Array, norm: Norm) -> Array:
    """What is left of radii about float32 inputs for callers who send doubles and let them be rounded.

    x' within r of x as doubles lies, rounded, within r(1 + u) + ‖x - fl(x)‖ + u‖x‖ + d^{1/p} 2⁻¹⁴⁹
    of fl(x) (u = 2⁻²⁴; the last term covers subnormal results). Where no input of a row needed
    rounding the same holds, since x' may.

    Args:
        radius: (N,) certified about ``rounded``.
        given: (N, d) as sent.
        rounded: (N, d) as evaluated.
        norm: of the radii.
    """
    u = 2.0**-24
    moved = bound_vector_norm(up(np.abs(given - rounded)), norm, axis=1)
    own = up(u * bound_vector_norm(given, norm, axis=1))
    tiny = up(bound_equivalence(Norm.INF, norm, given.shape[1]) * 2.0**-149)
    left = down(radius - up(up(moved + own) + tiny))
    return np.asarray(np.maximum(down(left / up(1.0 + 2.0 * u)), 0.0))
