"""Head of a network: the classes that own the raw scores, and the rows of weights that make them.

A certificate names the tensor of raw scores. Whether class k is the largest of the scores that it
says are k's is found by sending sets through the graph: each entry of the tensor is the set of its
own index, a maximum is the union, and any operation but maxima and rearrangements is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flint import arb

from lipmodel.network import ops
from lipmodel.network.ops import Graph, Op, missing_rule
from lipmodel.verify.exact_numbers import exact, reciprocal

union = np.frompyfunc(frozenset.union, 2, 1)


def owners(graph: Graph, tensor: str) -> list[int] | None:
    """Return the class of each raw score, -1 where it has none; None where classes are not maxima of them.

    A binary classifier has the 0 in front, which class 0 owns.
    """
    shapes = graph.shapes()
    if tensor not in shapes or len(shapes[tensor]) != 1:
        return None
    count = shapes[tensor][0]
    sets = np.empty(count, dtype=object)
    sets[:] = [frozenset([index]) for index in range(count)]
    values = {tensor: sets}
    for op in graph.ops:
        if op.output != tensor and all(name in values for name in op.inputs):
            result = _send(op, [values[name] for name in op.inputs])
            if result is not None:
                values[op.output] = np.asarray(result, dtype=object).reshape(op.shape)
    if graph.output not in values:
        return None
    binary = graph.output_shape == (1,)
    result = [-1] * count
    for label, indices in enumerate(values[graph.output]):
        for index in indices:
            if result[index] != -1:
                return None  # owned by two classes
            result[index] = label + binary
    return [0, *result] if binary else result


def _send(op: Op, inputs: list[Any]) -> Any:
    """Send sets through a maximum or a rearrangement; return None where the operation is neither."""
    x = inputs[0]
    match op:
        case ops.Reshape():
            return x
        case ops.Transpose():
            return x.transpose(op.permutation)
        case ops.Select():
            return x.take(op.indices, axis=op.axis)
        case ops.Concat():
            return np.concatenate(inputs, axis=op.axis)
        case ops.Extremum(kind="max"):
            return union.reduce(inputs)
        case ops.Sort(k=1, largest=True):
            return union.reduce(x, axis=op.axis)
        case ops.ReduceExtremum(kind="max"):
            for axis in sorted(op.axes, reverse=True):
                x = union.reduce(x, axis=axis)
            return x
        case (
            ops.Dense() | ops.Scale() | ops.Shift() | ops.Clip() | ops.Abs() | ops.Negate() | ops.LeakyRelu()
            | ops.Conv() | ops.AveragePool() | ops.MaxPool() | ops.Sort() | ops.SortingNetwork()
            | ops.Extremum() | ops.ReduceExtremum() | ops.Sum()
        ):  # fmt: skip
            return None
        case _:
            raise missing_rule(op, "owners of scores")


@dataclass(frozen=True)
class LinearEnd:
    """Raw scores = rows · features + constant: at most one Dense, then Scale and Shift.

    Attributes:
        body: the graph that makes the features.
        ops: the operations from the features to the raw scores.
        rows: one a raw score (none for the 0 of a binary classifier), exact but for the last of 256 bits.
    """

    body: Graph
    ops: tuple[Op, ...]
    rows: list[list[arb]]


def linear_end(graph: Graph, tensor: str) -> LinearEnd:
    """Return the linear end: from the raw scores back over Scale and Shift to at most one Dense."""
    graph = replace(graph, output=tensor).pruned()
    made, consumers, size = {op.output: op for op in graph.ops}, graph.consumers(), graph.output_shape[0]
    name = tensor
    taken: list[Op] = []
    factors, weight = [arb(1)] * size, np.eye(size)
    while (op := made.get(name)) is not None and isinstance(op, ops.Dense | ops.Scale | ops.Shift):
        if len(op.shape) != 1 or (taken and len(consumers[name]) > 1):
            break
        if isinstance(op, ops.Scale):
            factor = reciprocal(op.factor) if op.divide else exact(op.factor)
            spread = np.broadcast_to(factor.numerators, op.shape)
            factors = [f * arb(int(v)) / factor.denominator for f, v in zip(factors, spread, strict=True)]
        taken.insert(0, op)
        name = op.inputs[0]
        if isinstance(op, ops.Dense):
            weight = op.weight
            break
    rows = [[f * v for v in map(arb, row)] for f, row in zip(factors, weight.tolist(), strict=True)]
    return LinearEnd(replace(graph, output=name).pruned(), tuple(taken), rows)
