"""Closes connections whose clients neither complete a request nor receive a response.

The server checks its set of connections once a second, which costs requests nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from service.http.connection import Connection
from service.problems import Problem, ProblemKind


class StalledConnections:
    """Closes connections without progress for too long.

    Args:
        seconds: limit for the headers of a request, for its body, and for each part of a response.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[Connection, tuple[Any, float]] = {}

    def sweep(self, connections: Collection[Any], now: float) -> None:
        """Check every open connection.

        Args:
            connections: all instances of :class:`~service.http.connection.Connection`.
            now: time in seconds, by any monotonic clock.
        """
        before, self._since = self._since, {}  # without closed connections, which requests refer to
        for connection in tuple(connections):
            progress = connection.progress
            if progress is None:
                continue
            last, since = before.get(connection, (progress, now))
            self._since[connection] = progress, since if last == progress else now
            if last == progress and now - since > self._seconds:
                detail = f"the request was incomplete after {self._seconds:g} s"
                connection.evict(Problem(ProblemKind.REQUEST_TIMEOUT, detail))
