"""What all requests together may make the service hold: memory and disk, before and after a credential."""

import gzip
import json
import socket
import time
from contextlib import ExitStack

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import app
from service.api.page import FILES
from service.budget import FREE_BYTES, PIECE_BYTES, Budget, Lease
from service.http.connection import Connection
from service.problems import Problem, ProblemKind
from tests.service.conftest import PREDICT, connected, digits, eventually, post, rest, running
from tests.service.test_bad_input import check
from tests.service.test_direct import BODY, INFER, TENSOR, as_json, npy, statuses

AUDITS, EVALUATIONS = "/v1/models/two-moons/audits", "/v1/models/two-moons/evaluations"
LIMIT = 4 * 2**20


@pytest.fixture
def budgets(monkeypatch):
    made = []

    class Kept(Budget):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(app, "Budget", Kept)
    return made


@pytest.fixture
def server(models, budgets):
    """Whatever a test does, in the end nothing is held."""
    (models / "digits.onnx").write_bytes(digits())
    with running(models, max_buffered_bytes=LIMIT, max_upload_bytes=50_000, uploads=True) as client:
        yield client
        eventually(lambda: [budget.held for budget in budgets] == [0, 0], 20)


@given(
    sizes=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 150)), max_size=30), free=st.integers(0, 30)
)
def test_a_budget_holds_what_its_leases_do_and_no_more(sizes, free):
    budget = Budget(100, "limit", free)
    leases = [Lease(budget) for _ in range(4)]
    for i, size in sizes:
        before = [lease.size for lease in leases]
        try:
            leases[i].hold(size)
        except Problem as problem:
            refused = problem.kind is ProblemKind.BODY_TOO_LARGE, size > before[i]
            assert (refused, [lease.size for lease in leases]) == ((size - free > budget.limit, True), before)
        else:
            assert leases[i].size == size
        assert budget.held == sum(max(0, lease.size - free) for lease in leases) <= budget.limit
    for lease in leases:
        lease.end()
    assert budget.held == 0


def connect(stack, client, **options):
    return stack.enter_context(connected(client, **options))


def large(rows=9000):
    return json.dumps({"inputs": [[0.5, 0.25]] * rows}).encode()


WAYS = {
    "direct": post(large(), PREDICT),
    "long": post(large(), PREDICT.replace("two-", "two%2D")),
    "another route": post(large(), EVALUATIONS),
    "chunked": post(
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(large()), large()),
        PREDICT,
        "Transfer-Encoding: chunked",
        length=None,
    ),
    "not read": post(large(), f"{AUDITS}/none"),
}


@pytest.mark.parametrize("way", ["direct", "long", "another route", "chunked"])
def test_unfinished_bodies_leave_room_for_small_requests(server, budgets, way):
    with ExitStack() as stack:
        waiting = [connect(stack, server) for _ in range(60)]
        for sock in waiting:
            sock.sendall(WAYS[way][:-1000])
        refused = []
        while not refused:
            time.sleep(0.05)
            refused = [answer for sock in waiting if (answer := received(sock))]
        assert {bytes(answer[:13]) for answer in refused} == {b"HTTP/1.1 503 "}
        problem = json.loads(refused[0].partition(b"\r\n\r\n")[2])
        assert problem["type"] == "/problems/busy"
        assert "max_buffered_bytes" in problem["detail"]
        assert b"retry-after: 1\r\n" in refused[0].lower()
        assert b"connection: close\r\n" in refused[0].lower()
        assert LIMIT / 2 < budgets[1].held <= LIMIT
        assert server.post(PREDICT, json=BODY).status_code == 200
        assert server.post(PREDICT, content=large()[:-1], headers=as_json(0)[1]).status_code == 503
    eventually(lambda: budgets[1].held == 0)
    assert server.post(PREDICT, content=large(), headers=as_json(0)[1]).status_code in {200, 413}


def received(sock):
    sock.setblocking(False)
    try:
        return sock.recv(65536)
    except BlockingIOError:
        return b""


def test_bodies_ahead_on_one_connection_are_held_together(server, budgets):
    slow = post(*as_json({"samples": 1000})[:1], AUDITS, "Prefer: wait=1")
    with ExitStack() as stack:
        for _ in range(20):
            connect(stack, server).sendall(slow + WAYS["long"])
        eventually(lambda: budgets[1].held > 0)
        assert budgets[1].held <= LIMIT


def test_answers_that_are_not_taken_are_held_and_given_up(server, budgets):
    asked = {"inputs": [[0.5, 0.25]] * 400}  # 130 KB each
    for path in (PREDICT, PREDICT.replace("two-", "two%2D")):
        with ExitStack() as stack:
            for _ in range(60):
                connect(stack, server, SO_RCVBUF=4096).sendall(post(as_json(asked)[0], path))
            headers = as_json(0)[1]
            eventually(lambda: server.post(path, json=asked, headers=headers).status_code == 503)  # noqa: B023
            assert budgets[1].held <= LIMIT
            assert server.post(PREDICT, json=BODY).status_code == 200
        eventually(lambda: budgets[1].held == 0)
        assert server.post(path, json=asked).status_code == 200


