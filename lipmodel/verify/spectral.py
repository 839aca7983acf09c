"""‖W‖_2 from above, proved in integers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from flint import arb

from lipmodel.norms import Norm
from lipmodel.verify.exact_numbers import (
    Float64s,
    Integers,
    array_of,
    matrix,
    power_of_two,
    scaled_integers,
    vector_norm,
)

FRACTION_BITS = 60
POWER_STEPS, LEAST_BITS = 40, 20
"""Steps of the power method; of its vectors no entry is below 2⁻²⁰ of the largest."""


def spectral_norm(weight: Float64s) -> arb:
    """At least ‖W‖_2, and above it by about n units of 2⁻⁵³.

    For any τ and any matrix L,  WᵀW = τI - LLᵀ - R  with R := τI - WᵀW - LLᵀ, so that

        ‖W‖_2² = λ_max(WᵀW) <= τ + ‖R‖_inf,

    since LLᵀ has no negative eigenvalue and no eigenvalue of a symmetric matrix exceeds its largest
    absolute row sum. τ and L come from float64 and are not trusted: L is a Cholesky factor of
    τI - WᵀW, which makes R small. R is computed in integers, so nothing here rounds but τ and L.
    """
    w = weight.T if weight.shape[0] < weight.shape[1] else weight  # the smaller side is squared
    n = w.shape[1]
    if not w.any():
        return arb(0)
    if n == 1:
        integers, exponent = scaled_integers(w)
        return vector_norm([arb(v) for v in integers.ravel()], Norm.TWO) * power_of_two(exponent)
    integers, exponent = scaled_integers(w)
    gram = matrix(integers)
    gram = gram.transpose() * gram  # WᵀW = gram · 4^exponent
    # τ and L are found for (W / 2^size)ᵀ(W / 2^size), whose largest eigenvalue is in [1/4, 1].
    size, tau, factor = _factor(w)
    left = matrix(factor)
    shift = max(FRACTION_BITS, size - exponent)
    numerators, denominator = tau.as_integer_ratio()
    shift = max(shift, denominator.bit_length())
    residual = -(array_of(gram) << 2 * (exponent - size + shift)) - (
        array_of(left * left.transpose()) << 2 * (shift - FRACTION_BITS)
    )
    top = (numerators << 2 * shift) // denominator
    residual[np.diag_indices(n)] += top
    row_sum = int(np.abs(residual).sum(axis=1).max())
    return arb(top + row_sum).sqrt() * power_of_two(size - shift)


def _factor(w: Float64s) -> tuple[int, float, Integers]:
    """A power of two, τ and 2^60 L, for :func:`spectral_norm`."""
    size = int(np.frexp(np.abs(w).max())[1])
    w = np.ldexp(w, -size)
    gram = w.T @ w
    top = float(np.linalg.eigvalsh(gram)[-1])
    more = int(np.frexp(np.sqrt(top))[1])
    gram, top = np.ldexp(gram, -2 * more), float(np.ldexp(top, -2 * more))
    slack = 4.0 * len(gram) * 2.0**-53
    while True:
        try:
            tau = top * (1.0 + slack)
            factor = np.linalg.cholesky(tau * np.eye(len(gram)) - gram)
            break
        except np.linalg.LinAlgError:
            slack *= 2.0
    return size + more, tau, np.rint(np.ldexp(factor, FRACTION_BITS)).astype(np.int64).astype(object)


def perron_direction(apply: Callable[[Float64s], Float64s], size: int) -> Integers:
    """Integers v > 0 for which max_i (Av)_i / v_i is nearly least, for a matrix A >= 0 of that size.

    For any v > 0 that is at least A's spectral radius (Collatz 1942), so this v comes from float64 and is
    not trusted.
    """
    v = best = np.ones(size)
    least = np.inf
    for _ in range(POWER_STEPS):
        image = apply(v)
        if (quotient := (image / v).max()) < least:
            least, best = quotient, v
        v = image / (image.max() or 1.0) + 2.0**-LEAST_BITS
    return np.array([int(entry) for entry in np.ldexp(best, LEAST_BITS + 53)], dtype=object)
