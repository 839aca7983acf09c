"""One connection: uvicorn's own protocol, with bounds on what it holds of requests that are not whole.

The parser keeps what it is sent of a URL, a header or a trailer until its end, and every request that is sent
before the one before is answered (pipelining). Without bounds one client could fill the memory with that.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from starlette.responses import Response
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import (
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from service.errors import Problem, ProblemKind
from service.safe_headers import safe_headers

MOST_AHEAD = 100
"""Requests that may wait on a connection. They are answered, and it closes; the rest is not read."""
SEPARATORS = 2
"""By how much what is sent may be larger than the names and values in it, which is what is limited."""


class Connection(HttpToolsProtocol):
    """Ends a connection that is sent too much that is not whole."""

    _unheard = 0
    """Bytes since the last whole thing: a head, or a part of a body."""
    _deaf = False
    """Whether what is still to come is passed over."""
    _answered: RequestResponseCycle | None = None
    """The request that is being answered; ``cycle`` is the last one that was read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The beginning."""
        super().connection_made(transport)
        self._most = SEPARATORS * (self.config.h11_max_incomplete_event_size or 0)  # whichever the parser

    def data_received(self, data: bytes) -> None:
        """Some bytes, 256 KiB at most."""
        if self._deaf:
            return
        self._unheard += len(data)
        HttpToolsProtocol.data_received(self, data)  # super() would be slower, at each of these
        if self._unheard > self._most:
            detail = f"the headers are over the limit of {self._most // SEPARATORS} bytes"
            self.end(Problem(ProblemKind.HEADERS_TOO_LARGE, detail))

    def on_headers_complete(self) -> None:
        """The head of a request is whole."""
        self._unheard = 0
        if len(self.pipeline) == MOST_AHEAD:
            self.cycle.keep_alive = False
            self._deaf = True
            raise ValueError("too many requests ahead")  # which ends the parser, as an error of what was sent
        HttpToolsProtocol.on_headers_complete(self)
        if not self.pipeline:
            self._answered = self.cycle
        self.headers = []  # what the parser puts there from now on, trailers, is nobody's

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Begins to answer; beyond the most connections with a problem, where uvicorn has plain text."""
        cycle.__class__ = Answer  # uvicorn cannot be told of another
        super()._start_asgi_task(cycle, _too_many if app is service_unavailable else app)

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._unheard = 0
        HttpToolsProtocol.on_body(self, body)

    def on_response_complete(self) -> None:
        """Reads on only when no request waits."""
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
        self.pipeline.clear()
        super().connection_lost(exc)

    def end(self, problem: Problem | None = None) -> None:
        """Closes it, with a problem as the answer where none has been begun."""
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
        self.transport.close()


class Answer(RequestResponseCycle):
    """One request being answered: in one write, if the body is one message.

    uvicorn writes the head and the body one after the other, and the system carries each all the way to the
    client, which takes as much CPU as the rest of HTTP. What is not so plain uvicorn still sends itself.
    """

    _head: Any = None

    async def send(self, message: Any) -> None:
        """Takes the head, which is kept until the body follows, or a part of the body."""
        if self.response_started:
            await super().send(message)
        elif message["type"] == "http.response.start":
            self._head = message  # in place of one whose body never came
        elif message.get("more_body") or not self._send_whole(self._head, message.get("body", b"")):
            await super().send(self._head)
            await super().send(message)

    def _send_whole(self, head: Any, body: bytes) -> bool:
        """Whether that was done: not where lengths differ, or the connection is to close or takes no more."""
        headers = [*self.default_headers, *head["headers"]]
        found = dict(headers)
        if (
            self.disconnected
            or self.flow.write_paused
            or not self.keep_alive
            or self.scope["method"] == "HEAD"
            or found.get(b"content-length") != b"%d" % len(body)
            or b"connection" in found
            or HEADER_VALUE_RE.search(b"".join([value for _, value in headers]))
        ):
            return False
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        lines = [b"%b: %b\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[head["status"]], *lines, b"\r\n", body]))
        self.message_event.set()
        self.on_response()
        return True


def _last_answer(problem: Problem) -> Response:
    """One from here, outside the layers of the application, after which the connection closes."""
    answer = problem.response()
    answer.raw_headers = safe_headers([*answer.raw_headers, (b"connection", b"close")])
    return answer


async def _too_many(scope: Any, receive: Any, send: Any) -> None:
    detail = "the limit is the setting max_connections"
    problem = Problem(ProblemKind.TOO_MANY_CONNECTIONS, detail, headers={"Retry-After": "1"})
    await _last_answer(problem)(scope, receive, send)
