"""Vector norms and operator norms, with upper bounds that hold in float64.

A *plain* function returns the result of float64 arithmetic. Its ``bound_*`` counterpart returns a number
that is never below the exact value: operations round to nearest, and the rounding is then added explicitly
(``docs/certificate.md``, section 3). An iterative estimate (power iteration) or a bare SVD is not an upper
bound, and serves here only to choose the parameters of one.

Notation: ``‖W‖_{p→q} = sup ‖Wx‖_q / ‖x‖_p`` for a matrix of shape (outputs m, inputs n).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

UNIT_ROUNDOFF_64 = 2.0**-53
MANY_ROWS = 64
MANY_COLUMNS = 512
"""Sides above which the spectral norm of a matrix is bounded by Cholesky factorisation."""
POWER_STEPS, OBSERVED_STEPS, LANCZOS_STEPS = 20, 10, 200
MIN_WEIGHT = 2.0**-20


class Norm(StrEnum):
    """The l1, l2 and linf norms; the values are their names in JSON, files and metrics."""

    ONE = "1"
    TWO = "2"
    INF = "inf"

    @classmethod
    def parse(cls, value: object) -> Norm:
        """Return the norm named by 1, 2, inf, l1, l2 or linf in any case, or by the number 1, 2 or infinity.

        Raises:
            ValueError: any other value.
        """
        name = f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value
        if isinstance(name, str) and (plain := name.lower().removeprefix("l")) in list(cls):
            return cls(plain)
        raise ValueError(f"unknown norm {value!r:.40}; l1, l2 and linf are accepted, also as 1, 2 and inf")

    @property
    def symbol(self) -> str:
        """The name shown to people: l1, l2 or linf."""
        return f"l{self.value}"

    @property
    def dual(self) -> Norm:
        """The norm p* with 1/p + 1/p* = 1: ``|<g, v>| <= ‖g‖_{p*} ‖v‖_p``."""
        return {Norm.ONE: Norm.INF, Norm.TWO: Norm.TWO, Norm.INF: Norm.ONE}[self]

    @property
    def reciprocal(self) -> float:
        """The reciprocal 1/p, with 1/inf = 0."""
        return {Norm.ONE: 1.0, Norm.TWO: 0.5, Norm.INF: 0.0}[self]


MIN_DISTANCE = {Norm.ONE: 2.0**-960, Norm.TWO: 2.0**-480, Norm.INF: 2.0**-1000}
"""Shorter distances, computed in float64, may fall short of the exact ones by more than relative roundings.

