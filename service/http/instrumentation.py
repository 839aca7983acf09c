"""What is told of every request: it gets an id, is counted and timed, and may be logged and traced.

Every answer gets its request's id, and headers that keep browsers safe. :class:`Observed` is the outermost
layer of the application, pure ASGI, at a few microseconds a request. Whatever answers inside may say what it
knows by the request's scope: ``scope["route"].path`` is the route's template (the framework sets it), and
``scope["problem"]`` the kind of problem that was answered.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from itertools import count
from time import perf_counter

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.budget import LEASE
from service.http.security_headers import safe_headers
from service.problems import Problem, ProblemKind
from service.telemetry.logs import REQUEST_ID, traceback_without_message
from service.telemetry.metrics import Histogram, Metrics, Value
from service.telemetry.tracing import Tracing
from service.wire import CLOSE, HEADERS, Header

log = logging.getLogger("service.requests")
access = logging.getLogger("service.access")

SANE_ID = re.compile(rb"[A-Za-z0-9._:/=+-]{1,128}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Requests:
    """Ids, counts and the log of the requests of a process, whichever way they are answered.

    Args:
        metrics: to count in.
        access_log: whether each request is logged, too.
    """

    def __init__(self, metrics: Metrics, *, access_log: bool = False) -> None:
        self.metrics, self._access_log = metrics, access_log
        self._process, self._count = os.urandom(8).hex().encode(), count()
        self._bound: dict[tuple[str, str, int], tuple[Value, Histogram]] = {}

    def id_of(self, headers: Mapping[bytes, bytes]) -> bytes:
        """The id that its caller gave a request, or else a new one: unique, and cheaper than random."""
        given = headers.get(b"x-request-id")
        if given is None or not SANE_ID.fullmatch(given):
            return b"%b-%x" % (self._process, next(self._count))
        return given

    def headers(self, own: Iterable[Header], request_id: bytes) -> list[Header]:
        """Those of an answer, with what every answer has; while the service ends, connections do too."""
        headers = safe_headers(own)
        headers.append((b"x-request-id", request_id))
        if self.metrics.draining.value and CLOSE not in headers:
            headers.append(CLOSE)
        return headers

    def failed(self, error: Exception, request_id: bytes) -> Problem:
        """Logs what nobody foresaw; what is answered then."""
        fields = {"request_id": request_id.decode(), "exception": traceback_without_message(error)}
        log.error("the request failed", extra={"fields": fields})
        # Whatever failed may have left the connection in any state.
        detail, headers = "the service failed to answer this request", {"Connection": "close"}
        return Problem(ProblemKind.INTERNAL, detail, headers=headers)

    def count(
        self,
        request_id: bytes,
        route: str,
        method: str,
        path: str,
        status: int,
        begun: float,
        received: int,
        sent: int,
        problem: str | None,
    ) -> None:
        """Counts a request whose answer has ended.

        Args:
            request_id: its.
            route: template of the path.
            method: any.
            path: as it was asked.
            status: of the answer; 0 where none was begun.
            begun: when, by ``perf_counter``.
            received: bytes of the request's body, as its headers tell.
            sent: bytes of the answer's body.
            problem: kind of problem that was answered, if one was.
        """
        seconds, metrics = perf_counter() - begun, self.metrics
        metrics.bytes_out.value += sent
        if 200 <= status < 400:  # else more may have been told than was read
            metrics.bytes_in.value += received
        requests, times = self._children(route, method if method in METHODS else "other", status)
        requests.value += 1
        times.observe(seconds)
        if problem is not None:
            metrics.problems.of(problem).add()
        if self._access_log:
            access.info(
                "request",
                extra={
                    "fields": {
                        "request_id": request_id.decode(),
                        "method": method,
                        "path": path,
                        "status": status,
                        "milliseconds": round(1000 * seconds, 3),
                        "bytes": sent,
                    }
                },
            )

    def _children(self, route: str, method: str, status: int) -> tuple[Value, Histogram]:
        found = self._bound.get((route, method, status))
        if found is None:
            requests = self.metrics.requests.of(route, method, str(status))
            found = requests, self.metrics.request_seconds.of(route)
            self._bound[route, method, status] = found
        return found


class Observed:
    """Tells of requests; see the module.

    Args:
        app: the layer inside.
        requests: of this process.
        tracing: to tell of each request; None costs nothing.
    """

    def __init__(self, app: ASGIApp, *, requests: Requests, tracing: Tracing | None = None) -> None:
        self._app, self._requests, self._tracing = app, requests, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._tracing is None:
            await self._observe(scope, receive, send)
        else:
            with self._tracing.request(scope) as span:
                status = await self._observe(scope, receive, send)
                span.end(route_of(scope), status)

    async def _observe(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Answers, and returns the status; 0 where no answer was begun."""
        begun, requests, status, sent = perf_counter(), self._requests, 0, 0
        head: Message | None = None
        refused: Problem | None = None
        metrics = requests.metrics
        headers_in = scope[HEADERS] = dict(reversed(scope["headers"]))
        request_id = requests.id_of(headers_in)
        REQUEST_ID.set(request_id)

        async def observed_send(message: Message) -> None:
            nonlocal head, refused, status, sent
            if message["type"] == "http.response.start":
                head = message  # kept until the body follows, for which there may be no room
                return
            body = message.get("body", b"")
            if head is not None:
                try:
                    scope[LEASE].hold(len(body))
                except Problem as problem:
                    refused = problem
                    raise
                status = head["status"]
                headers = requests.headers(head.get("headers", ()), request_id)
                await send({**head, "headers": headers})  # the sender's may be one that it sends often
                head = None
            sent += len(body)
            await send(message)

        length = headers_in.get(b"content-length")
        if length is None and b"transfer-encoding" in headers_in:
            receive = self._counted(receive)
        metrics.in_flight.value += 1
        try:
            await self._app(scope, receive, observed_send)
        except ClientDisconnect:
            pass  # no answer was begun
        except Exception as error:
            # The framework makes another error of one that is raised while it sends an answer.
            problem = refused or requests.failed(error, request_id)
            if status:  # half an answer: the server ends the connection
                raise Fault from None
            await problem.response()(scope, receive, observed_send)
        finally:
            metrics.in_flight.value -= 1
            route, method, path = route_of(scope), scope["method"], scope["path"]
            received, kind = int(length or 0), scope.get("problem")
            requests.count(request_id, route, method, path, status, begun, received, sent, kind)
        return status

    def _counted(self, receive: Receive) -> Receive:
        bytes_in = self._requests.metrics.bytes_in

        async def counted() -> Message:
            message = await receive()
            bytes_in.value += len(message.get("body", b""))
            return message

        return counted


class Fault(Exception):  # noqa: N818 - an error's message may quote an input; this has none
    """A request failed after its answer was begun; what failed is in the log."""


def route_of(scope: Scope) -> str:
    """The template of the request's path; "none" where it is nobody's, as paths are without number."""
    path: str = getattr(scope.get("route"), "path", "none")
    return path
