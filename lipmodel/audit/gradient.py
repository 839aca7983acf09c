"""Compute gradients of the deployed graph: its vector-Jacobian product, written as an ONNX graph.

The graph has inputs x (N, d), v (M, K) and the row of x that each row of v belongs to (its owner), and
outputs the scores f(x) and the gradients of <v, f(x)> in x. onnxruntime runs it, without torch or finite
differences, and the function differentiated is the deployed one. At a kink of a piecewise linear operation
the gradient is that of one adjoining linear piece (Relu'(0) = 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from lipmodel.network import ops
from lipmodel.network.ops import Graph, Op, missing_rule
from lipmodel.network.session import open_session
from lipmodel.network.window import Shape, Window
from lipmodel.network.writer import OnnxBuilder, to_bytes
from lipmodel.norms import Array

Owners = np.ndarray[tuple[int], np.dtype[np.int64]]

CACHE_BYTES = 2**22
"""Maximum size of one tensor of a network; measured, see ``benchmarks/gradient_audit.py``."""
COTANGENT, OWNER, GRADIENT = "cotangent", "owner", "gradient"


class GradientEngine:
    """Scores and gradients of a graph, in float64.

    Attributes:
        graph: the network differentiated.
        rows: maximum cotangents of one pass, so that intermediate tensors fit the processor's cache.
    """

    def __init__(self, graph: Graph, threads: int = 1) -> None:
        self.graph = graph
        self.rows = max(8, CACHE_BYTES // (8 * max(map(_entries, graph.ops))))
        self._session: Any = open_session(_write_gradient(graph), threads)

    def __call__(self, inputs: Array, cotangents: Array, owners: Owners | None = None) -> tuple[Array, Array]:
        """Return scores (N, K) of inputs (N, d), and gradients (M, d) of <cotangent, scores>.

        Args:
            inputs: (N, d).
            cotangents: (M, K); for a binary classifier [batch, 1] K is 1.
            owners: (M,) index of each cotangent's input; by default M = N, one each, ``rows`` at a time.
        """
        if owners is None and len(inputs) > self.rows:
            starts = range(0, len(inputs), self.rows)
            parts = [self(inputs[i : i + self.rows], cotangents[i : i + self.rows]) for i in starts]
            scores, gradients = zip(*parts, strict=True)
            return np.concatenate(scores), np.concatenate(gradients)
        scores, gradient = self._session.run(
            None,
            {
                self.graph.input: np.ascontiguousarray(inputs).reshape(-1, *self.graph.input_shape),
                COTANGENT: np.ascontiguousarray(cotangents, dtype=np.float64),
                OWNER: np.arange(len(inputs)) if owners is None else owners,
            },
        )
        return scores, gradient.reshape(-1, self.graph.input_size)

    def scores(self, inputs: Array) -> Array:
        """Return scores (N, K) of inputs (N, d) by the forward pass alone."""
        return self(inputs, np.empty((0, *self.graph.output_shape)), np.empty(0, dtype=np.int64))[0]

    def jacobians(self, inputs: Array) -> tuple[Array, Array]:
        """Return scores (N, K) of inputs (N, d) and their gradients (N, K, d)."""
        count = self.graph.output_shape[0]
        owners = np.repeat(np.arange(len(inputs)), count)
        scores, gradients = self(inputs, np.tile(np.eye(count), (len(inputs), 1)), owners)
        return scores, gradients.reshape(len(inputs), count, self.graph.input_size)


def _entries(op: Op) -> int:
    """Return the entries of the largest tensor in the forward and backward pass of an operation."""
    match op:
        case ops.Conv():
            positions, most = op.window.readers.shape
            return max(op.size, op.groups * int(op.kernel.shape[1] * positions * most))
        case (
            ops.Dense() | ops.Scale() | ops.Shift() | ops.Clip() | ops.Abs() | ops.Negate() | ops.LeakyRelu()
            | ops.AveragePool() | ops.MaxPool() | ops.Sort() | ops.SortingNetwork() | ops.Extremum()
            | ops.ReduceExtremum() | ops.Sum() | ops.Concat() | ops.Select() | ops.Reshape() | ops.Transpose()
        ):  # fmt: skip
            return op.size
        case _:
            raise missing_rule(op, "gradient tensor sizes")


def _write_gradient(graph: Graph) -> bytes:
    builder = OnnxBuilder(np.float64, graph)
    backward = _Backward(builder, graph)
    for op in graph.ops:
        backward.forward(op)
    backward.add(graph.output, COTANGENT)
    for op in reversed(graph.ops):
        backward.backward(op)
    total = backward.total(graph.input)
    builder.node("Reshape", [total, builder.shape(graph.input_shape)], [GRADIENT])
    shape = graph.output_shape
    return to_bytes(
        builder.model(
            [
                builder.value_info(graph.input, graph.input_shape),
                builder.value_info(COTANGENT, shape, batch="cotangents"),
                helper.make_tensor_value_info(OWNER, TensorProto.INT64, ["cotangents"]),
            ],
            [
                builder.value_info(graph.output, shape),
                builder.value_info(GRADIENT, graph.input_shape, batch="cotangents"),
            ],
        )
    )


class _Backward:
    """Writer of the forward and backward passes.

    Attributes:
        saved: names of the masks or indices that each operation's backward pass needs, by its output.
        cotangents: contributions to each tensor's cotangent so far.
    """

    def __init__(self, builder: OnnxBuilder, graph: Graph) -> None:
        self.b, self.graph = builder, graph
        self.shapes = graph.shapes()
        self.saved: dict[str, list[str]] = {}
        self.cotangents: dict[str, list[str]] = {name: [] for name in self.shapes}
        self.zero = builder.floats(0.0, "zero")

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Write a node with one output, and return its name."""
        return self.b.node(op_type, inputs, **attributes)[0]

    def add(self, tensor: str, cotangent: str) -> None:
        """Add a contribution to a tensor's cotangent."""
        self.cotangents[tensor].append(cotangent)

    def seen(self, tensor: str) -> str:
        """Return a tensor of the forward pass, repeated for each cotangent."""
        return self.node("Gather", tensor, OWNER, axis=0)

    def total(self, tensor: str) -> str:
        """Return the sum of a tensor's contributions; zeros if there are none."""
        parts = self.cotangents[tensor]
        if not parts:
            return self.node("Mul", self.seen(tensor), self.zero)
        total = parts[0]
        for part in parts[1:]:
            total = self.node("Add", total, part)
        return total

    def forward(self, op: Op) -> None:
        """Write one operation, and save the masks or indices that its derivative needs."""
        x = op.inputs[0]
        match op:
            case ops.Sort():
                k = self.b.integers([op.k], "k")
                indices = self.b.name("indices")
                self.b.node("TopK", [x, k], [op.output, indices], axis=op.axis + 1, largest=int(op.largest))
                self.saved[op.output] = [indices]
            case ops.SortingNetwork():
                wires = self.b.wires(op, x)
                masks = []
                for i, j in op.comparators:
                    pair = (wires[i], wires[j])
                    masks.append(self.node("GreaterOrEqual", *pair))
                    wires[i], wires[j] = self.node("Max", *pair), self.node("Min", *pair)
                self.saved[op.output] = masks
                self.b.node("Concat", [wires[i] for i in op.joined], [op.output], axis=op.axis + 1)
            case _:  # emit raises for operations without a rule
                self.b.emit(op, op.inputs, op.output)

    def backward(self, op: Op) -> None:
        """Add the contributions of an operation's output cotangent to its inputs' cotangents.

        Raises:
            NotImplementedError: see :func:`missing_rule`.
        """
        if not self.cotangents[op.output]:
            return
        g, x, shape = self.total(op.output), op.inputs[0], self.shapes[op.inputs[0]]
        match op:
            case ops.Dense():
                if len(op.shape) == 1:
                    self.add(x, self.b.node("Gemm", [g, self.b.floats(op.weight, "weight")])[0])
                else:
                    self.add(x, self.node("MatMul", g, self.b.floats(op.weight, "weight")))
            case ops.Scale():
                self.add(x, self.node("Div" if op.divide else "Mul", g, self.b.floats(op.factor, "factor")))
            case ops.Shift():
                self.add(x, g)
            case ops.Clip():
                for test, end in (("Greater", op.low), ("Less", op.high)):
                    if end is not None:
                        inside = self.seen(self.node(test, x, self.b.floats(end, "end")))
                        g = self.node("Where", inside, g, self.zero)
                self.add(x, g)
            case ops.Abs():
                self.add(x, self.node("Mul", g, self.node("Sign", self.seen(x))))
            case ops.Negate():
                self.add(x, self.node("Neg", g))
            case ops.LeakyRelu():
                negative = self.seen(self.node("Less", x, self.zero))
                sloped = self.node("Mul", g, self.b.floats(op.slope, "slope"))
                self.add(x, self.node("Where", negative, sloped, g))
            case ops.Conv():
                self.add(x, self._conv(op, g, shape))
            case ops.AveragePool():
                counts = self.b.floats(op.counts.reshape(1, *op.shape[1:]), "counts")
                share = self.b.batch_last(self.node("Div", g, counts), [op.shape[0], len(op.counts)])
                self.add(x, self._to_positions(self._pad_place(share), op.window, shape, shared=True))
            case ops.MaxPool():
                self.add(x, self._max_pool(op, x, g, shape))
            case ops.Sort():
                zeros = self.node("Mul", self.seen(x), self.zero)
                (indices,) = self.saved[op.output]
                self.add(x, self.node("ScatterElements", zeros, self.seen(indices), g, axis=op.axis + 1))
            case ops.SortingNetwork():
                self.add(x, self._sorting_network(op, g))
            case ops.Extremum():
                self._extremum(op, g)
            case ops.ReduceExtremum():
                self.add(x, self._reduce_extremum(op, g))
            case ops.Sum():
                for name in op.inputs:
                    self.add(name, g)
            case ops.Concat():
                start = 0
                for name in op.inputs:
                    size = self.shapes[name][op.axis]
                    ends = [self.b.integers([v]) for v in (start, start + size, op.axis + 1)]
                    self.add(name, self.node("Slice", g, *ends))
                    start += size
            case ops.Select():
                self.add(x, self._scatter(op.indices, op.axis, shape, g))
            case ops.Reshape():
                self.add(x, self.node("Reshape", g, self.b.shape(shape)))
            case ops.Transpose():
                inverse = np.argsort(op.permutation)
                self.add(x, self.node("Transpose", g, perm=[0, *(int(a) + 1 for a in inverse)]))
            case _:
                raise missing_rule(op, "gradients")

    def _sorting_network(self, op: ops.SortingNetwork, g: str) -> str:
        """Backward pass of the comparators: where a >= b the maximum was a, and its cotangent goes to a."""
        length = len(op.wires[0])
        if len(op.joined) > 1:
            sizes = self.b.integers([length] * len(op.joined), "split")
            parts = self.b.node("Split", [g, sizes], len(op.joined), axis=op.axis + 1)
        else:
            parts = [g]
        wires = dict(zip(op.joined, parts, strict=True))
        for (i, j), mask in reversed(list(zip(op.comparators, self.saved[op.output], strict=True))):
            high, low = wires.get(i, self.zero), wires.get(j, self.zero)
            first = self.node("Cast", self.seen(mask), to=self.b.tensor_type)
            second = self.node("Sub", self.b.floats(1.0, "one"), first)
            # Products with 0 and 1, since Where takes several times as long.
            wires[i], wires[j] = (
                self.node("Add", self.node("Mul", one, high), self.node("Mul", other, low))
                for one, other in ((first, second), (second, first))
            )
        # A wire that no output depends on has no cotangent: zeros in the shape of another wire's.
        other_wire = next(iter(wires.values()))
        ordered = [wires.get(i) or self.node("Mul", other_wire, self.zero) for i in range(len(op.wires))]
        joined = self.b.node("Concat", ordered, axis=op.axis + 1)[0]
        shape = self.shapes[op.inputs[0]]
        return self._scatter([i for wire in op.wires for i in wire], op.axis, shape, joined)

    def _scatter(self, indices: Sequence[int], axis: int, shape: Shape, g: str) -> str:
        """Return entries at the positions that a selection took them from, and zeros elsewhere."""
        size = shape[axis]
        if tuple(indices) == tuple(range(size)):
            return g
        position = {index: place for place, index in enumerate(indices)}
        back = [position.get(i, len(indices)) for i in range(size)]
        if len(indices) < size:
            ends = [self.b.integers([v]) for v in (0, 1, axis + 1)]
            column = self.node("Mul", self.node("Slice", g, *ends), self.zero)
            g = self.node("Concat", g, column, axis=axis + 1)
        return self.node("Gather", g, self.b.integers(back, "indices"), axis=axis + 1)

    def _conv(self, op: ops.Conv, g: str, shape: Shape) -> str:
        """Return the input's cotangent: by each channel group's matrix, then from windows to positions."""
        out, per_group, taps = op.kernel.shape[0], op.kernel.shape[1], op.window.taps
        places = self._pad_place(self.b.batch_last(g, [out, len(op.window.positions)]))
        columns = self.node("Reshape", places, self.b.integers([op.groups, out // op.groups, -1]))
        matrix = op.kernel.reshape(op.groups, out // op.groups, per_group * taps).swapaxes(1, 2)
        product = self.node("MatMul", self.b.floats(matrix, "kernel"), columns)
        return self._to_positions(product, op.window, shape)

    def _max_pool(self, op: ops.MaxPool, x: str, g: str, shape: Shape) -> str:
        """Return the input's cotangent, shared equally by the entries that attain a window's maximum."""
        entries = self.b.windows(op.window, self.seen(x), op.shape[0], -np.inf)
        column = [op.shape[0], 1, len(op.window.positions)]
        largest, g = (self.b.batch_last(name, column) for name in (self.seen(op.output), g))
        mask = self.node("Cast", self.node("Equal", entries, largest), to=self.b.tensor_type)
        count = self.node("ReduceSum", mask, self.b.integers([1], "axes"), keepdims=1)
        given = self.node("Mul", mask, self.node("Div", g, count))
        return self._to_positions(self._pad_place(given), op.window, shape)

    def _pad_place(self, values: str) -> str:
        """Return (…, places + 1, batch): a last place of zeros, for positions that no window reads."""
        pads, axes = self.b.integers([0, 1], "pads"), self.b.integers([-2], "axes")
        return self.node("Pad", values, pads, self.zero, axes)

    def _to_positions(self, values: str, window: Window, shape: Shape, shared: bool = False) -> str:
        """Return the sum of (channels, taps, places + 1, batch) over the taps that read each position.

        Args:
            values: cotangents of the taps; zeros at the last place.
            window: window of the taps.
            shape: shape of the result.
            shared: true if all taps of a place have the same cotangent, and ``values`` has no axis of taps.
        """
        places, readers = len(window.positions), window.readers
        tap = 0 if shared else readers % window.taps
        at = np.where(readers < 0, places, readers // window.taps + (places + 1) * tap)
        entries = (places + 1) * (1 if shared else window.taps)
        rows = self.node("Reshape", values, self.b.integers([shape[0], entries, -1]))
        gathered = self.b.gather(rows, at, axis=1)
        total = self.node("ReduceSum", gathered, self.b.integers([2], "axes"), keepdims=0)
        return self.b.batch_first(total, shape)[0]

    def _extremum(self, op: ops.Extremum, g: str) -> None:
        """Add the cotangent to the first operand that attains the extremum."""
        remaining = g
        for name in op.inputs[:-1]:
            here = self.seen(self.node("Equal", name, op.output))
            self.add(name, self.node("Where", here, remaining, self.zero))
            remaining = self.node("Where", here, self.zero, remaining)
        self.add(op.inputs[-1], remaining)

    def _reduce_extremum(self, op: ops.ReduceExtremum, g: str) -> str:
        """Return the cotangent shared equally by the entries that attain the extremum (ties: a null set)."""
        kept = self.b.shape([1 if i in op.axes else d for i, d in enumerate(self.shapes[op.inputs[0]])])
        value, g = self.node("Reshape", op.output, kept), self.node("Reshape", g, kept)
        attained = self.seen(self.node("Equal", op.inputs[0], value))
        mask = self.node("Cast", attained, to=self.b.tensor_type)
        axes = self.b.integers([a + 1 for a in op.axes], "axes")
        share = self.node("Div", g, self.node("ReduceSum", mask, axes, keepdims=1))
        return self.node("Mul", mask, share)
