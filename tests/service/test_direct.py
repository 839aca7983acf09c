"""Predictions answered from the connection: the same to the byte as by the application, whatever is sent."""

import asyncio
import gc
import gzip
import io
import json
import re
import socket
import threading
import time
from weakref import WeakSet

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.http import fast_path
from service.http.connection import Connection, ResponseCycle
from service.inference.pipeline import PredictionPipeline
from tests.service.conftest import (
    HEALTH,
    PREDICT,
    connected,
    eventually,
    in_flight,
    post,
    rest,
    running,
    two_moons,
)

INFER = "/v2/models/two-moons/infer"
BODY = {"inputs": [[0.5, 0.25]]}
TENSOR = {"name": "input", "shape": [1, 2], "datatype": "FP32"}
BINARY = json.dumps(
    {"inputs": [TENSOR | {"parameters": {"binary_data_size": 8}}], "parameters": {"binary_data_output": True}}
).encode()


def npy(rows):
    file = io.BytesIO()
    np.save(file, np.asarray(rows, dtype=np.float32))
    return file.getvalue()


def as_json(content, **headers):
    return json.dumps(content).encode(), {"Content-Type": "application/json"} | headers


NPY = {"Content-Type": "application/x-npy"}
REQUESTS = {
    "one": (PREDICT, *as_json(BODY)),
    "epsilon": (PREDICT, *as_json(BODY | {"epsilon": 0.1})),
    "many": (PREDICT, *as_json({"inputs": [[0.5, 0.25], [1, 1]] * 40})),
    "norm": (PREDICT, *as_json(BODY | {"norm": "inf"})),
    "portable": (PREDICT, *as_json(BODY | {"portable": True})),
    "tightened": (PREDICT, *as_json(BODY | {"tighten": True})),
    "version": ("/v1/models/two-moons/versions/1/predict", *as_json(BODY)),
    "latest": ("/v1/models/two-moons/versions/latest/predict", *as_json(BODY)),
    "npy": (PREDICT, npy([[0.5, 0.25]]), NPY),
    "options in the query": (PREDICT + "?norm=inf&epsilon=0.01", npy([[0.5, 0.25]]), NPY),
    "gzip": (PREDICT, gzip.compress(as_json(BODY)[0]), {"Content-Encoding": "gzip"}),
    "escaped": ("/v1/models/two%2Dmoons/predict", *as_json(BODY)),
    "its id": (PREDICT, *as_json(BODY, **{"X-Request-ID": "mine"})),
    "tensor": (INFER, *as_json({"id": "a", "inputs": [TENSOR | {"data": [0.5, 0.25]}]})),
    "binary": (
        INFER,
        BINARY + np.array([0.5, 0.25], "<f4").tobytes(),
        {"Inference-Header-Content-Length": str(len(BINARY)), "Content-Type": "application/octet-stream"},
    ),
    "short row": (PREDICT, *as_json({"inputs": [[0.5]]})),
    "no JSON": (PREDICT, b"{", {}),
    "empty": (PREDICT, b"", {}),
    "another type": (PREDICT, b"a", {"Content-Type": "text/plain"}),
    "another compression": (PREDICT, b"a", {"Content-Encoding": "br"}),
    "not compressed": (PREDICT, b"a", {"Content-Encoding": "gzip"}),
    "too many rows": (PREDICT, *as_json({"inputs": [[0, 0]] * 101})),
    "too large": (PREDICT, b" " * 100_001, {}),
    "overflow": (PREDICT, *as_json({"inputs": [[1e39, 0]]})),
    "query": (PREDICT + "?norm=inf", *as_json(BODY)),
    "header that is no literal": (PREDICT, npy([[0.5]]).replace(b"False", b"1+1+1"), NPY),
    "unknown model": ("/v1/models/nobody/predict", *as_json(BODY)),
    "unknown version": ("/v1/models/two-moons/versions/7/predict", *as_json(BODY)),
    "no signer": (PREDICT, *as_json(BODY | {"certificate": True})),
    "all wrong": ("/v1/models/nobody/predict?norm=7", b"a", {"Content-Type": "a", "Content-Encoding": "b"}),
    "all else wrong": (PREDICT + "?norm=7", b"a", {"Content-Type": "a", "Content-Encoding": "b"}),
    "compressed nonsense": (PREDICT + "?norm=7", gzip.compress(b"{"), {"Content-Encoding": "gzip"}),
    "no type": (PREDICT, as_json(BODY)[0], {}),
    "no type of a tensor": (INFER, as_json({"inputs": [TENSOR | {"data": [0.5, 0.25]}]})[0], {}),
    "foreign host": (PREDICT, *as_json(BODY, Host="evil.example:8000")),
    "foreign page": (PREDICT, *as_json(BODY, Origin="http://evil.example")),
    "foreign frame": (PREDICT, *as_json(BODY, **{"Sec-Fetch-Site": "cross-site"})),
    "many members": (PREDICT, *as_json({f"a{i}": 0 for i in range(10_001)})),
    "other verb": ("/v1/models/two-moons/infer", *as_json(BODY)),
}
VARIES = {"date", "x-request-id"}