If subnormal numbers are flushed to zero, up to 2⁻¹⁰²² of each of d entries is lost, in l2 of each square:
less than d·2⁻⁶² of the distances given here, and possibly the whole of shorter distances. The largest entry,
which is the linf distance, is not flushed.
"""


# --- directed rounding ---------------------------------------------------------------------


def up(x: Any) -> Any:
    """Return the next float64 above ``x``: at least the exact result of one operation rounded to ``x``."""
    return np.nextafter(x, np.inf)


def down(x: Any) -> Any:
    """Return the next float64 below ``x``: at most the exact result of one operation rounded to ``x``."""
    return np.nextafter(x, -np.inf)


def inflate(x: Any, roundings: int) -> Any:
    """Return an upper bound on a non-negative quantity computed as ``x`` with at most k relative roundings.

    The exact value is at most x/(1-u)^k <= x(1 + 2ku) for ku <= 1/2; the factor here has twice this excess
    and two more roundings, which also covers the two operations here. The last term covers results
    in the subnormal range.
    """
    return up(up(x * (1.0 + 4.0 * (roundings + 2) * UNIT_ROUNDOFF_64)) + 2.0**-1000)


def gamma(k: int, unit_roundoff: float = UNIT_ROUNDOFF_64) -> float:
    """Return an upper bound on γ_k = ku/(1-ku) (Higham 2002, section 3.1), the relative error of k roundings.

    Raises:
        ValueError: ku >= 1/2.
    """
    if k * unit_roundoff >= 0.5:
        raise ValueError(f"γ_{k} is not defined: {k} roundings of {unit_roundoff} are too many")
    return float(up(up(k * unit_roundoff) / down(1.0 - up(k * unit_roundoff))))


# --- vectors -------------------------------------------------------------------------------


def vector_norm(x: ArrayLike, norm: Norm, axis: int = -1) -> Array:
    """Return ‖x‖_1 = Σ|x_i|, ‖x‖_2 = (Σ x_i²)^½ or ‖x‖_inf = max|x_i| along ``axis``; 0 for an empty axis."""
    a = np.asarray(x, dtype=np.float64)
    if norm is Norm.TWO:
        return np.asarray(np.sqrt(np.vecdot(a, a, axis=axis)))  # type: ignore[call-overload]  # no axis in stubs
    if norm is Norm.ONE:
        return np.asarray(np.abs(a).sum(axis=axis))
    largest = np.maximum(a.max(axis=axis, initial=0.0), -a.min(axis=axis, initial=0.0))
    return np.asarray(np.abs(largest))  # np.abs(a) would copy a whole layer


def bound_vector_norm(x: ArrayLike, norm: Norm, axis: int = -1) -> Array:
    """Return a number never below the exact norm of the float64 numbers; see :func:`vector_norm`."""
    a = np.asarray(x, dtype=np.float64)
    n = a.shape[axis]
    if norm is Norm.INF or n == 0:
        return vector_norm(a, norm, axis)  # comparisons are exact
    if norm is Norm.ONE:
        return np.asarray(inflate(np.abs(a).sum(axis=axis), n))
    a = np.moveaxis(a, axis, -1)
    with np.errstate(over="ignore", under="ignore"):
        squares = np.einsum("...i,...i->...", a, a)
    # Then the largest square is in range too, and a square that underflows is below 2^-200 of the sum.
    if np.all((squares > 2.0**-800) & (squares < 2.0**800)):
        return np.asarray(inflate(np.sqrt(squares), n + 2))
    largest = np.abs(a).max(axis=-1)
    # An exact power of two brings the squares into range. Entries that become subnormal, or have squares
    # that underflow, are smaller than 2^-500 of the largest: the slack of inflate covers them.
    scale = _power_of_two(largest)
    squares = np.square(a / scale[..., None]).sum(axis=-1)
    bound = up(inflate(np.sqrt(squares), n + 2) * scale)
    return np.asarray(np.where(largest == 0.0, 0.0, bound))


def bound_pairwise_distances(rows: Array, norm: Norm) -> Array:
    """Return numbers never below ‖row_i - row_j‖ of the float64 rows (M, n); shape (M, M), diagonal 0.

    For many rows in l2, ‖a - b‖² = a·a + b·b - 2a·b: the error of each product is at most γ_n ‖a‖‖b‖ and
    the sum rounds twice more, in total at most γ_{n+4} (‖a‖ + ‖b‖)².
    """
    count, n = rows.shape
    if norm is Norm.TWO and count > MANY_ROWS:
        gram = rows @ rows.T
        squares, norms = np.diagonal(gram), bound_vector_norm(rows, norm, axis=1)
        slack = inflate(gamma(n + 4) * np.square(norms[:, None] + norms[None, :]), 3)
        distances = up(np.sqrt(up(np.maximum(squares[:, None] + squares[None, :] - 2.0 * gram, 0.0) + slack)))
    else:
        distances = np.zeros((count, count))
        for i in range(count):
            for start in range(i + 1, count, MANY_ROWS):  # blocks that stay in the cache
                part = np.subtract(rows[start : start + MANY_ROWS], rows[i])
                distances[i, start : start + MANY_ROWS] = bound_vector_norm(part, norm, axis=1)
        # Each difference d rounds once: the exact one is d(1 + δ), |δ| <= u, with norm at most ‖d‖(1 + u).
        distances = np.where(distances > 0.0, inflate(distances, 1), 0.0)
        distances = np.maximum(distances, distances.T)
    np.fill_diagonal(distances, 0.0)
    return np.asarray(distances)


def bound_equivalence(source: Norm, target: Norm, size: int) -> float:
    """Return a number never below sup ‖v‖_target / ‖v‖_source: 1, or size^(1/t - 1/s) for t < s."""
    exponent = target.reciprocal - source.reciprocal
    if exponent <= 0.0:
        return 1.0
    return float(size) if exponent == 1.0 else float(up(np.sqrt(float(size))))


# --- operators -----------------------------------------------------------------------------


def bound_operator_norm(
    weight: ArrayLike, source: Norm, target: Norm, spectral: float | None = None
) -> float:
    """Return a number never below ‖W‖_{source→target} of a float64 matrix (m, n).

    1→q, p→inf and 2→2 are tight up to rounding. 2→1, inf→2 and inf→1 have no closed form; the result is the
    smallest of three standard bounds: through ‖W‖_2, by rows, by columns.

    Args:
        weight: W.
        source: norm of x.
        target: norm of Wx.
        spectral: a known bound on ‖W‖_2; None to compute one.
    """
    w = np.asarray(weight, dtype=np.float64)
    m, n = w.shape
    if not any(map(np.any, w)):  # the first row usually decides
        return 0.0
    if source is Norm.ONE:
        return float(bound_vector_norm(w, target, axis=0).max())
    if target is Norm.INF:
        return float(bound_vector_norm(w, source.dual, axis=1).max())
    if spectral is None:
        spectral = bound_spectral_norm(w)
    if source is target is Norm.TWO:
        return spectral
    # ‖Wx‖_t <= ‖(‖row_i‖_{s*})_i‖_t ‖x‖_s, by Hölder on each row;
    by_rows = bound_vector_norm(bound_vector_norm(w, source.dual, axis=1), target)
    # ‖W‖_{s→t} = ‖Wᵀ‖_{t*→s*}, so the same holds of the columns.
    by_columns = bound_vector_norm(bound_vector_norm(w, target, axis=0), source.dual)
    return min(float(by_rows), float(by_columns), bound_through_two(spectral, (m, n), source, target))


def bound_through_two(spectral: float, shape: tuple[int, int], source: Norm, target: Norm) -> float:
    """Return a number never below ‖W‖_{source→target} of a matrix (m, n), from a bound on ‖W‖_2."""
    if source is target is Norm.TWO:
        return spectral
    widened = up(bound_equivalence(source, Norm.TWO, shape[1]) * spectral)
    return float(up(widened * bound_equivalence(Norm.TWO, target, shape[0])))


def bound_absolute_operator_norm(weight: ArrayLike, norm: Norm) -> float:
    """Return a number never below ‖ |W| ‖_{norm→norm}, with entrywise absolute values.

    In l2, for A = |W| and *any* v > 0, ‖A‖_2² = λ_max(AᵀA) <= max_i (AᵀA v)_i / v_i (Collatz 1942,
    Wielandt 1950).

    Raises:
        ValueError: an entry is not finite.
    """
    a = np.abs(np.asarray(weight, dtype=np.float64))
    if norm is not Norm.TWO or a.size == 0 or not a.any():
        return bound_operator_norm(a, norm, norm)
    if not np.isfinite(a).all():
        raise ValueError("the matrix has an entry that is not finite")
    scale = float(_power_of_two(a.max()))
    a = a / scale  # exact except for entries under 2^-1022; the term below covers their loss
    square = np.inf
    for v, image in power_method(lambda v: a.T @ (a @ v), a.shape[1]):
        # Two sums of products of numbers >= 0 and a division; the loss by underflow is under 2^-900 v_i.
        ratio = inflate((image + 2.0**-900) / v, sum(a.shape) + 2)
        square = min(square, ratio.max())
    return float(up(up(np.sqrt(square)) * scale))


def power_method(apply: Callable[[Array], Array], size: int) -> Iterator[tuple[Array, Array]]:
    """Yield vectors v > 0, with Av as computed, of a square matrix A >= 0, for bounds max_i (Av)_i / v_i.

    The first v is all ones, with the largest row sum as bound; later vectors approach the dominant
    eigenvector, with the spectral radius as bound. No entry is below 2^-20 of the largest.
    """
    v = np.ones(size)
    for _ in range(POWER_STEPS):
        image = apply(v)
        yield v, image
        v = image / (image.max() or 1.0) + MIN_WEIGHT


def bound_spectral_norm(weight: ArrayLike) -> float:
    """Return a verified upper bound on ‖W‖_2, about 1e-12 above the exact value (after Rump 2011).

    With V any nearly orthogonal matrix (here: numerical right singular vectors, not trusted),
    ‖W‖ = ‖(WV)V⁻¹‖ <= ‖WV‖ / σ_min(V), σ_min(V)² >= 1 - ‖I - VᵀV‖_inf =: 1 - δ, and for the
    computed B̂ of WV, ‖B̂‖_2² = ‖B̂ᵀB̂‖_2 <= ‖B̂ᵀB̂‖_inf =: β (a symmetric matrix), so that

        ‖W‖_2 <= (√β + ‖B̂ - WV‖_F) / √(1 - δ).

    Matrix products obey |fl(AB) - AB| <= γ_n |A||B| in any order of summation, with or without
    fused multiply-add. The entries of |A|ᵀ|A| are bounded by ‖a_i‖_2 ‖a_j‖_2.

    Raises:
        ValueError: an entry is not finite.
    """
    w = np.asarray(weight, dtype=np.float64)
    if not np.isfinite(w).all():
        raise ValueError("the matrix has an entry that is not finite")
    if w.size == 0 or not w.any():
        return 0.0
    if w.shape[0] < w.shape[1]:
        w = w.T  # ‖Wᵀ‖_2 = ‖W‖_2, and the Gram matrices below are then small
    n = w.shape[1]
    scale = float(_power_of_two(np.abs(w).max()))
    w = w / scale  # exact except for entries under 2^-1022; the last inflate covers their loss
    if n > MANY_COLUMNS and (bound := _bound_by_cholesky(w)) is not None:
        return float(up(bound * scale))
    try:
        v = np.linalg.eigh(w.T @ w)[1]
    except np.linalg.LinAlgError:
        v = np.eye(n)  # any V is sound: a poor V costs tightness only
    b = w @ v

    v_columns, b_columns = bound_vector_norm(v, Norm.TWO, axis=0), bound_vector_norm(b, Norm.TWO, axis=0)
    # ‖ |W||V| ‖_F <= ‖W‖_F ‖V‖_F, and the error of the product WV is at most γ_n of that.
    product_error = inflate(
        gamma(n) * bound_vector_norm(w.ravel(), Norm.TWO) * bound_vector_norm(v_columns, Norm.TWO), 3
    )
    delta = _bound_gram_row_sum(v, v_columns, minus_identity=True)
    if not delta < 0.5:
        v, b, product_error, delta = np.eye(n), w, 0.0, 0.0
        b_columns = bound_vector_norm(b, Norm.TWO, axis=0)
    beta = _bound_gram_row_sum(b, b_columns, minus_identity=False)
    numerator = up(up(np.sqrt(beta)) + product_error)
    return float(up(inflate(numerator / down(np.sqrt(down(1.0 - delta))), 2) * scale))


def _bound_by_cholesky(w: Array) -> float | None:
    """Return an upper bound on ‖W‖_2 of a scaled W (m, n), as tight as by eigenvectors but faster.

    With G = WᵀW and any s and R, for unit v: s - ‖Wv‖² = ‖Rᵀv‖² + vᵀ(sI - G - RRᵀ)v, so that

        ‖W‖_2² <= s + ‖sI - G - RRᵀ‖_2 .

    s is a little above the Lanczos estimate of ‖G‖_2, and R is the Cholesky factor of sI - G; neither is
    trusted (Rump 2006). The errors of the products G and RRᵀ are at most γ_m ‖W‖_F² and γ_n ‖R‖_F² in l2.
    Only the lower triangle of the computed G is used, mirrored. Returns None if Lanczos does not converge or
    the factorisation fails.
    """
    m, n = w.shape
    gram_error = float(inflate(gamma(m) * np.square(bound_vector_norm(w.ravel(), Norm.TWO)), 3))
    rest = w.T @ w
    largest, residual = _lanczos(rest)
    if not residual <= gram_error:
        return None
    shift = largest + residual + gram_error
    np.negative(rest, out=rest)
    rest[np.diag_indices(n)] += shift
    diagonal = float(np.abs(np.diagonal(rest)).max())  # rounded once each
    try:
        factor = np.tril(np.linalg.cholesky(rest))
    except np.linalg.LinAlgError:
        return None
    factor_error = gamma(n) * np.square(bound_vector_norm(factor.ravel(), Norm.TWO))
    lengths = []
    for start in range(0, n, MANY_COLUMNS):  # the lower triangle of the residual, by blocks of rows
        end = min(start + MANY_COLUMNS, n)
        left = rest[start:end, :end] - factor[start:end, :end] @ factor[:end, :end].T
        lengths.append(bound_vector_norm(left.ravel(), Norm.TWO))
    # The norm of both triangles is at most √2 times that of one. Each difference rounded once, and so did
    # the diagonal, in l2 by half a unit of its largest entry.
    off = inflate(1.5 * bound_vector_norm(lengths, Norm.TWO), 2) + 2.0 * UNIT_ROUNDOFF_64 * diagonal
    return float(inflate(np.sqrt(inflate(shift + gram_error + factor_error + off, 8)), 1))


@np.errstate(all="ignore")
def observed_spectral_norm(weight: Array) -> float:
    """Return an estimate of ‖W‖_2 from below, in linear time; 0 if squares overflow. Not an upper bound."""
    v = np.asarray(np.random.default_rng(0).normal(size=weight.shape[1]))
    length = np.linalg.norm(v)
    for _ in range(OBSERVED_STEPS):
        v = weight.T @ (weight @ (v / length))
        length = np.linalg.norm(v)
    return float(np.sqrt(length)) if np.isfinite(length) else 0.0


def _lanczos(matrix: Array) -> tuple[float, float]:
    """Return estimates of a symmetric matrix's largest eigenvalue and of its distance from the spectrum."""
    start = np.random.default_rng(0).normal(size=len(matrix))
    v = np.asarray(start / np.linalg.norm(start))
    basis = np.empty((LANCZOS_STEPS, len(v)))
    diagonal: list[float] = []
    beside: list[float] = []
    value = residual = np.inf
    for step in range(LANCZOS_STEPS):
        basis[step] = v
        image = matrix @ v
        diagonal.append(float(v @ image))
        known = basis[: step + 1]
        for _ in range(2):
            image -= known.T @ (known @ image)
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
        length = float(np.linalg.norm(image))
        value, residual = float(values[-1]), abs(length * float(vectors[-1, -1]))
        if residual <= 2.0**-50 * value:
            break
        beside.append(length)
        v = image / length
    return value, residual


def _bound_gram_row_sum(a: Array, column_norms: Array, *, minus_identity: bool) -> float:
    """Return a number never below ‖AᵀA‖_inf, or ‖AᵀA - I‖_inf: the largest absolute row sum."""
    m, n = a.shape
    gram = a.T @ a
    if minus_identity:
        gram[np.diag_indices(n)] -= 1.0
    # The error of entry (i, j) is at most γ_m ‖a_i‖ ‖a_j‖; subtracting 1 rounds once more, by at most
    # u(‖a_i‖² + 1), which the second γ covers if the columns are near unit length.
    uncertainty = 2.0 * gamma(m + 2) * column_norms * float(bound_vector_norm(column_norms, Norm.ONE))
    extra = 4.0 * UNIT_ROUNDOFF_64 if minus_identity else 0.0
    return float(inflate(np.abs(gram).sum(axis=1) + inflate(uncertainty, 4) + extra, n + 3).max())


def _power_of_two(x: Any) -> Any:
    """Return the power of two at or below each positive x (1 for 0), clipped to 2^±1000."""
    exponent = np.frexp(x)[1] - 1
    return np.where(x == 0.0, 1.0, np.ldexp(1.0, np.clip(exponent, -1000, 1000)))
