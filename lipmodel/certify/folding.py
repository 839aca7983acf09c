"""Constants of an ONNX file: read with their claims checked, and folded where that is exact.

Folding computes at load what the runtime would compute from constants alone. It is done only for
nodes whose result every conforming runtime agrees on to the bit: moving data, integers, and single
elementwise floating-point operations, which IEEE 754 rounds correctly. A sum over many numbers
depends on the order of summation, so a node that makes one of constants is refused.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

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


def read_tensor(tensor: onnx.TensorProto) -> Constant:
    """The array in a tensor, once its claims of type and size are borne out by the bytes it carries.

    Raises:
        FileFormatError: claims and content differ, or the content is kept in another file.
        UnsupportedError: an element type that occurs in no certified graph (float16, quantised, …).
    """
    name = tensor.name
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        location = next((e.value for e in tensor.external_data if e.key == "location"), "?")
        raise FileFormatError(
            f"initializer '{name}' keeps its data in another file ('{location}'); a single file is accepted: "
            "onnx.save_model(onnx.load('model.onnx'), 'single.onnx', save_as_external_data=False)"
        )
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


def fold(node: onnx.NodeProto, inputs: list[Constant | None], opset: int) -> list[Constant]:
    """What a node makes of constants.

    Raises:
        UnsupportedError: the node cannot be folded exactly, or its result is not finite or too large.
    """
    if node.op_type not in MOVES_DATA | ROUNDS_ONCE:
        raise UnsupportedError(
            "computes a constant in a way that runtimes may round differently; "
            "fold constants before export so that the file holds the weights themselves",
            node=node.name or node.output[0],
            op=node.op_type,
        )
    if node.op_type == "Expand" and inputs[1] is not None:
        claimed = math.prod(int(d) for d in inputs[1].ravel())
        if claimed > MAX_ELEMENTS:
            raise UnsupportedError(f"makes {claimed} numbers", node=node.name, op=node.op_type)
    from onnx.reference import ReferenceEvaluator  # only files with constants to fold pay for it

    values = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in node.input if name]
    for value in values:
        value.ClearField("type")
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "constant", values, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    feeds = {name: array for name, array in zip(node.input, inputs, strict=True) if name}
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(None, feeds)
    except Exception as error:  # whatever a malformed node makes of the evaluator is a refusal
        raise UnsupportedError(
            f"cannot be computed from its constants: {error}",
            node=node.name or node.output[0],
            op=node.op_type,
        ) from error
    arrays = [np.asarray(result) for result in results]
    for array in arrays:
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise UnsupportedError(
                "makes a NaN or an infinity of its constants",
                node=node.name or node.output[0],
                op=node.op_type,
            )
    return arrays


def _type_name(data_type: int) -> str:
    try:
        return str(TensorProto.DataType.Name(data_type)).lower()
    except ValueError:
        return f"number {data_type}"
