"""From scores and bounds to a certified radius, rounded towards safety.

For the answered class c, with m_j the score of c less that of j as computed, E_cj(ρ) = A_cj + B_cj ρ
the rounding error for inputs of size ρ, κ = sup ‖v‖_q / ‖v‖_p and L_cj the Lipschitz constant:

    r = min over j ≠ c of (m_j - 2 E_cj(ρ)) / (L_cj + κ B_cj),        0 where that is not positive.

For ‖x' - x‖_p <= r: ŷ_c(x') - ŷ_j(x') >= F_c(x') - F_j(x') - E(ρ + κr) >= F_c(x) - F_j(x) - L r - E(ρ + κr)
>= m_j - 2E(ρ) - (L + κB) r > 0. So inside r every evaluation in the same format answers c.
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


def certified_radii(
    scores: Array, owners: Indices, inputs: Array, lipschitz: LipschitzBounds, rounding: RoundingBounds
) -> Radii:
    """Certifies a batch.

    Where classes own several raw scores, i is the largest one and j runs over the scores of other
    classes: inside the radius i stays above all of them, so its class stays the answer.

    Args:
        scores: (N, M) raw scores as computed; see ``head.py``.
        owners: (M,) the class of each; -1 for one that belongs to none.
        inputs: (N, d), the float64 numbers that the scores were computed from.
        lipschitz: bounds in the norm p that radii are wanted in.
        rounding: error bounds for the format that the scores were computed in.
    """
    rows = np.arange(len(scores))
    scores = np.where(owners >= 0, scores, -np.inf)
    best = scores.argmax(axis=1)
    label = owners[best]
    foreign = (owners[None, :] != label[:, None]) & (owners >= 0)
    with np.errstate(invalid="ignore"):
        margins = np.where(foreign, down(scores[rows, best][:, None] - scores), np.inf)

    size = bound_vector_norm(inputs, rounding.norm, axis=1)
    kappa = bound_equivalence(lipschitz.norm, rounding.norm, inputs.shape[1])
    # up: a larger error only shrinks the radius
    numerator = down(margins - up(2.0 * rounding.pair_error(best, size)))
    denominator = up(lipschitz.bound_per_score_pair[best] + up(kappa * rounding.pair_slope(best)))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # Twice down: once for the rounding, once to be strictly inside, which covers ties.
        each = np.where(foreign, down(down(numerator / denominator)), np.inf)
    certified = np.isfinite(scores[:, owners >= 0]).all(axis=1) & (numerator > 0.0).all(axis=1)
    radius = np.minimum(each.min(axis=1), _overflow_radius(size, kappa, rounding))
    radius = np.maximum(for_clients(radius, inputs.shape[1]), 0.0)
    radius = np.where(certified & (radius > 0.0), radius, 0.0)
    return Radii(
        label=label,
        margin=np.maximum(margins.min(axis=1), 0.0),
        certified_radius=radius,
        runner_up=owners[np.where(radius > 0.0, each.argmin(axis=1), margins.argmin(axis=1))],
    )


def for_clients(radius: Any, size: int) -> Any:
    """A radius less what a caller who measures distance in float64 may find it short by, in that size."""
    return down(radius * (1.0 - (size + 4) * 2.0**-52))


def _overflow_radius(size: Array, kappa: float, rounding: RoundingBounds) -> Array:
    """The largest r for which no intermediate result overflows: peak(ρ + κr) < limit."""
    slope = up(rounding.peak.slope)
    room = down(down(down(rounding.limit - rounding.peak.constant) / slope) - size)
    return np.asarray(np.maximum(down(room / kappa), 0.0))


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
