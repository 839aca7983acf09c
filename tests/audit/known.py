"""Networks whose true Lipschitz constant in l2 is known, because they were built so."""

from __future__ import annotations

import numpy as np

from lipmodel.network import ops
from lipmodel.network.ops import Graph
from tests.networks import dense, groupsort, groupsort_net, linear_net, orthogonal
from tests.networks import rectified as relu


def linear(rng):
    weight = rng.normal(size=(1, 30))
    graph = linear_net(weight)
    return graph, float(np.linalg.norm(graph.ops[0].weight))


def product_attained(rng):
    """Square orthogonal layers and GroupSort: every gradient has norm 1."""
    return groupsort_net((20, 20, 20), 1, seed=int(rng.integers(1000))), 1.0


def absolute_chain(rng):
    """|| … |x·u - b| … | - b|: slope 1 wherever it is defined, folded many times."""
    direction = orthogonal(rng, 1, 8)
    layers = [dense("a0", "input", direction, np.array([-0.1]))]
    for k in range(6):
        layers.append(ops.Abs(output=f"z{k}", inputs=(f"a{k}",), shape=(1,)))
        layers.append(dense(f"a{k + 1}", f"z{k}", np.ones((1, 1)), np.array([-(0.5 ** (k + 1))])))
    return Graph("input", (8,), tuple(layers), "a6"), 1.0


def orthant(size):
    """w·relu(Qx): ‖w‖, in the one of 2^size orthants of rotated space where all units are on."""

    def make(rng):
        rotation, weight = orthogonal(rng, size, size), rng.normal(size=(1, size))
        layers = (dense("a", "input", rotation), relu("z", "a", size), dense("scores", "z", weight))
        return Graph("input", (size,), layers, "scores"), float(np.linalg.norm(weight))

    return make


def tournament(rng):
    """The largest of 32 projections, of which one has slope 1 and is below the rest near the origin."""
    slopes = np.linspace(1.0, 0.3, 32)
    offsets = np.where(np.arange(32) == 0, -0.5, 0.0)
    layers = [dense("a0", "input", slopes[:, None] * orthogonal(rng, 32, 32), offsets)]
    size, name = 32, "a0"
    while size > 1:
        layers.append(groupsort(f"z{size}", name, size, 2))
        name, size = f"a{size}", size // 2
        layers.append(dense(name, layers[-1].output, np.eye(size, 2 * size)))
    return Graph("input", (32,), tuple(layers), name), 1.0


def hidden_spike(rng):
    """Slope 1 on a slab of width 0.1, three units from the origin; 0.5 elsewhere."""
    direction = orthogonal(rng, 1, 16)
    rows = np.repeat(direction, 4, axis=0)
    layers = (
        dense("a", "input", rows, np.array([50.0, -3.0, -3.1, -3.2])),
        relu("z", "a", 4),
        dense("scores", "z", np.array([[0.5, 0.5, -1.0, 0.5]])),
    )
    return Graph("input", (16,), layers, "scores"), 1.0


KNOWN = {
    "linear": linear,
    "orthogonal GroupSort": product_attained,
    "absolute values": absolute_chain,
    "orthant 32": orthant(32),
    "orthant 256": orthant(256),
    "tournament": tournament,
    "hidden spike": hidden_spike,
}
