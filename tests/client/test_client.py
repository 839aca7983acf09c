"""The client against the real service, and against a misbehaving server."""

import asyncio
import dataclasses
import io
import random
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from lipcert import client as module
from lipcert.client import AsyncClient, Client, Retries
from lipcert.errors import (
    InvalidRequestError,
    LipcertClientError,
    ServiceFailedError,
    ServiceUnreachableError,
    TryAgainError,
)
from lipcert.results import Prediction
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.norms import Norm
from lipmodel.threat import Threat
from service.protocols.v1_schemas import Prediction as WirePrediction
from tests.service.conftest import digits, running, two_moons
from tests.test_architecture import modules_after

INPUTS = np.random.default_rng(0).normal(size=(5, 2))
QUICK = Retries(tries=3, first=0.0)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    (folder / "two-moons.onnx").write_bytes(two_moons())
    (folder / "bad.onnx").write_bytes(b"x")
    with running(folder) as http:
        yield str(http.base_url)


class Waited:
    """An async client behind the interface of the sync client, so that each test covers both."""

    def __init__(self, *arguments, **options):
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(*arguments, **options)

    def __getattr__(self, name):
        def call(*arguments, **options):
            return self._loop.run_until_complete(getattr(self._client, name)(*arguments, **options))

        return call

    def close(self):
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


@contextmanager
def made(kind, *arguments, **options):
    client = kind(*arguments, **options)
    try:
        yield client
    finally:
        client.close()


both = pytest.mark.parametrize("kind", [Client, Waited])


@both
@pytest.mark.parametrize("inputs", [INPUTS, INPUTS.tolist()])
def test_predictions_are_those_of_the_model(kind, url, inputs):
    with made(kind, url) as client:
        answer = client.predict("two-moons", inputs, norm="inf", epsilon=0.05)
    expected = CertifiedPredictor(two_moons()).predict(INPUTS, Norm.INF)
    assert [p.certified_radius for p in answer] == expected.radii.certified_radius.tolist()
    assert [p.scores for p in answer] == expected.scores.tolist()
    assert [p.certified for p in answer] == [p.certified_radius >= 0.05 for p in answer]
    assert len(answer) == 5
    assert answer[0].norm == "inf"
    assert answer.model.name == "two-moons"
    assert answer.model.sha256 == CertifiedPredictor(two_moons()).file.sha256


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_are_answered_like_rows(kind, url, dtype):
    inputs = INPUTS.astype(dtype)
    with made(kind, url) as client:
        asked = {"norm": "1", "epsilon": 0.05, "portable": True}
        plain = client.predict("two-moons", inputs, **asked)
        assert client.predict("two-moons", inputs, npy=True, **asked) == plain


@both
def test_a_model_is_uploaded(kind, tmp_path):
    (tmp_path / "first.onnx").write_bytes(two_moons())
    with running(tmp_path, uploads=True) as http, made(kind, str(http.base_url)) as client:
        client.upload("second", two_moons())
        assert [m.name for m in client.models()] == ["first", "second"]
        assert client.predict("second", INPUTS)[0] == client.predict("first", INPUTS)[0]
        with pytest.raises(InvalidRequestError, match="not an ONNX model"):
            client.upload("third", b"x")
        with pytest.raises(InvalidRequestError, match="would break"):
            client.upload("second", digits())
        assert client.upload("second", digits(), force=True)["version"] == "2"


def test_every_member_of_a_prediction_is_typed():
    assert set(WirePrediction.model_fields) <= {field.name for field in dataclasses.fields(Prediction)}


@both
def test_options_are_passed_on(kind, url):
    with made(kind, url) as client:
        answer = client.predict("two-moons", INPUTS[:1], portable=True, tighten=True)
    assert answer[0].radius_float32_portable is not None
    assert answer[0].tightening_complete is True
    assert answer[0].method in ("lipschitz", "mixture", "local")


