"""The box of a Clip in front of a network: against exact distances within it, and attacks."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from lipmodel.certificates.format import Certificate, InBox
from lipmodel.certify.box import find_box, radius_in_box, support_in_box
from lipmodel.certify.boxed_radius import UNBOUNDED
from lipmodel.certify.issue import certify
from lipmodel.certify.linear_box import find_linear_box
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import CertificateError
from lipmodel.network import ops
from lipmodel.network.ops import Graph
from lipmodel.norms import Norm, vector_norm
from lipmodel.signed.answers import answers
from lipmodel.signed.check import check_answer
from lipmodel.threat import Threat
from lipmodel.verify.check import verify
from tests.certify.test_certificate import older
from tests.networks import behind_clip, dense, float32, groupsort_net, linear_net, prototypes, relu, to_file

SCALES = (0.5, 0.0, 2.0, 1.0, 0.25, 1.0)
NORMS = [Threat(norm) for norm in Norm] + [Threat(norm, SCALES) for norm in Norm]


def fractions(values):
    return [Fraction(v) for v in np.asarray(values, dtype=np.float64).ravel().tolist()]


def exact_radius(w, t, m, norm):
    """Return the least ‖u‖_p with <w, u> >= m, 0 <= u <= t, of rationals (in l2 its square); None if there is none.

    Columns are used up in a known order: of w in l1, of t/w in l2 and of t in linf.
    """
    used = [(a, b) for a, b in zip(w, t, strict=True) if a > 0]
    if sum(a * b for a, b in used) < m:
        return None
    if norm is Norm.ONE:
        total = Fraction(0)
        for a, b in sorted(used, key=lambda column: -column[0]):
            if a * b >= m:
                return total + m / a
            total, m = total + b, m - a * b
    if norm is Norm.TWO:
        square, rest = Fraction(0), sum(a * a for a, _ in used)
        for a, b in sorted(used, key=lambda column: column[1] / column[0]):
            if (tau := m / rest) * a <= b:
                return square + tau * tau * rest
            square, m, rest = square + b * b, m - a * b, rest - a * a
        return square
    rest = sum(a for a, _ in used)
    for a, b in sorted(used, key=lambda column: column[1]):
        if m / rest <= b:
            return m / rest
        m, rest = m - a * b, rest - a
    return max(b for _, b in used)


@given(data=st.data(), norm=st.sampled_from(list(Norm)))
@settings(max_examples=300)
def test_a_radius_in_the_box_is_below_the_exact_one_by_rounding_alone(data, norm):
    n = data.draw(st.integers(1, 8))
    size = st.floats(-4.0, 4.0, width=32)
    rows = np.array(data.draw(st.lists(size, min_size=n, max_size=n)))
    below, above = (np.abs(data.draw(st.lists(size, min_size=n, max_size=n))) for _ in range(2))
    t = np.where(rows < 0, above, below)
    m = data.draw(st.floats(0.01, 1.2)) * max(float(np.abs(rows) @ t), 1e-3)
    (radius,), (multiplier,) = radius_in_box(rows[None], below, above, np.array([m]), norm)
    exact = exact_radius(fractions(abs(rows)), fractions(t), Fraction(m), norm)
    if exact is None:
        assert radius == inf or Fraction(float(np.abs(rows) @ t)) > Fraction(m) * (1 - Fraction(1, 2**40))
        return
    power = 2 if norm is Norm.TWO else 1
    assert radius < inf
    assert Fraction(radius) ** power < exact
    near = sum(fractions(abs(rows) * t)) > Fraction(m) * (1 + Fraction(1, 2**30))
    if near:  # at the corner of the box the last column decides, and cancels
        assert Fraction(radius) ** power > exact * (1 - Fraction(1, 2**20))
        assert multiplier > 0.0


@given(data=st.data(), norm=st.sampled_from(list(Norm)))
@settings(max_examples=200)
def test_a_linear_function_falls_in_the_box_by_no_more_than_the_bound(data, norm):
    n = data.draw(st.integers(1, 8))
    size = st.floats(-4.0, 4.0, width=32)
    rows = np.array(data.draw(st.lists(size, min_size=n, max_size=n)))
    below, above = (np.abs(data.draw(st.lists(size, min_size=n, max_size=n))) for _ in range(2))
    radius = data.draw(st.floats(0.0, 8.0))
    bound = support_in_box(rows[None], below, above, radius, norm)[0]
    w, t = fractions(abs(rows)), fractions(np.where(rows < 0, above, below))
    if bound > 2.0**-900:  # any fall m with an exact radius of at most r is below the bound
        for m in (Fraction(float(bound)), Fraction(float(bound)) * (1 + Fraction(1, 1000))):
            exact = exact_radius(w, t, m, norm)
            power = 2 if norm is Norm.TWO else 1
            assert exact is None or exact >= Fraction(radius) ** power
    assert bound <= radius * vector_norm(rows, norm.dual) * (1 + 1e-9) + 1e-300
    assert bound <= float(sum(a * b for a, b in zip(w, t, strict=True))) * (1 + 1e-9) + 1e-300


def linear(seed, d=6, classes=3):
    rng = np.random.default_rng(seed)
    return linear_net(rng.normal(size=(classes, d)), rng.normal(size=classes) * 0.3)


@pytest.mark.parametrize("threat", NORMS, ids=str)
@pytest.mark.parametrize("ends", [(0.0, 1.0), (0.0, None)])
def test_linear_scores_behind_a_clip_have_the_exact_distance(threat, ends):
    graph = linear(3)
    predictor = CertifiedPredictor(to_file(behind_clip(graph, *ends)))
    x = float32(np.random.default_rng(1).uniform(-0.3, 1.3, size=(40, 6)))
    radii = predictor.predict(x, threat).radii
    without = CertifiedPredictor(to_file(graph)).predict(np.clip(x, *ends), threat).radii
    assert (radii.certified_radius >= without.certified_radius * (1 - 1e-9)).all()
    assert (radii.certified_radius > without.certified_radius * 1.01).mean() > 0.05
    weight, bias = graph.ops[0].weight, graph.ops[0].bias
    scale = np.array(threat.scale or [1.0] * 6)
    changed = np.flatnonzero(scale)
    for n, z in enumerate(np.clip(x, *ends)):
        label, radius = int(radii.label[n]), radii.certified_radius[n]
        scores = [
            sum(a * b for a, b in zip(fractions(row), fractions(z), strict=True)) + Fraction(float(b))
            for row, b in zip(weight, bias, strict=True)
        ]
        least = None
        for j in set(range(3)) - {label}:
            v = [a - b for a, b in zip(fractions(weight[label]), fractions(weight[j]), strict=True)]
            room = [
                Fraction(float(z[k])) if v[k] > 0 or (ends[1] is not None and v[k] == 0)
                else (Fraction(1) - Fraction(float(z[k])) if ends[1] else Fraction(10**6))
                for k in changed
            ]  # fmt: skip
            w = [abs(v[k]) * Fraction(float(scale[k])) for k in changed]
            t = [r / Fraction(float(scale[k])) for r, k in zip(room, changed, strict=True)]
            exact = exact_radius(w, t, scores[label] - scores[j], threat.norm)
            if exact is not None:
                least = exact if least is None else min(least, exact)
        if least is None:
            assert radius > 1e100
            continue
        power = 2 if threat.norm is Norm.TWO else 1
        assert Fraction(radius) ** power < least
        assert Fraction(radius) ** power > least * (1 - Fraction(1, 10**9)) or radius == 0.0


@pytest.mark.parametrize("threat", NORMS, ids=str)
def test_mixtures_in_the_box_come_near_the_distance_that_an_optimiser_finds(threat):
    rng = np.random.default_rng(5)
    graph = prototypes(float32(rng.normal(size=(9, 6))), float32(rng.normal(size=9) * 0.3), 3)
    predictor = CertifiedPredictor(to_file(behind_clip(graph, 0.0, 1.0)))
    x = float32(rng.uniform(0.0, 1.0, size=(12, 6)))
    fast, tightened = predictor.predict(x, threat), predictor.predict(x, threat, tighten=True)
    assert (tightened.radii.certified_radius >= fast.radii.certified_radius).all()
    ratios = []
    for n in range(len(x)):
        found = nearest_other_label(graph, x[n], int(fast.radii.label[n]), threat)
        if found < inf:
            assert tightened.radii.certified_radius[n] <= found * (1 + 1e-9)
            ratios.append(tightened.radii.certified_radius[n] / found)
    assert len(ratios) >= 8
    assert np.median(ratios) > (0.999 if threat.norm is Norm.TWO else 0.9)


def nearest_other_label(graph, z, label, threat):
    """Return the size of the least change within [0, 1] that an optimiser finds to give another class's score."""
    weight, bias = graph.ops[0].weight, graph.ops[0].bias
    owners = np.repeat(np.arange(3), 3)
    scale = np.array(threat.scale or [1.0] * 6)
    changed = scale > 0
    own = owners == label
    best = inf
    for j in np.flatnonzero(~own):
        a, b = (
            (weight[j] - weight[own])[:, changed] * scale[changed],
            (bias[j] - bias[own]) + (weight[j] - weight[own]) @ z,
        )
        room = [(-zk / s, (1 - zk) / s) for zk, s in zip(z[changed], scale[changed], strict=True)]
        n = int(changed.sum())
        if threat.norm is Norm.TWO:
            result = minimize(
                lambda u: u @ u,
                np.zeros(n),
                jac=lambda u: 2 * u,
                bounds=room,
                constraints={"type": "ineq", "fun": lambda u, a=a, b=b: a @ u + b, "jac": lambda u, a=a: a},
                method="SLSQP",
                options={"maxiter": 200, "ftol": 1e-14},
            )
            if result.success and (a @ result.x + b >= -1e-9).all():
                best = min(best, float(np.linalg.norm(result.x)))
        else:
            best = min(best, _by_linear_program(a, b, room, threat.norm))
    return best


