"""Constants of an ONNX file: initialisers, and constants folded from others.

A constant that a file computes depends on the runtime that computes it, unless every runtime
computes the same. So each operator that may stand between constants is of one kind:

* *It moves data* or counts axes: numpy does it here, and every runtime gets the same numbers.
* *Integer arithmetic*: in Python integers, within the range of int32 (``shapes.py``); the same everywhere.
* *A Cast* among :data:`TENSOR_TYPES` that loses nothing, value by value: the same everywhere, but for
  subnormal numbers, which some processors flush to zero.
* *Floating-point arithmetic*: runtimes differ (they fuse, flush, sum in another order), if only in the
  last bit. The results are those computed here, and are recorded as computed (``Walk.computed``):
  a certificate then speaks of these very numbers, and names their digest.

Everything else is refused, above all number formats that numpy or onnxruntime read in their own ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lipmodel.errors import FileFormatError, UnsupportedError
from lipmodel.network.reader.context import MAX_AXES, Node, Walk, registering
from lipmodel.network.reader.external_data import HOW_TO_SAVE_ONE_FILE, is_external
from lipmodel.network.reader.shapes import Constant, Symbols, compute, shape_vector
from lipmodel.network.session import open_session

MAX_ELEMENTS = 2**28
"""Maximum elements of a tensor."""
MAX_SHAPE = 2**10
"""Maximum integers in an array of a shape whose batch is left open."""
SESSION_WORK = 2**23
"""Cost of opening a session, in multiplications; about half a millisecond."""
ELEMENT_WORK, INTEGER_WORK = 2**5, 2**13
"""Cost of reading one number and of one Python integer's arithmetic, in multiplications."""

TENSOR_TYPES: dict[int, type[np.generic]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.INT64: np.int64,
    TensorProto.INT32: np.int32,
    TensorProto.BOOL: np.bool_,
}
"""Accepted element types: floats are weights, the others are shapes and indices."""

HOW_TO_FOLD = (
    "let the exporter compute it and store the result (torch.onnx.export(…, do_constant_folding=True), "
    "onnxsim, or remove_parametrizations before the export)"
)

Known = Constant | Symbols
Fold = Callable[[Walk, Node, list[Any]], list[Known]]
FOLDS: dict[str, tuple[Fold, frozenset[str]]] = {}
"""Rule that folds each operator's constants, with the attributes that it reads."""
_folds = partial(registering, FOLDS)


def read_tensor(tensor: onnx.TensorProto) -> Constant:
    """Return the array in a tensor, after checking its declared type and shape against its bytes.

    Raises:
        FileFormatError: declaration and content differ, or the content is in another file.
        UnsupportedError: an element type that no certified graph has (float16, quantised, …).
    """
    name = tensor.name
    if is_external(tensor):
        raise FileFormatError(f"initializer '{name}' has its data in another file; {HOW_TO_SAVE_ONE_FILE}")
    if tensor.data_type not in TENSOR_TYPES:
        kind = _type_name(tensor.data_type)
        raise UnsupportedError(f"initializer '{name}' has type {kind}; float32 and float64 are accepted")
    if len(tensor.dims) > MAX_AXES:
        raise UnsupportedError(
            f"initializer '{name}' has {len(tensor.dims)} axes; at most {MAX_AXES} are accepted"
        )
    if any(d < 0 for d in tensor.dims):
        raise FileFormatError(f"initializer '{name}' has a negative dimension: {list(tensor.dims)}")
    count = math.prod(tensor.dims)
    if count > MAX_ELEMENTS:
        raise FileFormatError(
            f"initializer '{name}' declares {count} numbers; at most {MAX_ELEMENTS} are accepted"
        )
    dtype = np.dtype(TENSOR_TYPES[tensor.data_type])
    if len(fields := [field.name for field, _ in tensor.ListFields() if field.name.endswith("_data")]) > 1:
        raise FileFormatError(
            f"initializer '{name}' has numbers in both {' and '.join(fields)}; runtimes read either"
        )
    if tensor.HasField("raw_data"):
        numbers: Any = np.frombuffer(tensor.raw_data, np.uint8)
        carried = len(numbers) / dtype.itemsize
    else:
        numbers = getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type))
        carried = len(numbers)
    if carried != count:
        raise FileFormatError(
            f"initializer '{name}' declares {count} numbers (shape {list(tensor.dims)}) but has {carried:g}"
        )
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise FileFormatError(f"initializer '{name}' cannot be read: {error}") from error
    if array.dtype == np.bool_ and (array.ravel() != np.asarray(numbers)).any():
        raise FileFormatError(
            f"initializer '{name}' has booleans other than 0 and 1, which runtimes read differently"
        )
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise UnsupportedError(
            f"initializer '{name}' has a NaN or an infinity; only finite weights are accepted"
        )
    return array


