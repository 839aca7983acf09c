"""Decomposition of a graph into primitives, linear or one of two nonlinearities, for backward passes.

Every certified operation is composed of primitives, exactly: a convolution is windows gathered and
a matrix; |x| = 2 relu(x) - x; sorting, pooling and maxima are rounds of compare-exchange. Tensors
are flat here and identified by number, so that no name in a file can clash with a generated one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from lipmodel.certify.head import Indices
from lipmodel.errors import UnsupportedError
from lipmodel.network import ops
from lipmodel.network.ops import Graph, Op, missing_rule
from lipmodel.network.window import Shape
from lipmodel.norms import Array

MAX_SORTED = 16
"""Maximum size of a sorted group: the rounds of comparators, each bounded by itself, grow with it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Primitive:
    """A primitive operation, identified by the number of its output tensor.

    Attributes:
        inputs: numbers of the input tensors, all smaller than that of the output.
        size: size of the output.
        name: tensor of the graph that the output is, flat; None for an intermediate one.
        like: number of a tensor whose entries the output only rearranges (compares, exchanges), none of
            them twice: its Lipschitz constant is no larger, in any norm.
    """

    inputs: tuple[int, ...] = ()
    size: int
    name: str | None = None
    like: int | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Matrix(Primitive):
    """y = W x + b on each consecutive block of x; weight (m, n), bias (m,) or None."""

    weight: Array
    bias: Array | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Factor(Primitive):
    """y = x * factor, or x / factor if ``divide``; factor (size,)."""

    factor: Array
    divide: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Offset(Primitive):
    """y = x + offset; offset (size,)."""

    offset: Array


@dataclass(frozen=True, eq=False, kw_only=True)
class Gather(Primitive):
    """y_k = x_indices[k], 0 for an index of -1; an entry may be taken more than once."""

    indices: Indices


