"""Whitelist of ONNX operators: each handler turns one node into typed operations.

A handler checks everything that its operator's bound depends on, and above all that the node
leaves the batch axis alone. Attributes that a handler does not name are refused before it is called.
Some parameters are attributes in older opsets and inputs in newer ones; both are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
from onnx import TensorProto

from lipmodel.network import ops
from lipmodel.network.reader.context import MAX_AXES, Node, Walk, registering
from lipmodel.network.reader.shapes import BATCH
from lipmodel.network.window import Shape, Window

FLOATS: dict[int | None, type[np.float32] | type[np.float64]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
}

MAX_TERMS = 2**22
MAX_POSITIONS, MAX_WINDOWED = 2**24, 2**25
"""Maximum entries that the windows of one node read in one channel, and in all channels."""
NUMBERS_PER_INDEX = 16
"""Numbers that one index counts as: a Python integer takes as much memory."""

Handler = Callable[[Walk, Node], None]
HANDLERS: dict[str, tuple[Handler, frozenset[str]]] = {}
_handles = partial(registering, HANDLERS)
TensorHandler = Callable[[Walk, Node, str, Shape], None]


def _transforms(*op_types: str, attributes: tuple[str, ...] = ()) -> Callable[[TensorHandler], TensorHandler]:
    """Register a handler that takes the name and shape of the first input, which must not be constant."""

    def register(handler: TensorHandler) -> TensorHandler:
        _handles(*op_types, attributes=attributes)(
            lambda walk, node: handler(walk, node, *walk.dynamic(node))
        )
        return handler

    return register


@_handles("Gemm", attributes=("alpha", "beta", "transA", "transB"))
def _gemm(walk: Walk, node: Node) -> None:
    a = node.attributes
    if a.get("alpha", 1.0) != 1.0 or a.get("beta", 1.0) != 1.0 or a.get("transA", 0) != 0:
        raise node.refuse("requires alpha = beta = 1 and transA = 0; fold the factors into the weights")
    x, shape = walk.dynamic(node)
    weight = walk.weights(node, 1, x)
    if weight is None or weight.ndim != 2 or len(shape) != 1:
        raise node.refuse("requires an input of shape [batch, n] and a constant weight matrix")
    weight = weight if node.flag("transB", 0) else weight.T
    bias = walk.weights(node, 2, x)
    _finish_dense(walk, node, x, weight, bias)


@_transforms("MatMul")
def _matmul(walk: Walk, node: Node, x: str, shape: Shape) -> None:
    weight = walk.weights(node, 1, x)
    if weight is None or weight.ndim != 2:
        raise node.refuse("requires a constant matrix of two axes as the right operand")
    _finish_dense(walk, node, x, weight.T, None)


def _finish_dense(walk: Walk, node: Node, x: str, weight: Any, bias: Any) -> None:
    shape = walk.shapes[x]
    m, n = weight.shape
    _check_terms(node, n)
    if not shape or shape[-1] != n or m == 0:
        raise node.refuse(f"has weights ({m}, {n}), but its input has shape {list(shape)} per sample")
    if bias is not None:
        bias = np.broadcast_to(walk.per_sample(node, bias, (m,)), (m,))
    walk.add(
        node, ops.Dense, (x,), (*shape[:-1], m), weight=np.ascontiguousarray(weight, np.float64), bias=bias
    )


def _check_terms(node: Node, terms: int) -> None:
    """Refuse sums so long that the rounding of float32 has no useful bound (γ_n, n u near 1)."""
    if terms > MAX_TERMS:
        raise node.refuse(f"sums {terms} products; at most {MAX_TERMS} are accepted")


@_handles("Add", "Sub")
def _add(walk: Walk, node: Node) -> None:
    """Read x ± c, c - x = (-x) + c, x + y, x - y = x + (-y): negation is exact, so rounding is the same."""
    subtract = node.op == "Sub"
    left, right = node.proto.input
    if left in walk.shapes and right in walk.shapes:
        shape = _same_shape(walk, node, (left, right))
        if subtract:
            right = walk.add(node, ops.Negate, (right,), shape, output=None)
        walk.add(node, ops.Sum, (left, right), shape)
        return
    index = 0 if left in walk.shapes else 1
    x, shape = walk.dynamic(node, index)
    offset = walk.per_sample(node, walk.weights(node, 1 - index, x), shape)
    if subtract and index == 0:
        offset = -offset
    elif subtract:
        x = walk.add(node, ops.Negate, (x,), shape, output=None)
    walk.add(node, ops.Shift, (x,), shape, offset=offset)


@_handles("Mul", "Div")
def _multiply(walk: Walk, node: Node) -> None:
    left, right = walk.input(node, 0), walk.input(node, 1)
    divide = node.op == "Div"
    if (left in walk.shapes and right in walk.shapes) or (divide and right in walk.shapes):
        raise node.refuse("requires a constant factor or divisor: a product of tensors is not Lipschitz")
    index = 0 if left in walk.shapes else 1
    x, shape = walk.dynamic(node, index)
    factor = walk.per_sample(node, walk.weights(node, 1 - index, x), shape)
    if divide and not (np.abs(factor) >= np.finfo(walk.dtypes[x]).tiny).all():
        raise node.refuse("divides by zero, or by a subnormal number, which some processors flush to zero")
    walk.add(node, ops.Scale, (x,), shape, factor=factor, divide=divide)


@_handles("Max", "Min")
def _extremum(walk: Walk, node: Node) -> None:
    kind = node.op.lower()
    names = list(dict.fromkeys(i for i in node.proto.input if i in walk.shapes))
    shape = _same_shape(walk, node, tuple(names))
    bounds = [
        walk.per_sample(node, walk.weights(node, index, names[0]), shape)
        for index, name in enumerate(node.proto.input)
        if name in walk.constants
    ]
    x = names[0]
    if len(names) > 1:
        x = walk.add(node, ops.Extremum, tuple(names), shape, output=None if bounds else 0, kind=kind)
    elif not bounds:
        walk.reshape(node, x, shape)
    if bounds:
        bound = reduce(np.maximum if kind == "max" else np.minimum, bounds)
        walk.add(node, ops.Clip, (x,), shape, **{"low" if kind == "max" else "high": bound})


@_transforms("Relu")
def _relu(walk: Walk, node: Node, x: str, shape: Shape) -> None:
    walk.add(node, ops.Clip, (x,), shape, low=np.zeros(()))


@_transforms("LeakyRelu", attributes=("alpha",))
def _leaky_relu(walk: Walk, node: Node, x: str, shape: Shape) -> None:
    slope = np.float32(node.attributes.get("alpha", 0.01))  # the attribute is a float32 in the file
    walk.add(node, ops.LeakyRelu, (x,), shape, slope=np.asarray(slope, np.float64))


@_transforms("PRelu")
def _prelu(walk: Walk, node: Node, x: str, shape: Shape) -> None:
    slope = walk.per_sample(node, walk.weights(node, 1, x), shape)
    walk.add(node, ops.LeakyRelu, (x,), shape, slope=slope)


@_transforms("Clip", attributes=("min", "max"))
def _clip(walk: Walk, node: Node, x: str, shape: Shape) -> None:
    ends = []
    for index, name in ((1, "min"), (2, "max")):
        end = walk.weights(node, index, x)
        if name in node.attributes:
            end = np.asarray(np.float32(node.attributes[name]), np.float64)
        ends.append(None if end is None else walk.per_sample(node, end, shape))
    low, high = ends
    if low is None and high is None:
        walk.reshape(node, x, shape)
        return
    if walk.opset < 13 and low is not None and high is not None and (low > high).any():
        raise node.refuse("has min above max, which is defined from opset 13 on; export with a newer opset")
    walk.add(node, ops.Clip, (x,), shape, low=low, high=high)


@_transforms("Abs", "Neg")
def _abs_or_negate(walk: Walk, node: Node, x: str, shape: Shape) -> None:
    walk.add(node, ops.Abs if node.op == "Abs" else ops.Negate, (x,), shape)


@_transforms("Identity")
def _identity(walk: Walk, node: Node, x: str, shape: Shape) -> None:
    walk.reshape(node, x, shape)


@_transforms("Cast", attributes=("to", "saturate", "round_mode"))
def _cast(walk: Walk, node: Node, x: str, shape: Shape) -> None:
    target = FLOATS.get(node.attributes.get("to"))
    if target is None or np.dtype(target).itemsize < np.dtype(walk.dtypes[x]).itemsize:
        raise node.refuse("rounds; only an exact cast is accepted, from float32 to float64")
    walk.reshape(node, x, shape)
    walk.dtypes[node.proto.output[0]] = target


@_transforms("TopK", attributes=("axis", "largest", "sorted", "k"))
def _topk(walk: Walk, node: Node, x: str, shape: Shape) -> None:
    axis = walk.axis(node, node.attributes.get("axis", -1), len(shape) + 1)
    k = walk.integers(node, 1, "k")
    if k is None or len(k) != 1 or not 1 <= k[0] <= shape[axis]:
        raise node.refuse(f"has k = {k}; expected 1 to {shape[axis]}, the size of its axis")
    if not node.flag("sorted", 1):
        raise node.refuse("has sorted = 0, which leaves the order open; export with sorted = 1")
    walk.add(
        node,
        ops.Sort,
        (x,),
        _replaced(shape, axis, k[0]),
        axis=axis,
        k=k[0],
        largest=node.flag("largest", 1),
    )


@_transforms("ReduceMax", "ReduceMin", attributes=("axes", "keepdims", "noop_with_empty_axes"))
def _reduce_extremum(walk: Walk, node: Node, x: str, shape: Shape) -> None:
    given = walk.integers(node, 1, "axes")
    if not given:
        raise node.refuse("has no axes, so it would reduce over the batch; name the axes")
    axes = tuple(sorted({walk.axis(node, a, len(shape) + 1) for a in given}))
    keep = node.flag("keepdims", 1)
    reduced = tuple(1 if i in axes else d for i, d in enumerate(shape) if keep or i not in axes)
    walk.add(node, ops.ReduceExtremum, (x,), reduced, kind=node.op[-3:].lower(), axes=axes)


WINDOW = ("kernel_shape", "strides", "dilations", "pads", "auto_pad")


@_transforms("Conv", attributes=(*WINDOW, "group"))
def _conv(walk: Walk, node: Node, x: str, shape: Shape) -> None:
    kernel, bias = walk.weights(node, 1, x), walk.weights(node, 2, x)
    groups = node.attributes.get("group", 1)
    if kernel is None or kernel.ndim != len(shape) + 1 or kernel.ndim < 3 or kernel.size == 0:
        raise node.refuse("requires an input [batch, channels, …] and a constant kernel of as many axes")
    out, per_group = kernel.shape[:2]
    if groups < 1 or shape[0] != per_group * groups or out % groups:
        raise node.refuse(
            f"has a kernel of shape {list(kernel.shape)} in {groups} groups, but its input has {shape[0]} "
            "channels"
        )
    if bias is not None and bias.shape != (out,):
        raise node.refuse(f"has a bias of shape {list(bias.shape)}; expected [{out}]")
    window = _window(walk, node, shape, kernel.shape[2:])
    _check_terms(node, math.prod(kernel.shape[1:]))
    walk.add(
        node, ops.Conv, (x,), (out, *window.output), kernel=kernel, bias=bias, window=window, groups=groups
    )


@_transforms(
    "AveragePool", "MaxPool", attributes=(*WINDOW, "ceil_mode", "count_include_pad", "storage_order")
)
@_transforms("GlobalAveragePool", "GlobalMaxPool")
def _pool(walk: Walk, node: Node, x: str, shape: Shape) -> None:
    if node.flag("ceil_mode", 0):
        raise node.refuse("has ceil_mode = 1; export with ceil_mode = 0")
    size = shape[1:] if node.op.startswith("Global") else tuple(node.attributes.get("kernel_shape", ()))
    window = _window(walk, node, shape, size)
    if not (window.positions >= 0).any(axis=1).all():
        raise node.refuse("has a window that lies wholly on padding; reduce the padding")
    output = (shape[0], *window.output)
    if node.op.endswith("MaxPool"):
        walk.add(node, ops.MaxPool, (x,), output, window=window)
    else:
        counted = node.flag("count_include_pad", 0)
        walk.add(node, ops.AveragePool, (x,), output, window=window, count_padding=counted)


def _window(walk: Walk, node: Node, shape: Shape, size: Shape) -> Window:
    """Return the window that the attributes of a convolution or pooling describe."""
    channels, *spatial = shape
    ones, zeros = [1] * len(spatial), [0] * len(spatial)
    given = node.attributes
    strides, dilations = given.get("strides", ones), given.get("dilations", ones)
    pads = given.get("pads", zeros + zeros)
    padding = given.get("auto_pad", b"NOTSET")
    if padding not in (b"NOTSET", b"VALID"):
        raise node.refuse(f"has auto_pad = {padding.decode()}; export with pads as numbers")
    if padding == b"VALID":
        pads = zeros + zeros
    lengths = {len(spatial), len(size), len(strides), len(dilations)}
    if len(lengths) != 1 or not spatial or len(pads) != 2 * len(spatial):
        raise node.refuse(
            f"has {len(size)} kernel sizes, {len(strides)} strides, {len(dilations)} dilations and "
            f"{len(pads)} pads for {len(spatial)} spatial axes"
        )
    if tuple(given.get("kernel_shape", size)) != tuple(size) or min(*size, *strides, *dilations) < 1:
        raise node.refuse("has a kernel_shape other than its kernel's, or sizes or steps below 1")
    if min(pads) < 0 or max(*pads, *strides, *dilations) > 2**16:
        raise node.refuse(
            f"has pads {pads}; pads from 0, and pads, strides and dilations to 65536 are accepted"
        )
    window = Window(
        spatial=tuple(spatial),
        size=tuple(size),
        strides=tuple(strides),
        dilations=tuple(dilations),
        begin=tuple(pads[: len(spatial)]),
        end=tuple(pads[len(spatial) :]),
    )
    _check_terms(node, window.taps)
    positions = math.prod(window.output) * window.taps
    readers = math.prod(spatial) * window.bound_readers
    if (
        min(window.output) < 1
        or max(positions, readers) > MAX_POSITIONS
        or channels * positions > MAX_WINDOWED
    ):
        raise node.refuse(
            f"makes a tensor of spatial shape {list(window.output)}, whose windows read {positions} entries "
            f"in each of {channels} channels; at most {MAX_POSITIONS} in one channel and {MAX_WINDOWED} in "
            "all are accepted"
        )
    walk.spend(node, numbers=positions)
    return window


@_transforms("Slice", attributes=("starts", "ends", "axes"))
def _slice(walk: Walk, node: Node, x: str, shape: Shape) -> None:
    for place, selected in walk.slices(node, len(shape) + 1):
        axis = walk.axis(node, place, len(shape) + 1)
        indices = range(shape[axis])[selected]
        if not indices:
            raise node.refuse("selects no entries")
        x = _select(walk, node, x, axis, indices)
        shape = walk.shapes[x]
    walk.reshape(node, x, shape)


@_transforms("Split", attributes=("axis", "split", "num_outputs"))
def _split(walk: Walk, node: Node, x: str, shape: Shape) -> None:
    axis = walk.axis(node, node.attributes.get("axis", 0), len(shape) + 1)
    start = 0
    for index, size in enumerate(walk.parts(node, shape[axis])):
        if node.proto.output[index]:
            _select(walk, node, x, axis, range(start, start + size), index)
        start += size


@_transforms("Gather", attributes=("axis",))
def _gather(walk: Walk, node: Node, x: str, shape: Shape) -> None:
    axis = walk.axis(node, node.attributes.get("axis", 0), len(shape) + 1)
    array = walk.constant(node, 1)
    if array is None or not np.issubdtype(array.dtype, np.integer) or array.ndim > 1 or array.size == 0:
        raise node.refuse("requires a constant list of indices")
    within = ((array >= -shape[axis]) & (array < shape[axis])).all()
    indices = np.ravel(array % shape[axis])
    if array.size > shape[axis] or not within or len(np.unique(indices)) < array.size:
        raise node.refuse("accepted with distinct indices within the axis: a repeated entry counts twice")
    if array.ndim == 1:
        _select(walk, node, x, axis, indices.tolist(), 0)
    else:  # one index removes the axis
        x = _select(walk, node, x, axis, indices.tolist())
        walk.reshape(node, x, shape[:axis] + shape[axis + 1 :])


def _select(
    walk: Walk, node: Node, x: str, axis: int, indices: Sequence[int], output: int | None = None
) -> str:
    """Add the selection of entries of an axis: one of the node's outputs, or a step before its last."""
    walk.spend(node, numbers=NUMBERS_PER_INDEX * len(indices))
    shape = _replaced(walk.shapes[x], axis, len(indices))
    return walk.add(node, ops.Select, (x,), shape, output=output, axis=axis, indices=tuple(indices))


