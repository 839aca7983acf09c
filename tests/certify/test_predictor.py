"""The predictor: what it promises of labels, how it treats inputs and claims."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from lipmodel.certify import predictor as module
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import InputError, ModelError
from lipmodel.network.metadata import (
    KEYS,
    Claims,
    InputClaims,
    input_claims,
    read_claims,
)
from lipmodel.network.writer import to_bytes, write_model
from lipmodel.norms import Norm
from tests.networks import float32, groupsort_net, linear_net, to_file

NORM, LIPSCHITZ, CLASSES, INPUT_BOX, RECORD = KEYS.values()


@pytest.fixture
def predictor():
    return CertifiedPredictor(
        to_file(groupsort_net((4, 8), 3), Claims(Norm.TWO, 1.0, ("a", "b", "c"), (0.0, 1.0)))
    )


def test_radius_holds_for_random_and_worst_changes(predictor):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4))
    radii = predictor.predict(x).radii
    for _ in range(50):
        step = rng.normal(size=x.shape)
        step /= np.linalg.norm(step, axis=1, keepdims=True)
        moved = x + step * radii.certified_radius[:, None] * (1 - 1e-9)
        assert (predictor.predict(moved).radii.label == radii.label).all()


BAD_INPUTS = {
    "text": ([["a", "b", "c", "d"]], "numbers are accepted", "inputs"),
    "booleans": ([[True, False, True, True]], "numbers are accepted", "inputs"),
    "complex": (np.ones((1, 4)) * 1j, "numbers are accepted", "inputs"),
    "wrong width": (np.ones((2, 5)), r"has shape \[2, 5\]; \[rows, 4\] is accepted", "inputs"),
    "one row without its axis": (np.ones(4), r"\[rows, 4\]", "inputs"),
    "no rows": (np.ones((0, 4)), "at least one row", "inputs"),
    "NaN": ([[0, 1, 2, 3], [0, np.nan, 0, 0]], "nan is not a finite number", "inputs[1][1]"),
    "infinity": ([[0, 0, 0, -np.inf]], "not a finite number", "inputs[0][3]"),
    "beyond float32": ([[1e39, 0, 0, 0]], "within float32", "inputs[0][0]"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_inputs_are_refused_with_field_and_reason(predictor, name):
    inputs, reason, field = BAD_INPUTS[name]
    with pytest.raises(InputError, match=reason) as caught:
        predictor.predict(inputs)
    assert caught.value.field == field


def test_inputs_may_have_the_shape_of_the_model_or_be_flat():
    from tests.certify.test_graph import READ

    predictor = CertifiedPredictor(READ["input of three axes"])
    x = np.random.default_rng(0).normal(size=(3, 2, 2))
    shaped, flat = predictor.predict(x), predictor.predict(x.reshape(3, 4))
    assert (shaped.scores == flat.scores).all()


def test_claims_are_compared_and_never_used(predictor):
    assert predictor.claim_proved is False  # rounding to float32 left the norms a hair above 1
    honest = Claims(Norm.TWO, 1.001)
    lying = Claims(Norm.TWO, 0.1)
    graph, x = groupsort_net((4, 8), 3), np.ones((1, 4))
    answers = [CertifiedPredictor(to_file(graph, c)) for c in (honest, lying)]
    assert [p.claim_proved for p in answers] == [True, False]
    radii = [p.predict(x, Norm.TWO).radii.certified_radius[0] for p in answers]
    assert radii[0] == radii[1]


def test_without_claims_there_are_defaults():
    predictor = CertifiedPredictor(to_file(groupsort_net((4, 8), 3)))
    assert predictor.class_names == ("0", "1", "2")
    assert predictor.default_norm is Norm.TWO
    assert predictor.claim_proved is None
    assert CertifiedPredictor(to_file(linear_net([[1.0]]))).class_names == ("0", "1")


def test_claims_survive_a_round_trip(predictor):
    claims = Claims(Norm.INF, 2.5, ("x", "y"), (-1.0, 2.0), {"seed": 3})
    assert read_claims(claims.to_metadata(), 2) == claims


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (NORM, "3"), (LIPSCHITZ, "one"), (LIPSCHITZ, "nan"), (LIPSCHITZ, "-1"), (CLASSES, "[1, 2]"),
        (CLASSES, '["a"]'), (CLASSES, '["a", "a"]'), (CLASSES, "not json"), (INPUT_BOX, "[1]"),
        (INPUT_BOX, "[2, 1]"), (INPUT_BOX, "[NaN, 1]"), (RECORD, "[]"), (RECORD, "[" * 100_000),
        (RECORD, '{"x": NaN}'), (RECORD, '{"x": 1e999}'), (RECORD, '{"x": "\\ud800"}'),
        (RECORD, '{"x": ' + "[" * 64 + "]" * 64 + "}"), (RECORD, '{"x": "' + "x" * 2**20 + '"}'),
    ],
)  # fmt: skip
def test_malformed_claims_are_ignored_and_told(key, value):
    claims = read_claims({key: value}, 2)
    assert len(claims.ignored) == 1
    assert key in claims.ignored[0]
    assert claims == Claims(ignored=claims.ignored)


def test_what_is_said_of_the_inputs_is_taken_where_it_fits():
    record = {"input_shape": [2, 3], "columns": ["a"] * 6, "units": "cm"}
    assert input_claims(record, 6) == InputClaims((2, 3), ("a",) * 6, "cm")
    assert input_claims({}, 6) == InputClaims()


@pytest.mark.parametrize(
    "record",
    [
        {"input_shape": [2, 2]}, {"input_shape": [-2, -3]}, {"input_shape": [6.0]}, {"input_shape": "23"},
        {"input_shape": [True, 6]}, {"columns": ["a"] * 5}, {"columns": [1] * 6}, {"columns": "abcdef"},
        {"columns": ["\ud800"] * 6}, {"columns": ["a" * 201] * 6}, {"units": 5}, {"units": "\udfff"},
    ],
)  # fmt: skip
def test_what_does_not_fit_the_inputs_is_left_out(record):
    assert input_claims(record, 6) == InputClaims()


@pytest.mark.parametrize("part", ["bias", "weight"])
def test_a_file_that_runs_as_something_else_is_refused(part, monkeypatch):
    """Were an operator misread, the program written from the graph would differ from the file."""
    content = to_file(groupsort_net((4, 8), 3))
    real = module.read_onnx

    def misread(source):
        file = real(source)
        object.__setattr__(file.graph.ops[0], part, getattr(file.graph.ops[0], part) + 1e-3)
        return file

    monkeypatch.setattr(module, "read_onnx", misread)
    with pytest.raises(ModelError, match="something other than"):
        CertifiedPredictor(content)


def test_a_file_that_onnxruntime_cannot_run_is_refused():
    proto = onnx.load_model_from_string(to_file(groupsort_net((4, 8), 3)))
    proto.ir_version = 1000
    with pytest.raises(ModelError, match="onnxruntime cannot run"):
        CertifiedPredictor(proto.SerializeToString())


def test_float64_files_are_served():
    graph = linear_net(np.eye(2) / 3)
    predictor = CertifiedPredictor(to_bytes(write_model(graph, np.float64)))
    assert predictor.file.dtype is np.float64
    assert predictor.predict([[1.0, 0.0]]).radii.label[0] == 0


def test_written_and_read_again_is_the_same_graph():
    graph = groupsort_net((4, 8, 8), 3, group_size=4)
    again = CertifiedPredictor(to_file(graph)).file.graph
    for ours, theirs in zip(graph.ops, again.ops, strict=True):
        assert type(ours) is type(theirs)
        if hasattr(ours, "weight"):
            assert (ours.weight == theirs.weight).all()


def test_metadata_is_json_where_it_is_not_text(predictor):
    assert json.loads(predictor.file.metadata[CLASSES]) == ["a", "b", "c"]
    assert predictor.claims.input_box == (0.0, 1.0)
    assert float32(0.1) != 0.1


def test_weights_that_overflow_are_refused_for_that():
    with pytest.raises(ModelError, match="overflow"):
        CertifiedPredictor(to_file(linear_net(np.full((2, 2), 3e38))))


def test_a_claimed_box_beyond_float32_is_ignored():
    assert read_claims({INPUT_BOX: "[-1e308, 1e308]"}, 2).ignored


def test_portable_radii_are_a_little_smaller(predictor):
    x = float32(np.random.default_rng(0).normal(size=(50, 4)))
    served, portable = predictor.predict(x).radii.certified_radius, predictor.portable_radii(x)
    assert (portable < served).all()
    assert np.median(portable / served) > 0.999
    doubles = x + 1e-9
    assert (predictor.portable_radii(doubles) < predictor.predict(doubles).radii.certified_radius).all()
