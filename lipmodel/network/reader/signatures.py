"""Check of a node's number of inputs against its operator's definition: runtimes may crash on others.

ONNX's own definitions take 7 MiB, as all operators are loaded with the first one. So the numbers of usual
nodes stand in a table, and the definitions are loaded for other nodes alone.
"""

from __future__ import annotations

import onnx

from lipmodel.network.reader.context import Node

ANY = 2**31 - 1
_REDUCE = {"ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSumSquare"}
USUAL: dict[tuple[int, int, int], set[str]] = {
    (7, 0, 0): {"Constant"},
    (7, 1, 1): {
        "Abs", "AveragePool", "Cast", "Clip", "Flatten", "GlobalAveragePool", "GlobalMaxPool", "Identity",
        "LeakyRelu", "MaxPool", "Neg", "Reciprocal", "ReduceSum", "Relu", "Shape", "Split", "Sqrt", "Squeeze",
        "Transpose", *_REDUCE,
    },
    (7, 1, ANY): {"Concat", "Max", "Min"},
    (7, 2, 2): {"Add", "Div", "Gather", "MatMul", "Mul", "PRelu", "Pow", "Reshape", "Sub"},
    (7, 2, 3): {"Conv"},
    (7, 3, 3): {"Gemm"},
    (8, 2, 2): {"Expand"},
    (10, 2, 2): {"TopK"},
    (10, 3, 5): {"Slice"},
    (11, 1, 3): {"Clip"},
    (11, 2, 2): {"Gemm"},
    (13, 2, 2): {"ReduceSum", "Split", "Squeeze", "Unsqueeze"},
    (18, 2, 2): _REDUCE,
}  # fmt: skip
"""Operators by (first opset, minimum, maximum) of the number of inputs, where no input is absent."""


def check_inputs(node: Node, opset: int) -> None:
    """Check the inputs of a node against the definition of its operator.

    Raises:
        UnsupportedError: too many inputs, or one absent that is not optional.
    """
    inputs = node.proto.input
    if all(inputs) and is_usual(node.op, opset, len(inputs)):
        return
    try:
        schema = onnx.defs.get_schema(node.op, opset, "")
    except (onnx.defs.SchemaError, TypeError):  # unknown, or a malformed name or number
        raise node.refuse(f"is not an operator of opset {opset}") from None
    if not schema.min_input <= len(inputs) <= schema.max_input:
        raise node.refuse(f"has {len(inputs)} input(s); expected {schema.min_input} to {schema.max_input}")
    for index, name in enumerate(inputs):
        declared = schema.inputs[min(index, len(schema.inputs) - 1)]
        if not name and declared.option is not onnx.defs.OpSchema.FormalParameterOption.Optional:
            raise node.refuse(f"lacks its required input {index} ('{declared.name}')")


def is_usual(op: str, opset: int, count: int) -> bool:
    """Return whether the table allows ``count`` inputs, none of them absent."""
    return any(
        opset >= since and fewest <= count <= most and op in ops
        for (since, fewest, most), ops in USUAL.items()
    )
