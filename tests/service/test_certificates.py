"""Answers signed on request, as a downstream consumer sees them."""

import json
import logging

import jwt
import numpy as np
import pytest

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.signed.check import check_answer
from lipmodel.signed.jws import open_signed
from lipmodel.signed.key_sets import add_signing_key, read_public
from tests.service.conftest import command, digits, eventually, two_moons
from tests.test_architecture import modules_after

PREDICT = "/v1/models/{}/predict"
JWKS = "/.well-known/jwks.json"


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "signing.json"
    add_signing_key(path)
    return path


def signed(client, inputs, model="two-moons", **more):
    answer = client.post(PREDICT.format(model), json={"inputs": inputs, "certificate": True} | more)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def published(client):
    return read_public(client.get(JWKS).content, "jwks")


@pytest.mark.parametrize("tighten", [False, True])
@pytest.mark.parametrize(("model", "content"), [("two-moons", two_moons()), ("digits", digits())])
def test_each_answer_is_signed_as_it_is_given(serve, keys, model, content, tighten):
    client = serve({model: content}, signing_keys=keys, issuer="https://example.org/certifier")
    inputs = np.random.default_rng(3).normal(size=(3, CertifiedPredictor(content).file.graph.input_size))
    for norm in ("1", "2", "inf"):
        identities = set()
        for row, prediction in zip(
            inputs, signed(client, inputs.tolist(), model, norm=norm, tighten=tighten), strict=True
        ):
            certificate = open_signed(prediction["certificate"], published(client))
            answer = certificate.answer
            for name in ("label", "label_index", "margin", "method", "norm"):
                assert getattr(answer, name) == prediction[name], name
            radius, stated = prediction["certified_radius"], answer.certified_radius
            assert stated < radius < stated * (1 + 1e-8)  # what is spare for other processors
            assert certificate.issuer == "https://example.org/certifier"
            identities.add(certificate.identity)
            assert [check for check in check_answer(answer, content, row) if not check.passed] == []
        assert len(identities) == len(inputs)


def test_unless_asked_for_there_is_none(serve, keys):
    client = serve({"two-moons": two_moons()}, signing_keys=keys)
    answer = client.post(PREDICT.format("two-moons"), json={"inputs": [[0, 1]]})
    assert answer.json()["predictions"][0]["certificate"] is None


def test_without_keys_it_says_so(client):
    answer = client.post(PREDICT.format("two-moons"), json={"inputs": [[0, 1]], "certificate": True})
    assert answer.status_code == 501
    assert answer.json()["type"] == "/problems/not-signing"
    assert "signing_keys" in answer.json()["detail"]
    assert client.get(JWKS).json() == {"keys": []}


def test_rows_of_signed_answers_are_limited(serve, keys):
    client = serve({"two-moons": two_moons()}, signing_keys=keys, max_tightened_rows=2)
    answer = client.post(PREDICT.format("two-moons"), json={"inputs": [[0, 1]] * 3, "certificate": True})
    assert answer.status_code == 422
    assert "at most 2" in answer.json()["detail"]


def test_public_keys_alone_are_published(serve, keys):
    client = serve({}, signing_keys=keys)
    answer = client.get(JWKS)
    assert answer.headers["Content-Type"] == "application/jwk-set+json"
    assert answer.headers["Cache-Control"] == "public, max-age=300"
    (key,) = answer.json()["keys"]
    assert key.keys() == {"kty", "crv", "x", "use", "alg", "kid"}
    assert json.loads(keys.read_text())["keys"][0]["d"] not in answer.text


