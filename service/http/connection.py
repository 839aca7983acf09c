"""One HTTP connection: uvicorn's protocol with limits on unfinished requests, and the hook of the fast path.

httptools keeps a URL, header or trailer until its end, and uvicorn queues each request that is sent before
the previous response (pipelining); without limits one client could fill the memory.

All that rests on classes that uvicorn does not document is in this module; ``tests/service/test_uvicorn.py``
lists these parts, and fails where a release of uvicorn changes one.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

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
from service.http.instrumentation import safe_headers
from service.problems import Problem, ProblemKind
from service.wire import CLOSE, Header, Headers

if TYPE_CHECKING:
    from service.http.fast_path import FastPath

T = TypeVar("T")

MAX_PIPELINED = 100
"""Requests queued on a connection: they are answered, further input is discarded, the connection closes."""
OVERHEAD = 2
"""Factor by which a head as sent may exceed its names and values, which the setting limits."""


class Connection(HttpToolsProtocol):
    """A connection that is closed when its client sends too much, too slowly, or reads too slowly."""

    _bytes_since_progress = 0
    """Received since the last complete head or part of a body."""
    _discarding = False
    """Further input is discarded if True."""
    _current: RequestResponseCycle | FastExchange | None = None
    """The request that is answered next; ``cycle`` is the last request that was read."""
    _fast_request: FastExchange | None = None
    """The request of the fast path with an incomplete body."""
    _last_progress = 0.0
    """Time when the client last sent or received anything, by the clock of the event loop."""
    _unsent: Lease | None = None
    """Holds the memory of a fast response that the client has yet to receive."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, in place of another connection where there are too many."""
        super().connection_made(transport)
        state = self.config.app.state  # type: ignore[union-attr]
        self._fast_path: FastPath | None = state.fast_path
        self._budget: Budget = state.budget
        # The setting has this name whichever the parser.
        self._max_bytes = OVERHEAD * (self.config.h11_max_incomplete_event_size or 0)
        transport.set_write_buffer_limits(high=PIECE_BYTES)
        self._last_progress = self.loop.time()
        if self._too_many:
            self._evict_another()

    @property
    def _too_many(self) -> bool:
        return self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency

    @property
    def has_request(self) -> bool:
        """Return whether a request has begun on this connection since it was made."""
        return self.cycle is not None

    @property
    def awaits_client(self) -> bool:
        """Return whether the client is to act: to send a request or its rest, or to receive a response."""
        request = self.cycle
        complete = request is not None and not request.more_body and not request.response_complete
        return self.flow.write_paused or not (complete or self.pipeline)

    @property
    def progress(self) -> Any:
        """Return a value that changes with every progress of a client that is to act.

        Returns None where the service is to act, or the client sends no request: uvicorn's keep-alive timeout
        ends such a connection.
        """
        blocked = self.flow.write_paused
        if not self.awaits_client or (self.timeout_keep_alive_task is not None and not blocked):
            return None
        return self.cycle, self._unreceived() if blocked else 0

    def _unreceived(self) -> int:
        """Return how many bytes of responses are buffered in the process and the kernel."""
        number = self.transport.get_extra_info("socket").fileno()
        (queued,) = struct.unpack("i", fcntl.ioctl(number, termios.TIOCOUTQ, bytes(4)))
        return int(self.transport.get_write_buffer_size() + queued)

    def _evict_another(self) -> None:
        """Close the connection that has awaited its client the longest; without one, this one is refused."""
        others = [other for other in self.connections if isinstance(other, Connection) and other is not self]
        waiting = [other for other in others if other.awaits_client and not other.transport.is_closing()]
        if waiting:
            longest = min(waiting, key=lambda other: other._last_progress)
            longest.evict(_too_many_connections())
            # Now: `connection_lost` follows some iterations of the loop later.
            self.connections.discard(longest)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, 256 KiB at most."""
        if self._discarding:
            return
        self._bytes_since_progress += len(data)
        self._last_progress = self.loop.time()
        self._unset_keepalive_if_required()
        self._feed(data)
        if self._bytes_since_progress > self._max_bytes:
            detail = f"the headers exceed the limit of {self._max_bytes // OVERHEAD} bytes"
            self.end(Problem(ProblemKind.HEADERS_TOO_LARGE, detail))

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse the head of an upgrade request again without the header Upgrade (RFC 9110, 7.8).

        The parser stops after such a head, and takes the rest that was received for the other protocol's.
        """
        line = self.parser.get_method(), self.url, self.parser.get_http_version().encode()
        headers = [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn
        self._feed(b"\r\n".join([b"%b %b HTTP/%b" % line, *headers, b"", rest]))

    def on_headers_complete(self) -> None:
        """Begin a request; a ValueError stops the parser as its own errors do."""
        self._bytes_since_progress = 0
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("CONNECT is not supported")
            return
        hosts = [name for name, _ in self.headers].count(b"host")
        if hosts != 1 and (hosts or self.parser.get_http_version() != "1.0"):
            raise ValueError(f"{hosts} headers Host")  # RFC 9112, 3.2
        if len(self.pipeline) == MAX_PIPELINED:
            self.cycle.keep_alive = False
            self._discarding = True
            raise ValueError("too many pipelined requests")
        scope: Any = self.scope
        self.lease = scope[LEASE] = Lease(self._budget)
        if not self._accept_fast():
            HttpToolsProtocol.on_headers_complete(self)
        if not self.pipeline:
            self._current = self.cycle
        self.headers = []  # the parser adds trailers from now on, which nothing reads

    def _accept_fast(self) -> bool:
        """Return whether the fast path accepts a request: a plain one, while no other is being answered."""
        fast_path = self._fast_path
        if fast_path is None or self.parser.get_method() != b"POST":
            return False
        target = fast_path.target(self.url)
        if target is None:
            return False
        headers = dict(reversed(self.headers))
        length = headers.get(b"content-length", b"")
        if (
            (self.cycle is not None and not self.cycle.response_complete)
            or self._too_many
            or self.flow.write_paused
            or self.expect_100_continue
            or not length.isdigit()  # else chunked: the parser refuses a length with that
            or int(length) > fast_path.max_body_bytes
            or self.parser.get_http_version() != "1.1"
        ):
            return False
        exchange = fast_path.accept(self, target, headers)
        if exchange is None:
            return False
        self.cycle = self._fast_request = exchange  # type: ignore[assignment]
        return True

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Start the application; above the limit of connections send a problem, where uvicorn sends text."""
        cycle.__class__ = ResponseCycle  # uvicorn has no setting for the class
        super()._start_asgi_task(cycle, _refuse if app is service_unavailable else app)

    def on_body(self, body: bytes) -> None:
        """Add a part of a body, within the memory budget."""
        self._bytes_since_progress = 0
        if self.cycle.response_complete:
            return
        try:
            self.lease.hold(self.lease.size + len(body))
        except Problem as problem:
            self._refuse_body(problem)
            raise  # which stops the parser
        if self._fast_request is None:
            HttpToolsProtocol.on_body(self, body)
        else:
            self._fast_request.body += body

    def on_message_complete(self) -> None:
        """Answer a request of the fast path; others read their body by themselves."""
        if self.parser.should_upgrade():
            return
        exchange = self._fast_request
        if exchange is None:
            HttpToolsProtocol.on_message_complete(self)
            return
        self._fast_request = None
        exchange.more_body = False
        exchange.begin()

    def on_response_complete(self) -> None:
        """Begin the next pipelined request, and read on only when none is left."""
        self._last_progress = self.loop.time()
        if not self.pipeline:
            HttpToolsProtocol.on_response_complete(self)
            return
        self._current = self.pipeline[-1][0]
        HttpToolsProtocol.on_response_complete(self)
        if self.pipeline:
            self.flow.pause_reading()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are no request, unless further input is discarded."""
        if not self._discarding:
            super().send_400_response(msg)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the request being answered, and release the memory of all others."""
        if self._current is not None:
            self._current.disconnected = True
            self._current.message_event.set()
        if isinstance(self._current, FastExchange) and self._current.working is not None:
            self._current.working.cancel()
        self._drop_fast_request()
        for cycle, _ in self.pipeline:
            _lease_of(cycle).end()
        self.pipeline.clear()
        self._end_unsent()
        super().connection_lost(exc)

    def _drop_fast_request(self) -> None:
        if self._fast_request is not None:
            self._fast_request.drop()
            self.lease.end()
            self._fast_request = None

    def _refuse_body(self, problem: Problem) -> None:
        """Refuse a body that exceeds the memory budget, and discard the rest of it.

        The connection stays open meanwhile: closed with bytes unread, the kernel would drop the response.
        """
        self._discarding = True
        self._drop_fast_request()
        self.cycle.body = bytearray()
        self.end(problem, now=bool(self.pipeline))
        self.cycle.response_complete = True

    def resume_writing(self) -> None:
        """Send on, as the client has received most of the buffered responses."""
        self._last_progress = self.loop.time()
        self._end_unsent()
        super().resume_writing()

    def end_when_sent(self, lease: Lease) -> None:
        """End a lease once the client has received the response that was just written."""
        if self.flow.write_paused:
            self._unsent = lease
        else:
            lease.end()

    def _end_unsent(self) -> None:
        if self._unsent is not None:
            self._unsent.end()
            self._unsent = None

    def evict(self, problem: Problem) -> None:
        """Close a connection that awaits its client; an incomplete request is answered with the problem."""
        if self.flow.write_paused:
            self.transport.abort()
        else:
            self.end(problem if self.cycle is not None and self.cycle.more_body else None)

    def end(self, problem: Problem | None = None, *, now: bool = True) -> None:
        """Close the connection, after a problem where the last request has no response yet.

        Args:
            problem: to send.
            now: False leaves it to the client to close, once it has received the problem.
        """
        request, free = self.cycle, not (self.pipeline or self.transport.is_closing())
        if request is not None and not request.response_complete:
            free &= not request.response_started
            request.disconnected = True  # so that the application sends no second response
            request.message_event.set()
        if problem is not None and free:
            response, status = _last_response(problem), HTTPStatus(problem.kind.status)
            headers = (b"%b: %b" % pair for pair in response.raw_headers)
            lines = [f"HTTP/1.1 {status} {status.phrase}".encode(), *headers]
            self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        if now or not free:
            self.transport.close()


class ResponseCycle(RequestResponseCycle):
    """A request to the application; a response with one small message as its body is a single write.

    uvicorn writes head and body separately, and the kernel carries each all the way to the client, which
    takes as much CPU as the rest of HTTP. All other responses uvicorn sends, a large body in pieces, each
    once the client has received those before.
    """

    _head: Any = None

    async def run_asgi(self, app: Any) -> None:
        """Run the application, then release the request's memory."""
        try:
            await super().run_asgi(app)
        finally:
            _lease_of(self).end()

    async def send(self, message: Any) -> None:
        """Send a part of the body; the head is kept until the first part follows."""
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
        """Return whether the response was sent in one write.

        Returns False where lengths differ, or the connection is to close or cannot be written to.
        """
        headers = [*self.default_headers, *head["headers"]]
        by_name = dict(headers)
        if (
            self.disconnected
            or self.flow.write_paused
            or len(body) > PIECE_BYTES
            or not self.keep_alive
            or self.scope["method"] == "HEAD"
            or by_name.get(b"content-length") != b"%d" % len(body)
            or b"connection" in by_name
        ):
            return False
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.transport.write(_serialized(head["status"], headers, body))
        self.message_event.set()
        self.on_response()
        return True


class FastExchange(ABC):
    """One request of the fast path and its response, in place of uvicorn's cycle.

    Attributes:
        connection: that the request came by.
        headers: of the request.
        lease: holds memory for the request.
        body: as far as it has arrived.
        keep_alive: whether the connection stays open.
        more_body, response_started, response_complete, disconnected: as of uvicorn's cycle.
        working: the response to come, which is cancelled when the client leaves.
    """

    __slots__ = (
        "body",
        "connection",
        "disconnected",
        "headers",
        "keep_alive",
        "lease",
        "more_body",
        "response_complete",
        "response_started",
        "working",
    )

    message_event = asyncio.Event()
    """Set by uvicorn to wake tasks that read from a cycle; no task reads from an exchange."""

    def __init__(self, connection: Connection, headers: Headers) -> None:
        self.connection, self.headers, self.lease = connection, headers, connection.lease
        self.keep_alive: bool = connection.parser.should_keep_alive()
        self.body = bytearray()  # one that grows: many parts would fragment the heap
        self.more_body = True
        self.response_started = self.response_complete = self.disconnected = False
        self.working: asyncio.Future[Any] | None = None

    @abstractmethod
    def begin(self) -> None:
        """Answer, now or soon: the body is complete."""

    @abstractmethod
    def drop(self) -> None:
        """End the request: its body will never be complete."""

    def take_body(self) -> bytes:
        """Return the body, and keep no reference to it: the connection may stay open for long."""
        body = bytes(self.body)
        self.body = bytearray()
        return body

    def run(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run longer work in a task, which the server awaits before it stops."""
        connection = self.connection
        task = connection.loop.create_task(coroutine)
        connection.tasks.add(task)  # type: ignore[arg-type]
        task.add_done_callback(connection.tasks.discard)
        return task

    def respond(self, status: int, headers: list[Header], body: bytes) -> None:
        """Send the response in one write, and continue with input that has arrived meanwhile."""
        connection = self.connection
        closing = CLOSE in headers
        if not (closing or self.keep_alive):
            headers, closing = [*headers, CLOSE], True
        response = _serialized(status, [*connection.server_state.default_headers, *headers], body)
        self.response_started = self.response_complete = True
        self.working = None
        if not self.disconnected:
            connection.transport.write(response)
            if closing:
                connection.transport.close()
        connection.end_when_sent(self.lease)
        connection.on_response_complete()

    def abort(self) -> None:
        """Close the connection without a response."""
        self.response_complete = True
        self.lease.end()
        self.connection.transport.close()


def _serialized(status: int, headers: list[Header], body: bytes) -> bytes:
    """Return a response as sent; raise uvicorn's RuntimeError if a header's value has a control character."""
    if HEADER_VALUE_RE.search(b"".join([value for _, value in headers])):
        raise RuntimeError("Invalid HTTP header value.")
    lines = [b"%b: %b\r\n" % header for header in headers]
    return b"".join([STATUS_LINE[status], *lines, b"\r\n", body])


def _last_response(problem: Problem) -> Response:
    """Return a response from outside the application's layers, after which the connection closes."""
    response = problem.response()
    response.raw_headers = safe_headers([*response.raw_headers, CLOSE])
    return response


def _lease_of(cycle: Any) -> Lease:
    lease: Lease = cycle.scope[LEASE]
    return lease


def _too_many_connections() -> Problem:
    detail = "the setting max_connections limits the connections that are open at a time"
    return Problem(ProblemKind.TOO_MANY_CONNECTIONS, detail, headers={"Retry-After": "1"})


async def _refuse(scope: Any, receive: Any, send: Any) -> None:
    await _last_response(_too_many_connections())(scope, receive, send)
