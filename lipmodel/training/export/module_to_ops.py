"""Export rules: each module as operations of ``lipmodel.network``.

Weights are finished here: float32 numbers that satisfy their constraint exactly, by the verified
bounds of ``lipmodel.certify``. ``write.register`` adds the rule of a custom module.
"""

from __future__ import annotations

from functools import singledispatch

import numpy as np
from torch import Tensor, nn

from lipmodel.certify.norms.layers import bound_norm
from lipmodel.errors import TrainingError
from lipmodel.network import ops
from lipmodel.network.window import Shape, Window
from lipmodel.norms import Array, bound_vector_norm
from lipmodel.training import convolutions, layers
from lipmodel.training.activations import AbsoluteValue, GroupSort, Householder, NActivation
from lipmodel.training.constraints import Constraint, Stiefel, scaled_to_fit
from lipmodel.training.export.graph_builder import GraphBuilder
from lipmodel.training.heads import PrototypeHead

MAX_SORTING_NETWORK = 8  # larger groups are sorted by TopK: networks of comparators grow as n log² n


@singledispatch
def write(module: nn.Module, builder: GraphBuilder) -> None:
    """Append a module's operations to the builder.

    Raises:
        TrainingError: the module has no export rule, does not accept the current shape, or has a weight that
            is not finite.
    """
    known = sorted(kind.__name__ for kind in write.registry if kind is not object)
    raise TrainingError(
        f"{type(module).__name__} has no export rule; {', '.join(known)} are accepted. Add a rule with "
        "lipmodel.training.export.module_to_ops.write.register"
    )


@write.register
def _(module: nn.Sequential, builder: GraphBuilder) -> None:
    for name, child in module.named_children():
        with builder.inside(name):
            write(child, builder)


# --- layers --------------------------------------------------------------------------------


@write.register
def _(module: layers.Clip, builder: GraphBuilder) -> None:
    builder.add(ops.Clip, "clipped", low=np.asarray(module.low), high=np.asarray(module.high))


@write.register
def _(module: layers.Shift, builder: GraphBuilder) -> None:
    builder.add(ops.Shift, "shifted", offset=_broadcast(-builder.numbers(module.mean), builder))


@write.register
def _(module: layers.PositionalBias, builder: GraphBuilder) -> None:
    builder.add(ops.Shift, "placed", offset=_broadcast(builder.numbers(module.bias), builder))


@write.register
def _(module: layers.PrincipalComponents, builder: GraphBuilder) -> None:
    builder.expect_units(module, module.directions.shape[1])
    _dense(builder, Stiefel().finish(builder.numbers(module.directions)), None)


@write.register
def _(module: layers.ConstrainedDense, builder: GraphBuilder) -> None:
    builder.expect_units(module, module.weight.shape[1])
    weight = module.constraint.finish(builder.numbers(module.weight))
    _dense(builder, weight, builder.numbers(module.bias))


@write.register
def _(module: PrototypeHead, builder: GraphBuilder) -> None:
    builder.expect_units(module, module.weight.shape[1])
    # Rows and biases are scaled by a common factor, which changes neither labels nor radii.
    joined = np.column_stack([builder.numbers(module.weight), builder.numbers(module.bias)])

    def bound(candidate: Array) -> float:
        return float(bound_vector_norm(candidate[:, :-1], module.norm, axis=1).max())

    finished = scaled_to_fit(joined, bound, module.lipschitz)
    _dense(builder, finished[:, :-1], finished[:, -1])
    builder.reshape((module.classes, module.prototypes), "by_class")
    builder.add(ops.ReduceExtremum, "largest", shape=(module.classes,), kind="max", axes=(1,))


@write.register
def _(module: layers.Residual, builder: GraphBuilder) -> None:
    share = float(np.float32(builder.numbers(module.share)))
    rest = np.float32(1.0 - share)
    if float(rest) + share > 1.0:
        rest = np.nextafter(rest, np.float32(0.0))
    start, shape = builder.tensor, builder.shape
    kept = builder.add(ops.Scale, "kept", factor=np.asarray(rest, np.float64))
    builder.tensor = start
    write(module.inner, builder)
    if builder.shape != shape:
        raise TrainingError(
            f"the inner part of a Residual changes the shape {list(shape)} to {list(builder.shape)}; "
            "equal shapes are accepted"
        )
    changed = builder.add(ops.Scale, "changed", factor=np.asarray(share))
    builder.add(ops.Sum, "sum", kept, changed)


@write.register
def _(module: layers.Monotone, builder: GraphBuilder) -> None:
    builder.expect_units(module, module.direction.shape[1])
    start, shape = builder.tensor, builder.shape
    rising = builder.add(ops.Dense, "rising", shape=(1,), weight=builder.numbers(module.direction))
    builder.tensor, builder.shape = start, shape
    write(module.network, builder)
    if builder.shape != (1,):
        raise TrainingError(
            f"the output of a Monotone network has shape {list(builder.shape)}; [1] is accepted"
        )
    builder.add(ops.Sum, "sum", rising, builder.tensor)