def fold(walk: Walk, node: Node) -> None:
    """Compute the outputs of a node that depends on constants and shapes alone.

    Raises:
        UnsupportedError: the operator is not folded, or its operands or attributes do not fit.
    """
    rule, known = FOLDS.get(node.op, (None, frozenset()))
    if rule is None:
        raise node.refuse(f"computes a constant, which is not supported for this operator; {HOW_TO_FOLD}")
    node.check_attributes(known)
    inputs = [walk.known(name) for name in node.proto.input]
    walk.spend(node, work=ELEMENT_WORK * sum(x.size for x in inputs if x is not None))
    try:
        with np.errstate(all="ignore"):
            results = rule(walk, node, inputs)
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        raise node.refuse(f"cannot be computed from its constants: {error}") from error
    names = [name for name in node.proto.output if name]
    if len(names) > len(results):
        raise node.refuse(f"has {len(names)} outputs; expected at most {len(results)}")
    if any(name in walk.computed for name in node.proto.input) and (
        node.op != "Shape" or walk.sizes_computed
    ):
        walk.computed.update(names)
    for name, result in zip(node.proto.output, results, strict=False):
        if not name:
            continue
        if result.dtype == object:
            if result.size > MAX_SHAPE or name in walk.computed:
                raise node.refuse(
                    f"makes a shape of {result.size} integers, or from computed floats; at most {MAX_SHAPE} "
                    "integers are accepted, from no floats"
                )
            walk.define_symbols(name, result)
        else:
            walk.define_constant(name, result)
            walk.sizes_computed |= result.dtype.kind == "i" and name in walk.computed


# --- operators that move data: any type, open shapes among them ----------------------------


@_folds("Identity")
def _identity(walk: Walk, node: Node, inputs: list[Any]) -> list[Known]:
    return [inputs[0]]


@_folds("Shape", attributes=("start", "end"))
def _shape(walk: Walk, node: Node, inputs: list[Any]) -> list[Known]:
    return [shape_vector(inputs[0].shape, node.attributes).astype(np.int64)]


@_folds("Transpose", attributes=("perm",))
def _transpose(walk: Walk, node: Node, inputs: list[Any]) -> list[Known]:
    return [inputs[0].transpose(node.attributes.get("perm"))]


@_folds("Reshape", attributes=("shape", "allowzero"))
def _reshape(walk: Walk, node: Node, inputs: list[Any]) -> list[Known]:
    x, target = inputs[0], _integers(walk, node, 1, "shape")
    if min(target, default=0) < -1:
        raise ValueError(f"target shape {target} has negative sizes")
    if not node.flag("allowzero", 0):
        target = [x.shape[i] if d == 0 else d for i, d in enumerate(target)]
    return [x.reshape(target)]


@_folds("Flatten", attributes=("axis",))
def _flatten(walk: Walk, node: Node, inputs: list[Any]) -> list[Known]:
    x, axis = inputs[0], node.attributes.get("axis", 1)
    if not -x.ndim <= axis <= x.ndim:
        raise ValueError(f"axis {axis} does not exist")
    return [x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))]


@_folds("Squeeze", attributes=("axes",))
def _squeeze(walk: Walk, node: Node, inputs: list[Any]) -> list[Known]:
    axes = walk.integers(node, 1, "axes")
    if axes == []:
        raise ValueError("has an empty list of axes: some runtimes remove none then, others all of size 1")
    return [inputs[0].squeeze(None if axes is None else tuple(axes))]


@_folds("Unsqueeze", attributes=("axes",))
def _unsqueeze(walk: Walk, node: Node, inputs: list[Any]) -> list[Known]:
    return [np.expand_dims(inputs[0], tuple(_integers(walk, node, 1, "axes")))]


@_folds("Concat", attributes=("axis",))
def _concat(walk: Walk, node: Node, inputs: list[Any]) -> list[Known]:
    walk.spend(node, numbers=sum(x.size for x in inputs))
    return [np.concatenate(inputs, axis=node.attributes["axis"], dtype=_type_of(inputs))]


@_folds("Slice", attributes=("starts", "ends", "axes"))
def _slice(walk: Walk, node: Node, inputs: list[Any]) -> list[Known]:
    x = inputs[0]
    index = [slice(None)] * x.ndim
    for axis, selected in walk.slices(node, x.ndim):
        # Some runtimes start at the first entry then, others select nothing.
        if selected.step < 0 and selected.start < -x.shape[axis]:
            raise ValueError(
                f"starts backwards at {selected.start}, before the first of {x.shape[axis]} entries"
            )
        index[axis] = selected
    return [x[tuple(index)]]


