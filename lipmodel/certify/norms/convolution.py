"""Upper bounds on the operator norms of convolutions.

Zero padding makes a convolution a compression of one on an infinite signal (extend by zeros,
convolve, cut out), and cutting out never raises a norm; so the infinite one is bounded. A stride s
is a stride of 1 on s times as many channels per axis (space to depth), and dilation acts on
interleaved signals that do not meet, so both are taken away first. ``docs/certificate.md``, 3.4.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lipmodel.network.ops import Conv
from lipmodel.network.window import Shape
from lipmodel.norms import (
    Array,
    Norm,
    bound_equivalence,
    bound_operator_norm,
    gamma,
    inflate,
    power_method,
    up,
)

MAX_UNROLLED = 2**20
"""Entries of a matrix that a convolution is written out as, which gives its norms to rounding."""
MAX_GRAM_WORK = 1e10
"""Multiplications spent on a Gram iteration; more iterations are tighter."""


def bound_conv_norm(op: Conv, source: Norm, target: Norm) -> float:
    """Return a number never below the operator norm source→target of a convolution."""
    kernel, groups = op.kernel, op.groups
    out_size, in_size = op.size, kernel.shape[1] * groups * math.prod(op.window.spatial)
    if not kernel.any() or not out_size:
        return 0.0
    if out_size * in_size <= MAX_UNROLLED:
        return bound_operator_norm(_unrolled(op), source, target)
    rows = kernel.reshape(len(kernel), -1)  # an output sees at most a whole filter
    columns = _by_input_channel(kernel, groups)  # an input is seen through at most all taps of all filters
    if source is Norm.ONE and target is Norm.INF:
        return float(np.abs(kernel).max())
    if target is Norm.INF:
        return bound_operator_norm(rows, source, Norm.INF)
    if source is Norm.ONE:
        return bound_operator_norm(columns, Norm.ONE, target)
    spectral = _bound_spectral(op)
    widened = up(bound_equivalence(source, Norm.TWO, in_size) * spectral)
    through_two = float(up(widened * bound_equivalence(Norm.TWO, target, out_size)))
    if source is target:
        return through_two
    by_rows = bound_operator_norm(rows, Norm.INF, Norm.INF)
    through_inf = float(up(by_rows * bound_equivalence(Norm.INF, target, out_size)))
    return min(through_two, through_inf)


def bound_absolute_conv_norm(op: Conv, norm: Norm) -> float:
    """Never below the operator norm of the convolution with |K| within one norm; cheap, for error bounds."""
    rows = bound_operator_norm(op.kernel.reshape(len(op.kernel), -1), Norm.INF, Norm.INF)
    columns = bound_operator_norm(_by_input_channel(op.kernel, op.groups), Norm.ONE, Norm.ONE)
    if norm is Norm.TWO:
        return float(up(up(np.sqrt(rows)) * up(np.sqrt(columns))))
    return rows if norm is Norm.INF else columns


def _unrolled(op: Conv) -> Array:
    """The matrix of a convolution: (channels out · places, channels in · positions)."""
    out, per_group = op.kernel.shape[:2]
    places, taps = op.window.positions.shape
    spatial = math.prod(op.window.spatial)
    matrix = np.zeros((out, places, per_group * op.groups, spatial + 1))
    flat = op.kernel.reshape(out, per_group, taps)
    where = np.where(op.window.positions < 0, spatial, op.window.positions)
    for o in range(out):
        first = (o // (out // op.groups)) * per_group
        for place in range(places):
            np.add.at(matrix[o, place, first : first + per_group].T, where[place], flat[o].T)
    return matrix[..., :spatial].reshape(out * places, -1)


def _by_input_channel(kernel: Array, groups: int) -> Array:
    """(channels out / groups · taps, channels in): all that one input channel is multiplied with."""
    out, per_group = kernel.shape[:2]
    split = kernel.reshape(groups, out // groups, per_group, -1)
    return np.moveaxis(split, (0, 2), (2, 3)).reshape(-1, groups * per_group)


def _bound_spectral(op: Conv) -> float:
    """Never below ‖·‖_2→2: the least of three bounds on the infinite-signal operator, group by group."""
    bounds = []
    for kernel in np.split(op.kernel, op.groups):
        part = _space_to_depth(kernel, op.window.strides, op.window.dilations)
        by_rows = bound_operator_norm(part.reshape(len(part), -1), Norm.INF, Norm.INF)
        by_columns = bound_operator_norm(_by_input_channel(part, 1), Norm.ONE, Norm.ONE)
        taps = part.reshape(*part.shape[:2], -1)
        by_taps = 0.0
        for tap in range(taps.shape[2]):
            by_taps = up(by_taps + bound_operator_norm(taps[:, :, tap], Norm.TWO, Norm.TWO))
        # Riesz–Thorin: ‖·‖_2 <= (‖·‖_1 ‖·‖_inf)^½
        interpolated = up(up(np.sqrt(by_rows)) * up(np.sqrt(by_columns)))
        bounds.append(min(interpolated, by_taps, bound_gram_iteration(part)))
    return float(max(bounds))


def _space_to_depth(kernel: Array, strides: Shape, dilations: Shape) -> Array:
    """A kernel of the same norm with stride and dilation 1.

    With both a stride and a dilation on one axis the stride is dropped (it only cuts outputs away)
    and the dilation too.
    """
    strides = tuple(1 if d > 1 else s for s, d in zip(strides, dilations, strict=True))
    for axis, s in enumerate(strides):
        if s > 1:
            k = kernel.shape[axis + 2]
            pad = [(0, 0)] * kernel.ndim
            pad[axis + 2] = (0, -k % s)
            padded = np.pad(kernel, pad)
            phases = [np.take(padded, range(r, padded.shape[axis + 2], s), axis=axis + 2) for r in range(s)]
            kernel = np.concatenate(phases, axis=1)
    return kernel


def bound_gram_iteration(kernel: Array) -> float:
    """Never below ‖K‖_2→2 of the infinite-signal convolution of stride 1 (after Delattre et al. 2023).

    G_1 = K*K and G_{i+1} = G_i*G_i are kernels of self-adjoint convolutions with ‖G_i‖ = ‖K‖^(2^i).
    The computed G is off by Δ, N(Δ) <= e, N the largest absolute sum over a row. N is submultiplicative,
    so the next is off by e' <= 2 N(G) e + e² + γ N(G)²; the square is rescaled by powers of two,
    which is exact.
    """
    if kernel.shape[0] < kernel.shape[1]:  # K and its adjoint have one norm: square the smaller side
        kernel = np.flip(np.swapaxes(kernel, 0, 1), axis=tuple(range(2, kernel.ndim)))
    channels = kernel.shape[1]
    adjoint = np.flip(np.swapaxes(kernel, 0, 1), axis=tuple(range(2, kernel.ndim)))
    gram, terms = _compose(adjoint, kernel), kernel.shape[0] * math.prod(kernel.shape[2:])
    # N(K*K entrywise in absolute value) bounds what rounding of G_1 is relative to.
    error = inflate(gamma(terms + 2) * _row_sum(_compose(np.abs(adjoint), np.abs(kernel))), terms + 4)
    exponent, power, bounds = 0, 2, []
    while True:
        # ‖K‖ <= (2^exponent · ‖G‖)^(1/power), with the root's own rounding paid for
        norm = _bound_self_adjoint(gram, error)
        bounds.append(inflate(norm ** (1.0 / power), 8) * 2.0 ** (exponent / power) * (1 + 2.0**-50))
        size = math.prod(gram.shape[2:])
        if power >= 64 or size**2 * channels**3 > MAX_GRAM_WORK:
            return float(min(bounds))
        shift = math.frexp(norm)[1]
        gram, error, exponent = gram * 2.0**-shift, error * 2.0**-shift, exponent + shift
        row_sum = inflate(_row_sum(gram), channels * size)
        terms = channels * size
        error = inflate(2.0 * row_sum * error + error**2 + gamma(terms + 2) * row_sum**2, 8)
        gram, exponent, power = _compose(gram, gram), 2 * exponent, 2 * power


def _compose(left: Array, right: Array) -> Array:
    """Kernel of the convolution ``left`` after ``right``: taps add, channels multiply as matrices."""
    sizes = tuple(a + b - 1 for a, b in zip(left.shape[2:], right.shape[2:], strict=True))
    result = np.zeros((left.shape[0], right.shape[1], *sizes))
    for tap in np.ndindex(*left.shape[2:]):
        matrix = left[..., *tap]
        place: Any = tuple(slice(t, t + k) for t, k in zip(tap, right.shape[2:], strict=True))
        result[..., *place] += np.tensordot(matrix, right, axes=(1, 0))
    return result


def _bound_self_adjoint(kernel: Array, error: float) -> float:
    """Never below ‖G‖_2 of a self-adjoint convolution whose computed kernel is off by N(Δ) <= error.

    At each frequency G is a Hermitian matrix with entries of at most A_cc' = Σ_t |G_cc't|, so its norm is at
    most the spectral radius of A (Perron, Frobenius), which is at most max_c (Av)_c / v_c for any v > 0
    (Collatz, Wielandt). v = 1 gives N(G); the v that almost orthogonal layers are scaled by gives 1 (Prach,
    Lampert 2022). Rows of |Δ| sum to at most the error, so (|Δ|v)_c is at most that times the largest v.
    """
    channels = len(kernel)
    taps = kernel.reshape(channels, channels, -1)
    sums = inflate(np.abs(taps).sum(axis=2), taps.shape[2])
    return min(
        float(inflate((image + error * v.max()) / v, channels + 4).max())
        for v, image in power_method(lambda v: sums @ v, channels)
    )


def _row_sum(kernel: Array) -> Array:
    """The largest absolute row sum of the infinite matrix: over one output channel, all inputs and taps."""
    return np.asarray(np.abs(kernel).reshape(len(kernel), -1).sum(axis=1).max())