@write.register
def _(module: nn.Flatten, builder: GraphBuilder) -> None:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise TrainingError("Flatten is exported with start_dim = 1 and end_dim = -1")
    builder.reshape((int(np.prod(builder.shape)),), "flat")


@write.register
def _(module: nn.Unflatten, builder: GraphBuilder) -> None:
    shape = tuple(int(size) for size in module.unflattened_size)
    if module.dim != 1 or len(builder.shape) != 1 or int(np.prod(shape)) != builder.shape[0]:
        raise TrainingError(f"Unflatten is exported with dim = 1, from as many numbers as {list(shape)} has")
    builder.reshape(shape, "image")


# --- convolutions --------------------------------------------------------------------------


@write.register
def _(module: convolutions.PointwiseConv, builder: GraphBuilder) -> None:
    kernel = module.constraint.finish(builder.numbers(module.weight))[:, :, None, None]
    _conv(builder, module, kernel, module.bias, module.constraint)


@write.register
def _(module: convolutions.AOLConv, builder: GraphBuilder) -> None:
    kernel = builder.numbers(convolutions.almost_orthogonal(module.free.detach().double()))
    _conv(builder, module, kernel, module.bias, Stiefel())


@write.register
def _(module: convolutions.SpatialShift, builder: GraphBuilder) -> None:
    builder.expect_image(module)
    places = np.arange(int(np.prod(builder.shape))).reshape(builder.shape)
    part = int(module.share * builder.shape[0])
    for group, (by, axis) in enumerate(convolutions.DIRECTIONS):
        moved = slice(group * part, (group + 1) * part)
        places[moved] = np.roll(places[moved], by, axis - 1)
    # One permutation of all entries, 1-Lipschitz in every norm; slices and a Concat would be bounded by √2.
    shape = builder.shape
    builder.reshape((places.size,), "flat")
    builder.add(ops.Select, "moved", axis=0, indices=tuple(int(i) for i in places.ravel()))
    builder.reshape(shape, "image")


