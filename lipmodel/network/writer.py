"""Writing of operations as ONNX nodes, in float32 (export) or float64 (execution by this project).

The programs executed and the programs exported are both written here, so the graph executed is the
graph analysed. Nodes are those that onnxruntime has kernels for in both formats, and of those
the fastest measured: GroupSort as Split, Max, Min and Concat rather than TopK.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lipmodel import __version__
from lipmodel.network import ops
from lipmodel.network.ops import Graph, Op, missing_rule
from lipmodel.network.window import Window

OPSET = 23
IR_VERSION = 11


class OnnxBuilder:
    """Builder of one ONNX graph whose tensors all have one floating-point format."""

    def __init__(self, dtype: type[np.float32] | type[np.float64], graph: Graph) -> None:
        self.dtype = dtype
        self._taken = set(graph.shapes())
        self.tensor_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._known: dict[tuple[str, bytes, tuple[int, ...]], str] = {}
        self._count = 0

    def name(self, hint: str) -> str:
        """Return an unused tensor name that starts with a hint."""
        self._count += 1
        while f"{hint}_{self._count}" in self._taken:
            self._count += 1
        return f"{hint}_{self._count}"

    def node(
        self, op_type: str, inputs: Sequence[str], outputs: int | Sequence[str] = 1, **attributes: Any
    ) -> list[str]:
        """Add a node and return the names of its outputs."""
        names = [self.name(op_type.lower()) for _ in range(outputs)] if isinstance(outputs, int) else outputs
        names = list(names)
        self.nodes.append(helper.make_node(op_type, inputs, names, name=names[0], **attributes))
        return names

    def floats(self, values: Any, hint: str = "constant") -> str:
        """Add a floating-point initialiser in the builder's format and return its name."""
        return self._initializer(np.asarray(values, dtype=self.dtype), hint)

    def integers(self, values: Sequence[int], hint: str = "shape") -> str:
        """Add an int64 initialiser of one axis and return its name."""
        return self._initializer(np.asarray(values, dtype=np.int64), hint)

    def _initializer(self, array: np.ndarray[Any, Any], hint: str) -> str:
        key = (str(array.dtype), array.tobytes(), array.shape)
        if key not in self._known:
            self._known[key] = self.name(hint)
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), self._known[key]))
        return self._known[key]

    def value_info(self, name: str, shape: Sequence[int], batch: str = "batch") -> onnx.ValueInfoProto:
        """Return the type of a tensor with a free leading axis."""
        return helper.make_tensor_value_info(name, self.tensor_type, [batch, *shape])

    def model(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """Return the model of the nodes added so far."""
        graph = helper.make_graph(self.nodes, "lipcert", inputs, outputs, self.initializers)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="lipcert",
            producer_version=__version__,
        )

    def emit(self, op: Op, inputs: Sequence[str], output: str) -> None:
        """Add the nodes of one operation that reads the ONNX tensors ``inputs`` and makes ``output``.

        Raises:
            NotImplementedError: by :func:`missing_rule`.
        """
        x = inputs[0]
        match op:
            case ops.Dense():
                self._dense(op, x, output)
            case ops.Scale():
                self.node("Div" if op.divide else "Mul", [x, self.floats(op.factor, "factor")], [output])
            case ops.Shift():
                self.node("Add", [x, self.floats(op.offset, "offset")], [output])
            case ops.Clip():
                if op.low is not None and op.high is not None:
                    (x,) = self.node("Max", [x, self.floats(op.low, "low")])
                    self.node("Min", [x, self.floats(op.high, "high")], [output])
                elif ops.is_constant_zero(op.low):
                    self.node("Relu", [x], [output])
                elif op.low is not None:
                    self.node("Max", [x, self.floats(op.low, "low")], [output])
                else:
                    self.node("Min", [x, self.floats(op.high, "high")], [output])
            case ops.Abs():
                self.node("Abs", [x], [output])
            case ops.Negate():
                self.node("Neg", [x], [output])
            case ops.LeakyRelu() if self.dtype is np.float32:
                self.node("PRelu", [x, self.floats(op.slope, "slope")], [output])
            case ops.LeakyRelu():  # there is no float64 kernel
                (product,) = self.node("Mul", [x, self.floats(op.slope, "slope")])
                (negative,) = self.node("Less", [x, self.floats(0.0, "zero")])
                self.node("Where", [negative, product, x], [output])
            case ops.Conv():
                self._conv(op, x, output)
            case ops.AveragePool():
                self._average_pool(op, x, output)
            case ops.MaxPool():
                self.node("MaxPool", [x], [output], **_window_attributes(op.window))
            case ops.Sort():
                k = self.integers([op.k], "k")
                self.node(
                    "TopK", [x, k], [output, self.name("indices")], axis=op.axis + 1, largest=int(op.largest)
                )
            case ops.SortingNetwork():
                self._sorting_network(op, x, output)
            case ops.Extremum():
                self.node(op.kind.capitalize(), inputs, [output])
            case ops.ReduceExtremum():
                axes = self.integers([a + 1 for a in op.axes], "axes")
                (reduced,) = self.node(f"Reduce{op.kind.capitalize()}", [x, axes], keepdims=1)
                self.node("Reshape", [reduced, self.shape(op.shape)], [output])
            case ops.Sum():
                self.node("Add", inputs, [output])
            case ops.Concat():
                self.node("Concat", inputs, [output], axis=op.axis + 1)
            case ops.Select():
                self.node("Gather", [x, self.integers(op.indices, "indices")], [output], axis=op.axis + 1)
            case ops.Reshape():
                self.node("Reshape", [x, self.shape(op.shape)], [output])
            case ops.Transpose():
                self.node("Transpose", [x], [output], perm=[0, *(a + 1 for a in op.permutation)])
            case _:
                raise missing_rule(op, "ONNX nodes")

    def shape(self, shape: Sequence[int]) -> str:
        """Add a Reshape target, [-1, *shape] with the batch axis in front, and return its name."""
        return self.integers([-1, *shape])

    def wires(self, op: ops.SortingNetwork, x: str) -> list[str]:
        """Add the slices that a sorting network starts from, and return their names."""
        flat = [i for wire in op.wires for i in wire]
        if flat == list(range(op.length)) and len(op.wires) > 1:
            sizes = self.integers([len(wire) for wire in op.wires], "split")
            return self.node("Split", [x, sizes], len(op.wires), axis=op.axis + 1)
        return [
            self.node("Gather", [x, self.integers(wire, "wire")], axis=op.axis + 1)[0] for wire in op.wires
        ]

    def _dense(self, op: ops.Dense, x: str, output: str) -> None:
        if len(op.shape) == 1:
            bias = [] if op.bias is None else [self.floats(op.bias, "bias")]
            self.node("Gemm", [x, self.floats(op.weight, "weight"), *bias], [output], transB=1)
            return
        transposed = self.floats(op.weight.T, "weight")
        if op.bias is None:
            self.node("MatMul", [x, transposed], [output])
        else:
            (product,) = self.node("MatMul", [x, transposed])
            self.node("Add", [product, self.floats(op.bias, "bias")], [output])

    def _conv(self, op: ops.Conv, x: str, output: str) -> None:
        """Add a Conv in float32; in float64, for want of a kernel, the windows times a matrix."""
        if self.dtype is np.float32:
            bias = [] if op.bias is None else [self.floats(op.bias, "bias")]
            inputs = [x, self.floats(op.kernel, "kernel"), *bias]
            self.node("Conv", inputs, [output], group=op.groups, **_window_attributes(op.window))
            return
        out, per_group, taps = op.kernel.shape[0], op.kernel.shape[1], op.window.taps
        seen = self.windows(op.window, x, per_group * op.groups, 0.0)
        columns = self.node("Reshape", [seen, self.integers([op.groups, per_group * taps, -1])])
        matrix = op.kernel.reshape(op.groups, out // op.groups, per_group * taps)
        (product,) = self.node("MatMul", [self.floats(matrix, "kernel"), *columns])
        if op.bias is None:
            self.batch_first(product, op.shape, [output])
            return
        (unbiased,) = self.batch_first(product, op.shape)
        bias_shape = (out, *(1 for _ in op.shape[1:]))
        self.node("Add", [unbiased, self.floats(op.bias.reshape(bias_shape), "bias")], [output])

    def _average_pool(self, op: ops.AveragePool, x: str, output: str) -> None:
        if self.dtype is np.float32:
            attributes = _window_attributes(op.window)
            self.node("AveragePool", [x], [output], count_include_pad=int(op.count_padding), **attributes)
            return
        seen = self.windows(op.window, x, op.shape[0], 0.0)
        (total,) = self.node("ReduceSum", [seen, self.integers([1], "axes")], keepdims=0)
        (sums,) = self.batch_first(total, op.shape)
        counts = op.counts.reshape(1, *op.shape[1:])
        self.node("Div", [sums, self.floats(counts, "counts")], [output])

    def windows(self, window: Window, x: str, channels: int, padding: float) -> str:
        """Add the unfolded windows of a tensor, (channels, taps, places, batch), and return their name."""
        positions = window.positions.T
        spatial = math.prod(window.spatial)
        rows = self.batch_last(x, [channels, spatial])
        if (positions < 0).any():
            pads = self.integers([0, 0, 0, 0, 1, 0], "pads")
            (rows,) = self.node("Pad", [rows, pads, self.floats(padding, "padding")])
        return self.gather(rows, np.where(positions < 0, spatial, positions), axis=1)

    def batch_last(self, x: str, shape: Sequence[int]) -> str:
        """Move the batch axis of (batch, …) last, (*shape, batch): Gather then copies runs of the batch."""
        rows = self.node("Reshape", [x, self.integers([-1, math.prod(shape)])])
        columns = self.node("Transpose", rows, perm=[1, 0])
        return self.node("Reshape", [*columns, self.integers([*shape, -1])])[0]

    def batch_first(self, x: str, shape: Sequence[int], outputs: int | Sequence[str] = 1) -> list[str]:
        """Move the batch axis of (…, batch) first, (batch, *shape); inverse of :meth:`batch_last`."""
        size = math.prod(shape)
        (columns,) = self.node("Reshape", [x, self.integers([size, -1])])
        uneven = size % 64 == 0
        if uneven:  # numbers a power of two apart share few lines of the cache: with a row more they do not
            pads = self.integers([0, 0, 1, 0], "pads")
            (columns,) = self.node("Pad", [columns, pads, self.floats(0.0, "zero")])
        rows = self.node("Transpose", [columns], perm=[1, 0])
        if uneven:
            ends = [self.integers([v], "ends") for v in (0, size, 1)]
            rows = self.node("Slice", [*rows, *ends])
        return self.node("Reshape", [*rows, self.shape(shape)], outputs)

    def gather(self, x: str, indices: Any, axis: int) -> str:
        """Add a Gather of entries along an ONNX axis and return the name of its output."""
        return self.node(
            "Gather", [x, self._initializer(np.asarray(indices, np.int64), "indices")], axis=axis
        )[0]

    def _sorting_network(self, op: ops.SortingNetwork, x: str, output: str) -> None:
        wires = self.wires(op, x)
        for i, j in op.comparators:
            pair = [wires[i], wires[j]]
            wires[i], wires[j] = self.node("Max", pair)[0], self.node("Min", pair)[0]
        self.node("Concat", [wires[i] for i in op.joined], [output], axis=op.axis + 1)


def _window_attributes(window: Window) -> dict[str, Any]:
    attributes = {"kernel_shape": window.size, "strides": window.strides, "pads": window.begin + window.end}
    if any(d != 1 for d in window.dilations):
        attributes["dilations"] = window.dilations
    return attributes


def write_model(
    graph: Graph, dtype: type[np.float32] | type[np.float64], outputs: Sequence[str] = ()
) -> onnx.ModelProto:
    """Return a graph as an ONNX model with one input and one output, each with a free leading batch axis.

    In float32 each constant is rounded to the nearest float32; constants read from a float32 file
    come back unchanged.

    Args:
        graph: the graph.
        dtype: format of all its numbers.
        outputs: names of the tensors to compute, by default the scores alone.
    """
    builder = OnnxBuilder(dtype, graph)
    for op in graph.ops:
        builder.emit(op, op.inputs, op.output)
    shapes = graph.shapes()
    return builder.model(
        [builder.value_info(graph.input, graph.input_shape)],
        [builder.value_info(name, shapes[name]) for name in outputs or [graph.output]],
    )


def set_metadata(model: onnx.ModelProto, metadata: dict[str, str]) -> None:
    """Write metadata in the order of its keys, so that equal content gives equal bytes."""
    helper.set_model_props(model, dict(sorted(metadata.items())))


def to_bytes(model: onnx.ModelProto) -> bytes:
    """Serialise a model; equal models give equal bytes."""
    return bytes(model.SerializeToString(deterministic=True))