def test_keys_are_rotated_while_it_serves(serve, keys, caplog, monkeypatch):
    client = serve({"two-moons": two_moons()}, signing_keys=keys)
    (before,) = signed(client, [[0.5, 1.0]])
    first = next(iter(published(client)))
    second = command("keys", "new-signing", keys).stdout.strip()
    eventually(lambda: list(published(client)) == [second, first], 10)
    (young,) = signed(client, [[0.5, 1.0]])
    assert kid_of(young) == kid_of(before) == first
    monkeypatch.setattr("lipmodel.signed.key_sets.PUBLISHED_SECONDS", 0.0)
    (after,) = signed(client, [[0.5, 1.0]])
    both = published(client)
    assert open_signed(before["certificate"], both).answer == open_signed(after["certificate"], both).answer
    assert kid_of(after) == second

    good = keys.read_text()
    with caplog.at_level(logging.ERROR, "service.inference.signer"):
        for bad in (good[: len(good) // 2], "", "{}"):
            caplog.clear()
            keys.write_text(bad)
            eventually(lambda: (client.get(JWKS), "signing keys are not reloaded" in caplog.text)[1], 10)
            assert list(published(client)) == [second, first]
            (still,) = signed(client, [[0.5, 1.0]])
            assert open_signed(still["certificate"], both)
            assert json.loads(good)["keys"][0]["d"] not in caplog.text
        caplog.clear()
        keys.unlink()
        eventually(lambda: (client.get(JWKS), "signing keys are not reloaded" in caplog.text)[1], 10)
    assert list(published(client)) == [second, first]


def kid_of(prediction):
    return jwt.get_unverified_header(prediction["certificate"])["kid"]


def test_a_service_that_does_not_sign_loads_no_cryptography(tmp_path):
    made = f"create_app(Settings(models={str(tmp_path)!r}, state={str(tmp_path / 's')!r}))"
    script = f"from service.app import create_app; from service.settings import Settings; {made}"
    assert not {"jwt", "cryptography"} & modules_after(script)


def test_no_existing_file_is_overwritten_by_new_signing(tmp_path):
    (tmp_path / "notes").write_text("mine")
    assert command("keys", "new-signing", tmp_path / "notes").exit_code == 1
    assert (tmp_path / "notes").read_text() == "mine"


# --- checked by the service ----------------------------------------------------------------

CHECK = "/v1/certificates/check"


def check(client, certificate, **more):
    answer = client.post(CHECK, json={"certificate": certificate} | more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def failed(told):
    return [one["name"] for one in told["checks"] if not one["passed"]]


@pytest.mark.parametrize("tighten", [False, True])
def test_every_number_is_computed_again(serve, keys, tighten):
    client = serve({"digits": digits()}, signing_keys=keys)
    given = np.random.default_rng(0).normal(size=16).tolist()
    (answer,) = signed(client, [given], "digits", tighten=tighten)
    told = check(client, answer["certificate"], input=given)
    assert told["verdict"] == "holds"
    assert failed(told) == []
    assert told["meaning"].endswith("recomputation confirms every statement")  # bounds differ
    assert told["model"]["name"] == "digits"
    stated = {one["name"]: (one["stated"], one["computed"]) for one in told["checks"]}
    radius = stated["certified_radius"][0]
    assert radius < answer["certified_radius"] < radius * (1 + 1e-8)
    assert stated["label"] == (answer["label"],) * 2
    assert stated["bounds.bound_lipschitz"][0] > stated["bounds.bound_lipschitz"][1] > 0
    if answer["method"] != "local":
        name = "radius from the stated bounds"
        assert stated[name][0] <= stated[name][1] <= stated[name][0] * (1 + 1e-9)
    assert told["certificate"]["certified_radius"] == stated["certified_radius"][0]


def test_without_recomputation_the_verdict_is_signed(serve, keys, tmp_path):
    client = serve({"two-moons": two_moons()}, signing_keys=keys)
    (answer,) = signed(client, [[0.5, 1.0]])
    told = check(client, answer["certificate"])
    assert (told["verdict"], failed(told)) == ("signed", [])
    assert "input" in told["meaning"]
    (tmp_path / "models" / "two-moons.onnx").unlink()
    eventually(lambda: not client.get("/v1/models").json()["models"], 10)
    told = check(client, answer["certificate"], input=[0.5, 1.0])
    assert (told["verdict"], told["model"], failed(told)) == ("signed", None, [])
    assert "model" in told["meaning"]


@pytest.mark.parametrize("given", [[0.5, 1.0000001], [0.5], [], [0.5, 1.0, 0.0]])
def test_of_another_input_it_does_not_hold(serve, keys, given):
    client = serve({"two-moons": two_moons()}, signing_keys=keys)
    (answer,) = signed(client, [[0.5, 1.0]])
    told = check(client, answer["certificate"], input=given)
    assert told["verdict"] == "fails"
    assert "digest of the input" in failed(told)


def test_a_certificate_without_a_trusted_signature_is_not_read(serve, keys, client):
    signing = serve({"two-moons": two_moons()}, signing_keys=keys)
    (answer,) = signed(signing, [[0.5, 1.0]])
    token, known = answer["certificate"], signing.get(JWKS).json()
    assert check(client, token, keys=known)["verdict"] == "signed"
    for bad, more in [
        (token[:-2] + ("AA" if token[-2:] != "AA" else "BA"), {}), (token, {"keys": {"keys": []}}), ("", {}), ("ä.b.c", {}),
        ("x" * 2_000_000, {}), (token.replace(".", ".e"), {}),
    ]:  # fmt: skip
        if more:
            refused = signing.post(CHECK, json={"certificate": bad} | more)
            assert refused.status_code == 422
            assert refused.json()["errors"][0]["field"] == "keys"
            continue
        told = check(signing, bad)
        assert (told["verdict"], told["certificate"], failed(told)) == ("fails", None, ["signature"])
    told = check(client, token)  # which signs nothing and is given no keys
    assert (told["verdict"], failed(told)) == ("fails", ["signature"])


@pytest.mark.parametrize(
    "body",
    [{}, {"certificate": 3}, {"certificate": "a.b.c", "input": ["x"]}, {"certificate": "a.b.c", "keys": []},
     {"certificate": "a.b.c", "keys": {"keys": [{"d": "secret"}]}}, {"certificate": "a.b.c", "more": 1}],
)  # fmt: skip
def test_invalid_check_requests_are_reported(client, body):
    answer = client.post(CHECK, json=body)
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/invalid-input"
