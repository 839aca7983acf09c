"""Scaled threat sets and linear maps in a row: against exact distances, slopes and an independent verifier."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipmodel.audit.gradient import GradientEngine
from lipmodel.certificates.format import Certificate
from lipmodel.certify.issue import certify
from lipmodel.certify.linear_runs import bound_change
from lipmodel.certify.lipschitz import bound_lipschitz
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import CertificateError, InputError
from lipmodel.network import ops
from lipmodel.network.ops import Graph
from lipmodel.norms import Norm
from lipmodel.threat import BALLS, MIN_SCALED_DISTANCE, Threat
from lipmodel.verify.check import verify
from tests.networks import dense, float32, groupsort_net, to_file

RNG = np.random.default_rng(0)
SCALES = (2.0, 0.0, 0.125, 1000.0)
COLUMNS = ["age", "sex", "hours", "gain"]


def rows_of(weight, threat):
    """Return the exact rows of a linear map in the units of a threat set, as rational numbers."""
    scale = threat.scale or (1.0,) * weight.shape[1]
    return [[Fraction(w) * Fraction(s) for w, s in zip(row, scale, strict=True)] for row in weight.tolist()]


def dual_norm(row, norm):
    """Return the exact dual norm of rational numbers (in l2 its square's root, to 1e-15)."""
    sizes = [abs(v) for v in row]
    if norm is Norm.ONE:
        return max(sizes)
    return sum(sizes) if norm is Norm.INF else Fraction(float(sum(v * v for v in sizes)) ** 0.5)


def chain(seed, *, sort=False):
    """Return a network that begins with a scaling, a shift and two matrices in a row, and their exact product."""
    rng = np.random.default_rng(seed)
    factor, first, second = rng.uniform(0.01, 100.0, 4), rng.normal(size=(5, 4)), rng.normal(size=(4, 5))
    layers = [
        ops.Scale(output="a", inputs=("input",), shape=(4,), factor=float32(factor)),
        ops.Shift(output="b", inputs=("a",), shape=(4,), offset=float32(rng.normal(size=4))),
        dense("c", "b", float32(first), float32(rng.normal(size=5))),
        dense("d", "c", float32(second)),
    ]
    if sort:
        rest = groupsort_net((4, 4), 3, seed=seed)
        layers += [replace(op, inputs=("d",) if op.inputs == ("input",) else op.inputs) for op in rest.ops]
    return Graph("input", (4,), tuple(layers), layers[-1].output)


@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("scale", [None, SCALES, (1.0, 0.0, 0.0, 0.0), (2.0**-100, 1.0, 2.0**100, 0.0)])
def test_constants_of_a_linear_network_are_exact(norm, scale):
    threat, weight = Threat(norm, scale), float32(RNG.normal(size=(3, 4)))
    graph = Graph("input", (4,), (dense("scores", "input", weight),), "scores")
    rows = rows_of(weight, threat)
    bound = bound_lipschitz(graph, threat).bound_per_score_pair
    for i in range(3):
        for j in range(3):
            exact = dual_norm([a - b for a, b in zip(rows[i], rows[j], strict=True)], norm)
            assert exact <= Fraction(bound[i, j]) <= exact * (1 + Fraction(1, 10**12))


@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("scale", [None, SCALES])
def test_linear_maps_in_a_row_cost_as_much_as_their_product(norm, scale):
    threat, graph = Threat(norm, scale), chain(1)
    weights = [op.weight for op in graph.ops if isinstance(op, ops.Dense)]
    factor = [Fraction(v) for v in graph.ops[0].factor.tolist()]
    product = np.array([[Fraction(v) for v in row] for row in weights[1].tolist()], dtype=object) @ np.array(
        [[Fraction(v) for v in row] for row in weights[0].tolist()], dtype=object
    )
    scales = [Fraction(s) for s in threat.scale or (1.0,) * 4]
    rows = [[v * f * s for v, f, s in zip(row, factor, scales, strict=True)] for row in product]
    bound = bound_lipschitz(graph, threat).bound_per_score_pair
    for i in range(4):
        for j in range(i):
            exact = dual_norm([a - b for a, b in zip(rows[i], rows[j], strict=True)], norm)
            assert exact <= Fraction(bound[i, j]) <= exact * (1 + Fraction(1, 10**11))


def test_roundings_of_a_product_are_paid_for():
    """1 + 2^-60 - 1 may come out as 0 in float64; the exact product, and so the constant, is 2^-60."""
    layers = (
        dense("a", "input", float32([[1.0], [2.0**-60], [1.0]])),
        dense("scores", "a", float32([[1.0, 1.0, -1.0]])),
    )
    graph = Graph("input", (1,), layers, "scores")
    for norm in Norm:
        assert bound_lipschitz(graph, norm).bound_global >= 2.0**-60
        sorted_after = replace(
            graph, ops=(*layers, ops.Abs(output="y", inputs=("scores",), shape=(1,))), output="y"
        )
        assert bound_lipschitz(sorted_after, norm).bound_global >= 2.0**-60


@given(st.integers(0, 10**6), st.sampled_from(list(Norm)))
@settings(max_examples=30, deadline=None)
def test_no_slope_in_units_of_the_scale_exceeds_the_bound(seed, norm):
    graph = chain(seed % 50, sort=True)
    rng = np.random.default_rng(seed)
    scale = np.where(rng.random(4) < 0.3, 0.0, np.exp(rng.normal(size=4) * 3.0))
    if not scale.any():
        scale[0] = 1.0
    threat = Threat(norm, tuple(scale.tolist()))
    bound = bound_lipschitz(graph, threat).bound_per_score_pair
    inputs = rng.normal(size=(20, 4)) * 5.0
    engine = GradientEngine(graph)
    for i in range(3):
        weights = np.zeros((20, 3))
        weights[:, i], weights[:, (i + 1) % 3] = 1.0, -1.0
        gradients = engine(inputs, weights)[1] * scale
        steepest = np.linalg.norm(gradients, {"1": np.inf, "2": 2, "inf": 1}[norm.value], axis=1).max()
        assert steepest <= bound[i, (i + 1) % 3] * (1 + 1e-9)


@pytest.mark.parametrize("norm", Norm)
def test_change_norms_are_attained(norm):
    threat, scale = Threat(norm, SCALES), np.array(SCALES)
    for target in Norm:
        bound = bound_change(threat, target, 4)
        order = {"1": 1, "2": 2, "inf": np.inf}
        directions = (
            RNG.normal(size=(4000, 4)) if norm is not Norm.INF else np.sign(RNG.normal(size=(100, 4)))
        )
        directions = np.vstack([directions, np.eye(4), scale / np.linalg.norm(scale)])
        sizes = np.linalg.norm(directions, order[norm.value], axis=1)
        ratios = np.linalg.norm(directions * scale, order[target.value], axis=1) / sizes
        assert bound * 0.99 <= ratios.max() <= bound


def binary(weight, bias):
    graph = Graph("input", (4,), (dense("scores", "input", float32([weight]), float32([bias])),), "scores")
    return CertifiedPredictor(to_file(graph))


@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("scale", [SCALES, (0.0, 0.0, 1.0, 0.0)])
def test_radius_of_a_linear_classifier_is_the_exact_distance_in_units_of_the_scale(norm, scale):
    weight, bias = [0.5, -3.0, 0.25, 0.001], -0.75
    predictor, threat = binary(weight, bias), Threat(norm, scale)
    x = RNG.normal(size=(200, 4)) * [1, 1, 1, 100]
    radii = predictor.predict(x, threat).radii.certified_radius
    w = [Fraction(v) for v in float32(weight).tolist()]
    length = dual_norm([v * Fraction(s) for v, s in zip(w, scale, strict=True)], norm)
    for row, radius in zip(x.tolist(), radii.tolist(), strict=True):
        score = sum(v * Fraction(t) for v, t in zip(w, row, strict=True)) + Fraction(float32(bias).item())
        distance = abs(score) / length
        assert Fraction(radius) < distance
        assert radius >= float(distance) * (1 - 1e-9) - 1e-9


def test_frozen_columns_never_lower_a_radius():
    predictor = CertifiedPredictor(to_file(chain(3, sort=True)))
    x = RNG.normal(size=(50, 4))
    for norm in Norm:
        ball = predictor.predict(x, norm).radii.certified_radius
        frozen = predictor.predict(x, Threat(norm, (1.0, 0.0, 1.0, 1.0))).radii.certified_radius
        one = predictor.predict(x, Threat(norm, (1.0, 0.0, 0.0, 0.0))).radii.certified_radius
        assert (ball <= frozen * (1 + 1e-12)).all()  # a caller's division by the scale takes two units more
        assert (frozen <= one * (1 + 1e-12)).all()
        assert (one > ball).any()


def test_a_scale_of_ones_is_the_ball_and_a_common_scale_divides_the_radius():
    predictor = CertifiedPredictor(to_file(chain(3, sort=True)))
    x = RNG.normal(size=(20, 4))
    assert Threat.parse({"scale": [1] * 4}, [], 4, Norm.TWO) is BALLS[Norm.TWO]
    with pytest.raises(InputError, match="has 3 numbers"):
        predictor.predict(x, Threat(Norm.TWO, (1.0,) * 3))
    ball = predictor.predict(x, Norm.TWO).radii.certified_radius
    halved = predictor.predict(x, Threat(Norm.TWO, (2.0,) * 4)).radii.certified_radius
    np.testing.assert_allclose(halved * 2.0, ball, rtol=1e-9)


@pytest.mark.parametrize("norm", Norm)
def test_tightened_radii_are_larger_and_survive_every_change_tried(norm):
    predictor, threat = CertifiedPredictor(to_file(chain(5, sort=True))), Threat(norm, (0.5, 0.0, 0.03, 2.0))
    x = RNG.normal(size=(15, 4))
    plain, tight = (predictor.predict(x, threat, tighten=t) for t in (False, True))
    assert (tight.radii.certified_radius >= plain.radii.certified_radius).all()
    assert (tight.radii.certified_radius > plain.radii.certified_radius * 1.01).any()
    order = {"1": 1, "2": 2, "inf": np.inf}[norm.value]
    for row, radius, label in zip(x, tight.radii.certified_radius, tight.radii.label, strict=True):
        u = RNG.normal(size=(2000, 4))
        u[1000:] = (
            np.sign(u[1000:]) if norm is Norm.INF else np.eye(4)[RNG.integers(0, 4, 1000)] * np.sign(u[1000:])
        )
        u *= 0.999999 * radius / np.linalg.norm(u, order, axis=1, keepdims=True)
        assert (predictor.predict(row + u * threat.scales, norm).radii.label == label).all()


def test_portable_radii_of_inputs_that_float32_rounds():
    predictor, threat = binary([0.5, -3.0, 0.25, 0.001], -0.75), Threat(Norm.TWO, SCALES)
    x = RNG.normal(size=(100, 4)) + 0.1
    portable = predictor.portable_radii(x, threat)
    served = predictor.predict(x, threat).radii.certified_radius
    assert (portable <= served).all()
    assert (portable[served > 0.01] > 0.0).all()
    # Where only a frozen column needs rounding, it rounds alike in x', so that nothing is lost for it.
    exact = np.round(x * 64.0) / 64.0
    moved = exact.copy()
    moved[:, 1] += 2.0**-40
    np.testing.assert_allclose(
        predictor.portable_radii(moved, threat), predictor.portable_radii(exact, threat), rtol=1e-4
    )


@pytest.mark.parametrize("norm", Norm)
def test_changes_too_small_to_be_measured_are_not_certified(norm):
    """In units of 2^100, a change of 2^-450 is 2^-550: a caller's quotient may be flushed in the square."""
    predictor, threat = binary([1.0, 0.0, 0.0, 0.0], 0.0), Threat(norm, (2.0**100, 0.0, 0.0, 0.0))
    near, far = (
        predictor.predict([[size, 0.0, 0.0, 0.0]], threat).radii.certified_radius[0]
        for size in (2.0**-390, 2.0**-370)
    )
    assert near == 0.0
    assert MIN_SCALED_DISTANCE < far < 2.0**-470


# --- certificates --------------------------------------------------------------------------


@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("scale", [None, (0.5, 0.0, 0.03, 2.0)])
def test_certificates_hold_and_state_the_scale(norm, scale):
    content = to_file(chain(7, sort=True))
    predictor, x = CertifiedPredictor(content), RNG.normal(size=(3, 4))
    radii = predictor.predict(x, Threat(norm, scale)).radii.certified_radius
    for certificate, row, radius in zip(certify(predictor, x, Threat(norm, scale)), x, radii, strict=True):
        assert certificate.certified_radius == radius > 0.0
        text = certificate.to_json()
        assert ("scale" in json.loads(text)) == (scale is not None)
        read = Certificate.from_json(text)
        assert read == certificate
        verdict = verify(read, content, row)
        assert verdict.verdict == "holds", verdict.failures


@pytest.mark.parametrize(
    "scale", [(0.5, 0.0, 0.03, 4.0), (0.5, 1e-3, 0.03, 2.0), (1.0, 0.0, 0.06, 4.0), (0.5, 0.0, 0.03), None]
)
def test_certificates_of_an_altered_threat_set_fail(scale):
    content = to_file(chain(7, sort=True))
    (certificate,) = certify(
        CertifiedPredictor(content), RNG.normal(size=(1, 4)), Threat(Norm.TWO, (0.5, 0.0, 0.03, 2.0))
    )
    altered = Certificate.from_json(replace(certificate, scale=scale).to_json())
    assert verify(altered, content).verdict == "fails"


@pytest.mark.parametrize(
    ("scale", "field"),
    [
        ([0.5, -1.0, 0.0, 2.0], "scale[1]"), ([0.0, 0.0], "scale"), ([1e-40, 1.0], "scale[0]"),
        ("1", "scale"), ([], "scale"),
    ],
)  # fmt: skip
def test_certificates_with_a_scale_that_is_none_are_refused(scale, field):
    (certificate,) = certify(
        CertifiedPredictor(to_file(chain(7))), RNG.normal(size=(1, 4)), Threat(Norm.TWO, SCALES)
    )
    members = json.loads(certificate.to_json()) | {"scale": scale}
    with pytest.raises(CertificateError, match=r"^certificate, scale") as refused:
        Certificate.from_json(json.dumps(members))
    assert refused.value.field == field


def test_the_promise_of_a_ball_cannot_be_given_a_scale():
    (certificate,) = certify(CertifiedPredictor(to_file(chain(7))), RNG.normal(size=(1, 4)), Norm.TWO)
    members = json.loads(certificate.to_json()) | {"scale": list(SCALES)}
    with pytest.raises(CertificateError, match="promise"):
        Certificate.from_json(json.dumps(members))


# --- reading -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "scale"),
    [
        ({}, None),
        ({"norm": "linf"}, None),
        ({"scale": 1}, None),
        ({"scale": 2}, (2.0, 2.0, 2.0, 2.0)),
        ({"scale": [2, 0, 0.125, 1000]}, SCALES),
        ({"scale": {"age": 2, "gain": 1000, "*": 0}}, (2.0, 0.0, 0.0, 1000.0)),
        ({"scale": {"age": 2, "1": 0}}, (2.0, 0.0, 1.0, 1.0)),
    ],
)
def test_threat_sets_are_read(value, scale):
    threat = Threat.parse(value, COLUMNS, 4, Norm.TWO)
    assert threat == Threat(Norm.INF if "norm" in value else Norm.TWO, scale)
    assert Threat.parse(threat.to_json(), [], 4, Norm.ONE) == threat


