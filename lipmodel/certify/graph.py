"""THE walk of an ONNX graph: from a file's bytes to typed operations, or to a refusal.

Everything else (bounds, rounding, execution, gradients) consumes the :class:`~lipmodel.certify.ops.Graph`
made here and never looks at ONNX again. The walk is a whitelist: an operator, an attribute or a
shape that is not expressly handled raises :class:`~lipmodel.errors.UnsupportedError` with the
node's name; nothing is assumed of it. What the file says of itself (``value_info``, output shapes,
metadata) is not used.

The handlers of the operators stand in ``operators.py``, what they are written with in ``walk.py``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import helper

from lipmodel.certify.arity import check_inputs
from lipmodel.certify.external import embed_external_data, is_external
from lipmodel.certify.folding import fold, read_tensor
from lipmodel.certify.operators import FLOATS, HANDLERS
from lipmodel.certify.ops import Graph
from lipmodel.certify.shapes import fold_shape, shape_vector
from lipmodel.certify.simplify import simplify
from lipmodel.certify.walk import Node, Walk
from lipmodel.errors import FileFormatError, UnsupportedError

MIN_OPSET, MAX_OPSET = 7, 27
MAX_NODES = 10_000
MAX_FILE_BYTES = 2**31 - 1  # a protobuf cannot be larger


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that could be read as a network of known operations.

    Attributes:
        content: the file's bytes.
        sha256: their digest, in hexadecimal.
        graph: the network.
        output: the file's own name of the output that holds the class scores.
        dtype: the floating-point format that the file computes in.
        operators: how often each ONNX operator occurs on the way to the scores.
        portable: whether every runtime sees the same weights. Weights that the file computes from
            others by sums are taken as onnxruntime computes them here; another may round otherwise.
        metadata: what the file says of itself; claims, see ``claims.py``.
    """

    content: bytes = field(repr=False)
    sha256: str
    graph: Graph
    output: str
    dtype: type[np.float32] | type[np.float64]
    operators: dict[str, int]
    portable: bool
    metadata: dict[str, str]


def read_onnx(source: Path | bytes) -> OnnxFile:
    """Reads an ONNX file, or its bytes. Weights kept beside a file are read from its own folder.

    Raises:
        FileFormatError: the file is missing, truncated, not ONNX, or bytes that need other files.
        UnsupportedError: it holds something about which nothing is proved; names the node.
    """
    if isinstance(source, bytes):
        content = source
    else:
        try:
            content = source.read_bytes()
        except OSError as error:
            raise FileFormatError(f"cannot read {source}: {error.strerror or error}") from error
    if not content:
        raise FileFormatError("the file is empty; an ONNX model is accepted")
    if len(content) > MAX_FILE_BYTES:
        raise FileFormatError(f"the file has {len(content)} bytes; at most {MAX_FILE_BYTES} are accepted")
    try:
        model = onnx.load_model_from_string(content)
    except (DecodeError, ValueError, TypeError) as error:
        raise FileFormatError(f"not an ONNX model, or a truncated one ({error})") from error
    for text in _texts(model):
        if not isinstance(text, str):  # protobuf gives bytes for what is no text
            raise FileFormatError(f"not an ONNX model: the text {text!r} in it is not UTF-8")
    digest = hashlib.sha256(content)
    if isinstance(source, Path) and any(map(is_external, model.graph.initializer)):
        for line in embed_external_data(model, source.parent):
            digest.update(line.encode())
        content = model.SerializeToString()
    walk, graph, output = _scores_of(model)
    return OnnxFile(
        content=content,
        sha256=digest.hexdigest(),
        graph=graph,
        output=output,
        dtype=walk.dtypes[graph.input],
        operators=dict(sorted(walk.operators.items())),
        portable=walk.portable,
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )


def _texts(message: Message) -> Iterator[str | bytes]:
    """Every name and other text in a file."""
    for about, value in message.ListFields():
        values = value if about.is_repeated else (value,)
        if about.type == about.TYPE_STRING:
            yield from values
        elif about.type == about.TYPE_MESSAGE:
            for inner in values:
                yield from _texts(inner)


def without_dead(content: bytes, output: str) -> bytes:
    """The file without what that output does not depend on: what nobody has read is not to be run either."""
    model = onnx.load_model_from_string(content)
    nodes, outputs = _reachable(model.graph, output), [o for o in model.graph.output if o.name == output]
    if len(nodes) == len(model.graph.node) and len(outputs) == len(model.graph.output):
        return content
    for field_, kept in ((model.graph.node, nodes), (model.graph.output, outputs)):
        copies = [type(one).FromString(one.SerializeToString()) for one in kept]
        del field_[:]
        field_.extend(copies)
    return bytes(model.SerializeToString())