@_folds("Split", attributes=("axis", "split", "num_outputs"))
def _split(walk: Walk, node: Node, inputs: list[Any]) -> list[Known]:
    x, axis = inputs[0], node.attributes.get("axis", 0)
    sizes = walk.parts(node, x.shape[axis])
    return list(np.split(x, np.cumsum(sizes)[:-1], axis=axis))


@_folds("Gather", attributes=("axis",))
def _gather(walk: Walk, node: Node, inputs: list[Any]) -> list[Known]:
    (x, indices), axis = inputs, node.attributes.get("axis", 0)
    if indices.dtype.kind != "i":
        raise ValueError("has indices that are not integers known at load")
    walk.spend(node, numbers=x.size // max(x.shape[axis], 1) * indices.size)
    return [np.asarray(np.take(x, indices, axis=axis))]


@_folds("Expand")
def _expand(walk: Walk, node: Node, inputs: list[Any]) -> list[Known]:
    sizes = _integers(walk, node, 1, "shape")
    if min(sizes, default=0) < 0:
        raise ValueError(f"shape {sizes} has negative sizes")
    shape = np.broadcast_shapes(inputs[0].shape, tuple(sizes))
    walk.spend(node, numbers=math.prod(shape))
    return [np.broadcast_to(inputs[0], shape)]


def _integers(walk: Walk, node: Node, index: int, attribute: str) -> list[int]:
    values = walk.integers(node, index, attribute)
    if values is None:
        raise ValueError(f"has no {attribute}")
    return values


# --- Cast ----------------------------------------------------------------------------------


@_folds("Cast", attributes=("to", "saturate", "round_mode"))
def _cast(walk: Walk, node: Node, inputs: list[Any]) -> list[Known]:
    x, to = inputs[0], node.attributes.get("to", 0)
    target = TENSOR_TYPES.get(to)
    if target is None:
        raise node.refuse(
            f"casts a constant to {_type_name(to)}, which runtimes do in different ways; {HOW_TO_FOLD}"
        )
    if x.dtype == object:
        if not np.issubdtype(target, np.integer):
            raise ValueError("casts a shape to a type other than an integer")
        closed = np.array([v for v in x.flat if isinstance(v, int)], dtype=object)
        if not _equal(closed, closed.astype(target)):
            raise ValueError(f"has an integer outside {np.dtype(target)}")
        return [x]
    result = x.astype(target)
    if not (_representable(x, target) and _representable(result, x.dtype) and _equal(x, result)):
        raise node.refuse(
            f"casts constants from {x.dtype} to {result.dtype} and loses some of their value; {HOW_TO_FOLD}"
        )
    if _has_subnormal(x) or _has_subnormal(result):
        walk.computed.update(node.proto.output)
    return [result]


def _representable(x: Constant, dtype: Any) -> bool:
    """Return whether numbers are within an integer type; the cast of a float beyond it is undefined."""
    if x.dtype.kind != "f" or np.dtype(dtype).kind != "i":
        return True
    end = 2.0 ** (np.iinfo(dtype).bits - 1)
    return bool(((x >= -end) & (x < end)).all())


def _equal(x: Constant, result: Constant) -> bool:
    return bool((result.astype(x.dtype) == x).all())


def _has_subnormal(x: Constant) -> bool:
    if x.dtype.kind != "f":
        return False
    sizes = np.abs(x)
    return bool(((sizes > 0) & (sizes < np.finfo(x.dtype).tiny)).any())


# --- arithmetic ----------------------------------------------------------------------------

ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Max": np.maximum,
    "Min": np.minimum,
}
UNARY: dict[str, Callable[..., Any]] = {
    "Neg": np.negative,
    "Abs": np.abs,
    "Sqrt": np.sqrt,
    "Relu": lambda x: np.maximum(x, x.dtype.type(0)),
    "Reciprocal": lambda x: x.dtype.type(1) / x,
}


@_folds(*ELEMENTWISE)
def _elementwise(walk: Walk, node: Node, inputs: list[Any]) -> list[Known]:
    walk.spend(node, numbers=(len(inputs) - 1) * math.prod(np.broadcast_shapes(*(x.shape for x in inputs))))
    if _type_of(inputs).kind in "iO":
        return [reduce(lambda a, b: _integer_arithmetic(walk, node, node.op, a, b), inputs)]
    return [_computed(walk, node, inputs, np.asarray(reduce(ELEMENTWISE[node.op], inputs)))]


@_folds(*UNARY)
def _unary(walk: Walk, node: Node, inputs: list[Any]) -> list[Known]:
    (x,) = inputs
    walk.spend(node, numbers=x.size)
    if x.dtype.kind in "iO" and node.op in ("Neg", "Abs"):
        negated = _integer_arithmetic(walk, node, "Sub", np.zeros((), np.int64).astype(x.dtype), x)
        return [negated if node.op == "Neg" else _integer_arithmetic(walk, node, "Max", x, negated)]
    return [_computed(walk, node, inputs, np.asarray(UNARY[node.op](x)))]