@write.register
def _(module: nn.PixelUnshuffle, builder: GraphBuilder) -> None:
    s = module.downscale_factor
    builder.expect_image(module)
    c, h, w = builder.shape
    if h % s or w % s:
        raise TrainingError(f"an image of {h}×{w} pixels cannot be split into blocks of {s}×{s}")
    builder.reshape((c, h // s, s, w // s, s), "blocks")
    builder.add(ops.Transpose, "turned", shape=(c, s, s, h // s, w // s), permutation=(0, 2, 4, 1, 3))
    builder.reshape((c * s * s, h // s, w // s), "deeper")


@write.register
def _(module: nn.MaxPool2d, builder: GraphBuilder) -> None:
    if module.padding or module.dilation != 1 or module.ceil_mode:
        raise TrainingError("MaxPool2d is exported without padding, dilation and ceil_mode")
    size = _pair(module.kernel_size)
    builder.expect_image(module, blocks=max(size))
    window = _window(builder.shape, size, _pair(module.stride), (0, 0))
    builder.add(ops.MaxPool, "pooled", shape=(builder.shape[0], *window.output), window=window)


@write.register
def _(module: convolutions.ScaledAveragePool, builder: GraphBuilder) -> None:
    size = _pair(module.size)
    builder.expect_image(module, blocks=module.size)
    window = _window(builder.shape, size, size, (0, 0))
    builder.add(
        ops.AveragePool,
        "pooled",
        shape=(builder.shape[0], *window.output),
        window=window,
        count_padding=False,
    )
    builder.add(ops.Scale, "scaled", factor=np.asarray(float(module.size)))


# --- activations ---------------------------------------------------------------------------


@write.register
def _(module: nn.Identity, builder: GraphBuilder) -> None:
    pass


@write.register
def _(module: nn.ReLU, builder: GraphBuilder) -> None:
    builder.add(ops.Clip, "relu", low=np.zeros(()))


@write.register
def _(module: AbsoluteValue, builder: GraphBuilder) -> None:
    if module.share == 1.0:
        builder.add(ops.Abs, "absolute")
        return
    slope = np.ones(builder.shape[0])
    slope[: int(module.share * builder.shape[0])] = -1.0
    builder.add(ops.LeakyRelu, "absolute", slope=_by_unit(slope, builder))


@write.register
def _(module: GroupSort, builder: GraphBuilder) -> None:
    units, *places = builder.shape
    group = module.group_size(units)
    part = units // group
    if group <= MAX_SORTING_NETWORK:
        builder.add(
            ops.SortingNetwork,
            "sorted",
            axis=0,
            length=units,
            wires=tuple(tuple(range(k * part, (k + 1) * part)) for k in range(group)),
            comparators=ops.groupsort_comparators(group),
            joined=tuple(range(group)),
        )
        return
    shape = builder.shape
    builder.reshape((group, part, *places), "groups")
    builder.add(ops.Sort, "ordered", axis=0, k=group, largest=True)
    builder.reshape(shape, "sorted")


@write.register
def _(module: Householder, builder: GraphBuilder) -> None:
    # In coordinates along and across the mirrors, a reflection across them is an absolute value.
    half = 0.5 * builder.numbers(module.angle)
    sine, cosine = np.diag(np.sin(half)), np.diag(np.cos(half))
    turn = np.block([[cosine, sine], [sine, -cosine]])  # symmetric, and its own inverse
    slope = np.repeat([1.0, -1.0], len(half))
    turned = Stiefel().finish(turn)
    _linear(builder, module, turned)
    builder.add(ops.LeakyRelu, "absolute", slope=_by_unit(slope, builder))
    _linear(builder, module, turned.T)


@write.register
def _(module: NActivation, builder: GraphBuilder) -> None:
    # max(min(x − 2θ₁, −x), x − 2θ₂) is bounded by its slope, 1; a sum x − 2 clip(x) would be bounded by 3.
    builder.expect(module, builder.shape[0] == module.kinks.shape[1], f"{module.kinks.shape[1]} units")
    low, high = builder.numbers(module.sorted_kinks())
    x = builder.tensor
    first = builder.add(ops.Shift, "left", offset=_by_unit(-2.0 * low, builder))
    middle = builder.add(ops.Negate, "middle", x)
    falling = builder.add(ops.Extremum, "lower", first, middle, kind="min")
    last = builder.add(ops.Shift, "right", x, offset=_by_unit(-2.0 * high, builder))
    builder.add(ops.Extremum, "bent", falling, last, kind="max")


# --- parts ---------------------------------------------------------------------------------


def _dense(builder: GraphBuilder, weight: Array, bias: Array | None) -> None:
    offset = builder.take_shift()
    if offset is not None:  # W(x + offset) + b = Wx + (b + W offset)
        shift = weight @ np.broadcast_to(offset, weight.shape[1:])
        bias = shift if bias is None else bias + shift
    builder.add(ops.Dense, "dense", shape=(len(weight),), weight=weight, bias=bias)


def _linear(builder: GraphBuilder, module: nn.Module, weight: Array) -> None:
    """Append a Dense over units; for images, the matrix at each position as a 1×1 convolution."""
    if len(builder.shape) == 1:
        builder.expect_units(module, weight.shape[1])
        builder.add(ops.Dense, "dense", shape=(len(weight),), weight=weight)
    else:
        _conv(builder, module, weight[:, :, None, None], None, Stiefel())


def _conv(
    builder: GraphBuilder, module: nn.Module, kernel: Array, bias: Tensor | None, constraint: Constraint
) -> None:
    """Append a size-preserving convolution of stride 1, scaled down until its proved norm is in bounds."""
    builder.expect_image(module, kernel.shape[1])
    size = (kernel.shape[2], kernel.shape[3])
    window = _window(builder.shape, size, (1, 1), (size[0] // 2, size[1] // 2))
    shape = (len(kernel), *window.output)

    def bound(candidate: Array) -> float:
        op = ops.Conv(output="", inputs=(), shape=shape, kernel=candidate, window=window)
        return bound_norm(op, *constraint.norms)

    finished = scaled_to_fit(kernel, bound, constraint.radius)
    builder.add(
        ops.Conv,
        "conv",
        shape=shape,
        kernel=finished,
        bias=None if bias is None else builder.numbers(bias),
        window=window,
    )


def _window(shape: Shape, size: Shape, strides: Shape, padding: Shape) -> Window:
    return Window(spatial=shape[1:], size=size, strides=strides, dilations=(1, 1), begin=padding, end=padding)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _by_unit(values: Array, builder: GraphBuilder) -> Array:
    """Return one value per unit, reshaped to broadcast to the current shape."""
    return values.reshape(-1, *(1 for _ in builder.shape[1:]))


def _broadcast(values: Array, builder: GraphBuilder) -> Array:
    """Return an offset, checked to broadcast to the current shape.

    Raises:
        TrainingError: the offset does not broadcast.
    """
    try:
        fits = np.broadcast_shapes(values.shape, builder.shape) == builder.shape
    except ValueError:
        fits = False
    if not fits:
        raise TrainingError(
            f"an offset of shape {list(values.shape)} does not broadcast to samples of shape "
            f"{list(builder.shape)}"
        )
    return values
