"""Signed certificates can be opened and recomputed; every forgery is refused."""

from __future__ import annotations

import base64
import json
import math
import os
import stat
import time
import warnings
from dataclasses import fields, replace

import jwt
import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import TensorProto

from lipmodel.certificates.format import digest
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.certify.tight.mixtures import Mixer
from lipmodel.cli import main
from lipmodel.deadline import Deadline, OutOfTimeError
from lipmodel.errors import InputError, SignatureError
from lipmodel.norms import Norm
from lipmodel.signed.answers import answers
from lipmodel.signed.check import check_answer
from lipmodel.signed.claims import Answer, PairBounds1
from lipmodel.signed.jws import TYPE, open_signed, sign
from lipmodel.signed.key_sets import (
    PUBLISHED_SECONDS,
    add_signing_key,
    fetch,
    merge,
    read_public,
    read_signing_keys,
)
from tests.certify.test_graph import READ, model, n
from tests.certify.test_head import HEADS
from tests.networks import groupsort_net, linear_net, to_file
from tests.signed.forging import OTHER, edited, encode, flipped, header_of, signed_by, tricks

CONTENT = to_file(groupsort_net((4, 16, 16), 3, seed=2))
BINARY = to_file(groupsort_net((2, 16, 16), 1))
INPUT = np.array([[0.3, -0.7, 0.1, 1.1]])


def answer_of(content=CONTENT, x=INPUT, norm=None, *, tighten=False):
    predictor = CertifiedPredictor(content)
    (answer,) = answers(predictor, x, predictor.predict(x, norm, tighten=tighten))
    return answer


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "signing.json"
    add_signing_key(path)
    return read_signing_keys(path)


@pytest.fixture(scope="module")
def public(keys):
    return read_public(json.dumps({"keys": keys.published}).encode(), "here")


@pytest.fixture(scope="module")
def token(keys):
    return sign(answer_of(), keys, "tests")


def test_what_is_signed_is_opened_to_the_last_bit(keys, public):
    rng = np.random.default_rng(5)
    for content in (CONTENT, BINARY):
        predictor = CertifiedPredictor(content)
        x = rng.normal(size=(5, predictor.file.graph.input_size))
        for norm in Norm:
            for tighten in (False, True):
                rows = x[:1] if tighten else x
                made = answers(predictor, rows, predictor.predict(rows, norm, tighten=tighten))
                opened = [open_signed(sign(answer, keys, "tests"), public) for answer in made]
                assert [one.answer for one in opened] == made
                assert {one.issuer for one in opened} == {"tests"}
                assert [c for c in check_answer(opened[0].answer, content, x[0]) if not c.passed] == []


def test_the_radius_is_the_predictors_and_follows_from_the_bounds():
    answer = answer_of()
    radii = CertifiedPredictor(CONTENT).predict(INPUT).radii
    assert 0 < answer.certified_radius < radii.certified_radius[0] < answer.certified_radius * (1 + 2.0**-35)
    assert (answer.margin, answer.label_index) == (radii.margin[0], radii.label[0])
    bounds, size = answer.bounds, answer.input_size
    assert bounds.supports(answer.certified_radius, size, "float64")
    by_hand = (bounds.bound_margin - bounds.bound_error) / (
        bounds.bound_lipschitz + bounds.bound_norm_ratio * bounds.bound_error_slope
    )
    assert answer.certified_radius == pytest.approx(by_hand, rel=1e-14)
    assert not bounds.supports(np.nextafter(answer.certified_radius, np.inf), size, "float64")


def test_mixtures_and_local_bounds_are_reported():
    methods = set()
    for content in (CONTENT, *(content for content, _ in HEADS.values())):
        predictor = CertifiedPredictor(content)
        x = np.random.default_rng(1).normal(size=(10, predictor.file.graph.input_size))
        for answer, row in zip(answers(predictor, x, predictor.predict(x, tighten=True)), x, strict=True):
            assert sum(share.weight for share in answer.bounds.mixture) == 1.0
            if answer.method not in methods:
                assert all(check.passed for check in check_answer(answer, content, row))
            methods.add(answer.method)
    assert methods == {"lipschitz", "mixture", "local"}