@_folds("MatMul")
@_folds("Gemm", attributes=("alpha", "beta", "transA", "transB"))
def _product(walk: Walk, node: Node, inputs: list[Any]) -> list[Known]:
    """Compute a product of matrices, or of batches of matrices."""
    a, b = (x.T if node.flag(f, 0) else x for x, f in zip(inputs, ("transA", "transB"), strict=False))
    rows, columns = math.prod(a.shape[-2:-1]), math.prod(b.shape[1:][-1:])
    numbers = math.prod(np.broadcast_shapes(a.shape[:-2], b.shape[:-2])) * rows * columns
    walk.spend(node, numbers=numbers, work=numbers * a.shape[-1])
    return [_computed(walk, node, [x for x in inputs if x is not None], _run(walk, node))]


@_folds("Pow")
def _pow(walk: Walk, node: Node, inputs: list[Any]) -> list[Known]:
    base, exponent = inputs
    walk.spend(node, numbers=math.prod(np.broadcast_shapes(base.shape, exponent.shape)))
    return [_computed(walk, node, [base], _run(walk, node))]


@_folds(
    *("ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare"),
    attributes=("axes", "keepdims", "noop_with_empty_axes"),
)
def _reduce(walk: Walk, node: Node, inputs: list[Any]) -> list[Known]:
    x, axes = inputs[0], walk.integers(node, 1, "axes") or []
    if len({axis % x.ndim for axis in axes if -x.ndim <= axis < x.ndim}) < len(axes):
        raise ValueError(f"has axes {axes}; expected distinct axes of a tensor of {x.ndim}")
    node.flag("keepdims", 1), node.flag("noop_with_empty_axes", 0)
    walk.spend(node, numbers=x.size)
    return [_computed(walk, node, [x], _run(walk, node))]


def _integer_arithmetic(walk: Walk, node: Node, op: str, a: Known, b: Known) -> Known:
    """Return ``a op b``, entry by entry; within int32, as that may be the type of what was an open shape."""
    kind, limits = _type_of([a, b]), np.iinfo(np.int32)
    walk.spend(node, work=INTEGER_WORK * math.prod(np.broadcast_shapes(a.shape, b.shape)))
    each = np.frompyfunc(lambda x, y: compute(op, x, y, (limits.min, limits.max)), 2, 1)
    return np.asarray(each(a.astype(object), b.astype(object)), dtype=object).astype(kind)


def _type_of(inputs: list[Any]) -> np.dtype[Any]:
    """Return the common type of operands; an open shape is compatible with either integer type."""
    kinds = {x.dtype for x in inputs}
    closed = kinds - {np.dtype(object)}
    if len(closed) > 1 or (closed != kinds and any(kind.kind != "i" for kind in closed)):
        raise ValueError(f"mixes {' and '.join(sorted(map(str, kinds)))}")
    return closed.pop() if closed == kinds else np.dtype(object)


def _computed(walk: Walk, node: Node, operands: list[Any], result: Constant) -> Constant:
    """Record a result of floating-point arithmetic as computed, and return it."""
    if _type_of(operands).kind != "f" or result.dtype != operands[0].dtype:
        raise ValueError(f"{node.op} of {operands[0].dtype} is not folded")
    if not np.isfinite(result).all():
        raise ValueError("the result has a NaN or an infinity")
    walk.computed.update(node.proto.output)
    return result


def _run(walk: Walk, node: Node) -> Constant:
    """Run one node in onnxruntime, with initializers as such: the kernels pack them."""
    arrays = {name: walk.constants[name] for name in node.proto.input if name}
    if not all(array.size for array in arrays.values()):
        raise ValueError("has an empty operand")
    walk.spend(node, work=SESSION_WORK)
    feeds = {name: array for name, array in arrays.items() if name not in walk.stored}
    graph = helper.make_graph(
        [node.proto],
        "constant",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feeds.items()
        ],
        [onnx.ValueInfoProto(name=node.proto.output[0])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items() if name in walk.stored],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", walk.opset)], ir_version=8)
    try:
        session: Any = open_session(model.SerializeToString())
        (result,) = session.run(None, feeds)
    except Exception as error:  # onnxruntime raises many kinds; each is a refusal
        raise ValueError(str(error)) from error
    return np.array(result)  # a copy, as the result would keep the session's memory, a megabyte and more


def _type_name(data_type: Any) -> str:
    try:
        return str(TensorProto.DataType.Name(data_type)).lower()
    except (ValueError, TypeError):
        return f"number {data_type}"
