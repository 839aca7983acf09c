"""Certificates: exact round trip, strict reading, and what they state."""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipmodel.certificates import strict_json as members
from lipmodel.certificates.format import Certificate
from lipmodel.certify.issue import certify
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import CertificateError, InputError
from lipmodel.network.metadata import Claims
from lipmodel.norms import Norm
from tests.certify.test_head import HEADS
from tests.networks import groupsort_net, linear_net, to_file

X = np.random.default_rng(0).normal(size=(3, 4))
PREDICTOR = CertifiedPredictor(to_file(groupsort_net((4, 8), 3), Claims(Norm.TWO, 1.1, ("a", "ü", '"'))))
CERTIFICATE = certify(PREDICTOR, X)[0]
TEXT = CERTIFICATE.to_json()

finite = st.floats(allow_nan=False, allow_infinity=False)
bound = st.floats(min_value=0.0, allow_infinity=False)


def bits(certificate):
    """Every number to the last bit, the sign of a zero included."""
    c = certificate
    numbers = [*c.input, *c.scores, c.margin, c.certified_radius, c.bound_input_norm, c.bound_norm_ratio]
    numbers += [v for r in c.rivals for v in (r.bound_lipschitz, r.bound_error, r.bound_error_slope)]
    return struct.pack(f"<{len(numbers)}d", *numbers)


@given(
    st.lists(finite, min_size=1, max_size=5),
    st.lists(finite, min_size=3, max_size=3),
    bound,
    bound,
    bound,
    st.text(),
)
def test_round_trip_is_exact(inputs, scores, radius, margin, error, name):
    rival = replace(CERTIFICATE.rivals[0], bound_error=error)
    certificate = replace(
        CERTIFICATE, input=tuple(inputs), scores=tuple(scores), certified_radius=radius, margin=margin,
        label=name, rivals=(rival,),
    )  # fmt: skip
    again = Certificate.from_json(certificate.to_json().encode())
    assert again == certificate
    assert bits(again) == bits(certificate)


def test_states_what_was_answered():
    result = PREDICTOR.predict(X)
    for row, c in enumerate(certify(PREDICTOR, X)):
        assert c.model_sha256 == PREDICTOR.file.sha256
        assert c.input == tuple(X[row])
        assert c.scores == tuple(result.scores[row])
        assert c.certified_radius == result.radii.certified_radius[row]
        assert c.label == PREDICTOR.class_names[result.radii.label[row]]
        assert [r.score for r in c.rivals] == [k for k in range(3) if k != c.label_index]


def test_a_binary_classifier_has_a_zero_in_front():
    (c,) = certify(CertifiedPredictor(to_file(linear_net([[1.0, 2.0]]))), [[1.0, 1.0]])
    assert (c.scores, c.owners, c.label_index, c.runner_up_index) == ((0.0, 3.0), (0, 1), 1, 0)


def test_every_score_of_another_class_is_a_rival():
    content, owners = HEADS["reduce max of columns"]
    (c,) = certify(CertifiedPredictor(content), np.ones((1, 5)))
    assert c.owners == tuple(owners)
    assert [owners[r.score] for r in c.rivals].count(c.label_index) == 0
    assert len(c.rivals) == 8


def test_integers_that_are_floats_elsewhere_are_read():
    text = re.sub(r'"bound_norm_ratio": [0-9.]+', '"bound_norm_ratio": 1', TEXT)
    assert Certificate.from_json(text) == CERTIFICATE


def test_nothing_is_stated_where_nothing_is_finite():
    predictor = CertifiedPredictor(to_file(linear_net(np.eye(2))))
    vars(predictor.bounds(Norm.TWO))["bound_per_score_pair"] = np.full((2, 2), np.inf)
    with pytest.raises(InputError, match=r"inputs\[0\]: its scores or their bounds are not finite"):
        certify(predictor, [[1.0, 1.0]])


def changed(**members):
    return json.dumps(json.loads(TEXT) | members)


OLDER_PROMISE = (
    "The answer is `label` to this input and to every input of float64 numbers whose distance from it, in "
    "the norm given, exact or computed in float64, is at most `certified_radius`; from every execution of "
    "the model in float64 (each sum, product and fused multiply-add rounded to nearest, in any order, "
    "subnormal numbers kept or flushed to zero). A radius of 0 promises nothing."
)


def older(certificate):
    """The same in format 3, which has no member for folded weights."""
    members = json.loads(certificate.to_json()) | {
        "format": "lipcert-certificate/3",
        "promise": OLDER_PROMISE,
    }
    del members["folded_weights_sha256"]
    return json.dumps(members)


def test_the_older_format_is_read_as_one_without_folded_weights():
    assert Certificate.from_json(older(CERTIFICATE)) == CERTIFICATE
    again = Certificate.from_json(older(replace(CERTIFICATE, folded_weights_sha256="0" * 64)))
    assert again.folded_weights_sha256 is None