def test_nothing_certified_is_signed_too(keys, public):
    content, x = to_file(linear_net(np.zeros((2, 2)))), np.array([[1.0, 2.0]])
    answer = answer_of(content, x)
    assert answer.certified_radius == 0.0
    assert open_signed(sign(answer, keys, "t"), public).answer == answer
    assert all(check.passed for check in check_answer(answer, content, x))


def test_what_is_not_finite_is_not_stated():
    predictor = CertifiedPredictor(CONTENT)
    predictions = predictor.predict(INPUT)
    raw = predictions.raw_scores.copy()
    raw[0, raw[0].argmax()] = np.inf
    with pytest.raises(InputError, match="not finite"):
        answers(predictor, INPUT, predictions._replace(raw_scores=raw))


def test_other_libraries_read_it(token, keys):
    claims = jwt.decode(token, jwt.PyJWK(dict(keys.published[0])), algorithms=["EdDSA"])
    assert claims["certified_radius"] == answer_of().certified_radius
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "kid": keys.kid, "typ": TYPE}


def test_no_forgery_is_accepted(token, keys, public):
    count = 0
    for reason, forged in tricks(token, keys):
        with pytest.raises(SignatureError) as refused:
            open_signed(forged, public)
        assert reason in str(refused.value), forged[:200]
        count += 1
    assert count > 80


def test_no_altered_character_is_accepted(token, public):
    rng = np.random.default_rng(0)
    altered = list(flipped(token))
    for index in rng.choice(len(altered), 2000, replace=False):
        with pytest.raises(SignatureError, match=r"\w"):
            open_signed(altered[index], public)
    assert len(altered) > 60 * len(token)


def test_no_edited_claim_is_accepted(token, public):
    header, _, signature = token.split(".")
    forged = list(edited(open_signed(token, public), header, signature))
    assert len(forged) > 70
    for one in forged:
        with pytest.raises(SignatureError, match="does not verify"):
            open_signed(one, public)


def test_edited_claims_that_the_key_signed_are_found_by_recomputing():
    """A signature does not guard against an issuer that lies; recomputing does."""
    answer = answer_of()
    more, less = 1 + 2.0**-34, 1 - 2.0**-34
    inflating = {"bound_margin": more, "bound_overflow_radius": more, "bound_norm_ratio": less}
    inflating |= dict.fromkeys(("bound_lipschitz", "bound_error", "bound_error_slope"), less)
    other_bounds = {name: getattr(answer.bounds, name) * factor for name, factor in inflating.items()}
    lies = [
        replace(answer, bounds=replace(answer.bounds, **{name: value}))
        for name, value in other_bounds.items()
    ]
    lies += [replace(answer, bounds=replace(answer.bounds, rival=answer.bounds.rival + 5))]
    lies += [
        replace(answer, **{name: value})
        for name, value in {
            "model_sha256": "0" * 64, "input_sha256": "0" * 64, "input_size": 5, "label": "x", "label_index": 7,
            "runner_up": "x", "runner_up_index": 7, "margin": answer.margin * 1.001, "method": "mixture",
            "certified_radius": answer.certified_radius * more,
        }.items()
    ]  # fmt: skip
    for lie in lies:
        failed = [check for check in check_answer(lie, CONTENT, INPUT) if not check.passed]
        changed = next(f.name for f in fields(Answer) if getattr(lie, f.name) != getattr(answer, f.name))
        words = {
            "model_sha256": "digest of the model",
            "input_sha256": "digest of the input",
            "input_size": "size",
        }
        told = " ".join(f"{check.name} {check.reason}" for check in failed)
        assert words.get(changed, changed) in told, (changed, told)
    larger = replace(answer, certified_radius=np.nextafter(answer.certified_radius, math.inf) * (1 + 1e-13))
    assert [c.name for c in check_answer(larger) if not c.passed] == ["radius from the stated bounds"]


