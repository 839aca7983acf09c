"""Networks for tests, built in code."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from lipmodel.network import ops
from lipmodel.network.metadata import Claims
from lipmodel.network.ops import Graph
from lipmodel.network.window import Window
from lipmodel.network.writer import set_metadata, to_bytes, write_model
from tests.seeds import shifted


def float32(array):
    """Return an array rounded to float32, as float64."""
    return np.asarray(array, dtype=np.float32).astype(np.float64)


def orthogonal(rng, m, n):
    q, _ = np.linalg.qr(rng.normal(size=(max(m, n), min(m, n))))
    return q if q.shape == (m, n) else q.T


def dense(name, x, weight, bias=None):
    return ops.Dense(output=name, inputs=(x,), shape=(len(weight),), weight=weight, bias=bias)


def entrywise_tree(rng, size, count=8):
    """Return a graph of entrywise operations, each on some of the tensors before it."""
    names, layers = ["input"], []

    def constant(spread=1.0):
        return float32(np.asarray(rng.normal(size=[(), (1,), (size,)][rng.integers(3)])) * spread)

    for number in range(count):
        fields, inputs = {}, 1
        kind = [ops.Shift, ops.Clip, ops.Abs, ops.Negate, ops.LeakyRelu, ops.Scale, ops.Sum, ops.Extremum][
            rng.integers(8)
        ]
        if kind is ops.Shift:
            fields = {"offset": constant()}
        elif kind is ops.Clip:  # also with its ends the wrong way round
            fields = {end: constant() for end in ("low", "high") if rng.random() < 0.7}
        elif kind is ops.LeakyRelu:
            fields = {"slope": constant(1.5)}
        elif kind is ops.Scale:
            fields = {"factor": constant(), "divide": bool(rng.integers(2))}
        elif kind is ops.Sum:
            inputs = 2
        elif kind is ops.Extremum:
            fields, inputs = {"kind": str(rng.choice(["max", "min"]))}, 3
        read = tuple(str(name) for name in rng.choice(names[-4:], size=inputs))
        layers.append(kind(output=f"t{number}", inputs=read, shape=(size,), **fields))
        names.append(f"t{number}")
    return Graph(input="input", input_shape=(size,), ops=tuple(layers), output=names[-1]).pruned()


def groupsort(name, x, size, group_size):
    part = size // group_size
    return ops.SortingNetwork(
        output=name,
        inputs=(x,),
        shape=(size,),
        axis=0,
        length=size,
        wires=tuple(tuple(range(k * part, (k + 1) * part)) for k in range(group_size)),
        comparators=ops.groupsort_comparators(group_size),
        joined=tuple(range(group_size)),
    )


def groupsort_net(widths=(4, 8, 8), classes=3, *, seed=0, group_size=2, kind="orthogonal", bias_scale=0.1):
    """Return a GroupSort network of float32 weights, 1-Lipschitz up to rounding (l2; linf for kind "rows")."""
    rng = np.random.default_rng(shifted(seed))
    layers, x = [], "input"

    def weight(m, n):
        if kind == "orthogonal":
            return float32(orthogonal(rng, m, n))
        w = rng.normal(size=(m, n))
        return float32(w / np.abs(w).sum(axis=1, keepdims=True) * (1 - 1e-6))

    for index, (n, m) in enumerate(itertools.pairwise(widths)):
        layers.append(dense(f"a{index}", x, weight(m, n), float32(rng.normal(size=m) * bias_scale)))
        layers.append(groupsort(f"z{index}", f"a{index}", m, group_size))
        x = f"z{index}"
    layers.append(
        dense("scores", x, weight(classes, widths[-1]), float32(rng.normal(size=classes) * bias_scale))
    )
    return Graph(input="input", input_shape=(widths[0],), ops=tuple(layers), output="scores")


def uneven(graph, *, seed=0, spread=0.7):
    """Return the same layers, with each group of numbers between them scaled up by a factor and down again.

    The product of the layers' norms grows by the ratio of these factors; with weights for groups it stays the same.
    """
    rng = np.random.default_rng(shifted(seed))
    layers, before = [], None
    for op in graph.ops:
        layers.append(op)
        if isinstance(op, ops.Dense):
            reader = next((o for o in graph.ops if o.inputs == (op.output,)), None)
            weight = op.weight if before is None else op.weight / before
            if reader is not None:
                size = len(reader.wires) if isinstance(reader, ops.SortingNetwork) else 1
                before = np.tile(np.exp(rng.normal(size=len(weight) // size) * spread), size)
                weight = before[:, None] * weight
            layers[-1] = replace(op, weight=float32(weight))
    return replace(graph, ops=tuple(layers))


def with_activation(graph, make):
    """Return the same layers with operations ``make(name, input, size)`` in place of the sorts."""
    layers = []
    for op in graph.ops:
        layers += make(op.output, op.inputs[0], op.size) if isinstance(op, ops.SortingNetwork) else [op]
    return replace(graph, ops=tuple(layers))


def rectified(name, x, size):
    return ops.Clip(output=name, inputs=(x,), shape=(size,), low=np.zeros(()))


def relu(name, x, size):
    return [rectified(name, x, size)]


def prototypes(rows, bias, classes, body=()):
    """Raw scores of rows over the input, or over what a body makes of it; then the largest of each class."""
    each = len(rows) // classes
    before = body[-1].output if body else "input"
    return Graph(
        input="input",
        input_shape=(body[0].weight.shape[1] if body else rows.shape[1],),
        ops=(
            *body,
            dense("scores", before, rows, bias),
            ops.Reshape(output="groups", inputs=("scores",), shape=(classes, each)),
            ops.ReduceExtremum(output="best", inputs=("groups",), shape=(classes,), kind="max", axes=(1,)),
        ),
        output="best",
    )


def n_activation(name, x, size):
    """Return max(min(x - 2 low, -x), x - 2 high), of slopes 1, -1, 1, as exported."""
    low, high = np.linspace(-1.0, 0.0, size), np.asarray(0.25)
    left, falling, lower, right = (f"{name}_{part}" for part in ("left", "falling", "lower", "right"))
    return [
        ops.Shift(output=left, inputs=(x,), shape=(size,), offset=float32(-2.0 * low)),
        ops.Negate(output=falling, inputs=(x,), shape=(size,)),
        ops.Extremum(output=lower, inputs=(left, falling), shape=(size,), kind="min"),
        ops.Shift(output=right, inputs=(x,), shape=(size,), offset=-2.0 * high),
        ops.Extremum(output=name, inputs=(lower, right), shape=(size,), kind="max"),
    ]


def top_k(name, x, size, group_size=4):
    """Return GroupSort of neighbours, largest first, as many exporters write it."""
    shape = (size // group_size, group_size)
    return [
        ops.Reshape(output=f"{name}_groups", inputs=(x,), shape=shape),
        ops.Sort(output=f"{name}_sorted", inputs=(f"{name}_groups",), shape=shape, axis=1, k=group_size, largest=True),
        ops.Reshape(output=name, inputs=(f"{name}_sorted",), shape=(size,)),
    ]  # fmt: skip


def behind_clip(graph, low=None, high=None, name="clipped"):
    """Return a graph whose input is clipped first."""
    low, high = (None if end is None else np.asarray(end, dtype=np.float64) for end in (low, high))
    clip = ops.Clip(output=name, inputs=(graph.input,), shape=graph.input_shape, low=low, high=high)
    rest = (replace(op, inputs=tuple(name if i == graph.input else i for i in op.inputs)) for op in graph.ops)
    return replace(graph, ops=(clip, *rest))


def linear_net(weight, bias=None):
    weight = float32(weight)
    bias = None if bias is None else float32(bias)
    return Graph(
        input="input",
        input_shape=weight.shape[1:],
        ops=(dense("scores", "input", weight, bias),),
        output="scores",
    )


def convolutional_net(*, seed=0):
    """Return two convolutions of 28 x 28 pixels and two dense layers, 4,804 ReLUs: slow to tighten."""
    rng = np.random.default_rng(shifted(seed))
    layers, x, shape = [], "input", (1, 28, 28)

    def add(kind, name, **fields):
        layers.append(kind(output=name, inputs=(x,), shape=shape, **fields))
        return name

    for channels in (16, 32):
        window = Window(
            spatial=shape[1:], size=(4, 4), strides=(2, 2), dilations=(1, 1), begin=(1, 1), end=(1, 1)
        )
        kernel = float32(rng.normal(size=(channels, shape[0], 4, 4)) / (4 * shape[0]))
        bias, shape = float32(rng.normal(size=channels) * 0.1), (channels, *window.output)
        x = add(ops.Conv, f"c{channels}", kernel=kernel, bias=bias, window=window)
        x = add(ops.Clip, f"r{channels}", low=np.zeros(()))
    shape = (32 * 7 * 7,)
    x = add(ops.Reshape, "flat")
    for name, size in (("d", 100), ("scores", 10)):
        weight = float32(rng.normal(size=(size, shape[0])) / shape[0] ** 0.5)
        bias, shape = float32(rng.normal(size=size) * 0.1), (size,)
        x = add(ops.Dense, name, weight=weight, bias=bias)
        x = add(ops.Clip, "r", low=np.zeros(())) if name == "d" else x
    return Graph(input="input", input_shape=(1, 28, 28), ops=tuple(layers), output="scores")


def to_file(graph, claims: Claims | None = None, dtype=np.float32) -> bytes:
    model = write_model(graph, dtype)
    if claims is not None:
        set_metadata(model, claims.to_metadata())
    return to_bytes(model)
