"""Linear relaxations of a nonlinearity: lower bounds of c·relu(d), relu(d) = max(d, 0), that are linear in d.

The numbers returned satisfy their inequality exactly, rounding included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from lipmodel.norms import Array, down, up

Relaxation = Literal["nearest", "parallel", "secants"] | Mapping[int, Array]
"""Lower relaxations of nonlinearities: 0 or d, whichever is nearer; parallels to their upper relaxations;
secants of all slopes through their values at x; or lines αd with given α in [0, 1], (R, arguments) by number
of primitive."""


def upper_slopes(low: Array, high: Array) -> Array:
    """Return the slope of the upper relaxation: the chord of relu over [low, high], low < 0 < high."""
    return np.clip(high / (high - low), 0.0, 1.0)


def nearest(low: Array, high: Array) -> Array:
    """Return 1 where the lower relaxation d is nearer to relu(d) on [low, high], 0 where 0 is."""
    return np.where(high >= -low, 1.0, 0.0)


def relax(coefficient: Array, low: Array, high: Array, below: Array) -> tuple[Array, Array]:
    """Return slope ν and constant κ <= 0, (R, n) each, with c·relu(d) >= νd + κ for all d in [low, high].

    The numbers returned satisfy this exactly. For c >= 0 any slope in [0, c] does, with κ = 0.
    For c < 0 the left side is concave in d, so it is enough at the two ends: 0 >= ν·low + κ and
    c·high >= ν·high + κ. Where d keeps its sign relu(d) is linear.

    Args:
        coefficient: (R, n) the coefficients c.
        low: (n,) lower bounds of d.
        high: (n,) upper bounds of d.
        below: slopes α in [0, 1] of lower relaxations, (n,) or (R, n).
    """
    slope = coefficient * np.where(coefficient >= 0.0, below, upper_slopes(low, high))
    constant = np.minimum(down(-(slope * low)), down(down(coefficient - slope) * high))
    active, inactive = low >= 0.0, high <= 0.0
    slope = np.where(active, coefficient, np.where(inactive, 0.0, slope))
    return slope, np.where((coefficient >= 0.0) | active | inactive, 0.0, constant)


def relax_secant(coefficient: Array, low: Array, high: Array, at: Array) -> tuple[Array, Array]:
    """Return slope ν and slack β >= 0 with |c (relu(d) - relu(at)) - ν (d - at)| <= β |d - at|, (R, n) each.

    For d and at in [low, high]: relu(d) - relu(at) = θ (d - at) with θ in [0, 1]; for at > 0 > low not
    below at / (at - low), for at < 0 < high not above high / (high - at), and 1 or 0 where the sign is one.
    """
    least = np.where(at > 0.0, down(down(at / up(at - low))), 0.0)
    most = np.where(at < 0.0, up(up(high / down(high - at))), 1.0)
    least, most = np.where(low >= 0.0, 1.0, least), np.where(high <= 0.0, 0.0, most)
    slope = np.where(least == most, coefficient * least, coefficient * (0.5 * least + 0.5 * most))
    ends = np.maximum(np.abs(coefficient * least - slope), np.abs(coefficient * most - slope))
    return slope, np.where(least == most, 0.0, up(ends + 2.0**-50 * np.abs(coefficient)) + 2.0**-1070)