def told(answer):
    """Status, headers and body of an answer, but for what is no other's."""
    headers = sorted((name, value) for name, value in answer.headers.items() if name not in VARIES)
    return answer.status_code, headers, answer.content


@pytest.mark.parametrize("name", REQUESTS)
def test_the_application_answers_the_same(client, monkeypatch, name):
    path, body, headers = REQUESTS[name]
    short = client.post(path, content=body, headers=headers)
    monkeypatch.setattr(fast_path, "target_of", lambda path: None)
    long = client.post(path, content=body, headers=headers)
    assert told(short) == told(long)
    ids = [answer.headers["x-request-id"] for answer in (short, long)]
    assert ids == ["mine", "mine"] if name == "its id" else ids[0] != ids[1]


def test_it_is_not_the_application_that_answers(client, monkeypatch):
    async def nobody(*_):
        raise AssertionError

    for module in ("predict", "v2"):
        monkeypatch.setattr(f"service.api.{module}.respond", nobody)
    assert client.post(PREDICT, json=BODY).status_code == 200
    assert client.post(INFER, json={"inputs": [TENSOR | {"data": [0.5, 0.25]}]}).status_code == 200
    assert client.post("/v1/models/two%2Dmoons/predict", json=BODY).status_code == 500


def raw(client, *parts):
    """All that is answered to what is sent, until the connection ends."""
    with connected(client) as sock:
        for part in parts:
            sock.sendall(part)
        return rest(sock)


def statuses(answers):
    """Those of all that is answered on a connection, in turn."""
    return re.findall(rb"HTTP/1\.1 (\d{3})", answers)


LAST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_what_is_sent_ahead_is_answered_in_turn(client, size):
    bad = post(b"{}")
    sent = post() + post() + HEALTH + post() + bad + HEALTH + post() + LAST
    answers = raw(client, *(sent[i : i + size] for i in range(0, len(sent), size)))
    assert statuses(answers) == [b"200", b"200", b"200", b"200", b"422", b"200", b"200", b"200"]
    assert answers.count(b'"certified_radius"') == 4


@pytest.mark.parametrize(
    "sent",
    [
        post(b'{"inputs": [[0.5, 0.25]]}', PREDICT, "Connection: close"),
        post(version="1.0"),
        post(b"19\r\n" + b'{"inputs": [[0.5, 0.25]]}' + b"\r\n0\r\n\r\n", PREDICT, "Transfer-Encoding: chunked",
             "Connection: close", length=None),
        post(b'{"inputs": [[0.5, 0.25]]}', PREDICT, "Expect: 100-continue", "Connection: close"),
    ],
    ids=["close", "1.0", "chunked", "expect"],
)  # fmt: skip
def test_other_ways_to_send(client, sent):
    answer = raw(client, sent).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close" in head
    assert json.loads(body)["predictions"][0]["certified_radius"] > 0


def test_a_body_that_never_comes_is_no_request_in_flight(client):
    before = in_flight(client)
    with connected(client) as sock:
        sock.sendall(post()[:-5])
        eventually(lambda: in_flight(client) == before + 1)
    eventually(lambda: in_flight(client) == before)


def test_a_body_that_never_comes_does_not_outlast_the_server(models):
    with socket.socket() as sock:
        sock.settimeout(20)
        with running(models, shutdown_seconds=1) as client:
            sock.connect((client.base_url.host, client.base_url.port))
            sock.sendall(post()[:-5])
            eventually(lambda: in_flight(client) == 1)
        assert sock.recv(1) == b""


