"""Audits: consistent where the file is honest, refuted where it is not, and able to tell."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lipmodel.audit.attack import attack_within
from lipmodel.audit.gradient import GradientEngine
from lipmodel.audit.report import audit
from lipmodel.audit.search import bound_gradient_error, functionals, steepest
from lipmodel.certify.claims import Claims
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import InputError
from lipmodel.norms import Norm, vector_norm
from tests.networks import groupsort_net, linear_net, to_file

NORMS = list(Norm)


def predictor(graph=None, **claims):
    return CertifiedPredictor(to_file(graph or groupsort_net((4, 16, 16), 3), Claims(**claims)))


@pytest.mark.parametrize("norm", NORMS)
def test_an_honest_model_is_consistent(norm):
    report = audit(predictor(), norm=norm, samples=200)
    assert report.verdict == "consistent"
    assert report.reasons == ()
    assert 0.2 < report.tightness <= 1.0
    assert report.flips == 0
    assert report.points["attacked"] > 100


@pytest.mark.parametrize("norm", NORMS)
def test_the_constant_of_a_linear_net_is_found(norm):
    graph = linear_net(np.random.default_rng(0).normal(size=(3, 5)))
    report = audit(predictor(graph), norm=norm, samples=10)
    assert report.tightness == pytest.approx(1.0, rel=1e-12)
    pairs = [pair for pair in report.per_pair if pair.classes[1] is not None]
    assert [pair.tightness for pair in pairs] == pytest.approx([1.0] * 3, rel=1e-12)


def test_a_claim_below_the_truth_is_refuted():
    report = audit(predictor(norm=Norm.TWO, lipschitz=0.3), samples=200)
    assert report.verdict == "refuted"
    assert "claimed constant 0.3" in report.reasons[0]


def test_a_bound_below_the_truth_is_refuted():
    """Were the certificate wrong, the audit would say so: halve the bound behind its back."""
    model = predictor()
    bounds = model.bounds(Norm.TWO)
    vars(bounds)["bound_per_pair"] = bounds.bound_per_pair / 2
    report = audit(model, norm=Norm.TWO, samples=200)
    assert report.verdict == "refuted"
    assert any("exceeds the bound" in reason for reason in report.reasons)


def test_a_radius_that_does_not_hold_is_refuted():
    model = predictor()
    bounds = model.bounds(Norm.TWO)
    vars(bounds)["bound_per_score_pair"] = bounds.bound_per_score_pair / 20
    report = audit(model, norm=Norm.TWO, samples=200)
    assert report.flips > 0
    assert any("inside their certified radius" in reason for reason in report.reasons)


@pytest.mark.parametrize("norm", NORMS)
def test_attacks_find_flips_just_outside_an_attained_radius(norm):
    model = predictor(linear_net(np.random.default_rng(0).normal(size=(3, 5))))
    x = np.random.default_rng(1).normal(size=(100, 5))
    radius = model.predict(x, norm).radii.certified_radius
    engine = GradientEngine(model.file.graph)
    inside = attack_within(model, engine, x, radius, norm)
    outside = attack_within(model, engine, x, radius * 1.01 + 1e-9, norm)
    assert inside.flipped.sum() == 0
    assert outside.flipped.mean() > 0.9
    flips = outside.adversarial[outside.flipped]
    assert (
        model.predict(flips, norm).radii.label != model.predict(x, norm).radii.label[outside.flipped]
    ).all()
    assert (vector_norm(flips - x[outside.flipped], norm) <= (radius * 1.01 + 1e-9)[outside.flipped]).all()


def test_climbing_finds_more_than_sampling():
    model = predictor(groupsort_net((16, 64, 64), 3))
    report = audit(model, samples=50)
    assert report.witness.found_on == "climb"
    assert report.observed / report.bound > report.quantiles["1"] * 0.999


def test_given_inputs_are_looked_at():
    x = np.random.default_rng(0).normal(size=(7, 4))
    report = audit(predictor(), inputs=x, samples=0)
    assert report.points["data"] == 7
    assert report.points["box"] == 0
    assert sum(report.histogram["counts"]) == 7 * len(report.per_pair)


def test_same_seed_same_report():
    first, second = (audit(predictor(), samples=50, seed=4).to_dict() for _ in range(2))
    assert first == second
    assert first != audit(predictor(), samples=50, seed=5).to_dict()


def test_binary_models_have_one_functional():
    model = predictor(groupsort_net((2, 8), 1))
    report = audit(model, samples=50)
    assert len(report.per_pair) == 1
    assert report.per_pair[0].classes == ("1", "0")


def test_many_classes_audit_neighbouring_pairs():
    graph = groupsort_net((4, 32), 25)
    assert len(functionals(graph).pairs) == 50


def test_report_is_json_and_says_what_it_is():
    report = audit(predictor(), samples=20).to_dict()
    again = json.loads(json.dumps(report, allow_nan=False))
    assert again["verdict"] == "consistent"
    assert "never prove" in again["note"]
    assert len(again["witness"]["input"]) == 4


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"box": (1.0, 0.0)}, "box"),
        ({"box": (0.0, np.inf)}, "box"),
        ({"samples": -1}, "samples"),
        ({"samples": 0}, "samples"),
        ({"inputs": [[np.nan] * 4]}, "inputs[0][0]"),
    ],
)
def test_bad_arguments_are_refused(arguments, field):
    with pytest.raises(InputError) as caught:
        audit(predictor(), **arguments)
    assert caught.value.field == field


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_direction_has_length_one_and_attains_the_dual_norm(norm):
    g = np.random.default_rng(0).normal(size=(20, 5))
    d = steepest(g, norm)
    assert vector_norm(d, norm) == pytest.approx(np.ones(20))
    assert (d * g).sum(axis=1) == pytest.approx(vector_norm(g, norm.dual))
    assert (steepest(0 * g, norm) == 0).all() or norm is Norm.ONE


@pytest.mark.parametrize("norm", NORMS)
def test_gradient_error_is_bounded_and_small(norm):
    """Against gradients recomputed in extended precision by exact fractions of the linear pieces."""
    from fractions import Fraction

    graph = linear_net(np.random.default_rng(0).normal(size=(3, 40)))
    _, gradient = GradientEngine(graph)(np.zeros((1, 40)), np.array([[1.0, -1.0, 0.3]]))
    weight = graph.ops[0].weight
    exact = [
        sum(Fraction(float(v)) * Fraction(float(w)) for v, w in zip([1.0, -1.0, 0.3], column, strict=True))
        for column in weight.T
    ]
    error = vector_norm(
        [float(Fraction(float(a)) - b) for a, b in zip(gradient[0], exact, strict=True)], norm.dual
    )
    assert 0 < error <= bound_gradient_error(graph, norm) < 1e-12
