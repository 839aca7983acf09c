from __future__ import annotations

import pickle

import numpy as np
import onnxruntime
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.load import breast_cancer, digits
from lipmodel.errors import DataError, RecipeError
from lipmodel.norms import Norm
from lipmodel.training.estimator import LipschitzClassifier
from tests.seeds import shifted

SMALL = {"epochs": 10, "widths": (16, 16), "random_state": shifted(0)}


def test_scikit_learn_accepts_the_estimator():
    """All checks of scikit-learn pass; the skipped checks need pandas or other kinds of arrays."""
    results = check_estimator(LipschitzClassifier(**SMALL), on_skip=None, on_fail=None)
    assert [r["check_name"] for r in results if r["status"] not in ("passed", "skipped")] == []
    assert sum(r["status"] == "passed" for r in results) > 50


@pytest.fixture(scope="module")
def fitted():
    data = digits()
    names = np.array(["zero", "one", "two"])
    rows = data.labels < 3
    return LipschitzClassifier(**SMALL).fit(data.inputs[rows], names[data.labels[rows]]), data.inputs[rows]


def test_answers_and_radii_are_those_of_the_file(fitted):
    model, x = fitted
    content = model.to_onnx(x)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: x})
    assert np.abs(model.decision_function(x) - scores).max() < 1e-5
    assert (model.predict(x) == model.classes_[scores.argmax(axis=1)]).all()
    predictor = CertifiedPredictor(content)
    assert predictor.claim_proved
    assert predictor.class_names == ("one", "two", "zero")
    for norm in ("1", "2", "inf"):
        expected = predictor.predict(x, Norm(norm)).radii.certified_radius
        assert np.array_equal(model.certified_radius(x, norm), expected)
    assert np.array_equal(model.certified_radius(x), model.certified_radius(x, "2"))
    assert np.median(model.certified_radius(x)) > 0.03


def test_only_changes_beyond_the_radius_may_alter_the_label(fitted):
    model, x = fitted
    radius, rng = model.certified_radius(x), np.random.default_rng(0)
    for _ in range(20):
        step = rng.normal(size=x.shape)
        step *= radius[:, None] / np.linalg.norm(step, axis=1, keepdims=True)
        assert (model.predict(x + 0.999 * step) == model.predict(x)).all()
    towards = x[::-1] - x
    assert (model.predict(x + towards) != model.predict(x)).any()


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_raw_units_and_every_norm(norm):
    """Columns range from 0.001 to 4000: their scaling is in the file, and the constant holds in their units."""
    data = breast_cancer()
    model = LipschitzClassifier(norm, lipschitz=2.0, margin=0.5, **SMALL).fit(data.inputs, data.labels)
    predictor = model.predictor_
    assert predictor.bounds(Norm(norm)).bound_global <= 2.0
    assert model.score(data.inputs, data.labels) > 0.85
    assert model.decision_function(data.inputs).shape == (569,)
    assert ((model.decision_function(data.inputs) > 0) == model.predict(data.inputs)).all()


def test_the_same_random_state_gives_the_same_file():
    data = breast_cancer()
    first = LipschitzClassifier(**SMALL).fit(data.inputs, data.labels)
    again = clone(first).fit(data.inputs, data.labels)
    other = clone(first).set_params(random_state=shifted(4)).fit(data.inputs, data.labels)
    x = data.inputs
    assert first.to_onnx(x) == again.to_onnx(x) != other.to_onnx(x)


def test_it_survives_pickling(fitted):
    model, x = fitted
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.certified_radius(x), model.certified_radius(x))
    assert again.to_onnx(x) == model.to_onnx(x)


def test_it_works_in_a_pipeline_and_a_search():
    data = breast_cancer()
    chain = make_pipeline(StandardScaler(), LipschitzClassifier(scaling="none", **SMALL))
    assert cross_val_score(chain, data.inputs, data.labels, cv=3).mean() > 0.9
    search = GridSearchCV(LipschitzClassifier(**SMALL), {"margin": [0.1, 1.0]}, cv=2)
    assert search.fit(data.inputs, data.labels).best_score_ > 0.9


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"norm": "3"}, "unknown norm '3'"),
        ({"lipschitz": 0}, "lipschitz = 0"),
        ({"activation": "tanh"}, "unknown network.activation 'tanh'"),
        ({"scaling": "rows"}, "unknown scaling 'rows'"),
        ({"margin": -1}, "loss.margin = -1"),
        ({"epochs": 0}, "training.epochs = 0"),
        ({"averaging": "median"}, "unknown training.averaging 'median'"),
        ({"widths": (0,)}, "widths >= 1"),
    ],
)
def test_invalid_parameters(parameters, message):
    with pytest.raises((RecipeError, ValueError), match=message):
        LipschitzClassifier(**parameters).fit(np.eye(4), [0, 1, 0, 1])


def test_bad_data():
    model = LipschitzClassifier(**SMALL)
    with pytest.raises(ValueError, match="only one class, 5"):
        model.fit(np.eye(3), [5, 5, 5])
    with pytest.raises(ValueError, match="NaN"):
        model.fit([[np.nan], [1.0]], [0, 1])
    with pytest.raises(DataError, match="row 0, column 0 is not a finite number"):
        model.fit([[1e39], [1.0]], [0, 1])
    for call in (model.predict, model.decision_function, model.certified_radius):
        with pytest.raises(NotFittedError):
            call(np.eye(2))
    with pytest.raises(NotFittedError):
        model.to_onnx()
    assert not hasattr(model, "predict_proba")