def _by_linear_program(a, b, room, norm):
    from scipy.optimize import linprog

    n = a.shape[1]
    low, high = np.array(room).T
    if norm is Norm.INF:  # min r, |u| <= r
        cost = np.append(np.zeros(n), 1.0)
        eye = np.hstack([np.eye(n), -np.ones((n, 1))])
        rows = np.vstack([np.hstack([-a, np.zeros((len(a), 1))]), eye, eye * np.append(-np.ones(n), 1.0)])
        limits = np.concatenate([b, np.zeros(2 * n)])
        bounds = [*zip(low, high, strict=True), (0, None)]
    else:  # u = p - q, min Σ p + q
        cost = np.ones(2 * n)
        rows, limits = np.hstack([-a, a]), b
        bounds = [(0, h) for h in high] + [(0, -lo) for lo in low]
    result = linprog(cost, rows, limits, bounds=bounds)
    return float(result.fun) if result.success else inf


@pytest.mark.parametrize("threat", NORMS, ids=str)
@pytest.mark.parametrize("activation", ["groupsort", "relu"])
def test_local_bounds_behind_a_clip_hold_and_are_larger(threat, activation):
    rng = np.random.default_rng(2)
    graph = groupsort_net((6, 12, 12), 3, seed=4)
    if activation == "relu":
        layers = [dense("a", "input", float32(rng.normal(size=(12, 6)) / 2)), *relu("b", "a", 12)]
        layers.append(dense("scores", "b", float32(rng.normal(size=(3, 12)) / 3)))
        graph = Graph("input", (6,), tuple(layers), "scores")
    predictor = CertifiedPredictor(to_file(behind_clip(graph, 0.0, 1.0)))
    x = float32(np.round(rng.uniform(-0.2, 1.2, size=(8, 6)), 1))
    boxed = predictor.predict(x, threat, tighten=True).radii
    plain = CertifiedPredictor(to_file(graph)).predict(np.clip(x, 0, 1), threat, tighten=True).radii
    assert (boxed.certified_radius >= plain.certified_radius * (1 - 2e-3)).all()
    assert (boxed.certified_radius > plain.certified_radius * 1.005).any()
    scale = np.array(threat.scale or [1.0] * 6)
    for n, radius in enumerate(boxed.certified_radius):
        u = rng.normal(size=(4000, 6)) * (rng.random((4000, 6)) < 0.6) + 1e-9
        u[:, scale == 0.0] = 0.0
        u *= (radius * (1 - 1e-12) / vector_norm(u, threat.norm, axis=1))[:, None]
        # … and with changes only where they stay in the box, which come closest to the boundary
        inside = np.clip(x[n] + scale * u, np.minimum(x[n], 0.0), np.maximum(x[n], 1.0))
        for tried in (x[n] + scale * u, inside):
            assert (predictor.predict(tried, threat).radii.label == boxed.label[n]).all()