def without(name):
    members = json.loads(TEXT)
    del members[name]
    return json.dumps(members)


MALFORMED = {
    "empty": ("", "not JSON"),
    "text": ("certificate", "not JSON"),
    "not UTF-8": (b"\xff\xfe{", "not JSON"),
    "a list": ("[]", "one JSON object"),
    "cut short": (TEXT[:-3], "not JSON"),
    "something after it": (TEXT + "{}", "not JSON"),
    "nested too deep": ("[" * 200_000, "not JSON"),
    "nested too deep in a member": (TEXT.replace('"margin": ', '"margin": ' + "[" * 200_000), "not JSON"),
    "digits beyond number": (TEXT.replace('"margin": ', f'"margin": {"9" * 5000}, "x": '), "not JSON"),
    "a duplicate": (TEXT.replace("{", '{"margin": 1.0, ', 1), "margin: is given twice"),
    "half a character in a name": (TEXT.replace("{", '{"\\ud800": 1.0, ', 1), "a name in it is no text"),
    "a duplicate inside": (TEXT.replace('{"score": ', '{"score": 1, "score": '), "score: is given twice"),
    "unknown": (changed(colour="red"), "colour: is unknown"),
    "unknown inside": (TEXT.replace('{"score"', '{"colour": 1, "score"'), r"rivals\[0\].colour: is unknown"),
    "missing inside": (changed(rivals=[{}]), r"rivals\[0\].score: is missing"),
    "a rival that is none": (changed(rivals=[1]), r"rivals\[0\]: is 1"),
    "no rivals": (changed(rivals=[]), "rivals: is "),
    "a rival without score": (TEXT.replace('{"score": ', '{"score": 7'), r"rivals\[0\].score: there are only 3"),
    "NaN": (TEXT.replace('"margin": ', '"margin": NaN, "x": '), "NaN is no JSON number"),
    "infinity by name": (TEXT.replace('"margin": ', '"margin": Infinity, "x": '), "Infinity is no JSON number"),
    "infinity by size": (TEXT.replace('"margin": ', '"margin": 1e999, "x": '), "unknown|margin: is inf"),
    "a number as text": (changed(margin="1.0"), "margin: is '1.0'; a finite float64"),
    "a truth for a number": (changed(margin=True), "margin: is True"),
    "a negative bound": (changed(certified_radius=-1.0), "certified_radius: is -1.0, below 0"),
    "an integer that is no float64": (changed(margin=2**60 + 1), "margin"),
    "a fraction for an index": (changed(label_index=1.0), "label_index: is 1.0; an integer"),
    "a negative index": (changed(label_index=-1), "label_index: is -1"),
    "an unknown norm": (changed(norm="3"), "norm: is '3'"),
    "a norm that cannot be hashed": (changed(norm=[]), r"norm: is \[\]"),
    "no digest": (changed(model_sha256="00"), "model_sha256: is '00'; 64"),
    "an empty input": (changed(input=[]), "input: is "),
    "too few owners": (changed(owners=[0]), "owners: has 1 entries for 3"),
    "no digest of folded weights": (changed(folded_weights_sha256=""), "folded_weights_sha256: is ''; 64"),
    "the older format with a member of this": (
        changed(format="lipcert-certificate/3", promise=OLDER_PROMISE), "folded_weights_sha256: is unknown",
    ),
    "the older promise": (changed(promise=OLDER_PROMISE), "promise: "),
    "another format": (changed(format="lipcert-certificate/1"), "format: 'lipcert-certificate/1' is not supported"),
    "another promise": (changed(promise="Anything."), "promise: 'Anything.' is not supported"),
    "another execution": (changed(execution="float32"), "execution: "),
    "another method": (changed(method="trust me"), "method: "),
    **{f"without {name}": (without(name), f"{name}: is missing") for name in json.loads(TEXT)},
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_is_refused_by_name(name):
    text, reason = MALFORMED[name]
    with pytest.raises(CertificateError, match=reason):
        Certificate.from_json(text)


def test_what_is_too_large_is_not_parsed(monkeypatch):
    monkeypatch.setattr(members, "MAX_BYTES", len(TEXT) - 1)
    with pytest.raises(CertificateError, match="larger than"):
        Certificate.from_json(TEXT)


@given(st.integers(0, len(TEXT) - 1), st.binary(max_size=4), st.integers(0, 4))
def test_altered_bytes_are_read_or_refused(at, put, cut):
    content = TEXT.encode()
    try:
        read = Certificate.from_json(content[:at] + put + content[at + cut :])
    except CertificateError:
        return
    assert all(map(math.isfinite, (*read.input, *read.scores, read.margin, read.certified_radius)))


def test_certificates_speak_of_float64_whatever_the_predictor_executes():
    predictor = CertifiedPredictor(to_file(groupsort_net((4, 8, 8), 3)))
    x = np.random.default_rng(0).normal(size=(3, 4))
    assert certify(predictor.executing(np.float32), x) == certify(predictor, x)