@pytest.mark.parametrize("execution", [np.float64, np.float32])
def test_a_score_of_large_weights_hides_no_lie_about_the_others(execution):
    """Its rounding errors are its own: neither the margin nor the runner-up of others may be off by them."""
    rows = np.float32([[1, 0], [0, 1], [1e20, 1e20], [0.99, 0]])
    nodes = [n("Gemm", ["x", "rows", "bias"], transB=1)]
    content = model(nodes, {"rows": rows, "bias": np.float32([0, 0, -1e25, -1])}, shape=("N", 2))
    predictor = CertifiedPredictor(content).executing(execution)
    x = np.array([[3.0, 1.0]])
    (answer,) = answers(predictor, x, predictor.predict(x))
    assert (answer.runner_up_index, round(answer.margin, 6)) == (1, 1.03)
    lies = [("margin", replace(answer, margin=answer.margin + share)) for share in (1e-4, 1e3, 1e8)]
    # Class 3 is ahead of class 1 by its score, and nowhere near by distance.
    rival = replace(answer.bounds, rival=3, bound_margin=1.0, bound_lipschitz=0.02)
    lies.append(("bounds.rival", replace(answer, runner_up="3", runner_up_index=3, bounds=rival)))
    for name, lie in lies:
        assert name in [check.name for check in check_answer(lie, content, x[0]) if not check.passed]
    assert all(check.passed for check in check_answer(answer, content, x[0]))


def test_the_largest_radius_is_stated_like_any_other():
    for method in ("lipschitz", "local"):
        lie = replace(answer_of(), certified_radius=float(np.finfo(float).max), method=method)
        assert "certified_radius" in [c.name for c in check_answer(lie, CONTENT, INPUT) if not c.passed]


def test_scores_that_overflow_in_float32_are_not_stated():
    content = to_file(linear_net([[1.0, 1.0, 1.0, 1.0], [0.5, 0.0, 0.0, 0.0], [0.0, 0.5, 0.0, 0.0]]))
    predictor = CertifiedPredictor(content).executing(np.float32)
    x = np.full((1, 4), 3.4e38)
    predictions = predictor.predict(x)
    assert not np.isfinite(predictions.raw_scores).all()
    with pytest.raises(InputError, match="not finite"):
        answers(predictor, x, predictions)


@pytest.mark.parametrize("clipped", [False, True])
def test_an_answer_where_the_model_overflows_is_reported(clipped):
    """Whether its scores overflow, or something before them whose bounds do."""
    nodes = [n("MatMul", ["x", "A"], "a"), n("MatMul", ["a", "A"], "b"), n("Clip", ["b", "", "one"], "y")]
    constants = {"A": np.eye(2) * 1e150, "one": np.ones(())}
    nodes = nodes if clipped else [n("MatMul", ["x", "A"], "a"), n("MatMul", ["a", "A"])]
    content = model(nodes, constants, shape=("N", 2), dtype=TensorProto.DOUBLE)
    near, far = np.array([[0.5, -0.5]]), np.array([[3e38, -1.0]])
    lie = replace(answer_of(content, near), input_sha256=digest(far[0].tolist()))
    assert not all(check.passed for check in check_answer(lie, content, far))


PROTOTYPES = next(content for name, (content, _) in HEADS.items() if name == "reduce max of rows")
EXECUTIONS = (np.float64, np.float32)


@pytest.mark.parametrize("share", [2.0**-k for k in range(30, 52, 3)])
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_no_radius_is_inflated_by_a_hair(share, execution):
    """The key's holder lowers L as well, so that the radius follows from the stated bounds."""
    predictor = CertifiedPredictor(CONTENT).executing(execution)
    (answer,) = answers(predictor, INPUT, predictor.predict(INPUT))
    found = check_answer(replace(answer, certified_radius=1.0), CONTENT, INPUT)
    most = next(check for check in found if check.name == "certified_radius").computed
    bounds = replace(answer.bounds, bound_lipschitz=answer.bounds.bound_lipschitz * (1 - 2.0**-28))
    lie = replace(answer, certified_radius=most * (1 + share), bounds=bounds)
    assert bounds.supports(lie.certified_radius, lie.input_size, lie.execution)
    failed = {check.name for check in check_answer(lie, CONTENT, INPUT) if not check.passed}
    assert failed == {"certified_radius", "bounds.bound_lipschitz"}


