"""Id, counters, access log and trace of every request.

:class:`InstrumentationMiddleware` is the outermost layer of the application, in pure ASGI, at a few
microseconds a request. Layers inside report through the request's scope: ``scope["route"].path`` is the
route's template (set by the framework), ``scope["problem"]`` the kind of problem that was sent. Every
response gets its request's id, and security headers.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from itertools import count
from time import perf_counter

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.budget import LEASE
from service.problems import Problem, ProblemKind
from service.telemetry.logs import REQUEST_ID, traceback_without_message
from service.telemetry.metrics import Histogram, Metrics, Value
from service.telemetry.tracing import Tracing
from service.wire import CLOSE, HEADERS, Header, Headers

log = logging.getLogger("service.requests")
access = logging.getLogger("service.access")

VALID_ID = re.compile(rb"[A-Za-z0-9._:/=+-]{1,128}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SAFE: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Sent with every response that does not set them, for browsers."""
_NAMES = frozenset(name for name, _ in _SAFE)


class Instrumentation:
    """Counts and logs the requests of a process, by either transport."""

    def __init__(self, metrics: Metrics, *, access_log: bool = False) -> None:
        self.metrics, self.access_log = metrics, access_log
        self._process, self._count = os.urandom(8).hex().encode(), count()
        self._bound: dict[tuple[str, str, int], tuple[Value, Histogram]] = {}

    def open(self, method: str, path: str, headers: Headers) -> RequestRecord:
        """Return the record of a request that begins now, counted as in flight until the record is closed."""
        self.metrics.in_flight.value += 1
        request_id = headers.get(b"x-request-id")
        if request_id is None or not VALID_ID.fullmatch(request_id):
            request_id = b"%b-%x" % (self._process, next(self._count))  # unique, and cheaper than random
        return RequestRecord(self, method, path, request_id)

    def counters(self, route: str, method: str, status: int) -> tuple[Value, Histogram]:
        """Return the counter and the histogram of requests with these labels."""
        found = self._bound.get((route, method, status))
        if found is None:
            requests = self.metrics.requests.of(route, method, str(status))
            found = requests, self.metrics.request_seconds.of(route)
            self._bound[route, method, status] = found
        return found


class RequestRecord:
    """One request while it is in flight.

    Attributes:
        id: sent by the caller, or a new one.
        method, path: as sent.
        route: template of the path; "none" where no route matches, since such paths are unlimited in number.
        received: bytes of the body, as its headers announce.
        begun: start, by ``perf_counter``.
    """

    __slots__ = ("_instrumentation", "begun", "id", "method", "path", "received", "route")

    def __init__(self, instrumentation: Instrumentation, method: str, path: str, request_id: bytes) -> None:
        self._instrumentation, self.method, self.path, self.id = instrumentation, method, path, request_id
        self.route, self.received, self.begun = "none", 0, perf_counter()

    def headers(self, own: Iterable[Header]) -> list[Header]:
        """Return a response's headers with those that every response has.

        While the process drains, each response closes its connection.
        """
        headers = safe_headers(own)
        headers.append((b"x-request-id", self.id))
        if self._instrumentation.metrics.draining.value and CLOSE not in headers:
            headers.append(CLOSE)
        return headers

    def fault(self, error: Exception) -> Problem:
        """Log an unexpected error, and return the problem to send in its place."""
        fields = {"request_id": self.id.decode(), "exception": traceback_without_message(error)}
        log.error("the request failed", extra={"fields": fields})
        # The error may have left the connection in any state.
        detail, headers = "the service failed to answer this request", {"Connection": "close"}
        return Problem(ProblemKind.INTERNAL, detail, headers=headers)

    def close(self, status: int, sent: int, problem: str | None = None) -> None:
        """Count and log the request as ended.

        Args:
            status: of the response; 0 where none was started.
            sent: bytes of the response's body.
            problem: kind of the problem sent, if any.
        """
        seconds, metrics = perf_counter() - self.begun, self._instrumentation.metrics
        metrics.in_flight.value -= 1
        metrics.bytes_out.value += sent
        if 200 <= status < 400:  # a refused body may not have been read to its announced end
            metrics.bytes_in.value += self.received
        method = self.method if self.method in METHODS else "other"
        requests, times = self._instrumentation.counters(self.route, method, status)
        requests.value += 1
        times.observe(seconds)
        if problem is not None:
            metrics.problems.of(problem).add()
        if self._instrumentation.access_log:
            fields = {
                "request_id": self.id.decode(),
                "method": self.method,
                "path": self.path,
                "status": status,
                "milliseconds": round(1000 * seconds, 3),
                "bytes": sent,
            }
            access.info("request", extra={"fields": fields})


class InstrumentationMiddleware:
    """Records every request, and traces it where traces are configured."""

    def __init__(
        self, app: ASGIApp, *, instrumentation: Instrumentation, tracing: Tracing | None = None
    ) -> None:
        self._app, self._instrumentation, self._tracing = app, instrumentation, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; the application's lifespan passes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._tracing is None:
            await self._record(scope, receive, send)
        else:
            with self._tracing.request(scope) as span:
                status = await self._record(scope, receive, send)
                span.end(route_of(scope), status)

    async def _record(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Return the status of the response; 0 where none was started."""
        headers_in = scope[HEADERS] = dict(reversed(scope["headers"]))
        record = self._instrumentation.open(scope["method"], scope["path"], headers_in)
        REQUEST_ID.set(record.id)
        status, sent = 0, 0
        head: Message | None = None
        refused: Problem | None = None

        async def recorded_send(message: Message) -> None:
            nonlocal head, refused, status, sent
            if message["type"] == "http.response.start":
                head = message  # kept until the body, which may exceed the memory budget
                return
            body = message.get("body", b"")
            if head is not None:
                try:
                    scope[LEASE].hold(len(body))
                except Problem as problem:
                    refused = problem
                    raise
                status = head["status"]
                headers = record.headers(head.get("headers", ()))
                await send({**head, "headers": headers})  # a copy: the sender may reuse its message
                head = None
            sent += len(body)
            await send(message)

        length = headers_in.get(b"content-length")
        record.received = int(length or 0)
        if length is None and b"transfer-encoding" in headers_in:
            receive = self._counted(receive)
        try:
            await self._app(scope, receive, recorded_send)
        except ClientDisconnect:
            pass  # no response was started
        except Exception as error:
            # The framework replaces an error that is raised while it sends a response.
            problem = refused or record.fault(error)
            if status:  # the response is incomplete: the server closes the connection
                raise Fault from None
            await problem.response()(scope, receive, recorded_send)
        finally:
            record.route = route_of(scope)
            record.close(status, sent, scope.get("problem"))
        return status

    def _counted(self, receive: Receive) -> Receive:
        bytes_in = self._instrumentation.metrics.bytes_in

        async def counted() -> Message:
            message = await receive()
            bytes_in.value += len(message.get("body", b""))
            return message

        return counted


def safe_headers(headers: Iterable[Header]) -> list[Header]:
    """Return the headers of a response, with those security headers added that it does not set."""
    own = [name for name, _ in headers if name in _NAMES]
    return [*headers, *(_SAFE if not own else (header for header in _SAFE if header[0] not in own))]


class Fault(Exception):  # noqa: N818 - without a message, since an error's message may quote an input
    """A request failed after its response was started; the log has the reason."""


def route_of(scope: Scope) -> str:
    """Return the template of a request's path; "none" where no route matches."""
    path: str = getattr(scope.get("route"), "path", "none")
    return path
