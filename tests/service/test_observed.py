"""Request ids, counts and logs of requests, of a server that really runs."""

import json
import logging
import signal

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.telemetry.logs import JsonLines, TextLines
from service.telemetry.metrics import STAGES
from tests.service.conftest import PREDICT, connected, lipserve, post, url_of

JSON = {"Content-Type": "application/json"}
ROUTE = "/v1/models/{name}/predict"
BODY = {"inputs": [[0.5, 0.25]]}


def samples(client):
    """{(name, labels): value} of /metrics, as Prometheus reads it."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(answer.text)
        for s in family.samples
    }


def value(seen, name, **labels):
    return seen.get((name, tuple(sorted(labels.items()))), 0.0)


@pytest.mark.parametrize("given", ["abc", "A-1.b_c:d/e=f+g", "x" * 128])
def test_a_sane_request_id_is_kept(client, given):
    answer = client.post(PREDICT, json=BODY, headers={"X-Request-ID": given})
    assert answer.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\tb", "é", 'a"b', "<script>"])
def test_any_other_is_replaced(client, given):
    headers = {"X-Request-ID": given.encode()}
    first, second = (client.get("/healthz", headers=headers).headers["x-request-id"] for _ in range(2))
    assert len({given, first, second}) == 3
    assert first.isascii()
    assert len(first) < 40


@pytest.mark.parametrize("path", ["/healthz", "/nope", "/v1/models/nope"])
def test_every_answer_has_an_id(client, path):
    assert client.get(path).headers["x-request-id"]


def test_requests_are_counted_by_route_method_and_status(client):
    before = samples(client)
    for _ in range(3):
        assert client.post(PREDICT, json=BODY).status_code == 200
    client.post(PREDICT, content=b"{", headers=JSON)
    client.request("PROPFIND", PREDICT)
    client.get("/v1/models/nope")
    client.get("/surely/not/here")
    after = samples(client)

    def more(name, **labels):
        return value(after, name, **labels) - value(before, name, **labels)

    assert more("lipserve_requests_total", route=ROUTE, method="POST", status="200") == 3
    assert more("lipserve_requests_total", route=ROUTE, method="POST", status="400") == 1
    assert more("lipserve_requests_total", route=ROUTE, method="other", status="405") == 1
    assert more("lipserve_requests_total", route="/v1/models/{name}", method="GET", status="404") == 1
    assert more("lipserve_requests_total", route="none", method="GET", status="404") == 1
    assert more("lipserve_request_seconds_count", route=ROUTE) == 5
    for kind in ("not-json", "unknown-model", "no-route", "method-not-allowed"):
        assert more("lipserve_problems_total", kind=kind) == 1, kind
    assert more("lipserve_in_flight_requests") == 0
    assert value(after, "lipserve_in_flight_requests") == 1  # this very one


def test_bytes_are_counted_whether_announced_or_not(client):
    body = json.dumps(BODY).encode()
    before = samples(client)
    answers = [
        client.post(PREDICT, content=content, headers=JSON) for content in (body, iter([body[:5], body[5:]]))
    ]
    after = samples(client)
    assert [a.status_code for a in answers] == [200, 200]
    name = "lipserve_request_bytes_total"
    assert value(after, name) - value(before, name) == 2 * len(body)
    name = "lipserve_response_bytes_total"
    assert value(after, name) - value(before, name) > sum(len(a.content) for a in answers)


def test_a_body_that_was_only_announced_is_not_counted(client):
    before = samples(client)
    with connected(client) as connection:
        connection.sendall(post(b"{}", length=10**17))
        assert b" 413 " in connection.recv(1000)
    name = "lipserve_request_bytes_total"
    assert value(samples(client), name) == value(before, name)


def test_facts_of_build_models_jobs_and_processes(client):
    seen = samples(client)
    names = {name for name, _ in seen}
    assert {"lipserve_build_info", "lipserve_model_info", "lipserve_models_refused"} <= names
    assert value(seen, "lipserve_database_up") == value(seen, "lipserve_workers") == 1
    assert value(seen, "lipserve_resident_bytes") > 2**20
    assert value(seen, "lipserve_cpu_seconds_total") > 0
    assert ("lipserve_jobs", (("state", "queued"),)) in seen
    assert {dict(labels)["stage"] for name, labels in seen if name == "lipserve_stage_seconds_sum"} == {
        *STAGES
    }


def test_a_line_of_json_for_each_request_and_nothing_of_the_input(models):
    with lipserve("--models", models, "--port", 0, "--access-log", "--log-format", "json") as process:
        url = url_of(process)
        ids = {"X-Request-ID": "mine"}
        httpx.post(url + PREDICT, json={"inputs": [[8675309.25, 0.5]]}, headers=ids)
        httpx.post(url + PREDICT, json={"inputs": [["secret"]]})
        httpx.get(url + "/a%0Ab?q=secret")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    lines = [json.loads(line) for line in errors.splitlines()]
    told = [(line["method"], line["status"]) for line in lines]
    assert told == [("POST", 200), ("POST", 422), ("GET", 404)]
    assert lines[0]["request_id"] == "mine"
    assert lines[0]["path"] == PREDICT
    assert lines[2]["path"] == "/a\nb"
    assert all(line["logger"] == "service.access" and line["milliseconds"] > 0 for line in lines)
    assert "8675309" not in errors
    assert "secret" not in errors


def record(**extra):
    made = logging.LogRecord("a.b", logging.ERROR, "f.py", 1, "it %s", ("broke",), None)
    made.__dict__.update(extra)
    return made


def test_lines_of_text_cannot_be_forged():
    line = TextLines().format(record(fields={"path": "/a\n2026 error forged"}))
    assert "\n" not in line
    assert 'error a.b it broke path="/a\\n2026 error forged"' in line


def test_a_fault_is_one_line_of_json():
    try:
        raise ValueError("x\ny")
    except ValueError as error:
        line = JsonLines().format(record(exc_info=(ValueError, error, error.__traceback__)))
    assert "\n" not in line
    assert "ValueError" in json.loads(line)["exception"]