def test_a_class_that_no_input_of_the_box_leaves_has_an_unbounded_radius():
    graph = linear_net([[0.0, 0.0], [0.25, -0.25]], [1.0, 0.0])
    predictor = CertifiedPredictor(to_file(behind_clip(graph, 0.0, 1.0)))
    for norm in Norm:
        for tighten in (False, True):
            radius = predictor.predict(
                [[0.5, 0.5], [-7.0, 1e30]], norm, tighten=tighten
            ).radii.certified_radius
            assert (radius > UNBOUNDED / 2).all()
            assert np.isfinite(radius).all()


def test_a_missing_end_limits_the_reach():
    predictor = CertifiedPredictor(
        to_file(behind_clip(linear_net([[0.0, 0.0], [0.25, -0.25]], [1.0, 0.0]), 0.0))
    )
    answer = predictor.predict([[0.5, 3.0]], Norm.TWO)
    assert 1.0 < answer.radii.certified_radius[0] < 1e3
    far = np.array([[1e30, 0.0]])
    assert predictor.predict(far, Norm.TWO).radii.label[0] == 1


@pytest.mark.parametrize(
    ("ends", "found"),
    [
        ((0.0, 1.0), True),
        ((0.0, None), True),
        ((None, 2.0), True),
        ((np.arange(6.0), np.arange(6.0) + 1.0), True),
        ((np.zeros(6), np.array([1.0] * 5 + [np.inf])), True),
        ((1.0, 0.0), False),  # crossed: no projection
        ((np.zeros(6), np.array([1.0] * 5 + [-1.0])), False),
        ((-np.inf, np.inf), False),
    ],
)
def test_ends_that_make_a_box(ends, found):
    box = find_box(behind_clip(linear(0), *ends))
    assert (box is not None) == found
    if box is not None:
        assert box.low.shape == box.high.shape == (6,)
        assert [op.output for op in box.behind.ops] == ["scores"]