@dataclass(frozen=True, eq=False, kw_only=True)
class Join(Primitive):
    """Concatenation of the inputs."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Plus(Primitive):
    """Sum of two inputs."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Relu(Primitive):
    """y = max(x, 0): one nonlinearity per entry."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CompareExchange(Primitive):
    """Disjoint entries ``first[k]`` and ``second[k]`` replaced by max and min: one nonlinearity per pair."""

    first: Indices
    second: Indices


Nonlinearity = Relu | CompareExchange


def decompose(graph: Graph) -> list[Primitive]:
    """Return the primitives of a graph, in order; number 0 is the input, the last is the output.

    Raises:
        UnsupportedError: an operation cannot be decomposed; names the reason.
    """
    return _Builder(graph).primitives


class _Builder:
    """Builder of primitives; each method appends some and returns the number of the last."""

    def __init__(self, graph: Graph) -> None:
        self.primitives: list[Primitive] = [Primitive(size=graph.input_size, name=graph.input)]
        self.shapes = graph.shapes()
        number = {graph.input: 0}
        for op in graph.ops:
            number[op.output] = self._op(op, [number[name] for name in op.inputs])

    def add(self, primitive: Primitive) -> int:
        """Append a primitive and return its number."""
        self.primitives.append(primitive)
        return len(self.primitives) - 1

    def _op(self, op: Op, inputs: Sequence[int]) -> int:
        x, size, name = inputs[0], op.size, op.output
        before = self.shapes[op.inputs[0]]
        match op:
            case ops.Dense():
                return self.add(Matrix(inputs=(x,), size=size, name=name, weight=op.weight, bias=op.bias))
            case ops.Conv():
                return self._conv(op, x)
            case ops.Scale():
                factor = np.broadcast_to(op.factor, op.shape).ravel()
                return self.add(Factor(inputs=(x,), size=size, name=name, factor=factor, divide=op.divide))
            case ops.Negate():
                return self._negate(x, name)
            case ops.Shift():
                return self._shift(x, np.broadcast_to(op.offset, op.shape).ravel(), name)
            case ops.Sum():
                return self.add(Plus(inputs=(inputs[0], inputs[1]), size=size, name=name))
            case ops.Clip():
                return self._clip(op, x)
            case ops.Abs():  # |x| = -x + 2 relu(x)
                return self._linear_and_relu(x, np.full(size, -1.0), np.full(size, 2.0), name)
            case ops.LeakyRelu():  # s x + (1 - s) relu(x)
                slope = np.broadcast_to(op.slope, op.shape).ravel()
                if any(Fraction(1) - Fraction(s) != Fraction(1.0 - s) for s in np.unique(slope).tolist()):
                    raise UnsupportedError("1 - slope of a LeakyRelu is not a float64", node=op.node)
                return self._linear_and_relu(x, slope, 1.0 - slope, name)
            case ops.Concat():
                parts = [np.arange(math.prod(self.shapes[i])) for i in op.inputs]
                starts = np.cumsum([0, *(len(part) for part in parts)])
                joined = self.add(Join(inputs=tuple(inputs), size=size))
                spread = [
                    (part + start).reshape(self.shapes[i])
                    for part, start, i in zip(parts, starts, op.inputs, strict=False)
                ]
                return self._gather(joined, np.concatenate(spread, axis=op.axis), name)
            case ops.Reshape():
                return self._gather(x, np.arange(size), name)
            case ops.Select():
                return self._gather(x, np.take(_places(before), op.indices, axis=op.axis), name)
            case ops.Transpose():
                return self._gather(x, _places(before).transpose(op.permutation), name)
            case ops.SortingNetwork():
                wires = [np.take(_places(before), wire, axis=op.axis) for wire in op.wires]
                return self._sort(op, x, wires, op.comparators, op.joined, op.axis)
            case ops.Sort():
                return self._sort_along_an_axis(op, x, before)
            case ops.ReduceExtremum():
                kept = [a for a in range(len(before)) if a not in op.axes]
                rows = _places(before).transpose(*op.axes, *kept).reshape(-1, size)
                return self._sort(op, x, list(rows), _tournament(len(rows), op.kind), (0,), 0)
            case ops.Extremum():
                joined = self.add(Join(inputs=tuple(inputs), size=size * len(inputs)))
                rows = np.arange(size * len(inputs)).reshape(len(inputs), size)
                return self._sort(op, joined, list(rows), _tournament(len(rows), op.kind), (0,), 0)
            case ops.AveragePool():
                windows = self._windows(op, x)
                total = self.add(Matrix(inputs=(windows,), size=size, weight=np.ones((1, op.window.taps))))
                counts = np.tile(op.counts, op.shape[0])
                return self.add(Factor(inputs=(total,), size=size, name=name, factor=counts, divide=True))
            case ops.MaxPool():
                return self._max_pool(op, x)
            case _:
                raise missing_rule(op, "primitives")

    def _gather(self, x: int, indices: Indices, name: str | None = None) -> int:
        return self.add(Gather(inputs=(x,), size=indices.size, name=name, indices=indices.ravel()))

    def _negate(self, x: int, name: str | None = None) -> int:
        size = self.primitives[x].size
        return self.add(Factor(inputs=(x,), size=size, name=name, factor=np.full(size, -1.0)))

    def _shift(self, x: int, offset: Array, name: str | None = None) -> int:
        return self.add(Offset(inputs=(x,), size=len(offset), name=name, offset=offset))

    def _linear_and_relu(self, x: int, slope: Array, coefficient: Array, name: str) -> int:
        """Add slope · x + coefficient · relu(x)."""
        size = len(slope)
        straight = self.add(Factor(inputs=(x,), size=size, factor=slope))
        positive = self.add(Relu(inputs=(x,), size=size))
        bent = self.add(Factor(inputs=(positive,), size=size, factor=coefficient))
        return self.add(Plus(inputs=(straight, bent), size=size, name=name))

    def _clip(self, op: ops.Clip, x: int) -> int:
        """Add max(x, l) = l + relu(x - l), then min(x, h) = h - relu(h - x)."""
        if ops.is_constant_zero(op.low) and op.high is None:
            return self.add(Relu(inputs=(x,), size=op.size, name=op.output))
        if op.low is not None:
            low = np.broadcast_to(op.low, op.shape).ravel()
            above = self.add(Relu(inputs=(self._shift(x, -low),), size=op.size))
            x = self._shift(above, low, op.output if op.high is None else None)
        if op.high is not None:
            high = np.broadcast_to(op.high, op.shape).ravel()
            below = self.add(Relu(inputs=(self._shift(self._negate(x), high),), size=op.size))
            x = self._shift(self._negate(below), high, op.output)
        return x

    def _sort_along_an_axis(self, op: ops.Sort, x: int, before: Shape) -> int:
        count = before[op.axis]
        wires = [np.take(_places(before), [k], axis=op.axis) for k in range(count)]
        if op.k == 1:
            comparators = _tournament(count, "max" if op.largest else "min")
        else:
            comparators = ops.groupsort_comparators(count)
            if not op.largest:  # turned round, they sort upwards
                comparators = tuple((j, i) for i, j in comparators)
        return self._sort(op, x, wires, comparators, tuple(range(op.k)), op.axis)

    def _sort(
        self,
        op: ops.Extremum | ops.MaxPool | ops.ReduceExtremum | ops.Sort | ops.SortingNetwork,
        x: int,
        wires: Sequence[Indices],
        comparators: Iterable[tuple[int, int]],
        joined: Sequence[int],
        axis: int,
    ) -> int:
        """Add wires (entries of x), comparators in rounds of disjoint pairs, and some wires joined."""
        if len(wires) > MAX_SORTED:
            raise UnsupportedError(
                f"sorts groups of {len(wires)}; local bounds support up to {MAX_SORTED}", node=op.node
            )
        length = wires[0].size
        flat = np.concatenate([wire.ravel() for wire in wires])
        like = x if isinstance(op, ops.SortingNetwork | ops.Sort | ops.ReduceExtremum) else None
        x = self.add(Gather(inputs=(x,), size=len(flat), indices=flat, like=like))
        for pairs in _rounds(comparators):
            first, second = (
                np.concatenate([np.arange(wire * length, (wire + 1) * length) for wire in side])
                for side in zip(*pairs, strict=True)
            )
            like = None if like is None else x
            x = self.add(CompareExchange(inputs=(x,), size=len(flat), first=first, second=second, like=like))
        ends = [np.arange(wire * length, (wire + 1) * length).reshape(wires[wire].shape) for wire in joined]
        return self._gather(x, np.concatenate(ends, axis=axis), op.output)

    def _windows(self, op: ops.Conv | ops.AveragePool, x: int, channels: Indices | None = None) -> int:
        """Gather the windows, one place after the other.

        For a convolution all the channels given at once, (places, channels, taps); for pooling
        channel by channel, (channels, places, taps).
        """
        positions, spatial = op.window.positions, math.prod(op.window.spatial)
        if channels is None:
            at = np.arange(op.shape[0])[:, None, None] * spatial + positions
            return self._gather(x, np.where(positions < 0, -1, at))
        at = channels[None, :, None] * spatial + positions[:, None, :]
        return self._gather(x, np.where(positions[:, None, :] < 0, -1, at))

    def _conv(self, op: ops.Conv, x: int) -> int:
        out, per_group = len(op.kernel) // op.groups, op.kernel.shape[1]
        places = len(op.window.positions)
        groups = []
        for group in range(op.groups):
            mine = slice(group * out, (group + 1) * out)
            windows = self._windows(op, x, np.arange(group * per_group, (group + 1) * per_group))
            bias = None if op.bias is None else op.bias[mine]
            weight = op.kernel[mine].reshape(out, -1)
            groups.append(self.add(Matrix(inputs=(windows,), size=places * out, weight=weight, bias=bias)))
        joined = self.add(Join(inputs=tuple(groups), size=op.size))
        order = np.arange(op.size).reshape(op.groups, places, out).transpose(0, 2, 1)
        return self._gather(joined, order, op.output)

    def _max_pool(self, op: ops.MaxPool, x: int) -> int:
        """Add a tournament over the taps; on padding, which never wins, a tap repeats another one."""
        positions, spatial = op.window.positions, math.prod(op.window.spatial)
        if (positions < 0).all(axis=1).any():
            raise UnsupportedError("has a window that lies wholly on padding", node=op.node)
        positions = np.where(positions < 0, positions.max(axis=1, keepdims=True), positions)
        at = np.arange(op.shape[0])[:, None, None] * spatial + positions
        return self._sort(op, x, list(at.reshape(op.size, -1).T), _tournament(at.shape[2], "max"), (0,), 0)


def _places(shape: Shape) -> Indices:
    """Return an array of a shape that holds its own flat indices."""
    return np.arange(math.prod(shape), dtype=np.intp).reshape(shape)


def _tournament(count: int, kind: str) -> tuple[tuple[int, int], ...]:
    """Return comparators after which wire 0 holds the max (or min) of all wires."""
    pairs: list[tuple[int, int]] = []
    stride = 1
    while stride < count:
        pairs.extend((i, i + stride) for i in range(0, count - stride, 2 * stride))
        stride *= 2
    return tuple(pairs if kind == "max" else ((j, i) for i, j in pairs))


def _rounds(comparators: Iterable[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Return comparators in rounds: each as early as earlier comparators on the same wires allow."""
    rounds: list[list[tuple[int, int]]] = []
    reached: dict[int, int] = {}
    for i, j in comparators:
        at = max(reached.get(i, 0), reached.get(j, 0))
        if at == len(rounds):
            rounds.append([])
        rounds[at].append((i, j))
        reached[i] = reached[j] = at + 1
    return rounds