@pytest.mark.parametrize("tighten", [False, True])
@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("content", [CONTENT, BINARY, PROTOTYPES], ids=["groupsort", "binary", "prototypes"])
def test_what_another_processor_signed_holds(content, execution, tighten, monkeypatch):
    """A processor with bounds smaller by 2⁻³⁸, and with scores off by half of the error allowed."""
    predictor = CertifiedPredictor(content).executing(execution)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(3 if tighten else 12, predictor.file.graph.input_size))
    hair, standing = 2.0**-38, Mixer.margins_of

    def elsewhere(*arguments):
        own = standing(*arguments)
        smaller = ("bound_lipschitz", "bound_error", "bound_error_slope", "bound_score_error")
        return replace(
            own,
            pair_radius=own.pair_radius * (1 + hair),
            bound_margin=own.bound_margin + 0.5 * own.bound_score_error,
            **{name: getattr(own, name) * (1 - hair) for name in smaller},
        )

    for norm in Norm:
        predictions = predictor.predict(x, norm, tighten=tighten)
        radii = predictions.radii
        longer = radii._replace(certified_radius=radii.certified_radius * (1 + hair))
        with monkeypatch.context() as other:
            other.setattr(Mixer, "margins_of", elsewhere)
            signed = answers(predictor, x, predictions._replace(radii=longer))
        for answer, row in zip(signed, x, strict=True):
            assert [check for check in check_answer(answer, content, row) if not check.passed] == []
        assert sum(answer.certified_radius > 0 for answer in signed) >= len(x) - 3


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_near_the_boundary_what_is_signed_holds(execution):
    """Down to inputs that cannot be distinguished, for which nothing is certified."""
    predictor = CertifiedPredictor(CONTENT).executing(execution)
    points = np.random.default_rng(0).normal(size=(1000, 4)) * np.geomspace(1.0, 1000.0, 1000)[:, None]
    labels = predictor.predict(points).radii.label
    label = int(labels[0])
    near, far, rows = points[0], points[labels != label][0], []
    for _ in range(56):
        middle = 0.5 * (near + far)
        rows.append(middle)
        same = int(predictor.predict(middle[None]).radii.label[0]) == label
        near, far = (middle, far) if same else (near, middle)
    rows = np.array(rows)
    for norm in Norm:
        signed = answers(predictor, rows, predictor.predict(rows, norm))
        for answer, row in zip(signed, rows, strict=True):
            assert answer.execution == execution.__name__
            assert [check for check in check_answer(answer, CONTENT, row) if not check.passed] == []
        assert signed[0].certified_radius > 0 == signed[-1].certified_radius


def test_the_weights_that_the_file_computes_are_named():
    content = READ["folded constants"]
    x = np.array([[0.5, -1.0, 0.25, 2.0]])
    answer = answer_of(content, x)
    assert answer.folded_sha256 == CertifiedPredictor(content).file.folded_sha256 is not None
    assert all(check.passed for check in check_answer(answer, content, x))
    for other in (None, "0" * 64):
        checks = check_answer(replace(answer, folded_sha256=other), content, x)
        assert [check.name for check in checks if not check.passed] == ["digest of the folded weights"]


def test_the_other_execution_is_reported():
    """Labels of float64 under the name of float32 are other labels somewhere, and other radii everywhere."""
    answer = answer_of()
    failed = [
        c.name for c in check_answer(replace(answer, execution="float32"), CONTENT, INPUT) if not c.passed
    ]
    assert "bounds.bound_error" in failed
    assert "certified_radius" in failed
    double = to_file(groupsort_net((4, 16, 16), 3, seed=2), dtype=np.float64)
    (answer,) = answers(predictor := CertifiedPredictor(double), INPUT, predictor.predict(INPUT))
    told = check_answer(replace(answer, execution="float32"), double, INPUT)[-1]
    assert "float32 execution takes a file that computes in float32" in told.reason