def test_a_maximum_and_a_minimum_in_a_row_are_one_box():
    graph = behind_clip(behind_clip(linear(0), None, 1.0), 0.0, None, name="first")
    box = find_box(graph)
    assert (box.low == 0.0).all()
    assert (box.high == 1.0).all()


def test_a_clip_that_is_not_alone_with_the_input_makes_no_box():
    graph = behind_clip(linear(0), 0.0, 1.0)
    both = ops.Sum(output="both", inputs=("clipped", "input"), shape=(6,))
    scores = replace(graph.ops[-1], inputs=("both",))
    assert find_box(Graph("input", (6,), (graph.ops[0], both, scores), "scores")) is None


def test_scores_are_linear_behind_negations_products_and_shifts():
    rng = np.random.default_rng(0)
    layers = [
        ops.Negate(output="n", inputs=("input",), shape=(6,)),
        ops.Scale(output="s", inputs=("n",), shape=(6,), factor=float32(rng.uniform(0.5, 2.0, 6))),
        dense("p", "s", float32(rng.normal(size=(4, 6)))),
        ops.Shift(output="o", inputs=("p",), shape=(4,), offset=float32(rng.normal(size=4))),
        dense("scores", "o", float32(rng.normal(size=(3, 4)))),
    ]
    graph = behind_clip(Graph("input", (6,), tuple(layers), "scores"), 0.0, 1.0)
    linear_box = find_linear_box(find_box(graph))
    assert linear_box.negated
    predictor = CertifiedPredictor(to_file(graph))
    x = np.vstack([np.zeros(6), np.eye(6)])
    scores = predictor.scores_in_float64(x)
    gradients = linear_box.gradients(linear_box.head.rows, Threat(Norm.TWO))
    np.testing.assert_allclose((scores[1:] - scores[0]).T, gradients, atol=1e-12)
    # A network with anything else in it is not linear
    sorted_net = behind_clip(groupsort_net((6, 4), 3), 0.0, 1.0)
    assert find_linear_box(find_box(sorted_net)) is None


