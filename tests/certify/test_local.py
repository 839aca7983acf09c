"""Local bounds: held against exact evaluation, against the Lipschitz radius, and against attacks."""

from __future__ import annotations

import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipmodel.audit.ascent import steepest
from lipmodel.audit.attacks.attack import AttackTask
from lipmodel.audit.attacks.descent import ProjectedGradientDescent
from lipmodel.audit.gradient import GradientEngine
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.certify.radius import RadiusRule
from lipmodel.certify.tight import functionals as backward
from lipmodel.certify.tight import local_bounds as local
from lipmodel.certify.tight.local_bounds import LocalBounds
from lipmodel.certify.tight.mixtures import Mixer
from lipmodel.certify.tight.relaxations import relax, relax_secant
from lipmodel.deadline import CancelledError, Deadline, OutOfTimeError
from lipmodel.network import ops
from lipmodel.network.ops import Graph
from lipmodel.network.reader.read import read_onnx
from lipmodel.network.window import Window
from lipmodel.norms import Norm, vector_norm
from lipmodel.threat import BALLS
from tests.certify.test_graph import READ
from tests.exact import evaluate
from tests.networks import convolutional_net, dense, float32, groupsort_net, linear_net, to_file

NORMS = list(Norm)


def bent(kind, *, residual=False, width=8, seed=0):
    """Two hidden layers with an elementwise kink, perhaps with a residual connection round the second."""
    rng = np.random.default_rng(seed)
    make = {
        "relu": lambda x, y: ops.Clip(output=y, inputs=(x,), shape=(width,), low=np.zeros(())),
        "abs": lambda x, y: ops.Abs(output=y, inputs=(x,), shape=(width,)),
        "leaky": lambda x, y: ops.LeakyRelu(output=y, inputs=(x,), shape=(width,), slope=float32([0.1])),
        "clip": lambda x, y: ops.Clip(
            output=y, inputs=(x,), shape=(width,), low=float32([-0.3]), high=float32([0.4])
        ),
    }[kind]
    layers = [
        dense("a0", "input", float32(rng.normal(size=(width, 3))), float32(rng.normal(size=width) * 0.3))
    ]
    layers.append(make("a0", "z0"))
    weight = float32(rng.normal(size=(width, width)) / width**0.5)
    layers.append(dense("a1", "z0", weight, float32(rng.normal(size=width) * 0.3)))
    layers.append(make("a1", "z1"))
    last = "z1"
    if residual:
        layers.append(ops.Sum(output="s", inputs=("z1", "z0"), shape=(width,)))
        last = "s"
    layers.append(dense("scores", last, float32(rng.normal(size=(3, width))), float32(rng.normal(size=3))))
    return Graph(input="input", input_shape=(3,), ops=tuple(layers), output="scores")


def convolutional():
    """A grouped, strided, padded convolution with a max pool or an average pool after it, and a head."""
    rng = np.random.default_rng(3)
    window = Window(spatial=(4, 4), size=(3, 3), strides=(1, 1), dilations=(1, 1), begin=(1, 1), end=(1, 1))
    pool = Window(spatial=(4, 4), size=(2, 2), strides=(2, 2), dilations=(1, 1), begin=(0, 0), end=(0, 0))
    kernel, bias = float32(rng.normal(size=(4, 1, 3, 3)) / 3), float32(rng.normal(size=4) * 0.1)
    conv = ops.Conv(
        output="c", inputs=("input",), shape=(4, 4, 4), kernel=kernel, bias=bias, window=window, groups=2
    )
    relu = ops.Clip(output="r", inputs=("c",), shape=(4, 4, 4), low=np.zeros(()))
    most = ops.MaxPool(output="m", inputs=("r",), shape=(4, 2, 2), window=pool)
    mean = ops.AveragePool(output="e", inputs=("r",), shape=(4, 2, 2), window=pool, count_padding=True)
    both = ops.Sum(output="b", inputs=("m", "e"), shape=(4, 2, 2))
    flat = ops.Reshape(output="f", inputs=("b",), shape=(16,))
    head = dense("scores", "f", float32(rng.normal(size=(3, 16)) / 4))
    return Graph(
        input="input", input_shape=(2, 4, 4), ops=(conv, relu, most, mean, both, flat, head), output="scores"
    )