def test_format_1_still_verifies(keys, public):
    """It stated scores and bounds as computed: on the processor that signed it they are the same again."""
    predictor = CertifiedPredictor(CONTENT)
    predictions = predictor.predict(INPUT)
    answer, radii, scores = answer_of(), predictions.radii, predictions.raw_scores[0]
    standing = predictor.mixer(Norm.TWO).class_margins(scores, INPUT[0], int(radii.label[0]), mix=False)
    at = standing.pair_radius.argmin()
    stated = ("bound_lipschitz", "bound_error", "bound_error_slope")
    bounds = PairBounds1(
        rival=int(standing.competitors[at]),
        mixture=answer.bounds.mixture,
        bound_lead=float(
            np.nextafter(scores[standing.targets[0]] - scores[standing.competitors[at]], -np.inf)
        ),
        bound_norm_ratio=answer.bounds.bound_norm_ratio,
        bound_overflow_radius=float(predictor.rule(Norm.TWO).overflow_radius(INPUT)[0]),
        **{name: float(getattr(standing, name)[at]) for name in stated},
    )
    old = replace(answer, bounds=bounds, certified_radius=float(radii.certified_radius[0]))
    token = sign(old, keys, "t")
    payload = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "==="))
    assert (payload["format"], payload["execution"]) == ("lipcert-signed/1", "float64")
    opened = open_signed(token, public).answer
    assert opened == old
    assert [check for check in check_answer(opened, CONTENT, INPUT[0]) if not check.passed] == []
    lie = replace(old, certified_radius=old.certified_radius * (1 + 2.0**-40))
    assert "certified_radius" in [c.name for c in check_answer(lie, CONTENT, INPUT[0]) if not c.passed]
    with pytest.raises(SignatureError, match="execution is 'float32'"):
        open_signed(sign(replace(old, execution="float32"), keys, "t"), public)


def test_another_input_or_model_is_reported():
    answer = answer_of()
    (size, digest) = [c for c in check_answer(answer, CONTENT, INPUT + 1e-9) if "input" in c.name]
    assert size.passed
    assert "states" in digest.reason
    other = to_file(groupsort_net((4, 16, 16), 3, seed=3))
    assert any(c.name == "digest of the model" and c.reason for c in check_answer(answer, other, INPUT))


# --- key sets ------------------------------------------------------------------------------


def test_rotation_keeps_what_was_signed_verifiable(tmp_path):
    path = tmp_path / "keys.json"
    first = add_signing_key(path)
    alone = read_signing_keys(path)
    assert alone.current(time.time()) is alone  # with nothing else to sign with it signs at once
    token = sign(answer_of(), alone, "t")
    second = add_signing_key(path)
    now = read_signing_keys(path)
    assert [key["kid"] for key in now.published] == [second, first]
    assert open_signed(token, public_of(now)).answer == answer_of()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["keys.json"]


def test_a_new_key_signs_once_no_copy_of_the_published_keys_is_older(tmp_path, monkeypatch):
    from service.api.certificates import MAX_AGE_SECONDS

    path = tmp_path / "keys.json"
    first, second = add_signing_key(path), add_signing_key(path)
    os.utime(path, (0, 0))  # a copy that keeps the time of the original is no older for that
    keys = read_signing_keys(path)
    assert PUBLISHED_SECONDS >= 2 * MAX_AGE_SECONDS
    for seconds, kid in (
        (-1e6, first),
        (0, first),
        (PUBLISHED_SECONDS - 1, first),
        (PUBLISHED_SECONDS, second),
    ):
        assert keys.current(keys.changed + seconds).kid == kid
        assert open_signed(sign(answer_of(), keys.current(keys.changed + seconds), "t"), public_of(keys))
    with pytest.raises(SignatureError, match="the first key signs 600 s after"):
        add_signing_key(path)  # it would have to sign before, or the one before it could not any more
    monkeypatch.setattr("lipmodel.signed.key_sets.PUBLISHED_SECONDS", 0)
    third = add_signing_key(path)
    members = json.loads(path.read_text())["keys"]
    assert [key["kid"] for key in members] == [third, second, first]
    assert ["d" in key for key in members] == [True, True, False]  # a key that is no longer used cannot leak
    path.write_text(json.dumps({"keys": [members[0], members[2]]}))  # the second is withdrawn
    monkeypatch.undo()
    keys = read_signing_keys(path)
    assert keys.current(time.time()).kid == third


