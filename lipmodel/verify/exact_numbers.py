"""Exact numbers: float64 arrays as integers over a denominator, and flint's balls.

Networks are evaluated in :class:`Exact` numbers, on which no operation rounds. A bound is a *ball*
(``flint.arb``, 256 bits): it encloses the exact value of its formula, and a comparison of balls is
true only where it holds of every pair of numbers in them. So nothing is ever decided by rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from flint import arb, fmpz_mat
from numpy.typing import NDArray

from lipmodel.norms import Norm

Float64s = NDArray[np.float64]
Integers = NDArray[Any]
"""An array of Python integers."""

PRECISION = 256
"""Bits of a ball's middle; far more than 10,000 operations on float64 constants lose."""


@dataclass(frozen=True)
class Exact:
    """numerators / denominator, the denominator positive and common to all."""

    numerators: Integers
    denominator: int

    def over(self, denominator: int) -> Integers:
        """The numerators over a multiple of the denominator."""
        return np.asarray(self.numerators * (denominator // self.denominator), dtype=object)

    def times(self, other: Exact) -> Exact:
        """Entry by entry."""
        return Exact(self.numerators * other.numerators, self.denominator * other.denominator)

    def balls(self) -> list[arb]:
        """All entries, in row-major order."""
        return [arb(int(v)) / self.denominator for v in self.numerators.ravel()]


def exact(array: Any) -> Exact:
    """Finite float64 numbers as integers over a power of two."""
    integers, exponent = scaled_integers(array)
    return Exact(np.asarray(integers * (1 << max(exponent, 0)), dtype=object), 1 << max(-exponent, 0))


def reciprocal(array: Any) -> Exact:
    """1 / each of some float64 numbers, none of them 0."""
    value = exact(array)
    common = math.lcm(*(int(v) for v in value.numerators.ravel()))
    return Exact(np.asarray(value.denominator * (common // value.numerators), dtype=object), common)


def scaled_integers(array: Any) -> tuple[Integers, int]:
    """Integers and an exponent e, as small as can be, with array = integers · 2^e."""
    values = np.asarray(array, dtype=np.float64)
    fractions, exponents = np.frexp(values)
    mantissas = np.ldexp(fractions, 53).astype(np.int64)
    zero = mantissas == 0
    trailing = np.frexp((mantissas & -mantissas).astype(np.float64))[1] - 1
    trailing = np.where(zero, 0, trailing)
    mantissas >>= trailing
    exponents = exponents.astype(np.int64) - 53 + trailing
    least = int(exponents[~zero].min()) if not zero.all() else 0
    shifts = np.where(zero, 0, exponents - least)
    return np.asarray(mantissas.astype(object) << shifts.astype(object), dtype=object), least


def aligned(*values: Exact) -> tuple[list[Integers], int]:
    """The numerators of each over one denominator."""
    common = math.lcm(*(value.denominator for value in values))
    return [value.over(common) for value in values], common


def matrix(integers: Integers) -> fmpz_mat:
    """A flint matrix of an array of two axes."""
    m, n = integers.shape
    return fmpz_mat(m, n, [int(v) for v in integers.ravel()])


def array_of(product: fmpz_mat) -> Integers:
    """An array of a flint matrix."""
    result = np.empty((product.nrows(), product.ncols()), dtype=object)
    result.ravel()[:] = [int(v) for v in product.entries()]
    return result


def power_of_two(exponent: int) -> arb:
    """2^exponent, without rounding."""
    return arb(2) ** exponent


def largest(values: list[arb]) -> arb:
    """A ball that encloses the largest; 0 of none."""
    return reduce(arb.max, values, arb(0))


def vector_norm(values: list[arb], norm: Norm) -> arb:
    """‖·‖ of a vector of balls."""
    if norm is Norm.INF:
        return largest([abs(v) for v in values])
    if norm is Norm.ONE:
        return sum((abs(v) for v in values), arb(0))
    return sum((v * v for v in values), arb(0)).sqrt()


def norm_ratio(source: Norm, target: Norm, size: int) -> arb:
    """The largest ‖v‖_target / ‖v‖_source over vectors of that size: size^(1/t - 1/s), at least 1."""
    order = [Norm.INF, Norm.TWO, Norm.ONE]
    steps = order.index(target) - order.index(source)
    return arb(1) if steps <= 0 else arb(size).sqrt() ** steps
