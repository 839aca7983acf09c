"""One connection: uvicorn's own protocol, with bounds on what it holds of requests that are not whole.

Requests that :class:`Direct` takes are answered from here, without a task and the layers of an application.

The parser keeps what it is sent of a URL, a header or a trailer until its end, and every request that is sent
before the one before is answered (pipelining). Without bounds one client could fill the memory with that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from http import HTTPStatus
from time import perf_counter
from typing import Any, Protocol, TypeVar

import httptools
from starlette.responses import Response
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import (
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from service.budget import LEASE, PIECE_BYTES, Budget, Lease
from service.http.security_headers import safe_headers
from service.problems import Problem, ProblemKind
from service.wire import CLOSE, Header

T = TypeVar("T")

MOST_AHEAD = 100
"""Requests that may wait on a connection. They are answered, and it closes; the rest is not read."""
SEPARATORS = 2
"""By how much what is sent may be larger than the names and values in it, which is what is limited."""


class Direct(Protocol):
    """What answers some requests directly."""

    most_bytes: int
    """Of a body."""

    def leads(self, url: bytes) -> bool:
        """Whether it answers a POST to that URL."""
        ...

    def take(self, exchange: Exchange) -> Taken | None:
        """Takes a request whose body is still to come; None where the application is to answer it."""
        ...


class Taken(Protocol):
    """A request that is answered directly."""

    def begin(self) -> None:
        """The body is whole: answers now or soon."""
        ...

    def drop(self) -> None:
        """The body will never be whole."""
        ...


class Connection(HttpToolsProtocol):
    """Ends a connection that is sent too much that is not whole."""

    _unheard = 0
    """Bytes since the last whole thing: a head, or a part of a body."""
    _deaf = False
    """Whether what is still to come is passed over."""
    _answered: RequestResponseCycle | Exchange | None = None
    """The request that is being answered; ``cycle`` is the last one that was read."""
    _exchange: Exchange | None = None
    """The request whose body is being read, if it is to be answered directly."""
    _taken: Taken | None = None
    """The same, for who answers it."""
    _moved = 0.0
    """When anything last came from the client, or was taken by it; by the clock of the event loop."""
    _untaken: Lease | None = None
    """Of a direct answer that the client has yet to take."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The beginning."""
        super().connection_made(transport)
        self._direct: Direct | None = self.config.app.state.direct  # type: ignore[union-attr]
        self._most = SEPARATORS * (self.config.h11_max_incomplete_event_size or 0)  # whichever the parser
        self._budget: Budget = self.config.app.state.budget  # type: ignore[union-attr]
        transport.set_write_buffer_limits(high=PIECE_BYTES)
        self._moved = self.loop.time()
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            self._make_room()

    @property
    def waits(self) -> bool:
        """Whether it is the client's turn: to send a request or the rest of one, or to take its answer."""
        request = self.cycle
        whole = request is not None and not request.more_body and not request.response_complete
        return self.flow.write_paused or not (whole or self.pipeline)

    def _make_room(self) -> None:
        """End the connection that has waited for its client the longest; without one, this one is refused."""
        others = [other for other in self.connections if isinstance(other, Connection) and other is not self]
        waiting = [other for other in others if other.waits and not other.transport.is_closing()]
        if waiting:
            longest = min(waiting, key=lambda other: other._moved)
            longest.give_up(_too_many())
            self.connections.discard(longest)  # and not some turns of the loop later, once it is lost

    def data_received(self, data: bytes) -> None:
        """Some bytes, 256 KiB at most."""
        if self._deaf:
            return
        self._unheard += len(data)
        self._moved = self.loop.time()
        self._unset_keepalive_if_required()
        self._feed(data)
        if self._unheard > self._most:
            detail = f"the headers are over the limit of {self._most // SEPARATORS} bytes"
            self.end(Problem(ProblemKind.HEADERS_TOO_LARGE, detail))

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._read_again(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _read_again(self, rest: bytes) -> None:
        """Read the head of a request that asks for another protocol as one that does not (RFC 9110, 7.8).

        The parser ends with such a head, and takes what follows, the body, for the other protocol.

        Args:
            rest: what was received after the head.
        """
        lines = [
            b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        ]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn
        self._feed(b"\r\n".join([*lines, b"", rest]))

    def on_headers_complete(self) -> None:
        """The head of a request is whole."""
        self._unheard = 0
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("a tunnel is asked for")  # the parser ends, as at an error of its own
            return
        hosts = [name for name, _ in self.headers].count(b"host")
        if hosts != 1 and (hosts or self.parser.get_http_version() != "1.0"):
            raise ValueError(f"{hosts} headers Host")  # likewise; RFC 9112, 3.2
        if len(self.pipeline) == MOST_AHEAD:
            self.cycle.keep_alive = False
            self._deaf = True
            raise ValueError("too many requests ahead")  # likewise
        scope: Any = self.scope
        self._lease = scope[LEASE] = Lease(self._budget)
        if not self._begin_directly():
            HttpToolsProtocol.on_headers_complete(self)
        if not self.pipeline:
            self._answered = self.cycle
        self.headers = []  # what the parser puts there from now on, trailers, is nobody's

    def _begin_directly(self) -> bool:
        """Goes the short way with a request, if nothing about it is unusual and no other is answered now."""
        direct = self._direct
        if direct is None or not direct.leads(self.url) or self.parser.get_method() != b"POST":
            return False
        found = dict(reversed(self.headers))
        length = found.get(b"content-length", b"")
        busy = self.cycle is not None and not self.cycle.response_complete
        crowded = self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency
        if (
            busy
            or crowded
            or self.flow.write_paused
            or self.expect_100_continue
            or not length.isdigit()  # so its end is known: no transfer coding goes with a length
            or int(length) > direct.most_bytes
            or self.parser.get_http_version() != "1.1"
        ):
            return False
        stays = self.parser.should_keep_alive()
        exchange = Exchange(self, self.url, self.headers, found, self._lease, keep_alive=stays)
        self._taken = direct.take(exchange)
        if self._taken is None:
            return False
        self.cycle = self._exchange = exchange  # type: ignore[assignment]
        return True

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Begins to answer; beyond the most connections with a problem, where uvicorn has plain text."""
        cycle.__class__ = Answer  # uvicorn cannot be told of another
        super()._start_asgi_task(cycle, _refuse if app is service_unavailable else app)

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._unheard = 0
        if self.cycle.response_complete:
            return
        try:
            self._lease.hold(self._lease.size + len(body))
        except Problem as problem:
            self._give_back(problem)
            raise  # which ends the parser
        if self._exchange is None:
            HttpToolsProtocol.on_body(self, body)
        else:
            self._exchange.body += body

    def on_message_complete(self) -> None:
        """A request is whole."""
        if self.parser.should_upgrade():
            return
        exchange, taken = self._exchange, self._taken
        if exchange is None or taken is None:
            HttpToolsProtocol.on_message_complete(self)
            return
        self._exchange = self._taken = None
        exchange.more_body = False
        taken.begin()

    def on_response_complete(self) -> None:
        """Reads on only when no request waits."""
        self._moved = self.loop.time()
        if not self.pipeline:
            HttpToolsProtocol.on_response_complete(self)
            return
        self._answered = self.pipeline[-1][0]
        HttpToolsProtocol.on_response_complete(self)
        if self.pipeline:
            self.flow.pause_reading()

    def send_400_response(self, msg: str) -> None:
        """The answer to what is no request."""
        if not self._deaf:
            super().send_400_response(msg)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever answers is told, whatever was read since."""
        if self._answered is not None:
            self._answered.disconnected = True
            self._answered.message_event.set()
        if isinstance(self._answered, Exchange) and self._answered.working is not None:
            self._answered.working.cancel()
        self._drop_taken()
        for cycle, _ in self.pipeline:
            _lease_of(cycle).end()
        self.pipeline.clear()
        self._all_taken()
        super().connection_lost(exc)

    def _drop_taken(self) -> None:
        if self._taken is not None:
            self._taken.drop()
            self._lease.end()
            self._exchange = self._taken = None

    def _give_back(self, problem: Problem) -> None:
        """Refuse a request whose body finds no room, and pass over the rest of that body.

        The connection stays open meanwhile, or the system would drop the answer with what was not read.
        """
        self._deaf = True
        self._drop_taken()
        self.cycle.body = bytearray()
        self.end(problem, at_once=bool(self.pipeline))
        self.cycle.response_complete = True

    def resume_writing(self) -> None:
        """The client has taken most of what there was."""
        self._moved = self.loop.time()
        self._all_taken()
        super().resume_writing()

    def hold_until_taken(self, lease: Lease) -> None:
        """End a lease once the client has taken the answer that was just written."""
        if self.flow.write_paused:
            self._untaken = lease
        else:
            lease.end()

    def _all_taken(self) -> None:
        if self._untaken is not None:
            self._untaken.end()
            self._untaken = None

    def give_up(self, problem: Problem) -> None:
        """End a connection that waits for its client; half a request is answered with the problem."""
        if self.flow.write_paused:
            self.transport.abort()
        else:
            self.end(problem if self.cycle is not None and self.cycle.more_body else None)

    def end(self, problem: Problem | None = None, *, at_once: bool = True) -> None:
        """Closes it, now or when the client does, with a problem as the answer where none has been begun."""
        request, free = self.cycle, not (self.pipeline or self.transport.is_closing())
        if request is not None and not request.response_complete:
            free &= not request.response_started
            request.disconnected = True  # whoever works on it is not to answer as well
            request.message_event.set()
        if problem is not None and free:
            answer, status = _last_answer(problem), HTTPStatus(problem.kind.status)
            headers = (b"%b: %b" % pair for pair in answer.raw_headers)
            lines = [f"HTTP/1.1 {status} {status.phrase}".encode(), *headers]
            self.transport.write(b"\r\n".join([*lines, b"", bytes(answer.body)]))
        if at_once or not free:
            self.transport.close()


class Answer(RequestResponseCycle):
    """One request being answered: in one write, if the body is one message and small.

    uvicorn writes the head and the body one after the other, and the system carries each all the way to the
    client, which takes as much CPU as the rest of HTTP. What is not so plain uvicorn still sends itself, a
    large body in pieces, each once the client has taken those before.
    """

    _head: Any = None

    async def run_asgi(self, app: Any) -> None:
        """Answer, and hold nothing for it any longer."""
        try:
            await super().run_asgi(app)
        finally:
            _lease_of(self).end()

    async def send(self, message: Any) -> None:
        """Takes the head, which is kept until the body follows, or a part of the body."""
        if message["type"] == "http.response.start" and not self.response_started:
            self._head = message  # in place of one whose body never came
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if not self.response_started:
            if not more and self._send_whole(self._head, body):
                return
            await super().send(self._head)
        last = (max(1, len(body)) - 1) // PIECE_BYTES * PIECE_BYTES
        for start in range(0, last, PIECE_BYTES):
            piece = body[start : start + PIECE_BYTES]
            await super().send({"type": "http.response.body", "body": piece, "more_body": True})
        await super().send({"type": "http.response.body", "body": body[last:], "more_body": more})

    def _send_whole(self, head: Any, body: bytes) -> bool:
        """Whether that was done: not where lengths differ, or the connection is to close or takes no more."""
        headers = [*self.default_headers, *head["headers"]]
        found = dict(headers)
        if (
            self.disconnected
            or self.flow.write_paused
            or len(body) > PIECE_BYTES
            or not self.keep_alive
            or self.scope["method"] == "HEAD"
            or found.get(b"content-length") != b"%d" % len(body)
            or b"connection" in found
        ):
            return False
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.transport.write(_whole(head["status"], headers, body))
        self.message_event.set()
        self.on_response()
        return True


class Exchange:
    """One request that is answered directly; it stands where uvicorn has its cycles.

    Attributes:
        url: as it was asked.
        headers: names in small letters, and values.
        found: the same by name; of a repeated one the first.
        lease: of what is held for it.
        body: as far as it has arrived.
        begun: when the headers were whole, by ``perf_counter``.
        keep_alive: whether the connection stays open.
        more_body, response_started, response_complete, disconnected: how far it is.
        working: the answer to come, which is cancelled if the client leaves.
    """

    __slots__ = (
        "_connection",
        "begun",
        "body",
        "disconnected",
        "found",
        "headers",
        "keep_alive",
        "lease",
        "more_body",
        "response_complete",
        "response_started",
        "url",
        "working",
    )

    message_event = asyncio.Event()
    """With which uvicorn wakes who waits on a cycle; nobody waits for this."""

    def __init__(
        self,
        connection: Connection,
        url: bytes,
        headers: list[Header],
        found: dict[bytes, bytes],
        lease: Lease,
        *,
        keep_alive: bool,
    ) -> None:
        self._connection, self.url, self.headers, self.found = connection, url, headers, found
        self.lease, self.keep_alive = lease, keep_alive
        self.begun = perf_counter()
        self.body = bytearray()  # one that grows: many parts would leave holes in the heap
        self.more_body = True
        self.response_started = self.response_complete = self.disconnected = False
        self.working: asyncio.Future[Any] | None = None

    @property
    def client(self) -> tuple[str, int] | None:
        """Address and port of the client, where there are such."""
        return self._connection.client

    def take_body(self) -> bytes:
        """The body, which is not kept here: the connection may stay open for long."""
        body = bytes(self.body)
        self.body = bytearray()
        return body

    def work(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs what takes longer, for which the server waits at its end."""
        connection = self._connection
        task = connection.loop.create_task(coroutine)
        connection.tasks.add(task)  # type: ignore[arg-type]
        task.add_done_callback(connection.tasks.discard)
        return task

    def reply(self, status: int, headers: list[Header], body: bytes) -> None:
        """Answers, in one write, and goes on with what was sent meanwhile."""
        connection = self._connection
        closing = CLOSE in headers
        if not (closing or self.keep_alive):
            headers, closing = [*headers, CLOSE], True
        answer = _whole(status, [*connection.server_state.default_headers, *headers], body)
        self.response_started = self.response_complete = True
        self.working = None
        if not self.disconnected:
            connection.transport.write(answer)
            if closing:
                connection.transport.close()
        connection.hold_until_taken(self.lease)
        connection.on_response_complete()

    def abort(self) -> None:
        """Ends the connection without an answer."""
        self.response_complete = True
        self.lease.end()
        self._connection.transport.close()


def _whole(status: int, headers: list[Header], body: bytes) -> bytes:
    """An answer as it goes over the wire.

    Raises:
        RuntimeError: a header's value would end it; as uvicorn, whose words these are.
    """
    if HEADER_VALUE_RE.search(b"".join([value for _, value in headers])):
        raise RuntimeError("Invalid HTTP header value.")
    lines = [b"%b: %b\r\n" % header for header in headers]
    return b"".join([STATUS_LINE[status], *lines, b"\r\n", body])


def _last_answer(problem: Problem) -> Response:
    """One from here, outside the layers of the application, after which the connection closes."""
    answer = problem.response()
    answer.raw_headers = safe_headers([*answer.raw_headers, CLOSE])
    return answer


def _lease_of(cycle: Any) -> Lease:
    lease: Lease = cycle.scope[LEASE]
    return lease


def _too_many() -> Problem:
    detail = "the limit is the setting max_connections"
    return Problem(ProblemKind.TOO_MANY_CONNECTIONS, detail, headers={"Retry-After": "1"})


async def _refuse(scope: Any, receive: Any, send: Any) -> None:
    await _last_answer(_too_many())(scope, receive, send)
