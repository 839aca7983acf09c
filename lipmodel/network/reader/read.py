"""The only reader of ONNX files: from a file's bytes to typed operations, or to a refusal.

Everything else (bounds, rounding, execution, gradients) consumes the :class:`~lipmodel.network.ops.Graph`
made here and never reads ONNX again. The reader is a whitelist: an operator, an attribute or a
shape that is not expressly handled raises :class:`~lipmodel.errors.UnsupportedError` with the
node's name; nothing is assumed of it. Claims of the file (``value_info``, output shapes, metadata) are
not used.

The handlers of the operators are in ``handlers.py``, the state that they share in ``context.py``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import AttributeProto, helper

from lipmodel.errors import FileFormatError, OtherFileError, UnsupportedError, refusing_exhaustion
from lipmodel.network.ops import MAX_SCORES, Graph
from lipmodel.network.reader.constants import fold, read_tensor
from lipmodel.network.reader.context import MAX_AXES, MAX_SAMPLE, Node, Walk
from lipmodel.network.reader.external_data import embed_external_data, is_external
from lipmodel.network.reader.handlers import FLOATS, HANDLERS
from lipmodel.network.reader.shapes import BATCH, Constant, shape_vector
from lipmodel.network.reader.signatures import check_inputs
from lipmodel.network.rewrites import simplify

MIN_OPSET, MAX_OPSET = 7, 27
MAX_NODES = 10_000
MAX_LINKS = 200_000
"""Maximum inputs and outputs of all nodes, initializers and outputs of the graph, together."""
MAX_NAME = 1_000
"""Maximum characters of a name."""
MAX_BATCH = 4_096
"""Maximum batch size that a file may fix."""
MAX_FILE_BYTES = 2**31 - 1  # a protobuf cannot be larger


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file read as a network of known operations.

    Attributes:
        content: bytes of the file.
        sha256: digest of the bytes, in hexadecimal.
        graph: the network.
        output: name in the file of the output that holds the class scores.
        dtype: floating-point format of the input.
        score_dtype: floating-point format of the scores; differs from the input's where the file casts.
        operators: number of occurrences of each ONNX operator that the scores depend on.
        folded: names of the weights that the file computes from others by floating-point arithmetic. Their
            values are those computed here; another runtime may compute others.
        folded_sha256: digest of the folded weights, see :func:`digest_tensors`; None where there are none.
        metadata: metadata entries of the file, see ``metadata.py``.
    """

    content: bytes = field(repr=False)
    sha256: str
    graph: Graph
    output: str
    dtype: type[np.float32] | type[np.float64]
    score_dtype: type[np.float32] | type[np.float64]
    operators: dict[str, int]
    folded: tuple[str, ...]
    folded_sha256: str | None
    metadata: dict[str, str]

    @property
    def portable(self) -> bool:
        """Return whether every runtime sees the same weights."""
        return not self.folded


