"""How each module is written in operations of the certificate: the exported forms.

Weights are finished here: float32 numbers that satisfy their constraint exactly, as the verified
bounds of ``lipmodel.certify`` see them. A module of your own gets a form by ``write.register``.
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
from lipmodel.training.activations import AbsoluteValue, GroupSort, Householder, NActivation
from lipmodel.training.constraints import Constraint, Stiefel, scaled_to_fit
from lipmodel.training.convolutions import (
    DIRECTIONS,
    AOLConv,
    PointwiseConv,
    ScaledAveragePool,
    SpatialShift,
    almost_orthogonal,
)
from lipmodel.training.export.graph_builder import Tape
from lipmodel.training.heads import PrototypeHead
from lipmodel.training.layers import (
    ConstrainedDense,
    Monotone,
    PositionalBias,
    PrincipalComponents,
    Residual,
    Shift,
)

LARGEST_NETWORK_SORT = 8  # larger groups are sorted by TopK: networks of comparators grow as n log² n


@singledispatch
def write(module: nn.Module, tape: Tape) -> None:
    """Writes a module onto the tape.

    Raises:
        TrainingError: it has no exported form, does not fit what comes before it, or has a weight that
            is not finite.
    """
    known = sorted(kind.__name__ for kind in write.registry if kind is not object)
    raise TrainingError(f"{type(module).__name__} has no exported form; {', '.join(known)} have")


@write.register
def _(module: nn.Sequential, tape: Tape) -> None:
    for name, child in module.named_children():
        with tape.inside(name):
            write(child, tape)


# --- layers --------------------------------------------------------------------------------


@write.register
def _(module: Shift, tape: Tape) -> None:
    tape.add(ops.Shift, "shifted", offset=_broadcast(-tape.numbers(module.mean), tape))


@write.register
def _(module: PositionalBias, tape: Tape) -> None:
    tape.add(ops.Shift, "placed", offset=_broadcast(tape.numbers(module.bias), tape))


@write.register
def _(module: PrincipalComponents, tape: Tape) -> None:
    tape.expect_units(module, module.directions.shape[1])
    _dense(tape, Stiefel().finish(tape.numbers(module.directions)), None)


@write.register
def _(module: ConstrainedDense, tape: Tape) -> None:
    tape.expect_units(module, module.weight.shape[1])
    weight = module.constraint.finish(tape.numbers(module.weight))
    _dense(tape, weight, tape.numbers(module.bias))


@write.register
def _(module: PrototypeHead, tape: Tape) -> None:
    tape.expect_units(module, module.weight.shape[1])
    # Rows and biases by one factor, which changes neither labels nor radii.
    joined = np.column_stack([tape.numbers(module.weight), tape.numbers(module.bias)])

    def bound(candidate: Array) -> float:
        return float(bound_vector_norm(candidate[:, :-1], module.norm, axis=1).max())

    finished = scaled_to_fit(joined, bound, module.lipschitz)
    _dense(tape, finished[:, :-1], finished[:, -1])
    tape.reshape((module.classes, module.prototypes), "by_class")
    tape.add(ops.ReduceExtremum, "largest", shape=(module.classes,), kind="max", axes=(1,))


@write.register
def _(module: Residual, tape: Tape) -> None:
    share = float(np.float32(tape.numbers(module.share)))
    rest = np.float32(1.0 - share)
    if float(rest) + share > 1.0:
        rest = np.nextafter(rest, np.float32(0.0))
    start, shape = tape.tensor, tape.shape
    kept = tape.add(ops.Scale, "kept", factor=np.asarray(rest, np.float64))
    tape.tensor = start
    write(module.inner, tape)
    if tape.shape != shape:
        raise TrainingError(
            f"a residual's inner part makes {list(tape.shape)} of {list(shape)}; equal shapes are accepted"
        )
    changed = tape.add(ops.Scale, "changed", factor=np.asarray(share))
    tape.add(ops.Sum, "sum", kept, changed)


@write.register
def _(module: Monotone, tape: Tape) -> None:
    tape.expect_units(module, module.direction.shape[1])
    start, shape = tape.tensor, tape.shape
    rising = tape.add(ops.Dense, "rising", shape=(1,), weight=tape.numbers(module.direction))
    tape.tensor, tape.shape = start, shape
    write(module.network, tape)
    if tape.shape != (1,):
        raise TrainingError(f"a monotone network makes samples of shape {list(tape.shape)}; [1] is accepted")
    tape.add(ops.Sum, "sum", rising, tape.tensor)


@write.register
def _(module: nn.Flatten, tape: Tape) -> None:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise TrainingError("Flatten is exported with start_dim = 1 and end_dim = -1")
    tape.reshape((int(np.prod(tape.shape)),), "flat")


@write.register
def _(module: nn.Unflatten, tape: Tape) -> None:
    shape = tuple(int(size) for size in module.unflattened_size)
    if module.dim != 1 or len(tape.shape) != 1 or int(np.prod(shape)) != tape.shape[0]:
        raise TrainingError(f"Unflatten is exported with dim = 1, from as many numbers as {list(shape)} has")
    tape.reshape(shape, "image")


# --- convolutions --------------------------------------------------------------------------


@write.register
def _(module: PointwiseConv, tape: Tape) -> None:
    kernel = module.constraint.finish(tape.numbers(module.weight))[:, :, None, None]
    _conv(tape, module, kernel, module.bias, module.constraint)


@write.register
def _(module: AOLConv, tape: Tape) -> None:
    kernel = tape.numbers(almost_orthogonal(module.free.detach().double()))
    _conv(tape, module, kernel, module.bias, Stiefel())


@write.register
def _(module: SpatialShift, tape: Tape) -> None:
    tape.expect_image(module)
    places = np.arange(int(np.prod(tape.shape))).reshape(tape.shape)
    part = int(module.share * tape.shape[0])
    for group, (by, axis) in enumerate(DIRECTIONS):
        moved = slice(group * part, (group + 1) * part)
        places[moved] = np.roll(places[moved], by, axis - 1)
    # One permutation of all entries: 1-Lipschitz in every norm, where slices joined again would give √2.
    shape = tape.shape
    tape.reshape((places.size,), "flat")
    tape.add(ops.Select, "moved", axis=0, indices=tuple(int(i) for i in places.ravel()))
    tape.reshape(shape, "image")


@write.register
def _(module: nn.PixelUnshuffle, tape: Tape) -> None:
    s = module.downscale_factor
    tape.expect_image(module)
    c, h, w = tape.shape
    if h % s or w % s:
        raise TrainingError(f"{h}×{w} places cannot be split into blocks of {s}×{s}")
    tape.reshape((c, h // s, s, w // s, s), "blocks")
    tape.add(ops.Transpose, "turned", shape=(c, s, s, h // s, w // s), permutation=(0, 2, 4, 1, 3))
    tape.reshape((c * s * s, h // s, w // s), "deeper")


@write.register
def _(module: nn.MaxPool2d, tape: Tape) -> None:
    if module.padding or module.dilation != 1 or module.ceil_mode:
        raise TrainingError("MaxPool2d is exported without padding, dilation and ceil_mode")
    size = _pair(module.kernel_size)
    tape.expect_image(module, blocks=max(size))
    window = _window(tape.shape, size, _pair(module.stride), (0, 0))
    tape.add(ops.MaxPool, "pooled", shape=(tape.shape[0], *window.output), window=window)


@write.register
def _(module: ScaledAveragePool, tape: Tape) -> None:
    size = _pair(module.size)
    tape.expect_image(module, blocks=module.size)
    window = _window(tape.shape, size, size, (0, 0))
    tape.add(
        ops.AveragePool, "pooled", shape=(tape.shape[0], *window.output), window=window, count_padding=False
    )
    tape.add(ops.Scale, "scaled", factor=np.asarray(float(module.size)))


# --- activations ---------------------------------------------------------------------------


@write.register
def _(module: nn.Identity, tape: Tape) -> None:
    pass


@write.register
def _(module: nn.ReLU, tape: Tape) -> None:
    tape.add(ops.Clip, "relu", low=np.zeros(()))


@write.register
def _(module: AbsoluteValue, tape: Tape) -> None:
    if module.share == 1.0:
        tape.add(ops.Abs, "absolute")
        return
    slope = np.ones(tape.shape[0])
    slope[: int(module.share * tape.shape[0])] = -1.0
    tape.add(ops.LeakyRelu, "absolute", slope=_by_unit(slope, tape))


@write.register
def _(module: GroupSort, tape: Tape) -> None:
    units, *places = tape.shape
    group = module.group_size(units)
    part = units // group
    if group <= LARGEST_NETWORK_SORT:
        tape.add(
            ops.SortingNetwork,
            "sorted",
            axis=0,
            length=units,
            wires=tuple(tuple(range(k * part, (k + 1) * part)) for k in range(group)),
            comparators=ops.groupsort_comparators(group),
            joined=tuple(range(group)),
        )
        return
    shape = tape.shape
    tape.reshape((group, part, *places), "groups")
    tape.add(ops.Sort, "ordered", axis=0, k=group, largest=True)
    tape.reshape(shape, "sorted")


@write.register
def _(module: Householder, tape: Tape) -> None:
    """In coordinates along and across the mirrors a reflection beyond them is an absolute value."""
    half = 0.5 * tape.numbers(module.angle)
    sine, cosine = np.diag(np.sin(half)), np.diag(np.cos(half))
    turn = np.block([[cosine, sine], [sine, -cosine]])  # symmetric, and its own inverse
    slope = np.repeat([1.0, -1.0], len(half))
    turned = Stiefel().finish(turn)
    _linear(tape, module, turned, None)
    tape.add(ops.LeakyRelu, "absolute", slope=_by_unit(slope, tape))
    _linear(tape, module, turned.T, None)


@write.register
def _(module: NActivation, tape: Tape) -> None:
    """max(min(x − 2θ₁, −x), x − 2θ₂): bounded by its slope, 1, where a sum x − 2 clip(x) would be by 3."""
    tape.expect(module, tape.shape[0] == module.kinks.shape[1], f"{module.kinks.shape[1]} units")
    low, high = tape.numbers(module.sorted_kinks())
    x = tape.tensor
    first = tape.add(ops.Shift, "left", offset=_by_unit(-2.0 * low, tape))
    middle = tape.add(ops.Negate, "middle", x)
    falling = tape.add(ops.Extremum, "lower", first, middle, kind="min")
    last = tape.add(ops.Shift, "right", x, offset=_by_unit(-2.0 * high, tape))
    tape.add(ops.Extremum, "bent", falling, last, kind="max")


# --- parts ---------------------------------------------------------------------------------


def _dense(tape: Tape, weight: Array, bias: Array | None) -> None:
    offset = tape.take_shift()
    if offset is not None:  # W(x + offset) + b = Wx + (b + W offset)
        shift = weight @ np.broadcast_to(offset, weight.shape[1:])
        bias = shift if bias is None else bias + shift
    tape.add(ops.Dense, "dense", shape=(len(weight),), weight=weight, bias=bias)


def _linear(tape: Tape, module: nn.Module, weight: Array, bias: Array | None) -> None:
    """A Dense over units, or the same matrix at each place of an image."""
    if len(tape.shape) == 1:
        tape.expect_units(module, weight.shape[1])
        tape.add(ops.Dense, "dense", shape=(len(weight),), weight=weight, bias=bias)
    else:
        _conv(tape, module, weight[:, :, None, None], None, Stiefel())


def _conv(tape: Tape, module: nn.Module, kernel: Array, bias: Tensor | None, constraint: Constraint) -> None:
    """A convolution of stride 1 that keeps the size, scaled down until its proved norm is in bounds."""
    tape.expect_image(module, kernel.shape[1])
    size = (kernel.shape[2], kernel.shape[3])
    window = _window(tape.shape, size, (1, 1), (size[0] // 2, size[1] // 2))

    def bound(candidate: Array) -> float:
        op = ops.Conv(output="", inputs=(), shape=(), kernel=candidate, window=window)
        return bound_norm(op, *constraint.norms)

    finished = scaled_to_fit(kernel, bound, constraint.radius)
    tape.add(
        ops.Conv,
        "conv",
        shape=(len(kernel), *window.output),
        kernel=finished,
        bias=None if bias is None else tape.numbers(bias),
        window=window,
    )


def _window(shape: Shape, size: Shape, strides: Shape, padding: Shape) -> Window:
    return Window(spatial=shape[1:], size=size, strides=strides, dilations=(1, 1), begin=padding, end=padding)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _by_unit(values: Array, tape: Tape) -> Array:
    """Values for the first axis, so that they broadcast to the current shape."""
    return values.reshape(-1, *(1 for _ in tape.shape[1:]))


def _broadcast(values: Array, tape: Tape) -> Array:
    """An offset as it is, once it is seen to fit.

    Raises:
        TrainingError: it does not broadcast to the current shape.
    """
    try:
        fits = np.broadcast_shapes(values.shape, tape.shape) == tape.shape
    except ValueError:
        fits = False
    if not fits:
        raise TrainingError(
            f"an offset of shape {list(values.shape)} meets samples of shape {list(tape.shape)}"
        )
    return values