def public_of(keys):
    return read_public(json.dumps({"keys": keys.published}).encode(), "here")


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o644, 0o666])
def test_a_key_file_that_others_may_read_is_refused(tmp_path, mode):
    path = tmp_path / "keys.json"
    add_signing_key(path)
    path.chmod(mode)
    with pytest.raises(SignatureError, match="chmod 600"):
        read_signing_keys(path)
    path.chmod(0o640)  # secrets of Kubernetes are the group's to read
    read_signing_keys(path)


def _private(**changes):
    key = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(OTHER))
    return {**key, **changes}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b"[]", "one JSON object"),
        (b"{}", "a JSON Web Key Set"),
        (b'{"keys": [1]}', "a JSON Web Key Set"),
        (b'{"keys": []}', "no private part"),
        (b'{"keys": [], "keys": []}', "given twice"),
        (json.dumps({"keys": [{"kty": "oct", "k": "AAAA"}]}).encode(), "cannot be read"),
        (json.dumps({"keys": [_private(d="AAAA")]}).encode(), "cannot be read"),
        (json.dumps({"keys": [_private(x=encode(bytes(32)))]}).encode(), "does not match"),
        (
            json.dumps({"keys": [{k: v for k, v in _private().items() if k != "d"}]}).encode(),
            "no private part",
        ),
        (json.dumps({"keys": [_private(), _private()]}).encode(), "twice"),
        (b" " * (2**20 + 1), "larger than"),
    ],
)
def test_bad_signing_keys_are_refused(tmp_path, content, reason):
    path = tmp_path / "keys.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SignatureError, match=reason):
        read_signing_keys(path)
    with pytest.raises(SignatureError, match=reason):
        add_signing_key(path)
    assert path.read_bytes() == content


def test_private_keys_are_not_taken_for_public_ones(keys):
    with pytest.raises(SignatureError, match="contains a private key"):
        read_public(json.dumps({"keys": [_private(kid="x")]}).encode(), "here")
    with pytest.raises(SignatureError, match="no key for Ed25519"):
        read_public(b'{"keys": [{"kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB"}]}', "here")
    one = dict(keys.published[0])
    with pytest.raises(SignatureError, match="two keys have the id"):
        read_public(json.dumps({"keys": [one, one]}).encode(), "here")
    with pytest.raises(SignatureError, match="two different keys have the id"):
        merge([{"a": OTHER.public_key()}, {"a": Ed25519PrivateKey.generate().public_key()}])


@pytest.mark.parametrize(
    "place", ["http://example.org/keys", "ftp://localhost/x", "file:///etc/passwd", "gopher://a"]
)
def test_keys_come_from_files_and_https_alone(place):
    with pytest.raises(SignatureError, match="only https"):
        fetch(place)


def test_missing_keys_are_reported(tmp_path):
    with pytest.raises(SignatureError, match="No such file"):
        fetch(str(tmp_path / "none"))
    with pytest.raises(SignatureError, match="cannot be read"):
        fetch("http://127.0.0.1:9/keys")


# --- the command ---------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, keys, token):
    (tmp_path / "keys.json").write_text(json.dumps({"keys": keys.published}))
    (tmp_path / "token").write_text(token + "\n")
    (tmp_path / "m.onnx").write_bytes(CONTENT)
    np.save(tmp_path / "x.npy", INPUT)
    np.save(tmp_path / "other.npy", INPUT + 1)
    return tmp_path


def run(*arguments):
    with warnings.catch_warnings():
        return CliRunner().invoke(main, list(map(str, arguments)))