GRAPHS = {
    "groupsort 2": groupsort_net((4, 8, 8), 3, bias_scale=0.3),
    "groupsort 4": groupsort_net((4, 8, 8), 3, group_size=4, bias_scale=0.3),
    "rows": groupsort_net((4, 8, 8), 3, kind="rows", bias_scale=0.3),
    "binary": groupsort_net((3, 8), 1),
    "relu": bent("relu"),
    "abs": bent("abs"),
    "leaky": bent("leaky"),
    "clip": bent("clip"),
    "residual": bent("relu", residual=True),
    "conv": convolutional(),
}
EVERY = GRAPHS | {f"read: {name}": read_onnx(content).graph for name, content in READ.items()}


UNIT = 2.0**-45


def inside(rng, x, radius, norm, directions):
    """x + δ for directions and as many random ones, corners among them; cut to a grid on which it is exact."""
    delta = rng.normal(size=directions.shape)
    if norm is Norm.INF:
        delta = np.where(rng.random((len(delta), 1)) < 0.5, np.sign(delta), rng.uniform(-1, 1, delta.shape))
    else:
        delta /= vector_norm(delta, norm)[:, None]
    delta = np.vstack([delta, directions])
    return x + np.trunc(delta * radius * (1 - 1e-9) / UNIT) * UNIT


def violations(graph, norm, radius, seed=0):
    """How often an exact functional of the scores, at a point of the ball, is below its bound."""
    rng = np.random.default_rng(seed)
    bounds = LocalBounds(graph, norm)
    x = np.round(rng.normal(size=graph.input_size) * 2**10) / 2**10
    size = bounds.primitives[-1].size
    rows = rng.permutation(np.vstack([np.eye(size), -np.eye(size), rng.normal(size=(2, size))]))[:4]
    never = np.full(len(rows), np.inf)  # so that lines are adjusted to the end
    below = bounds.bound_below(bounds.ball(bounds.centre(x), radius), rows, never)
    assert np.isfinite(below).all()
    gradients = GradientEngine(graph)(np.tile(x, (len(rows), 1)), rows)[1]
    wrong = 0
    for point in inside(rng, x, radius, norm, -steepest(gradients, norm)):
        scores = evaluate(graph, point).ravel()
        for row, limit in zip(rows, below, strict=True):
            value = sum(Fraction(float(r)) * s for r, s in zip(row, scores, strict=True))
            wrong += value < Fraction(float(limit))
    return wrong


EACH = [(name, norm) for name in GRAPHS for norm in NORMS]
EACH += [(name, NORMS[index % 3]) for index, name in enumerate(EVERY) if name not in GRAPHS]


@pytest.mark.parametrize(("name", "norm"), EACH)
def test_bounds_hold_exactly(name, norm):
    for radius in (2.0**-20, 1.0):
        assert violations(EVERY[name], norm, radius) == 0


@pytest.mark.parametrize("name", EVERY)
def test_pieces_are_the_graph(name):
    """At radius 0 the bound is the exact score, up to rounding: the pieces compute the same function."""
    graph = EVERY[name]
    bounds = LocalBounds(graph, Norm.TWO)
    rng = np.random.default_rng(0)
    for x in float32(rng.normal(size=(3, graph.input_size))):
        exact = np.array([float(v) for v in evaluate(graph, x).ravel()])
        eye = np.eye(len(exact))
        centre = bounds.centre(x)
        # Without any tensor to stop at but the input, everything is followed all the way.
        blind = [centre[0], *(None for _ in centre[1:])]
        for seen in (centre, blind):
            low = bounds.bound_below(bounds.ball(seen, 0.0), eye)
            high = -bounds.bound_below(bounds.ball(seen, 0.0), -eye)
            scale = 1.0 + np.abs(exact)
            assert (low <= exact + 1e-15 * scale).all()
            assert (exact <= high + 1e-15 * scale).all()
            assert (high - low <= 1e-9 * scale).all()


@given(
    bend=st.floats(-10, 10),
    ends=st.tuples(st.floats(-10, 10), st.floats(-10, 10)),
    at=st.floats(0, 1),
    alpha=st.floats(0, 1),
    share=st.floats(0, 1),
)
def test_lines_are_below_the_kink_exactly(bend, ends, at, alpha, share):
    """bend·relu(d) >= ν d + κ, and |bend (relu(d) - relu(at)) - ν (d - at)| <= β |d - at|, in fractions."""
    low, high = min(ends), max(ends)
    at = min(max(low + at * (high - low), low), high)
    places = {low, high, min(max(low + share * (high - low), low), high), min(max(0.0, low), high)}
    arrays = [np.array([v]) for v in (low, high)]
    with np.errstate(all="ignore"):  # a NaN would prove nothing
        below = relax(np.array([[bend]]), *arrays, np.array([alpha]))
        through = relax_secant(np.array([[bend]]), *arrays, np.array([at]))
    slope, constant = (Fraction(float(v.item())) for v in below)
    swung, doubt = (Fraction(float(v.item())) for v in through)
    exact, centre = Fraction(bend), Fraction(at)
    for d in map(Fraction, places):
        assert exact * max(d, Fraction(0)) >= slope * d + constant
        change = exact * (max(d, Fraction(0)) - max(centre, Fraction(0)))
        assert abs(change - swung * (d - centre)) <= doubt * abs(d - centre)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", [name for name in GRAPHS if name != "leaky"])  # written in other operators
