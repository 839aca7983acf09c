"""Constants of an ONNX file: read with their claims checked, and folded where that is exact.

Folding computes at load what the runtime would compute from constants alone. Every conforming
runtime agrees to the bit on nodes that move data, on integers, and on single elementwise
floating-point operations, which IEEE 754 rounds correctly. A sum over many numbers depends on the
order of summation; a few such nodes (weights normalised inside the graph) are folded by onnxruntime
itself, and the result is marked as one that other runtimes may round differently.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lipmodel.certify.external import HOW_TO_SAVE_ONE_FILE, is_external
from lipmodel.certify.session import open_session
from lipmodel.errors import FileFormatError, UnsupportedError

Constant = np.ndarray[Any, Any]

MAX_ELEMENTS = 2**28
"""Largest constant that is read or made, in elements."""

TENSOR_TYPES: dict[int, type[np.generic]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.INT64: np.int64,
    TensorProto.INT32: np.int32,
    TensorProto.BOOL: np.bool_,
}
"""Element types that occur in certified graphs; floats are weights, the others are shapes and indices."""

MOVES_DATA = {
    "Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Concat", "Slice", "Split",
    "Gather", "Shape", "Expand",
}  # fmt: skip
ROUNDS_ONCE = {"Add", "Sub", "Mul", "Div", "Sqrt", "Neg", "Abs", "Max", "Min", "Relu", "Cast", "Reciprocal"}
SUMS = {"ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare", "MatMul", "Gemm", "Pow"}


def read_tensor(tensor: onnx.TensorProto) -> Constant:
    """The array in a tensor, once its claims of type and size are borne out by the bytes it carries.

    Raises:
        FileFormatError: claims and content differ, or the content is kept in another file.
        UnsupportedError: an element type that occurs in no certified graph (float16, quantised, …).
    """
    name = tensor.name
    if is_external(tensor):
        raise FileFormatError(f"initializer '{name}' keeps its data in another file; {HOW_TO_SAVE_ONE_FILE}")
    if tensor.data_type not in TENSOR_TYPES:
        kind = _type_name(tensor.data_type)
        raise UnsupportedError(f"initializer '{name}' has type {kind}; float32 and float64 are accepted")
    if any(d < 0 for d in tensor.dims):
        raise FileFormatError(f"initializer '{name}' claims a negative dimension: {list(tensor.dims)}")
    count = math.prod(tensor.dims)
    if count > MAX_ELEMENTS:
        raise FileFormatError(
            f"initializer '{name}' claims {count} numbers; at most {MAX_ELEMENTS} are accepted"
        )
    dtype = np.dtype(TENSOR_TYPES[tensor.data_type])
    if tensor.HasField("raw_data"):
        carried = len(tensor.raw_data) / dtype.itemsize
    else:
        carried = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))
    if carried != count:
        raise FileFormatError(
            f"initializer '{name}' claims {count} numbers (shape {list(tensor.dims)}) and carries {carried:g}"
        )
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise FileFormatError(f"initializer '{name}' cannot be read: {error}") from error
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise UnsupportedError(f"initializer '{name}' has a NaN or an infinity; finite weights are accepted")
    return array


def fold(node: onnx.NodeProto, inputs: list[Constant | None], opset: int) -> tuple[list[Constant], bool]:
    """What a node makes of constants, and whether every runtime makes the same of them.

    Raises:
        UnsupportedError: the node is not one that is folded, or its result is not finite or too large.
    """

    def refuse(reason: str) -> UnsupportedError:
        return UnsupportedError(reason, node=node.name or node.output[0], op=node.op_type)

    if node.op_type not in MOVES_DATA | ROUNDS_ONCE | SUMS:
        raise refuse("computes a constant and is not folded; fold constants before export")
    if node.op_type == "Expand" and inputs[1] is not None:
        claimed = math.prod(int(d) for d in inputs[1].ravel())
        if claimed > MAX_ELEMENTS:
            raise refuse(f"makes {claimed} numbers of constants")
    try:
        arrays = _run_node(node, inputs, opset)
    except Exception as error:  # whatever a malformed node makes of the runtime is a refusal
        raise refuse(f"cannot be computed from its constants: {error}") from error
    for array in arrays:
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise refuse("makes a NaN or an infinity of its constants")
    return arrays, node.op_type not in SUMS


def _run_node(node: onnx.NodeProto, inputs: list[Constant | None], opset: int) -> list[Constant]:
    """The node by itself, in onnxruntime."""
    feeds = {
        name: array for name, array in zip(node.input, inputs, strict=True) if name and array is not None
    }
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "constant", values, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    session: Any = open_session(model.SerializeToString())
    return [np.asarray(result) for result in session.run(None, feeds)]


def _type_name(data_type: int) -> str:
    try:
        return str(TensorProto.DataType.Name(data_type)).lower()
    except ValueError:
        return f"number {data_type}"
