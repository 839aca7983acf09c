"""The exact value of a network at an input, in integers over one denominator: nothing rounds."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lipmodel.network import ops
from lipmodel.network.ops import Graph, Op, missing_rule
from lipmodel.network.window import Shape
from lipmodel.verify.exact_numbers import (
    Exact,
    Float64s,
    Integers,
    aligned,
    array_of,
    exact,
    matrix,
    reciprocal,
)


def evaluate(graph: Graph, inputs: tuple[float, ...], tensor: str) -> Exact:
    """Return the exact value of a tensor of the graph for one input."""
    values = {graph.input: _shaped(exact(inputs), graph.input_shape)}
    for op in graph.ops:
        if tensor in values:
            break
        values[op.output] = _shaped(_apply(op, [values[name] for name in op.inputs]), op.shape)
    return values[tensor]


def _shaped(value: Exact, shape: Shape) -> Exact:
    return Exact(value.numerators.reshape(shape), value.denominator)


def _apply(op: Op, inputs: list[Exact]) -> Exact:
    x, n = inputs[0], inputs[0].numerators
    match op:
        case ops.Dense():
            return _plus(_multiplied(op.weight, Exact(n.reshape(-1, n.shape[-1]).T, x.denominator)), op.bias)
        case ops.Conv():
            return _convolved(op, x)
        case ops.Scale():
            return x.times(reciprocal(op.factor) if op.divide else exact(op.factor))
        case ops.Shift():
            return _plus(x, op.offset)
        case ops.LeakyRelu():
            (whole, sloped), denominator = aligned(x, x.times(exact(op.slope)))
            return Exact(np.where(n < 0, sloped, whole), denominator)
        case ops.Clip():
            for end, pick in ((op.low, np.maximum), (op.high, np.minimum)):
                if end is not None:
                    (a, b), denominator = aligned(x, exact(end))
                    x = Exact(pick(a, b), denominator)
            return x
        case ops.AveragePool():
            seen = positions(op)
            total = np.where(seen < 0, 0, n.reshape(len(n), -1)[:, seen]).sum(axis=2)
            counts = np.where(op.count_padding, seen.shape[1], (seen >= 0).sum(axis=1))
            return Exact(total, x.denominator).times(reciprocal(counts))
        case ops.Sum() | ops.Extremum() | ops.Concat():
            arrays, denominator = aligned(*inputs)
            if isinstance(op, ops.Concat):
                return Exact(np.concatenate(arrays, axis=op.axis), denominator)
            if isinstance(op, ops.Sum):
                return Exact(arrays[0] + arrays[1], denominator)
            pick = np.maximum if op.kind == "max" else np.minimum
            return Exact(pick.reduce(arrays), denominator)
        case _:  # the rest, or refused
            return Exact(_rearranged(op, n), x.denominator)


def _rearranged(op: Op, n: Integers) -> Integers:
    """Operations whose results are among ± their input's entries."""
    match op:
        case ops.Abs():
            return np.asarray(np.abs(n))
        case ops.Negate():
            return np.asarray(-n)
        case ops.Reshape():
            return n
        case ops.Transpose():
            return n.transpose(op.permutation)
        case ops.Select():
            return n.take(op.indices, axis=op.axis)
        case ops.Sort():
            ascending = np.sort(n, axis=op.axis)
            return (np.flip(ascending, axis=op.axis) if op.largest else ascending).take(
                range(op.k), axis=op.axis
            )
        case ops.SortingNetwork():
            wires = [n.take(wire, axis=op.axis) for wire in op.wires]
            for i, j in op.comparators:
                wires[i], wires[j] = np.maximum(wires[i], wires[j]), np.minimum(wires[i], wires[j])
            return np.concatenate([wires[i] for i in op.joined], axis=op.axis)
        case ops.ReduceExtremum():
            return np.asarray((np.maximum if op.kind == "max" else np.minimum).reduce(n, axis=op.axes))
        case ops.MaxPool():
            seen = positions(op)
            # Padding never wins: the first entry of the window that is there stands in for it.
            first = np.take_along_axis(seen, (seen >= 0).argmax(axis=1)[:, None], axis=1)
            return np.asarray(n.reshape(len(n), -1)[:, np.where(seen < 0, first, seen)].max(axis=2))
        case _:
            raise missing_rule(op, "exact values")


def _multiplied(weight: Float64s, columns: Exact) -> Exact:
    """(W x)ᵀ of each of some columns x."""
    w = exact(weight)
    product = matrix(w.numerators) * matrix(columns.numerators)
    return Exact(array_of(product).T, w.denominator * columns.denominator)


def _plus(value: Exact, bias: Float64s | None) -> Exact:
    if bias is None:
        return value
    (a, b), denominator = aligned(value, exact(bias))
    return Exact(a + b, denominator)


def _convolved(op: ops.Conv, x: Exact) -> Exact:
    """Group by group, a matrix of filters times the columns that the windows see."""
    seen = positions(op)
    out, per_group = len(op.kernel) // op.groups, op.kernel.shape[1]
    flat = x.numerators.reshape(len(x.numerators), -1)
    parts = []
    for group in range(op.groups):
        channels = flat[group * per_group : (group + 1) * per_group]
        columns = np.where(seen < 0, 0, channels[:, seen])  # (channels in, places, taps)
        columns = columns.transpose(0, 2, 1).reshape(-1, len(seen))
        filters = op.kernel[group * out : (group + 1) * out].reshape(out, -1)
        parts.append(_multiplied(filters, Exact(columns, x.denominator)))
    arrays, denominator = aligned(*parts)
    rows = Exact(np.concatenate(arrays, axis=1), denominator)  # (places, channels out)
    whole = _plus(rows, op.bias)
    return Exact(whole.numerators.T, whole.denominator)


def positions(op: ops.Conv | ops.AveragePool | ops.MaxPool) -> NDArray[np.int64]:
    """(places, taps): the flat index of the entry that each tap of each place sees, -1 on padding."""
    window, begin, end = op.window, op.window.begin, op.window.end
    span = [d * (k - 1) + 1 for d, k in zip(window.dilations, window.size, strict=True)]
    places = tuple(
        (n + begin[axis] + end[axis] - span[axis]) // window.strides[axis] + 1
        for axis, n in enumerate(window.spatial)
    )
    place = np.indices(places).reshape(len(places), -1, 1)
    tap = np.indices(window.size).reshape(len(places), 1, -1)
    flat = np.zeros((math.prod(places), math.prod(window.size)), dtype=np.int64)
    inside = np.ones_like(flat, dtype=bool)
    for axis, n in enumerate(window.spatial):
        at = place[axis] * window.strides[axis] + tap[axis] * window.dilations[axis] - begin[axis]
        inside &= (at >= 0) & (at < n)
        flat = flat * n + at
    return np.where(inside, flat, -1)
