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

import numpy as np

from lipmodel.certify.lipschitz import LipschitzBounds
from lipmodel.certify.rounding import RoundingBounds
from lipmodel.norms import Array, bound_equivalence, bound_vector_norm, down, up


@dataclass(frozen=True, eq=False)
class Radii:
    """What is certified of N inputs.

    Attributes:
        label: (N,) index of the class of the largest score (the first of equals).
        margin: (N,) its score less the next largest, rounded down.
        certified_radius: (N,) in the l_p norm of the input; 0 means that nothing is certified.
        runner_up: (N,) index of the class that sets the radius; where nothing is certified, the
            class of the second largest score.
    """

    label: np.ndarray[tuple[int], np.dtype[np.intp]]
    margin: Array
    certified_radius: Array
    runner_up: np.ndarray[tuple[int], np.dtype[np.intp]]


def certified_radii(
    scores: Array, inputs: Array, lipschitz: LipschitzBounds, rounding: RoundingBounds
) -> Radii:
    """Certifies a batch.

    Args:
        scores: (N, K) as computed, or (N, 1) for two classes with scores 0 and f.
        inputs: (N, d), the float64 numbers that the scores were computed from.
        lipschitz: bounds in the norm p that radii are wanted in.
        rounding: error bounds for the format that the scores were computed in.
    """
    if scores.shape[1] == 1:
        scores = np.hstack([np.zeros_like(scores), scores])
    rows = np.arange(len(scores))
    label = scores.argmax(axis=1)
    margins = down(scores[rows, label][:, None] - scores)
    margins[rows, label] = np.inf

    size = bound_vector_norm(inputs, rounding.norm, axis=1)
    kappa = bound_equivalence(lipschitz.norm, rounding.norm, inputs.shape[1])
    # up: a larger error only shrinks the radius
    error = up(rounding.constant[label] + up(rounding.slope[label] * size[:, None]))
    numerator = down(margins - up(2.0 * error))
    denominator = up(lipschitz.bound_per_pair + up(kappa * rounding.slope))[label]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # Twice down: once for the rounding, once to be strictly inside, which covers ties.
        each = down(down(numerator / denominator))
    each[rows, label] = np.inf
    certified = np.isfinite(scores).all(axis=1) & (numerator > 0.0).all(axis=1)
    radius = np.minimum(each.min(axis=1), _overflow_radius(size, kappa, rounding))
    # A caller who measures distance in float64 may find it short by its own rounding.
    slack = 1.0 - (inputs.shape[1] + 4) * 2.0**-52
    radius = np.where(certified & (radius > 0.0), np.maximum(down(radius * slack), 0.0), 0.0)

    by_score = np.where(margins == np.inf, np.inf, margins).argmin(axis=1)
    return Radii(
        label=label,
        margin=margins.min(axis=1),
        certified_radius=radius,
        runner_up=np.where(radius > 0.0, each.argmin(axis=1), by_score),
    )


def _overflow_radius(size: Array, kappa: float, rounding: RoundingBounds) -> Array:
    """The largest r for which no intermediate result overflows: peak(ρ + κr) < limit."""
    slope = up(rounding.peak.slope)
    room = down(down(down(rounding.limit - rounding.peak.constant) / slope) - size)
    return np.asarray(np.maximum(down(room / kappa), 0.0))