def _scores_of(model: onnx.ModelProto) -> tuple[Walk, Graph, str]:
    """Walks to the output that holds class scores: the only one, or the only one that can be certified."""
    opset = _check_model(model)
    outputs = [output.name for output in model.graph.output]
    found, refusals = [], []
    for output in outputs:
        walk = Walk(opset)
        try:
            found.append((walk, _walk(walk, model.graph, output), output))
        except UnsupportedError as error:
            refusals.append(error)
    if len(found) == 1:
        return found[0]
    if len(outputs) == 1:
        raise refusals[0]
    if found:
        names = ", ".join(output for _, _, output in found)
        raise UnsupportedError(f"{len(found)} of its outputs could be class scores ({names}); keep one")
    raise UnsupportedError(f"none of its outputs ({', '.join(outputs)}) can be certified: {refusals[-1]}")


def _walk(walk: Walk, proto: onnx.GraphProto, output: str) -> Graph:
    """Walks the nodes that the output depends on."""
    nodes = _reachable(proto, output)
    for initializer in proto.initializer:
        if initializer.name in walk.constants:
            raise FileFormatError(f"two initializers are named '{initializer.name}'")
        walk.define_constant(initializer.name, read_tensor(initializer))
    name = _declare_input(walk, proto)
    for node in nodes:
        _visit(walk, node)
    if output in walk.constants or output not in walk.shapes:
        raise UnsupportedError(f"the output '{output}' does not depend on the input '{name}'")
    if len(walk.shapes[output]) != 1 or walk.shapes[output][0] < 1:
        raise UnsupportedError(
            f"the output has shape [batch, {', '.join(map(str, walk.shapes[output]))}]; class scores of "
            "shape [batch, classes] are accepted ([batch, 1] for two classes)"
        )
    return simplify(Graph(input=name, input_shape=walk.shapes[name], ops=tuple(walk.ops), output=output))


def _declare_input(walk: Walk, proto: onnx.GraphProto) -> str:
    """Checks the one input; takes its shape from the file, which every caller must meet."""
    shared = [i.name for i in proto.input if i.name in walk.constants]
    if shared:
        raise UnsupportedError(
            f"initializer '{shared[0]}' is also a graph input, so a caller could replace it; "
            "remove it from the inputs (keep_initializers_as_inputs=False at export)"
        )
    if len(proto.input) != 1:
        names = ", ".join(f"'{i.name}'" for i in proto.input) or "none"
        raise UnsupportedError(f"the graph has {len(proto.input)} inputs ({names}); one is accepted")
    value = proto.input[0]
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or tensor.elem_type not in FLOATS:
        raise UnsupportedError(f"input '{value.name}' is not a float32 or float64 tensor")
    dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
    if not tensor.HasField("shape") or len(dims) < 2:
        raise UnsupportedError(
            f"input '{value.name}' has shape {dims}; [batch, …] with at least one axis more is accepted"
        )
    if any(d is None or d < 1 for d in dims[1:]) or math.prod(d or 1 for d in dims[1:]) > 2**24:
        raise UnsupportedError(
            f"input '{value.name}' has shape {dims}; only the first axis, the batch, may be free, "
            "and a sample has at most 2^24 numbers"
        )
    walk.batch = dims[0]
    shape = tuple(int(d) for d in dims[1:] if d is not None)
    walk.define(value.name, shape, FLOATS[tensor.elem_type])
    return str(value.name)


def _visit(walk: Walk, proto: onnx.NodeProto) -> None:
    """Turns one node into a constant or into operations."""
    label = proto.name or next((o for o in proto.output if o), "")
    if proto.domain not in ("", "ai.onnx"):
        raise UnsupportedError(
            f"domain '{proto.domain}' is unknown; standard ONNX operators are accepted",
            node=label,
            op=proto.op_type,
        )
    walk.operators[proto.op_type] += 1
    for name in proto.input:
        if name and not any(name in known for known in (walk.constants, walk.symbols, walk.shapes)):
            raise UnsupportedError(
                f"reads '{name}', which nothing before it makes", node=label, op=proto.op_type
            )
    try:
        attributes = _attributes(proto)
    except (ValueError, TypeError) as error:
        raise UnsupportedError(f"has a malformed attribute: {error}", node=label, op=proto.op_type) from error
    node = Node(proto, label, attributes)
    check_inputs(node, walk.opset)
    if proto.op_type == "Constant":
        _constant(walk, node)
    elif proto.op_type == "Shape" and proto.input[0] in walk.shapes:
        walk.define_symbols(proto.output[0], shape_vector(walk.shapes[proto.input[0]], attributes))
    elif not any(name in walk.shapes for name in proto.input):
        _fold(walk, node)
    else:
        handler, known = HANDLERS.get(proto.op_type, (None, frozenset()))
        if handler is None:
            raise node.refuse(_advice(node))
        if unknown := sorted(map(str, set(attributes) - known)):
            raise node.refuse(f"attribute '{unknown[0]}' is not understood")
        try:
            handler(walk, node)
        except (ValueError, TypeError, IndexError, KeyError, OverflowError, AttributeError) as error:
            raise node.refuse(f"is malformed: {error}") from error


