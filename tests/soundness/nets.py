"""The networks of the soundness suite: dense, convolutional, residual, with prototypes; built in code."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from lipmodel.network import ops
from lipmodel.network.execution import Execution
from lipmodel.network.ops import Graph
from lipmodel.network.window import Window
from lipmodel.norms import Norm
from tests.networks import behind_clip, dense, float32, groupsort, groupsort_net, linear_net, prototypes
from tests.networks import rectified as relu


@dataclass(frozen=True)
class Net:
    """A graph, and the norm in which its maker claims that each score is 1-Lipschitz, if any."""

    graph: Graph
    claim: Norm | None = None


def graph_of(size, *steps, shape=None):
    return Graph(input="input", input_shape=shape or (size,), ops=steps, output=steps[-1].output)


def relu_net(rng, widths=(10, 32, 16), classes=3):
    steps, x = [], "input"
    for i, (n, m) in enumerate(itertools.pairwise(widths)):
        weight = float32(rng.normal(size=(m, n)) / n**0.5)
        steps += [dense(f"a{i}", x, weight, float32(rng.normal(size=m) / 4)), relu(f"z{i}", f"a{i}", m)]
        x = f"z{i}"
    last = dense(
        "scores", x, float32(rng.normal(size=(classes, widths[-1]))), float32(rng.normal(size=classes))
    )
    return graph_of(widths[0], *steps, last)


def residual_net(rng, size=8, classes=3):
    def layer(name, x, m, n):
        return dense(name, x, float32(rng.normal(size=(m, n)) / 2 / n**0.5), float32(rng.normal(size=m) / 4))

    return graph_of(
        size,
        layer("a", "input", size, size),
        relu("b", "a", size),
        ops.Sum(output="c", inputs=("input", "b"), shape=(size,)),
        layer("d", "c", size, size),
        ops.Abs(output="e", inputs=("d",), shape=(size,)),
        ops.Sum(output="f", inputs=("c", "e"), shape=(size,)),
        layer("scores", "f", classes, size),
    )


def conv_net(rng, classes=4, pool=2):
    """8 by 8 pixels, a padded convolution of stride 2, MaxMin over channels, mean over windows, dense."""
    ones = (1, 1)
    look = Window(spatial=(8, 8), size=(3, 3), strides=(2, 2), dilations=ones, begin=ones, end=ones)
    mean = Window(
        spatial=(4, 4), size=(pool, pool), strides=(pool, pool), dilations=ones, begin=(0, 0), end=(0, 0)
    )
    left = (4 // pool) ** 2 * 4
    return graph_of(
        64,
        ops.Conv(output="a", inputs=("input",), shape=(4, 4, 4), kernel=float32(rng.normal(size=(4, 1, 3, 3)) / 3),
                 bias=float32(rng.normal(size=4) / 4), window=look),
        ops.SortingNetwork(output="b", inputs=("a",), shape=(4, 4, 4), axis=0, length=4, wires=((0, 1), (2, 3)),
                           comparators=((0, 1),), joined=(0, 1)),
        ops.AveragePool(output="c", inputs=("b",), shape=(4, 4 // pool, 4 // pool), window=mean, count_padding=False),
        ops.Reshape(output="d", inputs=("c",), shape=(left,)),
        dense("scores", "d", float32(rng.normal(size=(classes, left))), float32(rng.normal(size=classes) / 4)),
        shape=(1, 8, 8),
    )  # fmt: skip


def prototype_net(rng, size=16, classes=5, each=6):
    """Negative squared distance to the nearest prototype of each class, less what all classes share."""
    rows = float32(rng.normal(size=(classes * each, size)))
    return prototypes(rows, float32(-0.5 * (rows**2).sum(axis=1)), classes)


def signed_permutation_net(rng, size=16, classes=2):
    """Hidden layers that are isometries to the last bit, so that the radius is attained in l1, l2 and linf."""
    steps, x = [], "input"
    for i in range(2):
        weight = np.eye(size)[rng.permutation(size)] * rng.choice([-1.0, 1.0], size=size)
        steps += [
            dense(f"a{i}", x, weight, float32(rng.normal(size=size) / 8)),
            groupsort(f"z{i}", f"a{i}", size, 2),
        ]
        x = f"z{i}"
    last = dense("scores", x, float32(rng.normal(size=(classes, size))), float32(rng.normal(size=classes)))
    return graph_of(size, *steps, last)


def linear(rng, classes, size):
    return linear_net(rng.normal(size=(classes, size)), rng.normal(size=classes))


NETS: dict[str, Callable[[np.random.Generator], Net]] = {
    "linear 2": lambda rng: Net(linear(rng, 1, 2)),
    "linear 16": lambda rng: Net(linear(rng, 2, 16)),
    "linear 64": lambda rng: Net(linear(rng, 3, 64)),
    "isometric 16-16-16-2": lambda rng: Net(signed_permutation_net(rng)),
    "rows 2-16-16-1": lambda _: Net(groupsort_net((2, 16, 16), 1, kind="rows"), Norm.INF),
    "orthogonal 8-32-32-4": lambda _: Net(groupsort_net((8, 32, 32), 4), Norm.TWO),
    "groups of 4 16-32-32-5": lambda _: Net(groupsort_net((16, 32, 32), 5, group_size=4, seed=1), Norm.TWO),
    "relu 10-32-16-3": lambda rng: Net(relu_net(rng)),
    "residual 8": lambda rng: Net(residual_net(rng)),
    "conv 8x8": lambda rng: Net(conv_net(rng)),
    "prototypes 5x6": lambda rng: Net(prototype_net(rng)),
    "clipped linear 16": lambda rng: Net(behind_clip(linear(rng, 2, 16), -1.5, 1.5)),
    "clipped prototypes 5x6": lambda rng: Net(behind_clip(prototype_net(rng), -1.5, 1.5)),
    "digits 64-128-128-10": lambda _: Net(groupsort_net((64, 128, 128), 10), Norm.TWO),
}
ATTAINED = ("linear 2", "linear 16", "linear 64", "isometric 16-16-16-2", "clipped linear 16")
"""Where the certified radius is the true one, but for rounding."""


def make(name):
    """The network, its last biases such that every class is answered about as often as any other."""
    rng = np.random.default_rng(sum(map(ord, name)))
    net = NETS[name](rng)
    last = net.graph.ops[-1]
    if not isinstance(last, ops.Dense):
        return net
    scores = Execution(net.graph, np.float64).scores(rng.normal(size=(500, net.graph.input_size)))
    bias = float32(last.bias - np.median(scores, axis=0))
    return replace(net, graph=with_biases(net.graph, {last.output: bias}))


def fresh(graph):
    """The same graph with nothing remembered: bounds are kept per operation and per graph."""
    return replace(graph, ops=tuple(replace(op) for op in graph.ops))


def with_biases(graph, biases):
    """The graph with the biases of some operations replaced, by name."""
    return replace(
        graph,
        ops=tuple(
            replace(op, bias=biases[op.output]) if op.output in biases else replace(op) for op in graph.ops
        ),
    )