@pytest.mark.parametrize(
    ("value", "field", "reason"),
    [
        ({"norm": "3"}, "threat.norm", "unknown norm"),
        ({"size": 1}, "threat.size", "known members"),
        ({"scale": {"wage": 1}}, "threat.scale.wage", "its columns are age, sex, hours, gain"),
        ({"scale": {"4": 1}}, "threat.scale.4", "no column"),
        ({"scale": {"age": -1}}, "threat.scale.age", "between"),
        ({"scale": {"age": float("nan")}}, "threat.scale.age", "not a number"),
        ({"scale": {"age": "2"}}, "threat.scale.age", "a number is expected"),
        ({"scale": {"age": True}}, "threat.scale.age", "a number is expected"),
        ({"scale": {"*": float("inf")}}, r"threat.scale.\*", "between"),
        ({"scale": [1, 2]}, "threat.scale", "has 2 numbers; this model has 4 columns"),
        ({"scale": [1, 2, 3, -0.5]}, r"threat.scale\[3\]", "between"),
        ({"scale": [1, 2, 3, 10**400]}, r"threat.scale\[3\]", "between"),
        ({"scale": 1e-40}, "threat.scale", "between"),
        ({"scale": 0}, "threat.scale", "freezes every column"),
        ({"scale": {"*": 0}}, "threat.scale", "freezes every column"),
        ({"scale": None}, "threat.scale", "a number is expected"),
    ],
)
def test_threat_sets_that_are_none_are_refused_by_name(value, field, reason):
    with pytest.raises(InputError, match=rf"^{field}.*{reason}"):
        Threat.parse(value, COLUMNS, 4, Norm.TWO)


def test_column_names_that_occur_twice_are_refused():
    with pytest.raises(InputError, match="names several columns"):
        Threat.parse({"scale": {"age": 2}}, ["age", "age"], 2, Norm.TWO)


def test_a_threat_set_for_another_number_of_columns_is_refused():
    with pytest.raises(InputError, match="has 3 numbers; this model has 4 columns"):
        CertifiedPredictor(to_file(chain(7))).predict(np.zeros((1, 4)), Threat(Norm.TWO, (1.0, 2.0, 3.0)))
