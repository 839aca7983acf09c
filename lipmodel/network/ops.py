"""Typed operations of a certified network, one class for each kind that has proved rules.

Shapes and axes are per sample, without the batch axis. An operation is data, nothing more; its rules stand
in tables, one per property: reading from ONNX in ``reader/handlers.py``, writing in ``writer.py``, Lipschitz
constants in ``certify/lipschitz.py``, rounding errors in ``certify/rounding.py``, derivatives in
``audit/gradient.py``. Constants are float64 arrays (a float32 initialiser upcasts exactly).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lipmodel.network.window import Shape, Window
from lipmodel.norms import Array

MAX_SCORES = 4_096
"""Maximum number of scores, as they are compared pair by pair."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Op:
    """One operation on one or more tensors.

    Attributes:
        output: name of the output tensor.
        inputs: names of the input tensors.
        shape: shape of the output, per sample.
        node: the ONNX node(s) that the operation was read from, for messages.
    """

    output: str
    inputs: tuple[str, ...]
    shape: Shape
    node: str = ""

    @property
    def size(self) -> int:
        """Return how many numbers the output holds, per sample."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False, kw_only=True)
class Dense(Op):
    """y = W x + b over the last axis; weight (m, n), bias (m,) or None."""

    weight: Array
    bias: Array | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Scale(Op):
    """y = x * factor, or x / factor if ``divide``; factor broadcasts to the shape."""

    factor: Array
    divide: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Shift(Op):
    """y = x + offset; offset broadcasts to the shape."""

    offset: Array


@dataclass(frozen=True, eq=False, kw_only=True)
class Clip(Op):
    """y = min(max(x, low), high), each an array that broadcasts to the shape, or None.

    Relu is Clip(low=0); Max and Min with a constant are the one-sided ones.
    """

    low: Array | None = None
    high: Array | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Abs(Op):
    """y = |x|."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Negate(Op):
    """y = -x."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LeakyRelu(Op):
    """y = x where x >= 0, slope * x elsewhere; slope broadcasts to the shape."""

    slope: Array


@dataclass(frozen=True, eq=False, kw_only=True)
class Conv(Op):
    """Cross-correlation with zero padding; kernel (channels out, channels in / groups, *size)."""

    kernel: Array
    bias: Array | None = None
    window: Window
    groups: int = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class AveragePool(Op):
    """Mean over each window, channel by channel; padding counts as zeros, or not at all."""

    window: Window
    count_padding: bool

    @property
    def counts(self) -> Array:
        """Return (places,) the number of terms of each mean."""
        seen = (self.window.positions >= 0) | self.count_padding
        return np.asarray(seen.sum(axis=1), dtype=np.float64)


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(Op):
    """Maximum over each window, channel by channel; padding never wins."""

    window: Window


@dataclass(frozen=True, eq=False, kw_only=True)
class Sort(Op):
    """The k largest (or smallest) along an axis, in that order: ONNX TopK, values only."""

    axis: int
    k: int
    largest: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class SortingNetwork(Op):
    """Comparators over disjoint slices ("wires") of one tensor, then some of the wires joined.

    Comparator (i, j) replaces wires i and j by their elementwise max and min. MaxMin is one
    comparator over the two halves. Each comparator sorts pairs, so the whole is 1-Lipschitz in
    every l_q norm; read as separate Max, Min and Concat nodes, √2 would be lost each time.

    Attributes:
        axis: axis along which the wires are slices.
        length: size of that axis.
        wires: indices along the axis, one tuple per wire, all of one length, disjoint.
        comparators: pairs of wire numbers, in order.
        joined: the wires of the output, in order, each at most once.
    """

    axis: int
    length: int
    wires: tuple[tuple[int, ...], ...]
    comparators: tuple[tuple[int, int], ...]
    joined: tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Extremum(Op):
    """Elementwise max or min of two or more tensors of the output's shape."""

    kind: Literal["max", "min"]