def _advice(node: Node) -> str:
    """Why an operator is refused, and how to export so that it isn't."""
    before = node.proto.input[0] if node.proto.input else ""
    if node.op in ("Softmax", "LogSoftmax", "Sigmoid", "ArgMax", "ZipMap", "Cast"):
        return f"certificates speak of the scores before it: make '{before}' an output of the graph"
    if node.op == "BatchNormalization":
        return "fold it into the layer before it (model.eval(), then export with constant folding)"
    accepted = ", ".join(sorted([*HANDLERS, "Constant"]))
    return f"this operator has no proved Lipschitz bound; accepted are {accepted}"


def _fold(walk: Walk, node: Node) -> None:
    """Computes at load what depends on constants and shapes alone."""
    names = [name for name in node.proto.input if name]
    if any(name in walk.symbols for name in names):
        known = {**walk.constants, **walk.symbols}
        inputs = [known.get(name) for name in node.proto.input]
        try:
            walk.define_symbols(node.proto.output[0], fold_shape(node.op, inputs, node.attributes))
        except (ValueError, IndexError, TypeError, ZeroDivisionError) as error:
            raise node.refuse(f"computes a shape in a way that is not understood: {error}") from error
        return
    results, exact = fold(node.proto, [walk.constants.get(name) for name in node.proto.input], walk.opset)
    walk.portable = walk.portable and exact
    for name, array in zip((o for o in node.proto.output if o), results, strict=False):
        walk.define_constant(name, array)


def _constant(walk: Walk, node: Node) -> None:
    values = [v for v in node.attributes.values() if v is not None]
    if len(values) != 1:
        raise node.refuse("has no single value")
    value = values[0]
    if isinstance(value, onnx.TensorProto):
        array = read_tensor(value)
    elif isinstance(value, (int, float)) or (
        isinstance(value, list) and all(isinstance(v, (int, float)) for v in value)
    ):
        listed = value if isinstance(value, list) else [value]
        kind = np.int64 if all(isinstance(v, int) for v in listed) else np.float32
        array = np.asarray(value, dtype=kind)
        if not np.isfinite(array).all():
            raise node.refuse("holds a NaN or an infinity")
    else:
        raise node.refuse("holds neither a tensor nor numbers")
    walk.define_constant(node.proto.output[0], array)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes by name; ValueError where one is given twice or stands for a function's."""
    attributes: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.name in attributes or attribute.ref_attr_name:
            raise ValueError(f"'{attribute.name}' is given twice or is a reference")
        attributes[attribute.name] = helper.get_attribute_value(attribute)
    return attributes


def _check_model(model: onnx.ModelProto) -> int:
    """Checks what stands above the graph; returns the opset."""
    if not model.HasField("graph") or not model.graph.output:
        raise FileFormatError("not an ONNX model: it has no graph with an output")
    if model.functions:
        raise UnsupportedError(
            "the file defines functions of its own; inline them: onnx.inliner.inline_local_functions"
        )
    if model.graph.sparse_initializer or model.graph.quantization_annotation:
        raise UnsupportedError("sparse and quantised initializers are not accepted")
    if len(model.graph.node) > MAX_NODES:
        raise UnsupportedError(
            f"the graph has {len(model.graph.node)} nodes; at most {MAX_NODES} are accepted"
        )
    opsets = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if len(opsets) != 1:
        raise FileFormatError(f"the file must name one version of the standard operators; it names {opsets}")
    if not MIN_OPSET <= opsets[0] <= MAX_OPSET:
        raise UnsupportedError(f"opset {opsets[0]} is not accepted; {MIN_OPSET} to {MAX_OPSET} are")
    return int(opsets[0])


def _reachable(graph: onnx.GraphProto, output: str) -> list[onnx.NodeProto]:
    """The nodes that the output depends on, in file order; dead branches prove nothing and cost nothing."""
    made: set[str] = {i.name for i in graph.initializer} | {i.name for i in graph.input}
    for node in graph.node:
        for name in filter(None, node.output):
            if name in made:
                raise FileFormatError(f"the tensor '{name}' is made twice")
            made.add(name)
    needed, kept = {output}, []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output if name):
            needed.update(name for name in node.input if name)
            kept.append(node)
    return kept[::-1]
