"""Everything that can be wrong with a request: the status, and a problem that names field and reason."""

import json

import pytest

from lipmodel.certify.predictor import CertifiedPredictor
from service.problems import ProblemKind
from tests.service.conftest import PREDICT, connected, post, running, two_moons

AUDITS = "/v1/models/two-moons/audits"
JSON = {"Content-Type": "application/json"}


def check(answer, kind, field=None, reason=""):
    """The answer is a problem of that kind, whole and consistent; returns its body."""
    assert answer.status_code == kind.status
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == kind.uri
    assert body["title"] == kind.title
    assert body["status"] == kind.status
    assert body["detail"] == body["error"]
    assert reason in body["detail"]
    if field is None:
        assert "errors" not in body
    else:
        assert field in [e["field"] for e in body["errors"]]
        assert any(reason in e["reason"] for e in body["errors"])
    return body


NINES = "9" * 400

INVALID = {
    "wrong width": ('{"inputs": [[1, 2, 3]]}', "inputs[0]", "has 3 values; this model expects 2"),
    "ragged": ('{"inputs": [[1, 2], [1]]}', "inputs[1]", "has 1 value; this model expects 2"),
    "empty batch": ('{"inputs": []}', "inputs", "is empty"),
    "empty row": ('{"inputs": [[]]}', "inputs[0]", "has 0 values"),
    "no inputs": ("{}", "inputs", "is missing"),
    "inputs null": ('{"inputs": null}', "inputs", "is null; an array is accepted"),
    "string": ('{"inputs": [[1, 2], [1, "2"]]}', "inputs[1][1]", "is a string; a number is accepted"),
    "boolean": ('{"inputs": [[true, 1]]}', "inputs[0][0]", "is a boolean; a number is accepted"),
    "null": ('{"inputs": [[1, null]]}', "inputs[0][1]", "is null; a number is accepted"),
    "flat": ('{"inputs": [1, 2]}', "inputs[0]", "an array is accepted"),
    "too deep": ('{"inputs": [[[1], [2]]]}', "inputs[0][0]", "is an array; a number is accepted"),
    "NaN": ('{"inputs": [[1, NaN]]}', "inputs[0][1]", "is nan; a finite number is accepted"),
    "Infinity": ('{"inputs": [[-Infinity, 1]]}', "inputs[0][0]", "is -inf; a finite number is accepted"),
    "over float32": ('{"inputs": [[1, 1e39]]}', "inputs[0][1]", "within float32"),
    "over float64": ('{"inputs": [[1, 1e400]]}', "inputs[0][1]", "a finite number is accepted"),
    "huge integer": (f'{{"inputs": [[1, {NINES}]]}}', "inputs[0][1]", "(400 digits)"),
    "too many rows": (json.dumps({"inputs": [[1, 2]] * 101}), "inputs", "has 101 rows; at most 100"),
    "unknown norm": ('{"inputs": [[1, 2]], "norm": "3"}', "norm", "'1', '2' or 'inf'"),
    "norm as number": ('{"inputs": [[1, 2]], "norm": 3}', "norm", "is 3; one of '1', '2' or 'inf'"),
    "negative epsilon": ('{"inputs": [[1, 2]], "epsilon": -0.5}', "epsilon", "is -0.5; at least 0"),
    "epsilon NaN": ('{"inputs": [[1, 2]], "epsilon": NaN}', "epsilon", "a finite number is accepted"),
    "epsilon string": ('{"inputs": [[1, 2]], "epsilon": "1"}', "epsilon", "is a string"),
    "unknown key": ('{"inputs": [[1, 2]], "eps": 1}', "eps", "is not a known field"),
    "not an object": ("[[1, 2]]", "body", "is an array; an object is accepted"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_input(client, case):
    body, field, reason = INVALID[case]
    check(client.post(PREDICT, content=body, headers=JSON), ProblemKind.INVALID_INPUT, field, reason)


UNREADABLE = {
    "empty": b"",
    "blank": b" \n",
    "text": b"hello",
    "cut short": b'{"inputs": [[1, 2]',
    "trailing": b'{"inputs": [[1, 2]]} x',
    "not UTF-8": b'{"inputs": [[1, 2]], "\xff": 1}',
    "UTF-16": '{"inputs": [[1, 2]]}'.encode("utf-16"),
    "lone surrogate": rb'{"inputs": [[1, 2]], "norm": "\ud800"}',
    "10,000-digit integer": b'{"inputs": [[1, ' + b"9" * 10_000 + b"]]}",
    "nested deeply": b'{"inputs": ' + b"[" * 40_000 + b"]" * 40_000 + b"}",
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_not_json(client, case):
    check(client.post(PREDICT, content=UNREADABLE[case], headers=JSON), ProblemKind.NOT_JSON)


def test_of_many_faults_in_the_inputs_only_the_first_is_told(client):
    body = check(
        client.post(PREDICT, json={"inputs": [["a", "b"]] * 50}), ProblemKind.INVALID_INPUT, "inputs[0][0]"
    )
    assert len(body["errors"]) == 1


def test_scores_that_overflow_are_not_answered(client, monkeypatch):
    def predict(self, inputs, norm, **options):
        answer = original(self, inputs, norm, **options)
        answer.scores[1] = float("inf")
        return answer

    original = CertifiedPredictor.answer
    monkeypatch.setattr(CertifiedPredictor, "answer", predict)
    answer = client.post(PREDICT, json={"inputs": [[1, 2], [3, 4]]})
    check(answer, ProblemKind.INVALID_INPUT, "inputs[1]", "scores overflow")


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (
            {"Content-Type": "application/x-www-form-urlencoded"},
            "'application/json' or 'application/x-npy' is accepted",
        ),
        ({}, "Content-Type is missing; 'application/json' or 'application/x-npy' is accepted"),
        ({"Content-Type": ""}, "'application/json' or 'application/x-npy' is accepted"),
        (
            {"Content-Type": "application/json", "Content-Encoding": "br"},
            "'gzip', 'deflate' or no compression",
        ),
    ],
)
def test_media_types_that_are_refused(client, headers, reason):
    answer = client.post(PREDICT, content=b'{"inputs": [[1, 2]]}', headers=headers)
    check(answer, ProblemKind.UNSUPPORTED_MEDIA_TYPE, reason=reason)


def test_media_types_that_are_accepted(client):
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert client.post(PREDICT, content=b'{"inputs": [[1, 2]]}', headers=headers).status_code == 200


def test_a_body_over_the_limit_that_says_so(client):
    answer = client.post(PREDICT, content=b" " * 20_000_000, headers=JSON)
    check(answer, ProblemKind.BODY_TOO_LARGE, reason="limit of 100000 bytes")


def test_a_body_over_the_limit_that_does_not_say_so(client):
    chunks = (b" " * 10_000 for _ in range(1000))
    check(client.post(PREDICT, content=chunks, headers=JSON), ProblemKind.BODY_TOO_LARGE)


def test_a_body_over_the_limit_is_answered_before_it_is_sent(client):
    chunk = b"30d40\r\n" + b" " * 200_000
    for sent in (
        post(b"", length=10**10),
        post(chunk, PREDICT, "Transfer-Encoding: chunked", length=None),
    ):
        with connected(client) as connection:
            connection.sendall(sent)
            assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_caller_who_hangs_up_harms_nobody(models, capsys):
    with running(models) as client:
        with connected(client) as connection:
            connection.sendall(post(b"{", length=50))
        assert client.get("/healthz").status_code == 200
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("path", ["predict", "audits"])
def test_unknown_model(client, path):
    answer = client.post(f"/v1/models/nope/{path}", json={"inputs": [[1, 2]]})
    reason = "no model is named 'nope'; models served: 'digits', 'two-moons'"
    check(answer, ProblemKind.UNKNOWN_MODEL, reason=reason)


@pytest.mark.parametrize("path", ["predict", "audits"])
def test_refused_model(serve, path):
    client = serve({"good": two_moons(), "bad": two_moons()[:100]})
    answer = client.post(f"/v1/models/bad/{path}", json={"inputs": [[1, 2]]})
    check(answer, ProblemKind.MODEL_REFUSED, reason="model 'bad' is refused: ")


@pytest.mark.parametrize("path", ["/nope", "/v1/models/", "/v1/models/../../etc/passwd", "/%00%ff%0d%0a"])
def test_unknown_path(client, path):
    check(client.get(path), ProblemKind.NO_ROUTE)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", PREDICT), ("DELETE", "/v1/models"), ("PATCH", "/healthz")]
)
def test_unknown_method(client, method, path):
    answer = client.request(method, path)
    check(answer, ProblemKind.METHOD_NOT_ALLOWED, reason=f"not {method}")
    assert answer.headers["allow"]


