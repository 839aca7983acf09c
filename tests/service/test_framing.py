"""Where a request ends: however it is cut into segments, and whatever asks for the end to be found elsewhere."""

import json
import socket
import time

import pytest

from tests.service.conftest import HEALTH, PREDICT, connected, rest
from tests.service.test_direct import LAST, raw, statuses

BODY = b'{"inputs": [[0.5, 0.25]]}'
JAVA = (
    b"POST %b HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: 25\r\nHost: 127.0.0.1:8000\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAABgAGAAA\r\nUpgrade: h2c\r\n"
    b"User-Agent: Java-http-client/17.0.8\r\nContent-Type: application/json\r\n\r\n%b"
)
"""What java.net.http.HttpClient sends unless told another version."""
SHORT, LONG = (JAVA % (path.encode(), BODY) for path in (PREDICT, PREDICT.replace("two-", "two%2D")))
END = SHORT.index(BODY)


def exchange(client, *segments):
    """What is answered to the first request on a connection that stays open, sent in these segments."""
    with connected(client) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for segment in segments:
            sock.sendall(segment)
            time.sleep(0.002)
        sock.sendall(LAST)
        return rest(sock)


@pytest.mark.parametrize("sent", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("cut", [*range(1, END - 5, 23), *range(END - 4, END + 4), END + 24])
def test_java_is_answered_in_http_1(client, sent, cut):
    cut += len(sent) - len(SHORT)
    answer = exchange(client, sent[:cut], sent[cut:])
    assert statuses(answer) == [b"200", b"200"]
    assert answer.count(b'"certified_radius"') == 1


@pytest.mark.parametrize("size", [1, 50, 10_000])
def test_requests_to_upgrade_are_answered_in_turn(client, size):
    sent = SHORT + HEALTH + LONG + SHORT + LAST
    answers = raw(client, *(sent[i : i + size] for i in range(0, len(sent), size)))
    assert statuses(answers) == [b"200"] * 5
    assert answers.count(b'"certified_radius"') == 3


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.0", b"h2c, websocket", b""])
@pytest.mark.parametrize(
    "body",
    [b"Content-Length: 25\r\n\r\n" + BODY, b"Transfer-Encoding: chunked\r\n\r\n19\r\n%b\r\n0\r\n\r\n" % BODY],
)
def test_no_upgrade_is_made(client, protocol, body):
    head = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n" % PREDICT.encode()
    head += b"Connection: keep-alive, Upgrade\r\nUpgrade: %b\r\nSec-WebSocket-Key: a\r\n" % protocol
    assert statuses(exchange(client, head + body)) == [b"200", b"200"]
    assert statuses(exchange(client, head, body)) == [b"200", b"200"]
    get = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n" % protocol
    assert statuses(exchange(client, get)) == [b"200", b"200"]


def test_a_body_is_not_read_as_requests(client):
    hidden = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"
    head = (
        JAVA.partition(b"\r\n\r\n")[0].replace(b"Length: 25", b"Length: %d" % len(hidden)) % PREDICT.encode()
    )
    answer = exchange(client, head + b"\r\n\r\n", hidden)
    assert statuses(answer) == [b"400", b"200"]
    assert b"digits" not in answer


START = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n" % PREDICT.encode()
CHUNKED = b"Transfer-Encoding: chunked\r\n"
AMBIGUOUS = {
    "length and chunks": START + b"Content-Length: 25\r\n" + CHUNKED + b"\r\n" + BODY,
    "chunks and length": START + CHUNKED + b"Content-Length: 25\r\n\r\n" + BODY,
    "two lengths": START + b"Content-Length: 25\r\nContent-Length: 24\r\n\r\n" + BODY,
    "one length twice": START + b"Content-Length: 25\r\nContent-Length: 25\r\n\r\n" + BODY,
    "list of lengths": START + b"Content-Length: 25, 25\r\n\r\n" + BODY,
    "length with a sign": START + b"Content-Length: +25\r\n\r\n" + BODY,
    "hexadecimal length": START + b"Content-Length: 0x19\r\n\r\n" + BODY,
    "length over 64 bits": START + b"Content-Length: 18446744073709551641\r\n\r\n" + BODY,
    "folded header": START + b"X: a\r\n Content-Length: 3\r\nContent-Length: 25\r\n\r\n" + BODY,
    "bare LF in the head": START.replace(b"\r\n", b"\n") + b"Content-Length: 25\n\n" + BODY,
    "bare CR in the head": START + b"X: a\rContent-Length: 3\r\n\r\n" + BODY,
    "blank before a colon": START + b"Content-Length : 25\r\n\r\n" + BODY,
    "null in a name": START + b"Content-Length\0: 25\r\n\r\n" + BODY,
    "null in a value": START + b"X: \0\r\nContent-Length: 25\r\n\r\n" + BODY,
    "chunks twice": START + 2 * CHUNKED + b"\r\n19\r\n%b\r\n0\r\n\r\n" % BODY,
    "not quite chunks": START + b"Transfer-Encoding: xchunked\r\n\r\n19\r\n%b\r\n0\r\n\r\n" % BODY,
    "chunks inside": START + b"Transfer-Encoding: chunked, gzip\r\n\r\n19\r\n%b\r\n0\r\n\r\n" % BODY,
    "no chunks": START + b"Transfer-Encoding: identity\r\nContent-Length: 25\r\n\r\n" + BODY,
    "signed chunk": START + CHUNKED + b"\r\n+19\r\n%b\r\n0\r\n\r\n" % BODY,
    "hexadecimal chunk": START + CHUNKED + b"\r\n0x19\r\n%b\r\n0\r\n\r\n" % BODY,
    "bare LF after a chunk": START + CHUNKED + b"\r\n19\n%b\n0\n\n" % BODY,
    "chunk longer than it says": START + CHUNKED + b"\r\n3\r\n%b\r\n0\r\n\r\n" % BODY,
    "tunnel": b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "tunnel to a path": b"CONNECT / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no Host": START.replace(b"Host: 127.0.0.1\r\n", b"") + b"Content-Length: 25\r\n\r\n" + BODY,
    "two Hosts": START + b"Host: 127.0.0.1\r\nContent-Length: 25\r\n\r\n" + BODY,
}


@pytest.mark.parametrize("upgrade", [b"", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"], ids=["", "upgrade"])
@pytest.mark.parametrize("case", AMBIGUOUS)
def test_what_others_may_read_otherwise_is_refused(client, case, upgrade):
    first, separator, others = AMBIGUOUS[case].partition(b"\r\n")
    answers = raw(client, first + separator + upgrade + others + HEALTH)
    assert statuses(answers) == [b"400"]
    assert b"onnection: close" in answers


def test_chunk_extensions_are_passed_over(client):
    sent = START + CHUNKED + b"\r\n19;a=b\r\n%b\r\n0;c\r\n\r\n" % BODY
    head, _, body = exchange(client, sent).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert json.JSONDecoder().raw_decode(body.decode())[0]["predictions"]
