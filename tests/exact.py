"""Exact rational evaluation of small graphs and closed forms of norms, from the operations' definitions alone."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from lipmodel.network import ops
from lipmodel.norms import Norm


def rational(array):
    array = np.asarray(array, dtype=np.float64)
    return np.array([Fraction(float(v)) for v in array.ravel()], dtype=object).reshape(array.shape)


def evaluate(graph, x):
    """Return the scores of one input, as fractions."""
    values = {graph.input: rational(x).reshape(graph.input_shape)}
    for op in graph.ops:
        values[op.output] = apply(op, [values[name] for name in op.inputs]).reshape(op.shape)
    return values[graph.output]


def apply(op, inputs):
    x = inputs[0]
    match op:
        case ops.Dense():
            y = x @ rational(op.weight).T
            return y if op.bias is None else y + rational(op.bias)
        case ops.Scale():
            return x / rational(op.factor) if op.divide else x * rational(op.factor)
        case ops.Shift():
            return x + rational(op.offset)
        case ops.Clip():
            if op.low is not None:
                x = np.maximum(x, rational(op.low))
            return x if op.high is None else np.minimum(x, rational(op.high))
        case ops.Abs():
            return np.abs(x)
        case ops.Negate():
            return -x
        case ops.LeakyRelu():
            return np.where(x < 0, x * rational(op.slope), x)
        case ops.Conv() | ops.AveragePool() | ops.MaxPool():
            return windowed(op, x)
        case ops.Sort():
            y = np.sort(x, axis=op.axis)
            y = np.flip(y, axis=op.axis) if op.largest else y
            return np.take(y, range(op.k), axis=op.axis)
        case ops.SortingNetwork():
            wires = [np.take(x, w, axis=op.axis) for w in op.wires]
            for i, j in op.comparators:
                wires[i], wires[j] = np.maximum(wires[i], wires[j]), np.minimum(wires[i], wires[j])
            return np.concatenate([wires[i] for i in op.joined], axis=op.axis)
        case ops.Extremum():
            pick = np.maximum if op.kind == "max" else np.minimum
            y = x
            for other in inputs[1:]:
                y = pick(y, other)
            return y
        case ops.ReduceExtremum():
            return np.max(x, axis=op.axes) if op.kind == "max" else np.min(x, axis=op.axes)
        case ops.Sum():
            return x + inputs[1]
        case ops.Concat():
            return np.concatenate(inputs, axis=op.axis)
        case ops.Select():
            return np.take(x, op.indices, axis=op.axis)
        case ops.Reshape():
            return x
        case ops.Transpose():
            return np.transpose(x, op.permutation)
    raise ops.missing_rule(op, "tests/exact.py")


def windowed(op, x):
    """Return convolution or pooling by its definition: loops over outputs and taps."""
    w = op.window
    out = np.empty(op.shape, dtype=object)
    for channel, *place in np.ndindex(*op.shape):
        seen = []
        for tap in np.ndindex(*w.size):
            at = [
                p * s - b + t * d
                for p, s, b, t, d in zip(place, w.strides, w.begin, tap, w.dilations, strict=True)
            ]
            if all(0 <= a < n for a, n in zip(at, w.spatial, strict=True)):
                seen.append((tap, tuple(at)))
        if isinstance(op, ops.Conv):
            per_group = op.kernel.shape[1]
            first = channel // (op.shape[0] // op.groups) * per_group
            total = Fraction(0) if op.bias is None else Fraction(float(op.bias[channel]))
            for tap, at in seen:
                for c in range(per_group):
                    total += Fraction(float(op.kernel[(channel, c, *tap)])) * x[(first + c, *at)]
            out[(channel, *place)] = total
        else:
            values = [x[(channel, *at)] for _, at in seen]
            count = math.prod(w.size) if isinstance(op, ops.AveragePool) and op.count_padding else len(values)
            out[(channel, *place)] = max(values) if isinstance(op, ops.MaxPool) else sum(values) / count
    return out


def is_positive_semidefinite(matrix):
    """Decide by exact LDLᵀ of a symmetric matrix of fractions; a zero pivot is allowed only above a zero column."""
    a = matrix.copy()
    n = len(a)
    for k in range(n):
        if a[k, k] < 0:
            return False
        if a[k, k] == 0:
            if any(a[i, k] != 0 for i in range(k + 1, n)):
                return False
            continue
        for i in range(k + 1, n):
            factor = a[i, k] / a[k, k]
            a[i, k:] = a[i, k:] - factor * a[k, k:]
    return True


def operator_norm(weight, source, target):
    """Return ‖W‖_{source→target} where it has a closed form, else None (2→1, inf→2 and inf→1).

    ‖W‖_{1→q} = max column ‖·‖_q; ‖W‖_{p→inf} = max row ‖·‖_{p*}; ‖W‖_{2→2} = largest singular value. Float
    arithmetic, to nearest.
    """
    order = {Norm.ONE: 1, Norm.TWO: 2, Norm.INF: np.inf}
    if source is Norm.ONE:
        return float(np.linalg.norm(weight, order[target], axis=0).max())
    if target is Norm.INF:
        return float(np.linalg.norm(weight, order[source.dual], axis=1).max())
    return float(np.linalg.norm(weight, 2)) if source is target is Norm.TWO else None


def bounds_spectral_norm(weight, bound):
    """Return True if ‖W‖_2 <= bound, decided exactly: bound² I - WᵀW is positive semidefinite."""
    w = rational(weight)
    gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
    return is_positive_semidefinite(Fraction(float(bound)) ** 2 * np.eye(len(gram), dtype=object) - gram)