def test_radii_of_float32_evaluations_hold():
    predictor = CertifiedPredictor(to_file(behind_clip(linear(3), 0.0, 1.0)))
    x = np.random.default_rng(1).uniform(-0.3, 1.3, size=(20, 6))
    for norm in Norm:
        served = predictor.predict(x, norm).radii.certified_radius
        portable = predictor.portable_radii(x, norm)
        executed = predictor.predict(x, norm, execution=np.float32).radii.certified_radius
        assert (portable < served).all()
        assert (portable > served * 0.999).mean() > 0.8
        np.testing.assert_allclose(executed, portable, rtol=1e-3)


@pytest.mark.parametrize("threat", NORMS, ids=str)
@pytest.mark.parametrize("ends", [(0.0, 1.0), (0.0, None), (-1e7, 1e7)])
def test_certificates_by_the_box_hold_and_tampered_ones_fail(threat, ends):
    rng = np.random.default_rng(7)
    graph = prototypes(float32(rng.normal(size=(9, 6))), float32(rng.normal(size=9) * 0.3), 3)
    content = to_file(behind_clip(graph, *ends))
    predictor = CertifiedPredictor(content)
    x = float32(np.round(rng.uniform(-0.2, 1.2, size=(12, 6)), 1))
    tampered_with = 0
    for certificate in certify(predictor, x, threat, mix=True):
        written = certificate.to_json()
        assert verify(Certificate.from_json(written), content).verdict == "holds"
        nearest = [
            index
            for index, rival in enumerate(certificate.rivals)
            if rival.box and rival.box.bound_radius <= certificate.certified_radius * (1 + 1e-9)
        ]
        if not nearest:
            continue  # another rival's radius is without the box
        for change in (_wider, _no_multiplier, _other_multiplier):
            tampered = json.loads(written)
            if change(tampered, nearest[0], threat):
                tampered_with += 1
                assert verify(Certificate.from_json(json.dumps(tampered)), content).verdict == "fails", change
    assert tampered_with or ends[0] < -1.0


def _wider(written, index, threat):
    written["certified_radius"] = min(written["certified_radius"] * 1.005, UNBOUNDED)
    for rival in written["rivals"]:
        if "box" in rival:
            rival["box"]["bound_radius"] = min(rival["box"]["bound_radius"] * 1.01, UNBOUNDED)
    return True


def _no_multiplier(written, index, threat):
    written["rivals"][index]["box"]["multiplier"] = 0.0
    return threat.norm is not Norm.INF  # which has none


def _other_multiplier(written, index, threat):
    written["rivals"][index]["box"]["multiplier"] *= 1.5
    return threat.norm is Norm.TWO  # in l1 several may prove the same