def test_verify_holds(files, token):
    all_of = ["--jwks", files / "keys.json", "--model", files / "m.onnx", "--input", files / "x.npy"]
    for given in (files / "token", token):
        answer = run("verify", given, *all_of)
        assert answer.exit_code == 0, answer.output
        assert "every number was recomputed" in answer.stdout
    told = json.loads(run("verify", token, *all_of, "--json").stdout)
    assert told["verdict"] == "holds"
    assert all(check["passed"] for check in told["checks"])
    assert told["certificate"]["certified_radius"] == answer_of().certified_radius


def test_verify_without_model_takes_the_keys_word(files, token):
    answer = run("verify", token, "--jwks", files / "keys.json", "--json")
    assert (answer.exit_code, json.loads(answer.stdout)["verdict"]) == (0, "signed")


def test_verify_names_what_is_wrong(files, token, keys):
    answer = run("verify", token[:-5] + "AAAAA", "--jwks", files / "keys.json")
    assert answer.exit_code == 1
    assert "signature does not verify" in answer.stdout
    answer = run("verify", "x" + token, "--jwks", files / "keys.json", "--json")
    assert (answer.exit_code, json.loads(answer.stdout)["certificate"]) == (1, None)
    both = ["--jwks", files / "keys.json", "--model", files / "m.onnx"]
    answer = run("verify", token, *both, "--input", files / "other.npy", "--json")
    assert answer.exit_code == 1
    assert [c["name"] for c in json.loads(answer.stdout)["checks"] if not c["passed"]] == [
        "digest of the input"
    ]
    lie = replace(answer_of(), certified_radius=answer_of().certified_radius * 2)
    answer = run("verify", sign(lie, keys, "t"), *both, "--input", files / "x.npy")
    assert answer.exit_code == 1
    assert "certified_radius: states" in answer.stdout
    (files / "token").write_bytes(token.encode() + b"\n\n")
    assert run("verify", files / "token", "--jwks", files / "keys.json").exit_code == 1


def test_verify_with_wrong_arguments_is_bad_use(files, token):
    for arguments, told in [
        ([token], "requires --jwks"),
        ([token, "--jwks", files / "nope"], "No such file"),
        ([token, "--jwks", files / "m.onnx"], "JSON"),
        ([files / "none"], "is neither a file nor a signed certificate"),
        (["a.b.c"], "is neither a file nor a signed certificate"),
    ]:
        answer = run("verify", *arguments)
        assert answer.exit_code == 2, answer.output
        assert told in answer.stderr.replace("\n", " ")


def test_issuers_and_labels_are_shown_as_text(files, keys):
    answer = replace(answer_of(), label="[red]x[/red]")
    shown = run("verify", sign(answer, keys, "[bold]me[/bold]"), "--jwks", files / "keys.json").stdout
    assert "signed by '[bold]me[/bold]'" in shown


def test_a_header_with_spaces_is_still_one_form(keys, public):
    payload = base64.urlsafe_b64decode(sign(answer_of(), keys, "t").split(".")[1] + "===")
    assert open_signed(signed_by(keys.private, header_of(keys), payload), public).answer == answer_of()


def test_a_radius_that_time_cut_short_is_checked_like_any_other():
    class Cut(Deadline):
        """Out of time after so many checks."""

        def __init__(self, left):
            super().__init__()
            self.left = left

        def check(self):
            self.left -= 1
            if self.left < 0:
                raise OutOfTimeError

    predictor = CertifiedPredictor(CONTENT)
    x = predictor.check_inputs(INPUT)
    whole = Cut(10**6)
    method = predictor.answer(x, Norm.TWO, tighten=True, deadline=whole).tightening.method[0]
    found = predictor.answer(x, Norm.TWO, tighten=True, deadline=Cut(10**6 - whole.left - 1))
    (answer,) = answers(predictor, x, found)
    assert not found.tightening.complete[0]
    assert answer.method == method
    assert all(check.passed for check in check_answer(answer, predictor, x))