def digest_tensors(tensors: dict[str, Constant]) -> str:
    """Return the SHA-256 of tensors, in hexadecimal.

    The digest covers each tensor in turn: one line of JSON, ``[name, type, shape]``, then the numbers in
    row-major order, little-endian, zeros without their sign (it depends on the runtime and changes nothing).
    """
    digest = hashlib.sha256()
    for name, array in tensors.items():
        digest.update(json.dumps([name, str(array.dtype), list(array.shape)]).encode() + b"\n")
        unsigned = array + array.dtype.type(0)
        digest.update(unsigned.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


@refusing_exhaustion()
def read_onnx(source: Path | bytes, *, sha256: str | None = None) -> OnnxFile:
    """Read an ONNX file, or its bytes. Weights kept beside a file are read from its own folder.

    Args:
        source: path or bytes.
        sha256: digest that the file must have; checked before anything is computed.

    Returns:
        The network and the facts that were read with it.

    Raises:
        OtherFileError: the file has another digest than the one given.
        FileFormatError: the file is missing, truncated, not ONNX, or bytes that need other files.
        UnsupportedError: the network cannot be certified; names the node.
    """
    if isinstance(source, bytes):
        content = source
    else:
        try:
            content = source.read_bytes()
        except OSError as error:
            raise FileFormatError(f"cannot read {source}: {error.strerror or error}") from error
    if not content:
        raise FileFormatError("the file is empty; expected an ONNX model")
    if len(content) > MAX_FILE_BYTES:
        raise FileFormatError(f"the file has {len(content)} bytes; at most {MAX_FILE_BYTES} are accepted")
    try:
        model = onnx.load_model_from_string(content)
    except (DecodeError, ValueError, TypeError) as error:
        raise FileFormatError(f"not an ONNX model, or a truncated one ({error})") from error
    for field_, text in _texts(model):
        if not isinstance(text, str):  # protobuf gives bytes where text is not UTF-8
            raise FileFormatError(f"not an ONNX model: the text {text!r} in it is not UTF-8")
        if len(text) > MAX_NAME and field_ not in ("doc_string", "value"):  # value: of metadata
            raise FileFormatError(
                f"a name in the file ({field_}) has {len(text)} characters; at most {MAX_NAME} are accepted"
            )
    digest = hashlib.sha256(content)
    if isinstance(source, Path) and any(map(is_external, model.graph.initializer)):
        for line in embed_external_data(model, source.parent):
            digest.update(line)
        content = model.SerializeToString()
    if sha256 not in (None, digest.hexdigest()):
        raise OtherFileError("the file has changed since it was checked")
    return OnnxFile(
        content=content,
        sha256=digest.hexdigest(),
        **_read_graph(model),
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )


def _texts(message: Message) -> Iterator[tuple[str, str | bytes]]:
    """Yield the name of the field and the text of every string in a message."""
    for about, value in message.ListFields():
        values = value if about.is_repeated else (value,)
        if about.type == about.TYPE_STRING:
            yield from ((about.name, value) for value in values)
        elif about.type == about.TYPE_MESSAGE:
            for inner in values:
                yield from _texts(inner)


def without_dead(content: bytes, output: str) -> bytes:
    """Return a file without nodes that an output does not depend on: nodes not read must not run."""
    model = onnx.load_model_from_string(content)
    nodes, outputs = _reachable(model.graph, [output]), [o for o in model.graph.output if o.name == output]
    if len(nodes) == len(model.graph.node) and len(outputs) == len(model.graph.output):
        return content
    for field_, kept in ((model.graph.node, nodes), (model.graph.output, outputs)):
        copies = [type(one).FromString(one.SerializeToString()) for one in kept]
        del field_[:]
        field_.extend(copies)
    return bytes(model.SerializeToString())


def _read_graph(model: onnx.ModelProto) -> dict[str, Any]:
    """Read the graph up to the class scores: the only output, or the only one that can be certified.

    Returns:
        Fields of :class:`OnnxFile` that the graph determines.
    """
    walk, proto = Walk(_check_model(model)), model.graph
    for initializer in proto.initializer:
        if initializer.name in walk.constants:
            raise FileFormatError(f"two initializers are named '{initializer.name}'")
        walk.define_constant(initializer.name, read_tensor(initializer), stored=True)
    name = _declare_input(walk, proto)
    outputs = [output.name for output in proto.output]
    refused: dict[str, UnsupportedError] = {}  # by tensor that cannot be made
    for node in _reachable(proto, outputs):
        try:
            for read in filter(refused.__contains__, node.input):
                raise refused[read]
            _visit(walk, node)
        except UnsupportedError as error:
            refused |= dict.fromkeys(filter(None, node.output), error)
    found = []
    for output in outputs:
        try:
            _check_scores(walk, output, name, refused)
        except UnsupportedError as error:
            refused[output] = error
        else:
            found.append(output)
    if len(found) > 1:
        names = ", ".join(found)
        raise UnsupportedError(
            f"{len(found)} outputs of the graph could be class scores ({names}); export only one of them"
        )
    if not found:
        if len(outputs) == 1:
            raise refused[outputs[0]]
        names = ", ".join(outputs)
        raise UnsupportedError(f"no output of the graph ({names}) can be certified: {refused[outputs[-1]]}")
    (output,) = found
    nodes = _reachable(proto, [output])
    read_by_network = (i for node in nodes if not walk.made_of_constants(node) for i in node.input)
    folded = {i: walk.constants[i] for i in read_by_network if i in walk.computed}
    graph = Graph(input=name, input_shape=walk.shapes[name], ops=tuple(walk.ops), output=output)
    return {
        "graph": simplify(graph),
        "output": output,
        "dtype": walk.dtypes[name],
        "score_dtype": walk.dtypes[output],
        "operators": dict(sorted(Counter(node.op_type for node in nodes).items())),
        "folded": tuple(folded),
        "folded_sha256": digest_tensors(folded) if folded else None,
    }


def _check_scores(walk: Walk, output: str, name: str, refused: dict[str, UnsupportedError]) -> None:
    """Raise UnsupportedError where an output cannot hold class scores."""
    if output in refused:
        raise refused[output]
    if output in walk.constants or output not in walk.shapes:
        raise UnsupportedError(f"the output '{output}' does not depend on the input '{name}'")
    shape = walk.shapes[output]
    if len(shape) != 1 or not 1 <= shape[0] <= MAX_SCORES:
        raise UnsupportedError(
            f"the output has shape [batch, {', '.join(map(str, shape))}]; expected class scores of shape "
            f"[batch, classes] ([batch, 1] for two classes), at most {MAX_SCORES} classes"
        )


def _declare_input(walk: Walk, proto: onnx.GraphProto) -> str:
    """Declare the only input, with the shape that the file gives it, and return its name."""
    shared = [i.name for i in proto.input if i.name in walk.constants]
    if shared:
        raise UnsupportedError(
            f"initializer '{shared[0]}' is also a graph input, so a caller could replace the weights; "
            "remove it from the inputs (keep_initializers_as_inputs=False at export)"
        )
    if len(proto.input) != 1:
        names = ", ".join(f"'{i.name}'" for i in proto.input) or "none"
        raise UnsupportedError(f"the graph has {len(proto.input)} inputs ({names}); expected exactly one")
    value = proto.input[0]
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or tensor.elem_type not in FLOATS:
        raise UnsupportedError(f"input '{value.name}' is not a float32 or float64 tensor")
    dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
    if not tensor.HasField("shape") or len(dims) < 2:
        raise UnsupportedError(
            f"input '{value.name}' has shape {dims}; expected [batch, …] with at least one more axis"
        )
    if len(dims) > MAX_AXES:
        raise UnsupportedError(f"input '{value.name}' has {len(dims)} axes; at most {MAX_AXES} are accepted")
    if any(d is None or d < 1 for d in dims[1:]) or math.prod(d or 1 for d in dims[1:]) > MAX_SAMPLE:
        raise UnsupportedError(
            f"input '{value.name}' has shape {dims}; only the first axis, the batch, may be free, and a "
            f"sample may have at most {MAX_SAMPLE} numbers"
        )
    walk.batch = None if dims[0] is None or dims[0] < 0 else dims[0]
    if walk.batch is not None and not 1 <= walk.batch <= MAX_BATCH:
        raise UnsupportedError(
            f"input '{value.name}' fixes a batch of {walk.batch} samples; 1 to {MAX_BATCH} are accepted; "
            "export with a free batch axis (dynamic_axes or dynamic_shapes)"
        )
    shape = tuple(int(d) for d in dims[1:] if d is not None)
    walk.define(value.name, shape, FLOATS[tensor.elem_type])
    return str(value.name)


def _visit(walk: Walk, proto: onnx.NodeProto) -> None:
    """Read one node as a constant or as operations."""
    label = proto.name or next((o for o in proto.output if o), "")
    node = Node(proto, label, attributes := {})
    if proto.domain not in ("", "ai.onnx"):
        raise node.refuse(
            f"the operator's domain '{proto.domain}' is unknown; only standard ONNX operators are accepted"
        )
    for name in proto.input:
        if name and walk.known(name) is None and name not in walk.shapes:
            raise node.refuse(f"reads '{name}', which no earlier node makes")
    try:
        for attribute in proto.attribute:
            if attribute.name in attributes or attribute.ref_attr_name:
                raise ValueError(f"'{attribute.name}' is given twice or is a reference")
            attributes[attribute.name] = helper.get_attribute_value(attribute)
    except (ValueError, TypeError) as error:
        raise node.refuse(f"has a malformed attribute: {error}") from error
    check_inputs(node, walk.opset)
    walk.spend(node)  # at once, if a limit was reached before
    if proto.op_type == "Constant":
        _constant(walk, node)
    elif proto.op_type == "Shape" and proto.input[0] in walk.shapes:
        node.check_attributes(frozenset(("start", "end")))
        try:
            vector = shape_vector((BATCH, *walk.shapes[proto.input[0]]), attributes)
        except (ValueError, TypeError) as error:
            raise node.refuse(f"is malformed: {error}") from error
        walk.define_symbols(proto.output[0], vector)
    elif walk.made_of_constants(proto):
        fold(walk, node)
    else:
        handler, known = HANDLERS.get(proto.op_type, (None, frozenset()))
        if handler is None:
            raise node.refuse(_advice(node))
        node.check_attributes(known)
        try:
            handler(walk, node)
        except (ValueError, TypeError, IndexError, KeyError, OverflowError, AttributeError) as error:
            raise node.refuse(f"is malformed: {error}") from error


def _advice(node: Node) -> str:
    """Return the reason for refusing an operator, and the remedy."""
    before = node.proto.input[0] if node.proto.input else ""
    if node.op in ("Softmax", "LogSoftmax", "Sigmoid", "ArgMax", "ZipMap", "Cast"):
        inside = "; as a hidden layer it is not supported yet" if node.op == "Sigmoid" else ""
        return f"only the scores before it can be certified; make '{before}' an output of the graph{inside}"
    if node.op == "BatchNormalization":
        return "fold it into the layer before it (model.eval(), then export with constant folding)"
    accepted = ", ".join(sorted([*HANDLERS, "Constant"]))
    remedy = "replace it with a supported one, such as Relu or GroupSort, and train again"
    return f"this operator is not supported yet; {remedy}; supported operators: {accepted}"


_VALUES: dict[str, tuple[int, type[np.generic]]] = {
    "value_int": (AttributeProto.INT, np.int64),
    "value_ints": (AttributeProto.INTS, np.int64),
    "value_float": (AttributeProto.FLOAT, np.float32),
    "value_floats": (AttributeProto.FLOATS, np.float32),
}
"""Numeric attributes of a Constant, with the type of the attribute and that of the tensor."""


def _constant(walk: Walk, node: Node) -> None:
    if len(node.attributes) != 1:
        raise node.refuse(f"has {len(node.attributes)} values; expected exactly one")
    ((name, value),) = node.attributes.items()
    kind, dtype = _VALUES.get(name, (AttributeProto.UNDEFINED, np.generic))
    if name == "value" and isinstance(value, onnx.TensorProto):
        array = read_tensor(value)
    elif node.proto.attribute[0].type == kind:
        array = np.asarray(value, dtype=dtype)
        if not np.isfinite(array).all():
            raise node.refuse("holds a NaN or an infinity; only finite numbers are accepted")
    else:
        raise node.refuse("holds neither a tensor nor numbers")
    walk.define_constant(node.proto.output[0], array, stored=True)


def _check_model(model: onnx.ModelProto) -> int:
    """Check a model apart from its nodes, and return the opset."""
    if not model.HasField("graph") or not model.graph.output:
        raise FileFormatError("not an ONNX model: it has no graph with an output")
    if model.functions:
        raise UnsupportedError(
            "the file defines functions of its own; inline them with onnx.inliner.inline_local_functions"
        )
    if model.graph.sparse_initializer or model.graph.quantization_annotation:
        raise UnsupportedError("sparse and quantised initializers are not accepted; store dense floats")
    if len(model.graph.node) > MAX_NODES:
        raise UnsupportedError(
            f"the graph has {len(model.graph.node)} nodes; at most {MAX_NODES} are accepted"
        )
    links = len(model.graph.initializer) + len(model.graph.output)
    links += sum(len(node.input) + len(node.output) for node in model.graph.node)
    if links > MAX_LINKS:
        raise UnsupportedError(
            f"the graph has {links} inputs and outputs of nodes, initializers and outputs in total; at most "
            f"{MAX_LINKS} are accepted"
        )
    opsets = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if len(opsets) != 1:
        raise FileFormatError(f"the file imports the standard operators in versions {opsets}; expected one")
    if not MIN_OPSET <= opsets[0] <= MAX_OPSET:
        raise UnsupportedError(f"the file uses opset {opsets[0]}; {MIN_OPSET} to {MAX_OPSET} are accepted")
    return int(opsets[0])


def _reachable(graph: onnx.GraphProto, outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Return the nodes that outputs depend on, in file order: dead branches cost nothing."""
    made: set[str] = {i.name for i in graph.initializer} | {i.name for i in graph.input}
    for node in graph.node:
        for name in filter(None, node.output):
            if name in made:
                raise FileFormatError(f"the tensor '{name}' is defined twice")
            made.add(name)
    needed, kept = set(outputs), []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output if name):
            needed.update(name for name in node.input if name)
            kept.append(node)
    return kept[::-1]