def test_the_runtimes_errors_are_those_of_the_largest_input_in_the_box():
    """Far from x in a wide box an evaluation errs by more than at x: an independent verifier finds it too."""
    graph = linear_net([[0.0, 0.0, 0.0], [1.0, -1.0, 3.0]], [1e-3, 0.0])
    content = to_file(behind_clip(graph, np.array([-3e10, -3e10, -1e-4]), np.array([3e10, 3e10, 1e-4])))
    certificate = certify(CertifiedPredictor(content), [[0.0, 0.0, 0.0]], Norm.TWO)[0]
    assert certificate.certified_radius == 0.0 or verify(certificate, content).verdict == "holds"
    rule = CertifiedPredictor(content).rule(Norm.TWO)
    behind = rule.in_box(np.zeros((1, 3)), np.zeros(1))
    assert behind.size[0] < 1e-300
    assert behind.largest[0] > 1e10
    errors = rule.promised.pair_error(np.array([0]), np.array([1]), behind.largest)
    assert 1e-5 < errors[0] < 1e-3  # of a margin of 1e-3
    radius = rule(np.array([[1e-3, 0.0]]), np.zeros((1, 3))).certified_radius[0]
    exact = float(Fraction(1, 1000)) - float(errors[0])
    assert radius <= max(exact, 0.0)