@both
def test_a_problem_is_an_error_with_its_members(kind, url):
    with made(kind, url) as client:
        with pytest.raises(InvalidRequestError, match=r"has 3 values; this model expects 2") as error:
            client.predict("two-moons", [[1, 2, 3]])
        assert (error.value.status, error.value.kind) == (422, "invalid-input")
        assert error.value.errors[0].field == "inputs[0]"
        assert error.value.request_id
        with pytest.raises(InvalidRequestError) as error:
            client.predict("nope", INPUTS)
        assert (error.value.status, error.value.kind) == (404, "unknown-model")
        with pytest.raises(InvalidRequestError) as error:
            client.predict("bad", INPUTS)
        assert error.value.kind == "model-refused"
        with pytest.raises(InvalidRequestError, match="unknown"):
            client.predict("two-moons", INPUTS, unknown=True)


@both
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_without_json_are_not_sent(kind, url, value):
    with made(kind, url) as client, pytest.raises(ValueError, match="JSON"):
        client.predict("two-moons", [[value, 0.0]])


@both
def test_models_are_listed_and_shown(kind, url):
    with made(kind, url) as client:
        assert [(m.name, m.status) for m in client.models()] == [("bad", "refused"), ("two-moons", "served")]
        assert "not an ONNX model" in client.models()[0].reason
        assert client.model("two-moons")["input_size"] == 2


@both
def test_jobs_are_started_waited_for_and_cancelled(kind, url, monkeypatch):
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    with made(kind, url) as client:
        audit = client.wait("audit", client.start("audit", "two-moons", {"samples": 10}))
        assert (audit.state, audit.result["verdict"]) == ("done", "consistent")
        rows = {"inputs": INPUTS.tolist(), "labels": [0] * 5, "epsilons": [0.1]}
        evaluation = client.wait("evaluation", client.start("evaluation", "two-moons", rows))
        assert evaluation.result["samples"] == 5
        long = client.start("audit", "two-moons", {"samples": 10_000})
        with pytest.raises(TimeoutError):
            client.wait("audit", long, seconds=0.05)
        assert client.cancel("audit", long).state == "cancelled"
        assert client.job("audit", long).ended


class Answers:
    """A transport that returns scripted responses in turn and records the requests."""

    def __init__(self, *answers):
        self.answers, self.requests = list(answers), []

    def __call__(self, request):
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


def problem(status, kind="queue-full", **headers):
    body = {"type": f"/problems/{kind}", "title": "", "status": status, "detail": "busy"}
    return httpx.Response(status, json=body, headers=headers)


GOOD = httpx.Response(
    200, json={"model": {"name": "m", "version": "1", "sha256": "0", "new": 1}, "predictions": [], "more": 1}
)


def client_of(kind, answers, **options):
    transport = httpx.MockTransport(answers)
    return made(kind, "http://service", transport=transport, retries=QUICK, **options)


@both
@pytest.mark.parametrize(
    "failure",
    [
        problem(503),
        problem(429),
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.ReadTimeout(""),
    ],
)
def test_temporary_failures_are_retried(kind, failure):
    answers = Answers(failure, failure, GOOD)
    with client_of(kind, answers) as client:
        assert len(client.predict("m", [[0.0]])) == 0
    assert len(answers.requests) == 3


@both
def test_in_the_end_it_is_given_up(kind):
    for failure, error in [
        (problem(503), TryAgainError),
        (httpx.ConnectError("no"), ServiceUnreachableError),
    ]:
        with client_of(kind, Answers(*[failure] * 3)) as client, pytest.raises(error, match=r"busy|no"):
            client.models()


@both
@pytest.mark.parametrize(
    ("status", "error"), [(400, InvalidRequestError), (422, InvalidRequestError), (500, ServiceFailedError)]
)
def test_permanent_failures_are_not_retried(kind, status, error):
    answers = Answers(problem(status))
    with client_of(kind, answers) as client, pytest.raises(error):
        client.predict("m", [[0.0]])
    assert len(answers.requests) == 1