def test_a_client_that_is_gone_before_its_answer_hurts_nobody(client, caplog):
    before = in_flight(client)
    body = as_json({"inputs": [[0.5, 0.25]] * 20, "tighten": True})[0]
    for _ in range(3):
        with connected(client) as sock:
            sock.sendall(post(body))
    eventually(lambda: in_flight(client) == before)
    assert client.post(PREDICT, json=BODY).status_code == 200
    assert not [r for r in caplog.records if r.levelname == "ERROR"]


@pytest.mark.parametrize("where", ["question", "finish"])
def test_a_fault_is_a_problem_and_ends_the_connection(client, monkeypatch, caplog, where):
    def fault(*_):
        raise RuntimeError(str(1 / 8))

    monkeypatch.setattr(PredictionPipeline, where, fault)
    answer = client.post(PREDICT, json=BODY, headers={"X-Request-ID": "mine"})
    assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal")
    assert answer.headers["connection"] == "close"
    (logged,) = [r for r in caplog.records if r.name == "service.requests"]
    assert logged.fields["request_id"] == "mine"
    assert "RuntimeError" in logged.fields["exception"]
    assert "0.125" not in logged.fields["exception"] + logged.getMessage()


def test_a_connection_that_stays_open_keeps_no_body(client, monkeypatch):
    begun, exchanges = fast_path.FastPrediction.begin, []

    def begin(exchange):
        exchanges.append(exchange)
        begun(exchange)

    monkeypatch.setattr(fast_path.FastPrediction, "begin", begin)
    assert client.post(PREDICT, json=BODY | {"inputs": [[0.5, 0.25]] * 90}).status_code == 200
    assert [exchange.body for exchange in exchanges] == [b""]


def test_long_work_delays_no_other_request_and_is_done_before_the_end(models, monkeypatch):
    begun, ended = threading.Event(), threading.Event()
    answer = PredictionPipeline.answer

    async def slow(pipeline, question):
        begun.set()
        await asyncio.sleep(1)
        ended.set()
        return await answer(pipeline, question)

    with socket.socket() as sock:
        sock.settimeout(20)
        with running(models, shutdown_seconds=10) as server:
            assert server.post(PREDICT, json=BODY).status_code == 200  # the first one prepares the model
            monkeypatch.setattr(PredictionPipeline, "answer", slow)
            sock.connect((server.base_url.host, server.base_url.port))
            sock.sendall(post(as_json(BODY | {"portable": True})[0]))
            assert begun.wait(10)
            assert server.post(PREDICT, json=BODY).status_code == 200
            assert not ended.is_set()
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_a_connection_is_idle_only_after_its_last_answer(serve, monkeypatch):
    answer = PredictionPipeline.answer

    async def slow(pipeline, question):
        await asyncio.sleep(0.8)
        return await answer(pipeline, question)

    monkeypatch.setattr(PredictionPipeline, "answer", slow)
    monkeypatch.setattr("service.http.server.KEEP_ALIVE_SECONDS", 0.2)
    server = serve({"two-moons": two_moons()})
    slowly = post(as_json(BODY | {"portable": True})[0])
    assert statuses(raw(server, post(b"{}") + slowly)) == [b"422", b"200"]


def test_a_connection_that_has_ended_is_forgotten(serve, monkeypatch):
    made, kept = Connection.connection_made, WeakSet()

    def connection_made(connection, transport):
        kept.add(connection)
        made(connection, transport)

    monkeypatch.setattr(Connection, "connection_made", connection_made)
    server = serve({"two-moons": two_moons()})
    with connected(server) as sock:
        sock.sendall(post())
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK")
        time.sleep(1.5)  # so that it is seen idle
        assert kept
    eventually(lambda: gc.collect() >= 0 and not kept, seconds=5)


# --- the one write of other answers ------------------------------------------------------------------------


class Written:
    """A transport that keeps what is written."""

    def __init__(self):
        self.writes, self.closed = [], False

    def write(self, data):
        self.writes.append(bytes(data))

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed


def sent_by(kind, method, messages, keep_alive):
    """What an ASGI application's messages come to: written, closed, ended, and what was raised."""

    async def send():
        transport, ended = Written(), []
        cycle = RequestResponseCycle(
            scope={"type": "http", "method": method},
            transport=transport,
            flow=FlowControl(transport),
            logger=None,
            access_logger=None,
            access_log=False,
            default_headers=[(b"date", b"today")],
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=keep_alive,
            on_response=lambda: ended.append(True),
        )
        cycle.__class__ = kind
        error = None
        try:
            for message in messages:
                await cycle.send(dict(message))
        except RuntimeError as raised:
            error = str(raised)
        return transport, ended, error

    return asyncio.run(send())


PLAIN = [(b"content-type", b"text/plain"), (b"x-a", b"b")]
LENGTH = (b"content-length", b"3")
HEADERS = st.sampled_from(
    [[LENGTH], [LENGTH, (b"connection", b"close")], [LENGTH, (b"connection", b"Close")],
     [LENGTH, (b"x-b", b"a\r\nb: c")], [], [(b"connection", b"close")], [(b"transfer-encoding", b"chunked")]]
)  # fmt: skip


@given(
    method=st.sampled_from(["GET", "POST", "HEAD"]),
    status=st.sampled_from([200, 204, 304, 404, 500]),
    headers=HEADERS,
    body=st.sampled_from([[b"abc"], [b"abc"], [b"a", b"bc"], [b"a", b"", b"bc"], [b""], [b"a"], [b"abcd"]]),
    keep_alive=st.booleans(),
)
@settings(max_examples=1500)
def test_answers_are_what_uvicorn_writes(method, status, headers, body, keep_alive):
    messages = [{"type": "http.response.start", "status": status, "headers": PLAIN + headers}]
    messages += [
        {"type": "http.response.body", "body": part, "more_body": i < len(body) - 1}
        for i, part in enumerate(body)
    ]
    theirs, ours = (
        sent_by(kind, method, messages, keep_alive) for kind in (RequestResponseCycle, ResponseCycle)
    )
    if theirs[2] is None:  # else uvicorn may have sent half of it
        assert b"".join(ours[0].writes) == b"".join(theirs[0].writes)
    assert ours[1:] == theirs[1:]
    assert ours[0].closed == theirs[0].closed


def test_a_plain_answer_is_one_write():
    messages = [
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]},
        {"type": "http.response.body", "body": b"abc"},
    ]
    transport, ended, error = sent_by(ResponseCycle, "GET", messages, keep_alive=True)
    assert (len(transport.writes), ended, error) == (1, [True], None)


def test_a_head_without_a_body_may_be_replaced():
    head = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]}
    failed = [head | {"status": 500}, {"type": "http.response.body", "body": b"abc"}]
    transport, _, _ = sent_by(ResponseCycle, "GET", [head, *failed], keep_alive=True)
    assert b"".join(transport.writes).startswith(b"HTTP/1.1 500 ")
    assert b"200" not in b"".join(transport.writes)


def test_the_path_of_the_model_is_what_it_says():
    assert fast_path.target_of(b"/v1/models/a.b-c/versions/12/predict")[1:3] == ("a.b-c", "12")
    for path in (
        b"/v1/models/a/b/predict",
        b"/v1/models//predict",
        b"/v1/models/a%20b/predict",
        b"/v2/models/a/predict",
    ):
        assert fast_path.target_of(path) is None


def test_a_long_path_is_not_remembered(client):
    fast_path.target_of.cache_clear()
    assert client.post(f"/v1/models/{'a' * 2000}/predict", json=BODY).status_code == 404
    assert fast_path.target_of.cache_info().currsize == 0


def test_an_error_tells_nothing_of_the_process(client):
    path, body, headers = REQUESTS["header that is no literal"]
    assert " at 0x" not in client.post(path, content=body, headers=headers).json()["detail"]


@pytest.mark.parametrize(
    "url", [PREDICT + "?norm=inf#a", PREDICT + "#a", "http://a" + PREDICT, PREDICT + ";a"]
)
def test_urls_with_more_than_a_path_and_a_query_are_for_the_application(url):
    assert fast_path.FastPath.target(url.encode()) is None


def test_real_clients_of_both_kinds_share_a_connection(client):
    with httpx.Client(base_url=client.base_url, limits=httpx.Limits(max_connections=1)) as one:
        for _ in range(20):
            assert one.post(PREDICT, json=BODY).status_code == 200
            assert one.get("/v1/models").status_code == 200
            assert one.post(PREDICT, json={}).status_code == 422