def test_rounding_of_a_product_of_maps_is_paid_for_in_the_box():
    """Two maps that nearly cancel: their product as computed is off by as much as it is large."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        first = np.array([[rng.uniform(1, 2)], [rng.uniform(1, 2)]]) * 1e6
        last = np.array([[0.0, 0.0], [1.0 / first[0, 0], -1.0 / first[1, 0]]])
        _check_rounding(first, last, 2.0**-53)


def _check_rounding(first, last, margin):
    layers = [dense("a", "input", first), dense("scores", "a", last, np.array([margin, 0.0]))]
    graph = Graph("input", (1,), tuple(layers), "scores")
    linear_box = find_linear_box(find_box(behind_clip(graph, -1.0, 1.0)))
    index, alone = np.array([0]), np.ones((1, 1))
    radii, _ = linear_box.radii(
        index, alone, index + 1, np.zeros((1, 1)), np.array([margin]), np.array([inf]), Threat(Norm.TWO)
    )
    exact = sum(a * b for a, b in zip(fractions(last[1]), fractions(first), strict=True))
    if radii[0] < 2.0:  # of a larger one no point of the box would turn the answer
        assert Fraction(radii[0]) * abs(exact) < Fraction(margin)
    else:
        assert abs(exact) < Fraction(margin)


def test_a_radius_of_the_box_is_read_strictly_and_not_in_the_older_format():
    content = to_file(behind_clip(linear(3), 0.0, 1.0))
    certificate = certify(CertifiedPredictor(content), np.zeros((1, 6)), Norm.INF)[0]
    with pytest.raises(CertificateError, match=r"rivals\[\d\].box.* is unknown"):
        Certificate.from_json(older(certificate))
    written = json.loads(certificate.to_json())
    index = next(i for i, rival in enumerate(written["rivals"]) if "box" in rival)
    written["rivals"][index]["box"] = None
    with pytest.raises(CertificateError, match="an object is accepted"):
        Certificate.from_json(json.dumps(written))
    written["rivals"][index]["box"] = {"multiplier": 1.0, "bound_radius": -1.0}
    with pytest.raises(CertificateError, match=r"rivals\[\d\].box.bound_radius"):
        Certificate.from_json(json.dumps(written))


@pytest.mark.parametrize("execution", [np.float64, np.float32])
@pytest.mark.parametrize("tighten", [False, True])
def test_signed_answers_by_the_box_are_proved_again(tighten, execution):
    rng = np.random.default_rng(7)
    graph = prototypes(float32(rng.normal(size=(9, 6))), float32(rng.normal(size=9) * 0.3), 3)
    content = to_file(behind_clip(graph, 0.0, 1.0))
    predictor = CertifiedPredictor(content).executing(execution)
    x = rng.uniform(-0.2, 1.2, size=(6, 6))
    for norm in Norm:
        predictions = predictor.predict(x, norm, tighten=tighten)
        for n, answer in enumerate(answers(predictor, x, predictions)):
            assert answer.method == "box"
            assert answer.certified_radius >= predictions.radii.certified_radius[n] * (1 - 1e-9)
            failed = [check for check in check_answer(answer, content, x[n]) if not check.passed]
            assert not failed
            if tighten:  # else the mixtures that the check tries may prove more
                wider = replace(answer, certified_radius=answer.certified_radius * 1.01)
                checks = check_answer(wider, content, x[n])
                assert "certified_radius" in [check.name for check in checks if not check.passed]


@pytest.mark.parametrize("threat", NORMS, ids=str)
@pytest.mark.parametrize("far", [0.0, -5.0, -1e3, -1e15, 1e30])
def test_answers_outside_a_half_open_box_are_proved_again(threat, far):
    scale = ops.Scale(
        output="scaled", inputs=("input",), shape=(6,), factor=float32(np.linspace(0.5, 3.0, 6)), divide=True
    )
    scores = replace(linear(3).ops[0], inputs=("scaled",))
    content = to_file(behind_clip(Graph("input", (6,), (scale, scores), "scores"), 0.0))
    predictor = CertifiedPredictor(content)
    x = float32(np.random.default_rng(2).uniform(0.1, 1.0, size=(4, 6)))
    x[:, 0] += far
    served = predictor.predict(x, threat).radii.certified_radius
    for n, certificate in enumerate(certify(predictor, x, threat)):
        verdict = verify(certificate, content)
        assert verdict.verdict == "holds", verdict.reasons
        assert certificate.certified_radius <= served[n]
    if threat.scale is None:
        for n, answer in enumerate(answers(predictor, x, predictor.predict(x, threat))):
            failed = [check for check in check_answer(answer, content, x[n]) if not check.passed]
            assert not failed
            assert answer.certified_radius >= served[n] * (1 - 1e-9)


def test_rivals_that_no_input_lifts_do_not_set_the_radius():
    scores = dense("scores", "input", np.array([[0, 0], [0, 0], [2.0**-40, 0]]), np.array([1e3, 0, 0]))
    content = to_file(behind_clip(Graph("input", (2,), (scores,), "scores"), 0.0, 1.0))
    (certificate,) = certify(CertifiedPredictor(content), [[0.5, 0.5]], Norm.TWO)
    assert certificate.certified_radius > UNBOUNDED / 2
    assert verify(certificate, content).verdict == "holds"


@pytest.mark.parametrize("norm", Norm)
def test_radii_of_the_tight_tier_are_finite(norm):
    layers = (
        dense("a", "input", np.eye(2)),
        *relu("b", "a", 2),
        dense("scores", "b", np.array([[1.0, 1.0], [1.0, 1.0]]), np.array([2.0, 0.0])),
    )
    predictor = CertifiedPredictor(to_file(behind_clip(Graph("input", (2,), layers, "scores"), 0.0, 1.0)))
    radius = predictor.predict([[0.5, 0.5]], norm, tighten=True).radii.certified_radius[0]
    assert 1e6 < radius < inf


def test_nothing_is_certified_by_gradients_that_underflow():
    scale, slope, end = 2.0**-100, 1.25 * 2.0**-974, 0.99 * 2.0**924
    scores = dense("scores", "input", np.array([[0, 0], [slope, 0]]), np.array([1.1 * 2.0**-50, 0]))
    graph = behind_clip(Graph("input", (2,), (scores,), "scores"), [0.0, 0.0], [end, 1.0])
    predictor = CertifiedPredictor(to_file(graph, dtype=np.float64))
    assert predictor.linear_box is None
    for tighten in (False, True):
        radius = predictor.predict([[0.0, 0.0]], Threat(Norm.TWO, (scale, 1.0)), tighten=tighten).radii
        assert radius.certified_radius[0] < 0.98 * end / scale


def test_radii_stated_of_the_box_are_proved_one_by_one():
    content = to_file(behind_clip(linear(3), 0.0, 1.0))
    certificate = certify(CertifiedPredictor(content), np.full((1, 6), 0.3), Norm.TWO)[0]
    rival = certificate.rivals[-1]
    for model in (content, to_file(linear(3))):
        (c,) = certify(CertifiedPredictor(model), np.full((1, 6), 0.3), Norm.TWO)
        rivals = (*c.rivals[:-1], replace(rival, box=InBox(1.0, 1e300)))
        reasons = verify(replace(c, rivals=rivals), model).reasons
        assert any("is stated to stay below within 1e+300: not proved" in reason for reason in reasons)
