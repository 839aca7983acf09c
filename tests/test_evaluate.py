"""Accuracies, re-derived in a few lines."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import InputError
from lipmodel.evaluate import evaluate
from lipmodel.norms import Norm
from tests.networks import groupsort_net, to_file

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(2300, 4)), RNG.integers(0, 3, size=2300)


@pytest.fixture
def predictor():
    return CertifiedPredictor(to_file(groupsort_net((4, 8), 3)))


@pytest.mark.parametrize("norm", list(Norm))
def test_rederived(predictor, norm):
    told = []
    result = evaluate(predictor, X, Y, norm, [0.1, 0.0, 1.58], told.append)
    radii = predictor.predict(X, norm).radii
    right = radii.label == Y
    assert result.clean_accuracy == right.mean()
    assert list(result.certified_accuracy) == ["0", "0.1", "1.58"]
    assert result.certified_accuracy["0.1"] == (right & (radii.certified_radius >= 0.1)).mean()
    assert result.average_certified_radius == pytest.approx((right * radii.certified_radius).mean())
    assert result.samples == 2300
    assert told[-1] == 1.0
    assert json.loads(json.dumps(result.to_dict()))["norm"] == norm.value


def test_tightened_radii_count(predictor):
    x, y = X[:45], predictor.predict(X[:45]).radii.label
    slow = predictor.predict(x, Norm.TWO, tighten=True).radii.certified_radius
    told = []
    result = evaluate(predictor, x, y, Norm.TWO, [], told.append, tighten=True)
    assert result.average_certified_radius == pytest.approx(slow.mean(), rel=1e-12)
    assert result.average_certified_radius > evaluate(predictor, x, y, Norm.TWO).average_certified_radius
    assert result.to_dict()["tightened"]
    assert told == sorted(told)


def test_an_abstention_is_not_certified_at_zero(predictor):
    graph_tie = predictor.predict([[0.0] * 4])
    object.__setattr__(graph_tie.radii, "certified_radius", np.zeros(1))
    predictor.predict = lambda *_, **__: graph_tie
    result = evaluate(predictor, [[0.0] * 4], [int(graph_tie.radii.label[0])], Norm.TWO, [0.0])
    assert result.clean_accuracy == 1.0
    assert result.certified_accuracy["0"] == 0.0


def test_nothing_right_is_zero(predictor):
    labels = (predictor.predict(X).radii.label + 1) % 3
    result = evaluate(predictor, X, labels, Norm.TWO, [0.1])
    assert result.clean_accuracy == result.average_certified_radius == 0.0
    assert set(result.certified_radius_quantiles.values()) == {0.0}


@pytest.mark.parametrize(
    ("labels", "epsilons", "field"),
    [
        (Y[:-1], [], "labels"),
        (Y.astype(float), [], "labels"),
        (Y + 1, [], "labels"),
        (Y - 1, [], "labels"),
        (Y, [-0.1], "epsilons"),
        (Y, [np.nan], "epsilons"),
        (Y, [np.inf], "epsilons"),
    ],
)
def test_bad_arguments_are_refused(predictor, labels, epsilons, field):
    with pytest.raises(InputError) as caught:
        evaluate(predictor, X, labels, Norm.TWO, epsilons)
    assert caught.value.field == field
