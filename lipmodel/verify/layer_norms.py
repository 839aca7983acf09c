"""Upper bounds on operator norms of layers, proved in integers; ``numbers.py`` says what a ball is.

‖W‖_{1→q} = max column ‖·‖_q and ‖W‖_{p→inf} = max row ‖·‖_{p*} are sums of integers; for ‖W‖_2 see
``spectral.py``, for convolutions that are too large to be written out as matrices ``kernels.py``.
"""

from __future__ import annotations

import math
from functools import cache, cached_property

import numpy as np
from flint import arb

from lipmodel.network import ops
from lipmodel.norms import Norm
from lipmodel.verify.convolution_norms import kernel_spectral_norm
from lipmodel.verify.evaluation import positions
from lipmodel.verify.exact_numbers import (
    Float64s,
    largest,
    norm_ratio,
    power_of_two,
    scaled_integers,
    vector_norm,
)
from lipmodel.verify.spectral import perron_direction, spectral_norm

MAX_UNROLLED = 2**20
"""Entries of a matrix that a convolution is written out as."""


class MatrixNorms:
    """Norms of one matrix (m, n), each computed once."""

    def __init__(self, weight: Float64s) -> None:
        self.weight = weight
        self.rows = cache(lambda norm: row_norms(weight, norm))
        self.columns = cache(lambda norm: row_norms(weight.T, norm))

    @cached_property
    def spectral(self) -> arb:
        """At least ‖W‖_2."""
        return spectral_norm(self.weight)

    def norm(self, source: Norm, target: Norm) -> arb:
        """At least ‖W‖_{source→target}."""
        if source is Norm.ONE:
            return largest(self.columns(target))
        if target is Norm.INF:
            return largest(self.rows(source.dual))
        if source is target is Norm.TWO:
            return self.spectral
        # Row by row by Hölder; the same of the transpose, ‖W‖_{s→t} = ‖Wᵀ‖_{t*→s*}; and through l2.
        by_rows = vector_norm(self.rows(source.dual), target)
        by_columns = vector_norm(self.columns(target), source.dual)
        m, n = self.weight.shape
        through_two = norm_ratio(source, Norm.TWO, n) * self.spectral * norm_ratio(Norm.TWO, target, m)
        return min(by_rows, by_columns, through_two)

    def absolute(self, norm: Norm) -> arb:
        """At least ‖ |W| ‖_{norm→norm}."""
        if norm is Norm.TWO:
            return self._absolute_spectral
        return largest((self.rows if norm is Norm.INF else self.columns)(Norm.ONE))

    @cached_property
    def _absolute_spectral(self) -> arb:
        """At least ‖A‖_2, A = |W|: its square is the spectral radius of AᵀA."""
        a = np.abs(self.weight)
        if not a.any():
            return arb(0)
        scaled = np.ldexp(a, -int(np.frexp(a.max())[1]))
        direction = perron_direction(lambda v: scaled.T @ (scaled @ v), a.shape[1])
        integers, exponent = scaled_integers(a)
        image = integers.T @ (integers @ direction)
        square = largest([arb(int(top)) / below for top, below in zip(image, direction, strict=True)])
        return square.sqrt() * power_of_two(exponent)


class ConvolutionNorms:
    """Norms of a convolution too large to be written out, each computed once."""

    def __init__(self, op: ops.Conv) -> None:
        self.op = op
        groups, per_group = op.groups, op.kernel.shape[1]
        # An output sees no more than a whole filter; an input is seen through no more than all taps
        # of all filters of its group.
        filters = op.kernel.reshape(len(op.kernel), -1)
        by_input = op.kernel.reshape(groups, -1, per_group, op.window.taps).transpose(0, 2, 1, 3)
        readers = by_input.reshape(groups * per_group, -1)
        self.rows = cache(lambda norm: largest(row_norms(filters, norm)))
        self.columns = cache(lambda norm: largest(row_norms(readers, norm)))

    @cached_property
    def spectral(self) -> arb:
        """At least ‖·‖_2, the largest of the groups'."""
        window, parts = self.op.window, np.split(self.op.kernel, self.op.groups)
        return largest([kernel_spectral_norm(part, window.strides, window.dilations) for part in parts])

    def norm(self, source: Norm, target: Norm) -> arb:
        """At least the operator norm source→target."""
        if source is Norm.ONE:
            return self.columns(target)
        if target is Norm.INF:
            return self.rows(source.dual)
        in_size = self.op.kernel.shape[1] * self.op.groups * math.prod(self.op.window.spatial)
        out_size = self.op.size
        into_two, out_of_two = norm_ratio(source, Norm.TWO, in_size), norm_ratio(Norm.TWO, target, out_size)
        through_two = into_two * self.spectral * out_of_two
        if source is not Norm.INF:
            return through_two
        return min(through_two, self.rows(Norm.ONE) * norm_ratio(Norm.INF, target, out_size))

    def absolute(self, norm: Norm) -> arb:
        """At least the norm of the convolution with |K|."""
        rows, columns = self.rows(Norm.ONE), self.columns(Norm.ONE)
        if norm is Norm.TWO:
            return (rows * columns).sqrt()
        return rows if norm is Norm.INF else columns


def layer_norms(op: ops.Dense | ops.Conv) -> MatrixNorms | ConvolutionNorms:
    """The norms of a layer's weights, as one block of them acts."""
    if isinstance(op, ops.Dense):
        return MatrixNorms(op.weight)
    in_size = op.kernel.shape[1] * op.groups * math.prod(op.window.spatial)
    return MatrixNorms(_unrolled(op)) if op.size * in_size <= MAX_UNROLLED else ConvolutionNorms(op)


def row_norms(weight: Float64s, norm: Norm) -> list[arb]:
    """The norm of each row of a matrix."""
    integers, exponent = scaled_integers(weight)
    rows, scale = integers.tolist(), power_of_two(exponent)
    if norm is Norm.TWO:
        return [arb(sum(v * v for v in row)).sqrt() * scale for row in rows]
    if norm is Norm.ONE:
        return [arb(sum(map(abs, row))) * scale for row in rows]
    return [arb(max(map(abs, row), default=0)) * scale for row in rows]


def _unrolled(op: ops.Conv) -> Float64s:
    """The matrix of a convolution, (outputs, inputs)."""
    seen = positions(op)
    out, per_group = op.kernel.shape[:2]
    matrix = np.zeros((out, len(seen), per_group * op.groups, math.prod(op.window.spatial) + 1))
    flat = op.kernel.reshape(out, per_group, -1)
    for o in range(out):
        first = o // (out // op.groups) * per_group
        for tap in range(seen.shape[1]):
            # No two taps of one place see the same entry; padding (-1) goes to the last column.
            matrix[o, range(len(seen)), first : first + per_group, seen[:, tap]] = flat[o, :, tap]
    return matrix[..., :-1].reshape(out * len(seen), -1)