def test_a_large_answer_in_pieces_is_the_same(server):
    asked = as_json({"inputs": [[0.5, i / 400] for i in range(400)]})
    short, long = (
        server.post(path, content=asked[0], headers=asked[1])
        for path in (PREDICT, PREDICT.replace("two-", "two%2D"))
    )
    assert len(short.content) > 5 * PIECE_BYTES
    assert short.content == long.content
    assert len(short.json()["predictions"]) == 400


@pytest.mark.parametrize("coding", ["gzip", "identity"])
def test_files_are_read_by_who_takes_them(server, monkeypatch, coding):
    """However many ask for the largest and take nothing."""
    made, name = [], max(FILES, key=lambda name: FILES[name].stat().st_size)
    begun = Connection.connection_made
    monkeypatch.setattr(
        Connection, "connection_made", lambda self, transport: (begun(self, transport), made.append(self))
    )
    content = FILES[name].read_bytes()
    with ExitStack() as stack:
        for _ in range(50):
            ask = f"GET /web/{name} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {coding}\r\n\r\n".encode()
            connect(stack, server, SO_RCVBUF=4096).sendall(ask)
        eventually(lambda: sum(connection.flow.write_paused for connection in made) == 50)
        assert max(connection.transport.get_write_buffer_size() for connection in made) <= 3 * PIECE_BYTES
        answer = httpx.get(f"{server.base_url}/web/{name}", headers={"Accept-Encoding": coding})
        assert answer.content == content
        assert (int(answer.headers["Content-Length"]) == len(content)) == (coding == "identity")


NUMBERS = b'{"inputs": [[' + b"0," * 1_000_000 + b"0]]}"
MEMBERS = b"{" + b",".join(b'"%x":0' % i for i in range(20_000)) + b"}"
TENSORS = b'{"inputs": [{"name": "input", "shape": [1], "datatype": "FP32", "data": [%b0]}]}'
MANY = {
    "numbers": (PREDICT, NUMBERS),
    "rows": (PREDICT, b'{"inputs": [' + b"[]," * 600_000 + b"[]]}"),
    "members": (PREDICT, MEMBERS),
    "members of audits": (AUDITS, MEMBERS),
    "numbers of audits": (AUDITS, NUMBERS),
    "lists in lists": (INFER, TENSORS % (b"[]," * 600_000)),
    "members of tensors": (INFER, b'{"inputs": [%b]}' % MEMBERS),
    "members of an index": ("/v2/repository/index", MEMBERS),
    "compressed": (PREDICT, NUMBERS),
}


@pytest.mark.parametrize("case", MANY)
def test_json_of_many_values_is_not_read(models, case):
    path, body = MANY[case]
    headers = as_json(0)[1]
    if case == "compressed":
        body, headers = gzip.compress(body), headers | {"Content-Encoding": "gzip"}
    with running(models, uploads=True) as client:
        answer = client.post(path, content=body, headers=headers)
        check(answer, ProblemKind.BODY_TOO_LARGE, reason="values and")


def test_of_many_bad_outputs_few_are_read(client):
    body = {"inputs": [TENSOR | {"data": [0.5, 0.25]}], "outputs": [1] * 20_000}
    begun = time.perf_counter()
    check(client.post(INFER, json=body), ProblemKind.INVALID_INPUT, "outputs", "at most 100 items")
    assert time.perf_counter() - begun < 5  # a second for each million, where it took 28


def test_what_would_not_fit_alone_is_too_large(server):
    body, headers = as_json({"inputs": [[0.5] * 2] * 10})
    check(server.post(PREDICT, content=b" " * 2 * LIMIT + body, headers=headers), ProblemKind.BODY_TOO_LARGE)
    packed = gzip.compress(b" " * 2 * LIMIT + body)
    answer = server.post(PREDICT, content=packed, headers=headers | {"Content-Encoding": "gzip"})
    check(answer, ProblemKind.BODY_TOO_LARGE, reason="max_buffered_bytes")
    rows = np.zeros((5000, 2))  # the answer would
    answer = server.post(PREDICT, content=npy(rows), headers={"Content-Type": "application/x-npy"})
    check(answer, ProblemKind.BODY_TOO_LARGE, reason="answers to 5000 rows are too large")


def test_files_of_forms_are_bounded_together(server, budgets):
    file = b"\0" * 45_000
    head = b'--x\r\nContent-Disposition: form-data; name="data"; filename="a"\r\n\r\n'
    form = post(head + file + b"\r\n--x--\r\n", EVALUATIONS, "Content-Type: multipart/form-data; boundary=x")
    form = form.replace(b"Content-Type: application/json\r\n", b"")
    with ExitStack() as stack:
        waiting = [connect(stack, server) for _ in range(8)]
        for sock in waiting:
            sock.sendall(form[:-20])
        eventually(lambda: sum(received(sock).startswith(b"HTTP/1.1 503 ") for sock in waiting) > 0)
        assert budgets[0].held <= 4 * 50_000
    eventually(lambda: budgets[0].held == 0)
    with ExitStack() as stack:
        last = connect(stack, server)
        last.sendall(form)
        last.shutdown(socket.SHUT_WR)
        assert statuses(rest(last)) == [b"422"]  # it is read, and is no data


def test_an_upload_is_not_held(server, budgets):
    content = b"\0" * (2 * LIMIT)
    check(server.put("/v1/models/a", content=content), ProblemKind.UPLOAD_REFUSED)
    assert budgets[1].held <= FREE_BYTES
