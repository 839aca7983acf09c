"""Audits: consistent where the file is honest, refuted where it is not, and able to tell."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lipmodel.audit.attacks.attack import AttackTask
from lipmodel.audit.attacks.descent import ProjectedGradientDescent
from lipmodel.audit.gradient import GradientEngine
from lipmodel.audit.observe import Steps, bound_gradient_error, functionals, observed_slopes
from lipmodel.audit.report import audit
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.stream import in_memory
from lipmodel.errors import InputError
from lipmodel.network.metadata import Claims
from lipmodel.norms import Norm, vector_norm
from lipmodel.threat import BALLS
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
    task = AttackTask(model, GradientEngine(model.file.graph), x, BALLS[norm])
    inside = ProjectedGradientDescent(radius)(task)
    outside = ProjectedGradientDescent(radius * 1.01 + 1e-9)(task)
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
    assert report.witness.found_on == "ascent"
    assert report.observed / report.bound > report.quantiles["1"] * 0.999


def test_a_flat_claim_is_refuted_by_two_inputs_that_anyone_can_check():
    model = predictor(norm=Norm.TWO, lipschitz=0.3)
    witness = audit(model, samples=200).witness
    scores = model.predict([witness.input, witness.second_input]).scores
    i, j = (model.class_names.index(name) if name else None for name in witness.classes)
    moved = scores[0] - scores[1]
    rise = abs(moved[i] - (0.0 if j is None else moved[j]))
    distance = np.linalg.norm(np.subtract(witness.input, witness.second_input))
    assert rise / distance == pytest.approx(witness.observed_slope, rel=1e-9)
    assert witness.observed_slope == pytest.approx(witness.observed, rel=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_slopes_are_those_of_exact_arithmetic_and_a_little_less(norm):
    """Of a linear function with integer weights, at integer points, nothing is rounded."""
    graph = linear_net(np.array([[3.0, -1.0, 2.0], [0.0, 1.0, 5.0]]))
    model, engine, functions = predictor(graph), GradientEngine(graph), functionals(graph)
    x, y = np.random.default_rng(0).integers(-9, 9, size=(2, 50, 3)).astype(float)
    y[0] = x[0]
    scores = tuple(engine(points, np.zeros((50, 2)))[0] for points in (x, y))
    slopes = observed_slopes(Steps(x, y, scores), functions.cotangents, model.rounding(), norm)
    rows = np.array([[3.0, -1.0, 2.0], [0.0, 1.0, 5.0], [3.0, -2.0, -3.0]])
    distance = vector_norm(x[1:] - y[1:], norm)
    true = np.abs((x[1:] - y[1:]) @ rows.T) / distance[:, None]
    assert (slopes[0] == 0).all()
    assert (slopes[1:] <= true * (1 + 1e-15)).all()
    assert slopes[1:] == pytest.approx(true, rel=1e-12, abs=1e-12)


def test_per_pair_figures_rederived():
    """Ratios at the points, in a few lines of numpy."""
    x = np.random.default_rng(0).normal(size=(640, 4))
    model = predictor(groupsort_net((4, 16, 16), 3, kind="rows"))
    report = audit(model, norm=Norm.TWO, inputs=x, samples=0, attacked=0)
    engine, functions = GradientEngine(model.file.graph), functionals(model.file.graph)
    for pair, v in zip(report.per_pair, functions.cotangents, strict=True):
        ratio = np.linalg.norm(engine(x, np.tile(v, (640, 1)))[1], axis=1) / pair.bound
        assert pair.full_gradient_share == (ratio >= 0.99).mean()
        assert list(pair.histogram) == np.histogram(ratio, bins=20, range=(0, 1))[0].tolist()
        assert list(pair.quantiles.values()) == pytest.approx(
            np.quantile(ratio, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1], method="inverted_cdf"), abs=0.0011
        )
        assert pair.extreme_value_estimate is None  # of data there is none: they are not drawn at random


def test_attacks_stand_beside_radii():
    x = np.random.default_rng(1).normal(size=(30, 5))
    model = predictor(linear_net(np.random.default_rng(0).normal(size=(3, 5))))
    attack = audit(model, inputs=x, samples=0).attack
    assert attack.inputs == attack.found == 30
    assert attack.certified_radius == tuple(model.predict(x).radii.certified_radius)
    assert attack.ratio == pytest.approx([1.0] * 30, rel=2e-2)  # of a linear network radii are exact
    assert max(attack.ratio) <= 1.0
    assert attack.inside == ()


def test_a_change_inside_the_radius_is_kept():
    model = predictor()
    bounds = model.bounds(Norm.TWO)
    vars(bounds)["bound_per_score_pair"] = bounds.bound_per_score_pair / 20
    report = audit(model, norm=Norm.TWO, samples=50)
    found = report.attack.inside[0]
    assert report.flips == len(report.attack.inside)
    assert found.observed_distance <= found.certified_radius
    labels = model.predict([found.input, found.adversarial]).radii.label
    assert [model.class_names[k] for k in labels] == [found.label, found.adversarial_label]
    assert found.label != found.adversarial_label
    assert np.linalg.norm(np.subtract(found.input, found.adversarial)) <= found.observed_distance


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
        ({"samples": 0, "inputs": in_memory("none", np.empty((0, 4)))}, "samples"),
        (
            {"inputs": in_memory("bad", np.where(np.arange(1200).reshape(300, 4) == 1101, np.nan, 0.0))},
            "inputs[275][1]",
        ),
        ({"attacked": -1}, "attacked"),
        ({"inputs": [[np.nan] * 4]}, "inputs[0][0]"),
    ],
)
def test_bad_arguments_are_refused(arguments, field):
    with pytest.raises(InputError) as caught:
        audit(predictor(), **arguments)
    assert caught.value.field == field


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


def test_an_estimate_above_the_proved_bound_is_capped_and_said_to_be(monkeypatch):
    """The fitted law ends above the bound, where by the proof no gradient is: never shown as if it could be."""
    ends = []

    def fitted(maxima):
        ends.append([None, 100.0, float(maxima.max())][len(ends) % 3])
        return ends[-1]

    monkeypatch.setattr("lipmodel.audit.survey.estimate_right_end", fitted)
    report = audit(predictor(), norm=Norm.ONE, samples=640, attacked=0)
    assert report.verdict == "consistent"
    for pair, end in zip(report.per_pair, ends, strict=True):
        assert pair.extreme_value_capped is (end == 100.0)
        assert pair.extreme_value_estimate == (pair.bound if end == 100.0 else end)


def test_a_change_outside_the_radius_is_not_one_inside():
    report = audit(predictor(), inputs=np.random.default_rng(1).normal(size=(20, 4)), samples=0)
    assert report.flips == 0
    assert report.attack.reached_outside == report.attack.found > 0


def test_inputs_far_outside_the_box_that_the_file_names_are_warned_of():
    model = predictor(norm=Norm.TWO, input_box=(0.0, 1.0))
    x = np.full((300, 4), 2.0)
    assert audit(model, inputs=x, samples=10, box=(-50.0, 50.0), attacked=0).warnings == ()
    x[[0, 257, 299], 1] = -1.5
    (warning,) = audit(model, inputs=x, samples=10, attacked=0).warnings
    assert "3 of 300 inputs lie far outside the input range 0 to 1 stated in the file" in warning
