"""Networks for tests, built in code."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from lipmodel.certify import ops
from lipmodel.certify.claims import Claims
from lipmodel.certify.onnx_writer import set_metadata, to_bytes, write_model
from lipmodel.certify.ops import Graph


def float32(array):
    """Rounded to float32, kept as float64: what a float32 file can hold."""
    return np.asarray(array, dtype=np.float32).astype(np.float64)


def orthogonal(rng, m, n):
    q, _ = np.linalg.qr(rng.normal(size=(max(m, n), min(m, n))))
    return q if q.shape == (m, n) else q.T


def dense(name, x, weight, bias=None):
    return ops.Dense(output=name, inputs=(x,), shape=(len(weight),), weight=weight, bias=bias)


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
    """A GroupSort network with float32 weights, 1-Lipschitz up to rounding (l2, or linf for kind "rows")."""
    rng = np.random.default_rng(seed)
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
    """The same layers, each group of numbers between them made larger by a factor and smaller again.

    The product of the layers' norms grows by as much as these factors are apart; with weights for
    groups it stays what it was.
    """
    rng = np.random.default_rng(seed)
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
    """The same layers with other operations, ``make(name, input, size)``, in place of the sorts."""
    layers = []
    for op in graph.ops:
        layers += make(op.output, op.inputs[0], op.size) if isinstance(op, ops.SortingNetwork) else [op]
    return replace(graph, ops=tuple(layers))


def relu(name, x, size):
    return [ops.Clip(output=name, inputs=(x,), shape=(size,), low=np.zeros(()))]


def top_k(name, x, size, group_size=4):
    """GroupSort of neighbours, largest first, as many exporters write it."""
    shape = (size // group_size, group_size)
    return [
        ops.Reshape(output=f"{name}_groups", inputs=(x,), shape=shape),
        ops.Sort(output=f"{name}_sorted", inputs=(f"{name}_groups",), shape=shape, axis=1, k=group_size, largest=True),
        ops.Reshape(output=name, inputs=(f"{name}_sorted",), shape=(size,)),
    ]  # fmt: skip


def linear_net(weight, bias=None):
    weight = float32(weight)
    bias = None if bias is None else float32(bias)
    return Graph(
        input="input",
        input_shape=weight.shape[1:],
        ops=(dense("scores", "input", weight, bias),),
        output="scores",
    )


def to_file(graph, claims: Claims | None = None, dtype=np.float32) -> bytes:
    model = write_model(graph, dtype)
    if claims is not None:
        set_metadata(model, claims.to_metadata())
    return to_bytes(model)
