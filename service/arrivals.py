"""Requests that do not arrive: connections on which headers or a body stay unfinished are closed.

The server keeps its connections in a set; looking through it once a second costs requests nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from weakref import WeakKeyDictionary

from service.errors import MEDIA_TYPE, Problem, ProblemKind


class Arrivals:
    """Ends connections on which nothing whole has arrived for so long.

    Args:
        seconds: that the headers of a request, and then its body, may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: WeakKeyDictionary[Any, tuple[Any, float]] = WeakKeyDictionary()

    def sweep(self, connections: Collection[Any], now: float) -> None:
        """Looks at every connection (a protocol of uvicorn's).

        Args:
            connections: those that are open.
            now: in seconds, of any clock that runs steadily.
        """
        for connection in tuple(connections):
            request = connection.cycle
            if request is not None and not (request.more_body or request.response_complete):
                self._since.pop(connection, None)  # it has arrived, and is worked on
                continue
            before, since = self._since.setdefault(connection, (request, now))
            if before is not request:
                self._since[connection] = (request, now)
            elif now - since > self._seconds:
                self._end(connection, request)

    def _end(self, connection: Any, request: Any) -> None:
        if request is not None and request.more_body and not request.response_started:
            detail = f"the body was not whole after {self._seconds:g} s"
            body = Problem(ProblemKind.REQUEST_TIMEOUT, detail).response().body
            head = (
                f"HTTP/1.1 408 Request Timeout\r\ncontent-type: {MEDIA_TYPE}\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            connection.transport.write(head.encode() + bytes(body))
        connection.transport.close()
