"""What one connection may make the service hold: by clients that send without end, ahead, or never read."""

import json
from contextlib import suppress
from itertools import repeat

import httpx
import pytest

from service.http.connection import MAX_PIPELINED
from tests.service.conftest import HEALTH, connected, eventually, in_flight, rest, running

PREDICT = (
    b"POST /v1/models/two-moons/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
)


@pytest.fixture
def server(models):
    with running(models, max_header_bytes=2048, request_seconds=1.0) as client:
        yield client


@pytest.mark.parametrize(
    ("start", "again"),
    [
        (b"GET /", b"a"),
        (b"GET / HTTP/1.1\r\nX-A: ", b"a"),
        (b"GET / HTTP/1.1\r\n", b"X-A: a\r\n"),
        (PREDICT + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: a\r\n"),
        (PREDICT + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-A: ", b"a"),
        (PREDICT + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a"),
        (PREDICT + b"Connection: Upgrade\r\nUpgrade: h2c\r\nX-A: ", b"a"),
    ],
)
def test_what_never_ends_is_ended_before_it_is_large(server, start, again):
    with connected(server) as sock:
        sock.sendall(start)
        sent, many = 0, again * 2000
        with suppress(ConnectionError):
            for part in repeat(many, 2**28 // len(many)):
                sent += sock.send(part)
        assert sent < 2**25  # most of it in the system's buffers
    assert httpx.get(f"{server.base_url}/healthz").status_code == 200


def test_it_is_told_so(server):
    with connected(server) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nX-A: " + b"a" * 5000)
        head, _, body = rest(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert b"connection: close" in head
    assert json.loads(body)["type"] == "/problems/headers-too-large"


def test_trailers_are_no_headers(server):
    body = b'{"inputs": [[1, 2]]}'
    with connected(server) as sock:
        sock.sendall(PREDICT + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
        sock.sendall(b"%x\r\n%b\r\n0\r\nContent-Type: text/plain\r\n\r\n" % (len(body), body))
        assert rest(sock).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("sent", "answered"), [(1, 1), (MAX_PIPELINED, MAX_PIPELINED), (5000, MAX_PIPELINED + 1)]
)
def test_requests_ahead_are_answered_up_to_a_number(server, sent, answered):
    closing = HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with connected(server) as sock:
        sock.sendall(HEALTH * (sent - 1) + closing)
        answers = rest(sock)
    assert answers.count(b"HTTP/1.1 200 OK") == answered
    assert answers.count(b"connection: close") == 1
    assert answers.rindex(b"connection: close") > answers.rindex(b"HTTP/1.1 200 OK")


def test_answers_that_are_never_taken_are_dropped(server, caplog):
    with connected(server, SO_RCVBUF=4096) as sock:
        sock.sendall(HEALTH.replace(b"healthz", b"openapi.json") * 90)
        eventually(lambda: in_flight(server) == 1)
        eventually(lambda: in_flight(server) == 0)
        assert rest(sock).count(b"HTTP/1.1 200 OK") < 90
    assert not [r for r in caplog.records if r.levelname == "ERROR"]