def test_radii_are_no_smaller_and_hold_against_attacks(name, norm):
    graph = GRAPHS[name]
    predictor = CertifiedPredictor(to_file(graph))
    x = float32(np.random.default_rng(1).normal(size=(6, graph.input_size)))
    fast, slow = predictor.predict(x, norm), predictor.predict(x, norm, tighten=True)
    radius = slow.radii.certified_radius
    assert (radius >= fast.radii.certified_radius).all()
    assert (slow.radii.label == fast.radii.label).all()
    assert fast.tightening is None
    assert slow.tightening.reason is None
    larger = radius > fast.radii.certified_radius
    assert ((slow.tightening.method == "local") == larger).all()
    assert (slow.tightening.seconds[fast.radii.certified_radius > 0] > 0).all()
    task = AttackTask(predictor, GradientEngine(graph), x, BALLS[norm])
    attack = ProjectedGradientDescent(radius, steps=40)(task)
    assert not attack.flipped.any()


@pytest.mark.parametrize("norm", NORMS)
def test_radii_are_larger_where_the_constants_are_loose(norm):
    predictor = CertifiedPredictor(to_file(GRAPHS["relu"]))
    x = float32(np.random.default_rng(1).normal(size=(12, 3)))
    fast = predictor.predict(x, norm).radii.certified_radius
    slow = predictor.predict(x, norm, tighten=True)
    assert np.median(slow.radii.certified_radius / fast) > 1.3
    assert (slow.tightening.method == "local").mean() > 0.5


def test_a_linear_net_attains_its_radius():
    graph = linear_net([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.0]], [0.0, 0.25])
    predictor = CertifiedPredictor(to_file(graph))
    x = float32(np.random.default_rng(0).normal(size=(20, 3)))
    for norm in NORMS:
        scores = x @ graph.ops[0].weight.T + graph.ops[0].bias
        attained = np.abs(scores[:, 0] - scores[:, 1]) / vector_norm(np.array([2.0, 1.5, 3.0]), norm.dual)
        radius = predictor.predict(x, norm, tighten=True).radii.certified_radius
        assert radius == pytest.approx(attained, rel=1e-9)
        assert (radius < attained * (1 + 1e-15)).all()


def test_a_net_it_cannot_take_apart_keeps_its_radii_and_says_why():
    graph = groupsort_net((4, 32), 3, group_size=32)
    predictor = CertifiedPredictor(to_file(graph))
    x = float32(np.random.default_rng(0).normal(size=(3, 4)))
    fast, slow = predictor.predict(x), predictor.predict(x, tighten=True)
    assert (slow.radii.certified_radius == fast.radii.certified_radius).all()
    assert slow.tightening.reason == "sorts groups of 32; local bounds support up to 16"
    assert (slow.tightening.method == "lipschitz").all()


def test_inputs_that_are_not_certified_stay_so():
    predictor = CertifiedPredictor(to_file(linear_net(np.eye(3))))
    slow = predictor.predict([[1.0, 1.0, 0.0]], tighten=True)
    assert slow.radii.certified_radius[0] == 0.0
    assert slow.tightening.probes[0] == 0


def test_what_might_overflow_is_not_proved():
    predictor = CertifiedPredictor(to_file(GRAPHS["relu"]))
    x = np.full((1, 3), 0.5)
    fast, tightener = predictor.predict(x), predictor.tightener(Norm.TWO)
    rule = tightener.mixer.rule
    narrow_rule = RadiusRule(
        rule.owners, rule.lipschitz, replace(rule.promised, limit=1.0), input_size=x.shape[1]
    )
    narrow = replace(tightener, mixer=Mixer(predictor.head, narrow_rule))
    assert tightener(fast.raw_scores, x, fast.radii)[1].method[0] == "local"
    assert narrow(fast.raw_scores, x, fast.radii)[1].method[0] == "lipschitz"