INVALID_AUDITS = {
    "too many samples": ('{"samples": 1001}', "samples", "at most 1000"),
    "negative samples": ('{"samples": -1}', "samples", "at least 0"),
    "half a sample": ('{"samples": 1.5}', "samples", "a whole number is accepted"),
    "nothing to audit": ('{"samples": 0}', "samples", ""),
    "box upside down": ('{"box": {"low": 1, "high": 0}}', "box", ""),
    "box over float32": ('{"box": {"low": -1e308, "high": 1e308}}', "box.low", "at least -3.4"),
    "half a box": ('{"box": {"low": 1}}', "box.high", "is missing"),
    "box as pair": ('{"box": [0, 1]}', "box", "an object is accepted"),
    "negative seed": ('{"seed": -1}', "seed", "at least 0"),
    "huge seed": ('{"seed": 9223372036854775808}', "seed", "less than"),
    "wrong width": ('{"inputs": [[1]]}', "inputs[0]", "has 1 value; this model expects 2"),
    "unknown norm": ('{"norm": "l3"}', "norm", "is 'l3'"),
}


@pytest.mark.parametrize("case", INVALID_AUDITS)
def test_invalid_audit(client, case):
    body, field, reason = INVALID_AUDITS[case]
    check(client.post(AUDITS, content=body, headers=JSON), ProblemKind.INVALID_INPUT, field, reason)


def test_a_fault_of_the_service_tells_nothing_of_its_insides(models, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("sec" + "ret")

    with running(models) as client:
        with monkeypatch.context() as patch:
            patch.setattr("service.inference.engine.Engine.predict", fail)
            answer = client.post(PREDICT, json={"inputs": [[1, 2]]}, headers={"X-Request-ID": "mine"})
            body = check(answer, ProblemKind.INTERNAL)
        assert "secret" not in json.dumps(body)
        assert client.post(PREDICT, json={"inputs": [[1, 2]]}).status_code == 200
    log = caplog.text + "".join(record.fields["exception"] for record in caplog.records)
    assert "in fail" in log
    assert "RuntimeError" in log
    assert "secret" not in log  # it might be of an input
