"""The outermost layer: every request gets an id, is counted and timed, and may be logged and traced.

Every answer gets its request's id, and headers that keep browsers safe.

A pure ASGI layer, at a few microseconds a request. Whatever answers inside may say what it knows by the
request's scope: ``scope["route"].path`` is the route's template (the framework sets it; whoever answers
before the framework sets the same), and ``scope["problem"]`` the kind of problem that was answered.
"""

from __future__ import annotations

import logging
import os
import re
from itertools import count
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Problem, ProblemKind
from service.logs import REQUEST_ID, told_apart
from service.metrics import Histogram, Metrics, Value
from service.safe_headers import safe_headers
from service.tracing import Tracing

log = logging.getLogger("service.requests")
access = logging.getLogger("service.access")

SANE_ID = re.compile(rb"[A-Za-z0-9._:/=+-]{1,128}")
HEADERS = "lipcert.headers"
"""Where in a request's scope its headers are left, by name in small letters; of a repeated one the first."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLOSE = (b"connection", b"close")


class Observed:
    """Counts requests; see the module.

    Args:
        app: the layer inside.
        metrics: to count in.
        access_log: whether each request is logged, too.
        tracing: to tell of each request; None costs nothing.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, access_log: bool = False, tracing: Tracing | None = None
    ) -> None:
        self._app, self._metrics, self._access_log, self._tracing = app, metrics, access_log, tracing
        self._process, self._count = os.urandom(8).hex().encode(), count()
        self._bound: dict[tuple[str, str, int], tuple[Value, Histogram]] = {}

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
        begun = perf_counter()
        metrics, status, sent = self._metrics, 0, 0
        headers_in = scope[HEADERS] = dict(reversed(scope["headers"]))
        request_id = headers_in.get(b"x-request-id")
        if request_id is None or not SANE_ID.fullmatch(request_id):
            request_id = b"%b-%x" % (self._process, next(self._count))  # unique, and cheaper than random
        REQUEST_ID.set(request_id)

        async def observed_send(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            elif message["type"] == "http.response.start":
                status = message["status"]
                headers = safe_headers(message.get("headers", ()))
                headers.append((b"x-request-id", request_id))
                if metrics.draining.value and CLOSE not in headers:
                    headers.append(CLOSE)
                message = {**message, "headers": headers}  # the sender's may be one that it sends often
            await send(message)

        length = headers_in.get(b"content-length")
        if length is None and b"transfer-encoding" in headers_in:
            receive = self._counted(receive)
        metrics.in_flight.value += 1
        try:
            await self._app(scope, receive, observed_send)
        except Exception as error:
            log.error("the request failed\n%s", told_apart(error))
            if status:  # half an answer: the server ends the connection
                raise Fault from None
            # Whatever failed may have left the connection in any state.
            problem = Problem(
                ProblemKind.INTERNAL,
                "the service failed to answer this request",
                headers={"Connection": "close"},
            )
            await problem.response()(scope, receive, observed_send)
        finally:
            metrics.in_flight.value -= 1
            metrics.bytes_out.value += sent
            if length is not None and 200 <= status < 400:  # else it may be larger than what was read
                metrics.bytes_in.value += int(length)
            seconds = perf_counter() - begun
            route, method = route_of(scope), scope["method"]
            requests, times = self._children(route, method if method in METHODS else "other", status)
            requests.value += 1
            times.observe(seconds)
            if kind := scope.get("problem"):
                metrics.problems.of(kind).add()
            if self._access_log:
                access.info(
                    "request",
                    extra={
                        "fields": {
                            "method": method,
                            "path": scope["path"],
                            "status": status,
                            "milliseconds": round(1000 * seconds, 3),
                            "bytes": sent,
                        }
                    },
                )
        return status

    def _counted(self, receive: Receive) -> Receive:
        bytes_in = self._metrics.bytes_in

        async def counted() -> Message:
            message = await receive()
            bytes_in.value += len(message.get("body", b""))
            return message

        return counted

    def _children(self, route: str, method: str, status: int) -> tuple[Value, Histogram]:
        found = self._bound.get((route, method, status))
        if found is None:
            requests = self._metrics.requests.of(route, method, str(status))
            found = requests, self._metrics.request_seconds.of(route)
            self._bound[route, method, status] = found
        return found


class Fault(Exception):  # noqa: N818 - an error's message may quote an input; this has none
    """A request failed after its answer was begun; what failed is in the log."""


def route_of(scope: Scope) -> str:
    """The template of the request's path; "none" where it is nobody's, as paths are without number."""
    path: str = getattr(scope.get("route"), "path", "none")
    return path