class Checks(Deadline):
    """Out of time, or cancelled, after so many checks."""

    def __init__(self, count, error=OutOfTimeError):
        super().__init__()
        self.left, self._error = count, error

    def check(self):
        if not self.left:
            raise self._error
        self.left -= 1


@pytest.mark.parametrize("name", ["relu", "groupsort 2", "conv"])
def test_out_of_time_what_was_proved_by_then_is_kept(name):
    predictor = CertifiedPredictor(to_file(GRAPHS[name]))
    x = float32(np.random.default_rng(1).normal(size=(2, predictor.file.graph.input_size)))
    plain, all_time = predictor.predict(x), Checks(10**9)
    full = predictor.answer(x, Norm.TWO, tighten=True, deadline=all_time)
    assert full.tightening.complete.all()
    used, last, cut = 10**9 - all_time.left, plain.radii.certified_radius, []
    for count in [*range(0, used, used // 8), used]:
        found = predictor.answer(x, Norm.TWO, tighten=True, deadline=Checks(count))
        radius, done = found.radii.certified_radius, found.tightening.complete
        assert (radius >= last).all()  # more time never takes anything away
        assert (radius[done] == full.radii.certified_radius[done]).all()
        assert (done == np.sort(done)[::-1]).all()  # one input after another
        larger = radius > plain.radii.certified_radius
        assert ((found.tightening.method != "lipschitz") == larger).all()
        cut += list(radius[larger & ~done])
        last = radius
    assert (last == full.radii.certified_radius).all()
    assert cut  # in the middle of a search some was proved already


def test_what_is_cancelled_ends_without_a_result():
    predictor = CertifiedPredictor(to_file(GRAPHS["relu"]))
    for count in (0, 20):
        with pytest.raises(CancelledError):
            predictor.answer(np.ones((2, 3)), Norm.TWO, tighten=True, deadline=Checks(count, CancelledError))


def test_one_proof_of_a_large_network_ends_in_time_too():
    """A single radius takes seconds there, all of them half a minute."""
    predictor = CertifiedPredictor(to_file(convolutional_net()))
    x = np.random.default_rng(1).uniform(size=(2, 784))
    plain = predictor.predict(x)
    begun = time.monotonic()
    found = predictor.answer(x, Norm.TWO, tighten=True, deadline=Deadline(0.3))
    assert time.monotonic() - begun < 10
    assert found.tightening.complete.tolist() == [False, False]
    assert (found.radii.certified_radius == plain.radii.certified_radius).all()


def test_the_error_in_the_ball_is_that_of_inputs_in_its_own_norm(monkeypatch):
    """Of a linf ball whose errors grow with the l2 size of inputs: what is left beyond E is 0, not more."""
    predictor = CertifiedPredictor(to_file(groupsort_net((16, 32, 32), 3)))
    tightener, x, radius = predictor.tightener(Norm.INF), np.full(16, 0.5), 0.01
    mixer = tightener.mixer
    assert mixer.rule.promised.norm is Norm.TWO
    size = np.linalg.norm(np.abs(x) + radius)
    scores, (label,) = predictor.predict(x[None]).raw_scores[0], predictor.predict(x[None]).radii.label
    standing = mixer.class_margins(scores, x, label, mix=False)
    error = mixer.error_of(
        mixer.rule.promised, standing.targets, standing.weights, standing.competitors, size
    )
    monkeypatch.setattr(LocalBounds, "bound_below", lambda *_: error)
    near, local = np.arange(len(standing.competitors)), tightener.local
    assert (tightener._slack(local, standing, near, local.ball(local.centre(x), radius)) <= 0.0).all()


def test_scores_that_are_the_input_keep_their_radii():
    """A maximum over groups of the input: before it there is no operation at all."""
    pairs = ops.Reshape(output="pairs", inputs=("input",), shape=(3, 2))
    largest = ops.ReduceExtremum(output="scores", inputs=("pairs",), shape=(3,), kind="max", axes=(1,))
    graph = Graph(input="input", input_shape=(6,), ops=(pairs, largest), output="scores")
    predictor = CertifiedPredictor(to_file(graph))
    assert predictor.head.scores == "input"
    x = [[3.0, 1.0, 2.0, 0.0, 0.0, 0.0]]
    for norm in NORMS:
        fast, slow = predictor.predict(x, norm), predictor.predict(x, norm, tighten=True)
        assert slow.radii.certified_radius[0] >= fast.radii.certified_radius[0] > 0.4
        assert slow.tightening.reason is None


# --- mutants: each breaks one inequality, and the exact tests above must see it ---------------------


def broken_relax(change):
    def mutant(bend, low, high, below):
        return change(bend, low, high, *relax(bend, low, high, below))

    return mutant


RELAX_MUTANTS = {
    "no constant": lambda bend, low, high, slope, constant: (slope, 0.0 * constant),
    "constant of the wrong sign": lambda bend, low, high, slope, constant: (slope, -constant),
    "half the constant": lambda bend, low, high, slope, constant: (slope, 0.5 * constant),
    "chord for the line below": lambda bend, low, high, slope, constant: (
        slope,
        np.where(bend > 0, 0.5 * np.abs(bend) * np.minimum(high, -low).clip(0), constant),
    ),
    "slope above the kink": lambda bend, low, high, slope, constant: (
        np.where(bend > 0, 1.5 * slope, slope),
        constant,
    ),
    "all active": lambda bend, low, high, slope, constant: (bend, 0.0 * constant),
    "all inactive": lambda bend, low, high, slope, constant: (0.0 * bend, 0.0 * constant),
}
SWING_MUTANTS = {
    "no doubt": lambda slope, doubt: (slope, 0.0 * doubt),
    "half the doubt": lambda slope, doubt: (slope, 0.5 * doubt),
    "slope of the wrong sign": lambda slope, doubt: (-slope, doubt),
}


def caught():
    return any(
        violations(GRAPHS[name], norm, radius, seed)
        for seed in range(8)
        for radius in (1.0, 0.125)
        for name in ("relu", "groupsort 2")
        for norm in (Norm.INF, Norm.TWO)
    )


@pytest.mark.parametrize("name", RELAX_MUTANTS)
def test_mutants_of_the_lines_are_caught(name, monkeypatch):
    monkeypatch.setattr(local, "relax", broken_relax(RELAX_MUTANTS[name]))
    assert caught()


@pytest.mark.parametrize("name", SWING_MUTANTS)
def test_mutants_of_the_secants_are_caught(name, monkeypatch):
    monkeypatch.setattr(local, "relax_secant", lambda *args: SWING_MUTANTS[name](*relax_secant(*args)))
    assert caught()


def test_a_mutant_with_half_the_ball_is_caught(monkeypatch):
    monkeypatch.setattr(
        local.LocalBounds,
        "ball",
        lambda self, centre, radius: replace(ball(self, centre, radius), radius=radius / 2),
    )
    assert caught()


ball = LocalBounds.ball


def cancelling(weight, bias):
    """Two layers whose entries, of that size, cancel in pairs but for about 1."""
    rng = np.random.default_rng(0)
    first = np.repeat(rng.normal(size=(32, 4)), 2, axis=0) * weight + rng.normal(size=(64, 4))
    offset = np.repeat(rng.normal(size=32), 2) * bias + rng.normal(size=64)
    signs = np.stack([np.repeat(rng.normal(size=32), 2) * np.tile([1.0, -1.0], 32) for _ in range(2)])
    layers = (dense("a", "input", first, offset), dense("scores", "a", signs))
    return Graph(input="input", input_shape=(4,), ops=layers, output="scores")


def broken_by_rounding(graph):
    """How many exact scores are below their bound at radius 0, followed all the way to the input."""
    bounds = LocalBounds(graph, Norm.TWO)
    rows = np.vstack([np.eye(2), -np.eye(2)])
    broken = 0
    for x in float32(np.random.default_rng(1).normal(size=(20, 4))):
        below = bounds.bound_below(bounds.ball([x, *(None for _ in bounds.primitives[1:])], 0.0), rows)
        scores = evaluate(graph, x)
        exact = [*scores, *(-s for s in scores)]
        broken += sum(value < Fraction(float(limit)) for value, limit in zip(exact, below, strict=True))
    return broken


def test_rounding_of_coefficients_is_paid_for(monkeypatch):
    graph = cancelling(2.0**20, 0.0)
    assert broken_by_rounding(graph) == 0
    monkeypatch.setattr(backward.BackwardPass, "_pay", lambda *args: None)
    assert broken_by_rounding(graph) > 0


def test_rounding_of_constants_is_paid_for(monkeypatch):
    graph = cancelling(0.0, 2.0**20)
    assert broken_by_rounding(graph) == 0
    monkeypatch.setattr(backward, "gamma", lambda k: 0.0)
    assert broken_by_rounding(graph) > 0