@dataclass(frozen=True, eq=False, kw_only=True)
class ReduceExtremum(Op):
    """Max or min over some axes, which are removed, or kept with size 1 where ``shape`` has them."""

    kind: Literal["max", "min"]
    axes: tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Sum(Op):
    """Elementwise sum of two tensors of the output's shape (a residual connection)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Concat(Op):
    """Tensors joined along an axis."""

    axis: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Select(Op):
    """Entries along an axis, selected by distinct indices: ONNX Slice, Split and Gather."""

    axis: int
    indices: tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Reshape(Op):
    """Reshape in row-major order."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Transpose(Op):
    """Permutation of axes."""

    permutation: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """A network as a list of operations in topological order.

    Attributes:
        input: name of the only input tensor.
        input_shape: shape of the input, per sample.
        ops: operations, each after those whose outputs it reads.
        output: name of the tensor of class scores, of shape (K,), or (1,) for a binary classifier
            (class 1 where the score is positive).
    """

    input: str
    input_shape: Shape
    ops: tuple[Op, ...]
    output: str

    @property
    def input_size(self) -> int:
        """Return how many numbers an input has."""
        return math.prod(self.input_shape)

    @property
    def multiplications(self) -> int:
        """Return the number of multiplications that evaluating one sample takes, as a measure of time."""
        return sum(_cost(op)[0] for op in self.ops)

    @property
    def evaluated_sizes(self) -> list[int]:
        """Return the size per sample of every tensor that evaluation makes, unfolded windows included."""
        windows = [_cost(op)[1] for op in self.ops]
        return [*map(math.prod, self.shapes().values()), *filter(None, windows)]

    @property
    def output_shape(self) -> Shape:
        """Return the shape of the scores, per sample."""
        return self.shapes()[self.output]

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of every tensor by name, per sample."""
        return {self.input: self.input_shape} | {op.output: op.shape for op in self.ops}

    def consumers(self) -> dict[str, list[Op]]:
        """Return the operations that read each tensor, by name of the tensor."""
        readers: dict[str, list[Op]] = {name: [] for name in self.shapes()}
        for op in self.ops:
            for name in op.inputs:
                readers[name].append(op)
        return readers

    def pruned(self) -> Graph:
        """Return the graph without operations that the output does not depend on."""
        needed, kept = {self.output}, []
        for op in reversed(self.ops):
            if op.output in needed:
                needed.update(op.inputs)
                kept.append(op)
        return replace(self, ops=tuple(reversed(kept)))


def missing_rule(op: object, table: str) -> NotImplementedError:
    """Return the error of a table of rules that has none for an operation.

    Every table over operations, or over the primitives of the tight tier, ends in this error: a default
    would give a new operation a bound without a proof. An operation that needs nothing is named all the same.

    Args:
        op: operation or primitive.
        table: name of the table, for the message.
    """
    return NotImplementedError(
        f"{type(op).__name__} has no rule in the table of {table}: see CONTRIBUTING.md, 'Add an operator'"
    )


def _cost(op: Op) -> tuple[int, int]:
    """Return the number of multiplications of an operation, and that of entries of its unfolded windows."""
    match op:
        case Dense():
            return op.size * int(op.weight.shape[1]), 0
        case Conv():
            terms = int(op.kernel[0].size)
            return op.size * terms, math.prod(op.window.output) * terms * op.groups
        case AveragePool() | MaxPool():
            return 0, op.size * op.window.taps
        case (
            Scale() | Shift() | Clip() | Abs() | Negate() | LeakyRelu() | Sort() | SortingNetwork()
            | Extremum() | ReduceExtremum() | Sum() | Concat() | Select() | Reshape() | Transpose()
        ):  # fmt: skip
            return 0, 0  # a few passes over the tensor, beside matrix products
        case _:
            raise missing_rule(op, "costs")


def groupsort_comparators(group_size: int) -> tuple[tuple[int, int], ...]:
    """Return comparators that sort ``group_size`` wires into descending order: odd-even merge sort.

    Source: Batcher 1968; Knuth, The Art of Computer Programming 3, algorithm 5.2.2M.
    """
    pairs: list[tuple[int, int]] = []
    if group_size < 2:
        return ()
    top = 1 << (group_size - 1).bit_length() - 1
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            pairs.extend((i, i + d) for i in range(group_size - d) if i & p == r)
            if q == p:
                break
            q, r, d = q // 2, p, q - p
        p //= 2
    return tuple(pairs)


def distinct(indices: Iterable[int]) -> bool:
    """Return whether no index occurs twice."""
    listed = list(indices)
    return len(set(listed)) == len(listed)


def is_constant_zero(values: Array | None) -> bool:
    """Return whether every entry is zero; False for None."""
    return values is not None and not np.any(values)
