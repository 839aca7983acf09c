"""Exact evaluation in integers, a batch at a time: weights and inputs are dyadic rationals.

Shares the operations (``lipmodel.network.ops``) with the code under test and nothing else; a
convolution is written out as a matrix from its definition. A tensor is integers over one positive
denominator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from lipmodel.network import ops

flint = pytest.importorskip("flint", reason="exact arithmetic needs python-flint")


@dataclass(frozen=True)
class Exact:
    """numerator (N, *shape) of integers, over one denominator."""

    numerator: np.ndarray
    denominator: int

    def over(self, denominator):
        """The same over a multiple of the denominator."""
        factor = denominator // self.denominator
        return self.numerator if factor == 1 else self.numerator * flint.fmpz(factor)

    def map(self, function):
        return Exact(function(self.numerator), self.denominator)


def exactly(array):
    """The float64 numbers given, as integers over a power of two."""
    a = np.asarray(array, dtype=np.float64)
    mantissa, exponent = np.frexp(a)
    whole, exponent = (mantissa * 2.0**53).astype(np.int64), exponent.astype(np.int64) - 53
    if not (whole & (2**29 - 1)).any():  # float32 numbers
        whole, exponent = whole >> 29, exponent + 29
    lowest = int(exponent[whole != 0].min(initial=0))
    shifts = np.where(whole == 0, 0, exponent - lowest)
    values = [
        flint.fmpz(w) << s for w, s in zip(whole.ravel().tolist(), shifts.ravel().tolist(), strict=True)
    ]
    return Exact(_objects(values, a.shape), 1 << -lowest)


def _objects(values, shape):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)


def scores(graph, x):
    """(N, K) exact scores of (N, d) float64 inputs."""
    values = {graph.input: exactly(np.asarray(x).reshape(len(x), *graph.input_shape))}
    for op in graph.ops:
        result = apply(op, [values[name] for name in op.inputs])
        values[op.output] = Exact(result.numerator.reshape(len(x), *op.shape), result.denominator)
    return values[graph.output]


def common(tensors):
    denominator = math.lcm(*(t.denominator for t in tensors))
    return [t.over(denominator) for t in tensors], denominator


def apply(op, inputs):
    x = inputs[0]
    match op:
        case ops.Dense():
            rows = x.map(lambda a: a.reshape(-1, a.shape[-1]))
            return plus(linear(op.weight, rows), op.bias)
        case ops.Conv():
            matrix = unrolled(op)
            y = linear(matrix, x.map(lambda a: a.reshape(len(a), -1)))
            places = matrix.shape[0] // len(op.kernel)
            return y if op.bias is None else plus(y, np.repeat(op.bias, places))
        case ops.AveragePool():
            matrix = unrolled(op)
            y = linear(matrix, x.map(lambda a: a.reshape(len(a), -1)))
            return over(y, [flint.fmpz(n) for n in counts(op, matrix)])
        case ops.MaxPool():
            flat = x.numerator.reshape(len(x.numerator), -1)
            windows = [np.flatnonzero(row) for row in unrolled(op)]
            return x.map(lambda _: np.stack([flat[:, w].max(axis=1) for w in windows], axis=1))
        case ops.Scale():
            factor = exactly(np.broadcast_to(op.factor, op.shape))
            if op.divide:
                return over(x.map(lambda a: a * flint.fmpz(factor.denominator)), factor.numerator)
            return Exact(x.numerator * factor.numerator, x.denominator * factor.denominator)
        case ops.Shift():
            return plus(x, np.broadcast_to(op.offset, op.shape))
        case ops.Clip():
            for end, pick in ((op.low, np.maximum), (op.high, np.minimum)):
                if end is not None:
                    (a, b), d = common([x, exactly(np.broadcast_to(end, op.shape))])
                    x = Exact(pick(a, b), d)
            return x
        case ops.LeakyRelu():
            below = apply(ops.Scale(output="", inputs=(), shape=op.shape, factor=op.slope), [x])
            (a, b), d = common([x, below])
            return Exact(np.where(a < 0, b, a), d)
        case ops.Abs():
            return x.map(np.abs)
        case ops.Negate():
            return x.map(lambda a: -a)
        case ops.Sort():
            y = np.sort(x.numerator, axis=op.axis + 1)
            y = np.flip(y, axis=op.axis + 1) if op.largest else y
            return Exact(np.take(y, range(op.k), axis=op.axis + 1), x.denominator)
        case ops.SortingNetwork():
            wires = [np.take(x.numerator, w, axis=op.axis + 1) for w in op.wires]
            for i, j in op.comparators:
                wires[i], wires[j] = np.maximum(wires[i], wires[j]), np.minimum(wires[i], wires[j])
            return x.map(lambda _: np.concatenate([wires[i] for i in op.joined], axis=op.axis + 1))
        case ops.ReduceExtremum():
            axes = tuple(a + 1 for a in op.axes)
            return x.map(lambda a: a.max(axis=axes) if op.kind == "max" else a.min(axis=axes))
        case ops.Extremum():
            parts, d = common(inputs)
            pick = np.maximum if op.kind == "max" else np.minimum
            y = parts[0]
            for part in parts[1:]:
                y = pick(y, part)
            return Exact(y, d)
        case ops.Sum():
            (a, b), d = common(inputs)
            return Exact(a + b, d)
        case ops.Concat():
            parts, d = common(inputs)
            return Exact(np.concatenate(parts, axis=op.axis + 1), d)
        case ops.Select():
            return x.map(lambda a: np.take(a, op.indices, axis=op.axis + 1))
        case ops.Reshape():
            return x
        case ops.Transpose():
            return x.map(lambda a: np.transpose(a, (0, *(p + 1 for p in op.permutation))))
    raise ops.missing_rule(op, "tests/soundness/integers.py")


def linear(matrix, x):
    """(N, m) of (N, n): integer matrices."""
    w = exactly(matrix)
    m, n = matrix.shape
    product = flint.fmpz_mat(len(x.numerator), n, x.numerator.ravel().tolist()) * flint.fmpz_mat(
        n, m, w.numerator.T.ravel().tolist()
    )
    return Exact(_objects(product.entries(), (len(x.numerator), m)), x.denominator * w.denominator)


def plus(x, constant):
    if constant is None:
        return x
    (a, b), d = common([x, exactly(constant)])
    return Exact(a + b, d)


def unrolled(op):
    """A convolution's matrix from its definition; for pooling, ones where a window looks."""
    w = op.window
    channels = op.shape[0] if not isinstance(op, ops.Conv) else op.kernel.shape[1] * op.groups
    matrix = np.zeros((*op.shape, channels, *w.spatial))
    for channel, *place in np.ndindex(*op.shape):
        for tap in np.ndindex(*w.size):
            at = tuple(
                p * s - b + t * d
                for p, s, b, t, d in zip(place, w.strides, w.begin, tap, w.dilations, strict=True)
            )
            if not all(0 <= a < n for a, n in zip(at, w.spatial, strict=True)):
                continue
            if isinstance(op, ops.Conv):
                per_group = op.kernel.shape[1]
                first = channel // (op.shape[0] // op.groups) * per_group
                for c in range(per_group):
                    matrix[(channel, *place, first + c, *at)] = op.kernel[(channel, c, *tap)]
            else:
                matrix[(channel, *place, channel, *at)] = 1.0
    return matrix.reshape(math.prod(op.shape), -1)


def over(x, divisors):
    """The entries of a tensor, each divided by its own integer."""
    least = math.lcm(*(int(d) for d in np.ravel(divisors)))
    return Exact(
        x.numerator * (flint.fmpz(least) // np.asarray(divisors, dtype=object)), x.denominator * least
    )


def counts(op, matrix):
    """What the sums of an average pool are divided by."""
    whole = np.full(len(matrix), math.prod(op.window.size))
    return (whole if op.count_padding else matrix.sum(axis=1).astype(int)).tolist()