@both
def test_a_job_is_not_started_twice(kind):
    for failure, error in [
        (httpx.ReadError("reset"), ServiceUnreachableError),
        (problem(503), TryAgainError),
    ]:
        answers = Answers(failure)
        with client_of(kind, answers) as client, pytest.raises(error):
            client.start("audit", "m", {})
        assert len(answers.requests) == 1
    answers = Answers(httpx.ConnectError("no"), httpx.Response(202, headers={"Location": "/v1/audits/7"}))
    with client_of(kind, answers) as client:
        assert client.start("audit", "m", {}) == "7"


@both
def test_retry_after_is_waited_for(kind, monkeypatch):
    waits = []

    async def wait(seconds):
        waits.append(seconds)

    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=waits.append))
    monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=wait))
    answers = Answers(problem(429, **{"Retry-After": "7"}), problem(503, **{"Retry-After": "9999"}), GOOD)
    with client_of(kind, answers) as client:
        client.predict("m", [[0.0]])
    assert waits == [7.0, QUICK.longest]


def test_waits_grow_and_are_bounded():
    random.seed(0)
    retries = Retries(tries=20, first=0.1, longest=2.0)
    waits = [[retries.wait(tried) for _ in range(200)] for tried in range(1, 20)]
    for tried, seen in enumerate(waits, 1):
        assert max(seen) <= min(0.1 * 2 ** (tried - 1), 2.0)
    assert np.mean(waits[4]) > np.mean(waits[0])
    assert retries.wait(20) is None
    assert retries.wait(1, "soon") <= 0.1
    assert retries.wait(1, "Fri, 31 Dec 1999 23:59:59 GMT") <= 0.1


@both
def test_a_key_is_sent_and_none_is_not(kind):
    answers = Answers(GOOD, GOOD)
    for given in ({"api_key": "k"}, {}):
        with client_of(kind, answers, **given) as client:
            client.predict("m", [[0.0]])
    assert [r.headers.get("authorization") for r in answers.requests] == ["Bearer k", None]


@both
def test_arrays_go_as_they_are(kind):
    answers = Answers(GOOD)
    with client_of(kind, answers) as client:
        client.predict(
            "a/b", INPUTS.astype(np.float32), npy=True, norm="2", epsilon=0.5, portable=True, tighten=False
        )
    request = answers.requests[0]
    assert request.headers["content-type"] == "application/x-npy"
    assert request.url.raw_path == b"/v1/models/a%2Fb/predict?portable=true&norm=2&epsilon=0.5"
    sent = np.load(io.BytesIO(request.content), allow_pickle=False)
    assert sent.dtype == np.float32
    assert sent.shape == (5, 2)


@both
@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"model": {}, "predictions": []}),
    ],
)
def test_another_service_is_no_crash(kind, answer):
    with (
        client_of(kind, Answers(answer)) as client,
        pytest.raises(LipcertClientError, match="not from a Lipcert service"),
    ):
        client.predict("m", [[0.0]])


@both
def test_a_proxys_error_page_is_a_problem_too(kind):
    answers = Answers(httpx.Response(502, text="<html>"))
    with client_of(kind, answers) as client, pytest.raises(ServiceFailedError) as e:
        client.models()
    assert (e.value.status, e.value.kind) == (502, "")


def test_the_client_alone_needs_neither_service_nor_numpy():
    heavy = {"numpy", "onnxruntime", "pydantic", "service", "lipmodel", "fastapi"}
    assert not heavy & modules_after("import lipcert.client")


@pytest.mark.parametrize("kind", [Client, Waited])
@pytest.mark.parametrize("npy", [False, True])
def test_predictions_for_a_threat_set(url, kind, npy):
    client = kind(url)
    found = client.predict("two-moons", INPUTS, threat={"norm": "inf", "scale": [0.5, 0]}, npy=npy)
    expected = CertifiedPredictor(two_moons()).predict(INPUTS, Threat(Norm.INF, (0.5, 0.0))).radii
    assert [p.certified_radius for p in found.predictions] == expected.certified_radius.tolist()
    with pytest.raises(InvalidRequestError, match="'clerical' is unknown"):
        client.predict("two-moons", INPUTS, threat="clerical", npy=npy)
    client.close()