@_handles("Concat", attributes=("axis",))
def _concat(walk: Walk, node: Node) -> None:
    names = tuple(walk.dynamic(node, index)[0] for index in range(len(node.proto.input)))
    shapes = [walk.shapes[name] for name in names]
    axis = walk.axis(node, node.attributes.get("axis", 0), len(shapes[0]) + 1)
    if any(
        len(s) != len(shapes[0]) or _replaced(s, axis, 0) != _replaced(shapes[0], axis, 0) for s in shapes
    ):
        raise node.refuse(
            f"joins tensors of shapes {[list(s) for s in shapes]} per sample; expected shapes that are equal "
            f"but for axis {axis + 1}"
        )
    walk.add(node, ops.Concat, names, _replaced(shapes[0], axis, sum(s[axis] for s in shapes)), axis=axis)


@_transforms("Reshape", attributes=("shape", "allowzero"))
def _reshape(walk: Walk, node: Node, x: str, shape: Shape) -> None:
    symbols = walk.symbols.get(walk.input(node, 1) or "")
    target: list[Any] | None = walk.integers(node, 1, "shape") if symbols is None else list(symbols.ravel())
    if not target or len(target) > MAX_AXES:
        raise node.refuse(f"requires a constant target shape of at most {MAX_AXES} axes")
    if node.flag("allowzero", 0) and 0 in target:
        raise node.refuse(f"has target shape {target}, of an empty tensor")
    # The batch must stay in front: copied (0) or named, as the file's own fixed number, or as the one
    # -1 when the other dimensions account for a whole sample.
    dims = [(BATCH, *shape)[i] if d == 0 and i <= len(shape) else d for i, d in enumerate(target)]
    lead: Any = dims[0]
    rest: list[Any] = dims[1:]
    if target.count(-1) > 1 or any(not isinstance(d, int) or (d < 1 and d != -1) for d in rest):
        raise node.refuse(
            f"has target shape {target}, but its input has shape {list(shape)} per sample; expected positive "
            "sizes after the batch axis, and at most one -1"
        )
    if lead is not BATCH and lead not in (-1, walk.batch):
        raise node.refuse(
            f"has target shape {target}, which does not keep the batch axis in front; use [-1, …] or [0, …]"
        )
    if -1 in rest:
        known = math.prod(d for d in rest if d != -1)
        if math.prod(shape) % known:
            raise node.refuse(f"has target shape {target}, but its input has shape {list(shape)} per sample")
        rest = [math.prod(shape) // known if d == -1 else d for d in rest]
    walk.reshape(node, x, tuple(rest))


@_transforms("Flatten", attributes=("axis",))
def _flatten(walk: Walk, node: Node, x: str, shape: Shape) -> None:
    axis = node.attributes.get("axis", 1)
    if axis + (len(shape) + 1 if axis < 0 else 0) != 1:
        raise node.refuse(f"has axis = {axis}; only axis = 1 keeps the batch")
    walk.reshape(node, x, (math.prod(shape),))


@_transforms("Squeeze", "Unsqueeze", attributes=("axes",))
def _squeeze(walk: Walk, node: Node, x: str, shape: Shape) -> None:
    given = walk.integers(node, 1, "axes")
    if not given:
        raise node.refuse("has no axes, so it could remove the batch axis; name the axes")
    if node.op == "Squeeze":
        axes = {walk.axis(node, a, len(shape) + 1) for a in given}
        if any(shape[a] != 1 for a in axes):
            raise node.refuse(f"removes axes {given} of shape {list(shape)} per sample; only size 1 can go")
        walk.reshape(node, x, tuple(d for i, d in enumerate(shape) if i not in axes))
        return
    rank = len(shape) + 1 + len(given)
    axes = {walk.axis(node, a, rank) for a in given}
    if len(axes) != len(given):
        raise node.refuse(f"has the same axis twice in {given}")
    remaining = iter(shape)
    walk.reshape(node, x, tuple(1 if i in axes else next(remaining) for i in range(len(shape) + len(axes))))


@_transforms("Transpose", attributes=("perm",))
def _transpose(walk: Walk, node: Node, x: str, shape: Shape) -> None:
    perm = node.attributes.get("perm", list(range(len(shape) + 1))[::-1])
    if sorted(perm) != list(range(len(shape) + 1)) or perm[0] != 0:
        raise node.refuse(f"has perm = {perm}; the batch axis must stay in front")
    permutation = tuple(p - 1 for p in perm[1:])
    walk.add(node, ops.Transpose, (x,), tuple(shape[p] for p in permutation), permutation=permutation)


def _same_shape(walk: Walk, node: Node, names: tuple[str, ...]) -> Shape:
    shapes = {walk.shapes[name] for name in names}
    if len(shapes) != 1:
        raise node.refuse(
            f"combines tensors of shapes {sorted(list(s) for s in shapes)} per sample; expected equal shapes"
        )
    return shapes.pop()


def _replaced(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])
