"""Fifty files tampered with behind unchanged metadata, and fifty honest ones.

Each tampered file is caught twice where it can be: by the bound derived from it (the claim is
``unproved``, or the file refused), which sees everything, and by the audit, which needs no bound to
be right but has to come upon the place. Fifty are caught by the bound; the audit alone misses the
spikes that are too narrow and too far away (``MISSED``). No honest file is accused by either.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lipmodel.audit.report import audit
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import ModelError
from lipmodel.network import ops
from lipmodel.network.metadata import Claims
from lipmodel.network.ops import Graph
from lipmodel.norms import Norm
from tests.networks import (
    dense,
    float32,
    groupsort_net,
    linear_net,
    orthogonal,
    prototypes,
    rectified,
    to_file,
)

TWO, INF = Norm.TWO, Norm.INF


def base(seed):
    """A network that preserves the norm of gradients: its constant, 1 in l2, is attained everywhere."""
    return groupsort_net((6, 6, 6), 3, seed=seed)


def honest(graph, norm=TWO):
    """Return claims equal to the proved constant."""
    return Claims(norm=norm, lipschitz=CertifiedPredictor(to_file(graph)).bounds(norm).bound_global)


def replaced(graph, output, **changes):
    return replace(
        graph, ops=tuple(replace(op, **changes) if op.output == output else op for op in graph.ops)
    )


def scaled(factor, layer, seed):
    graph = base(seed)
    weight = next(op.weight for op in graph.ops if op.output == layer)
    return replaced(graph, layer, weight=float32(factor * weight)), honest(graph)


def swapped(size, seed):
    """A σ(Bx) + Cx with norms 0.2 · 3 + 0.4 = 1; with A and C swapped 0.4 · 3 + 0.2."""
    rng = np.random.default_rng(seed)
    p, q = orthogonal(rng, size, size), orthogonal(rng, size, size)
    small, large, inner = float32(0.2 * p @ q.T), float32(0.4 * p), float32(3.0 * q)

    def net(outer, skip):
        hidden = dense("a", "input", inner)
        bent = rectified("z", "a", size)
        body = Graph("input", (size,), (hidden, bent, dense("b", "z", outer)), "b")
        return with_added(body, dense("skip", "input", skip))

    return net(large, small), honest(net(small, large))


def with_added(graph, *added):
    """The same with the last tensor of ``added`` on top of the scores."""
    scores = graph.output_shape
    total = ops.Sum(output="total", inputs=(graph.output, added[-1].output), shape=scores)
    return replace(graph, ops=(*graph.ops, *added, total), output="total")


def moving_bias(size, seed):
    """A constant bias replaced by one that leans a little with the input."""
    graph = base(seed)
    slope = float32(size * np.random.default_rng(seed).normal(size=(3, 6)))
    return with_added(graph, dense("lean", "input", slope)), honest(graph)


def spike(width, place, seed):
    """A tent of slope 20 on the first score, ``width`` wide, at a distance from the origin."""
    graph = base(seed)
    direction = np.random.default_rng(seed).normal(size=6)
    direction /= np.linalg.norm(direction)
    offsets = -float(place) + width * np.array([-0.5, 0.0, 0.5])
    rises = dense("rises", "input", float32(np.tile(direction, (3, 1))), float32(offsets))
    bent = rectified("bent", "rises", 3)
    tent = dense("tent", "bent", float32(np.outer([1, 0, 0], [20.0, -40.0, 20.0])))
    return with_added(graph, rises, bent, tent), honest(graph)


def other_norm(seed):
    """The constant proved in l2, claimed in linf."""
    graph = base(seed)
    return graph, replace(honest(graph), norm=INF)


def steeper(slope, seed):
    """Replace an activation by one that stretches negative numbers."""
    graph = base(seed)
    leaky = ops.LeakyRelu(output="z1", inputs=("a1",), shape=(6,), slope=np.asarray(float32(slope)))
    return replace(
        graph, ops=tuple(leaky if op.output == "z1" else op for op in graph.ops)
    ), honest(graph)  # fmt: skip


def not_a_number(layer):
    graph = base(0)
    weight = next(op.weight for op in graph.ops if op.output == layer).copy()
    weight[0, 0] = np.nan
    return replaced(graph, layer, weight=weight), honest(graph)


FACTORS = (1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0)
TAMPERED = (
    {f"scaled {layer} by {s}": (scaled, s, layer, i) for layer in ("a1", "scores") for i, s in enumerate(FACTORS)}
    | {f"swapped layers {n} #{seed}": (swapped, n, seed) for n in (3, 5) for seed in range(4)}
    | {f"moving bias {s}": (moving_bias, s, i) for i, s in enumerate((0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0))}
    | {f"spike {w} wide at {p}": (spike, w, p, 3) for w in (0.5, 0.1, 0.01, 1e-3) for p in (0.5, 30.0)}
    | {f"claimed in another norm #{seed}": (other_norm, seed) for seed in range(2)}
    | {f"steeper activation {s}": (steeper, s, 0) for s in (1.5, 4.0)}
    | {f"no number in {layer}": (not_a_number, layer) for layer in ("a0", "scores")}
)  # fmt: skip
MISSED = {f"spike {w} wide at 30.0" for w in (0.5, 0.1, 0.01, 1e-3)} | {"spike 0.001 wide at 0.5"}
SEED = 1
"""Of ten seeds nine find the spike 0.01 wide at 0.5, and two or three the one of 0.001."""
REFUSED = {name for name in TAMPERED if name.startswith("no number")}


def test_there_are_fifty():
    assert len(TAMPERED) == 50


@pytest.mark.parametrize("name", TAMPERED)
def test_tampered_files_are_caught(name):
    make, *arguments = TAMPERED[name]
    graph, claims = make(*arguments)
    content = to_file(graph, claims)
    if name in REFUSED:
        with pytest.raises(ModelError):
            CertifiedPredictor(content)
        return
    predictor = CertifiedPredictor(content)
    assert predictor.claim_proved is False
    report = audit(predictor, samples=512, attacked=0, seed=SEED)
    assert report.verdict == ("consistent" if name in MISSED else "refuted")
    assert report.observed - report.observed_error <= report.bound
    if name not in MISSED:
        assert report.observed_slope > claims.lipschitz


def relu_net(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 9))
    hidden = dense("a", "input", float32(rng.normal(size=(12, size))), float32(rng.normal(size=12)))
    last = dense("scores", "z", float32(rng.normal(size=(3, 12))))
    return Graph("input", (size,), (hidden, rectified("z", "a", 12), last), "scores")


def grouped(seed):
    """Several scores a class, the largest of which counts."""
    rng = np.random.default_rng(seed)
    return prototypes(float32(rng.normal(size=(12, 5))), float32(rng.normal(size=12)), 3)


HONEST = (
    [(lambda seed=seed: groupsort_net((3, 8, 8), 4, seed=seed), norm) for seed in range(7) for norm in Norm]
    + [(lambda seed=seed: groupsort_net((3, 8, 8), 3, seed=seed, kind="rows"), INF) for seed in range(7)]
    + [(lambda seed=seed: relu_net(seed), norm) for seed in range(4) for norm in Norm]
    + [(lambda seed=seed: grouped(seed), TWO) for seed in range(5)]
    + [(lambda seed=seed: linear_net(np.random.default_rng(seed).normal(size=(3, 6))), TWO) for seed in range(5)]
)  # fmt: skip


def test_there_are_fifty_honest_ones():
    assert len(HONEST) == 50


@pytest.mark.parametrize(("make", "norm"), HONEST)
def test_no_honest_file_is_accused(make, norm):
    graph = make()
    predictor = CertifiedPredictor(to_file(graph, honest(graph, norm)))
    assert predictor.claim_proved is True
    report = audit(predictor, inputs=np.zeros((2, graph.input_size)), samples=256, attacked=4)
    assert report.verdict == "consistent", report.reasons
    assert report.observed_slope <= report.bound
