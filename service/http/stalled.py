"""Requests that do not arrive, and answers that are not taken: connections on which nothing moves are closed.

The server keeps its connections in a set; looking through it once a second costs requests nothing.
"""

from __future__ import annotations

import fcntl
import struct
import termios
from collections.abc import Collection
from typing import Any

from service.http.connection import Connection
from service.problems import Problem, ProblemKind


class Arrivals:
    """Ends connections on which nothing whole has arrived for so long, or nothing was taken.

    Args:
        seconds: that the headers of a request, and then its body, may take, and each part of an answer.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[Connection, tuple[Any, float]] = {}

    def sweep(self, connections: Collection[Any], now: float) -> None:
        """Looks at every :class:`~service.http.connection.Connection`.

        Args:
            connections: those that are open.
            now: in seconds, of any clock that runs steadily.
        """
        known, self._since = self._since, {}  # requests know their connections: others are not to be kept
        for connection in tuple(connections):
            stuck = connection.flow.write_paused
            idle = connection.timeout_keep_alive_task is not None  # which ends it
            if not connection.waits or (idle and not stuck):
                continue
            state = connection.cycle, _untaken(connection) if stuck else 0
            before, since = known.get(connection, (state, now))
            self._since[connection] = state, since if before == state else now
            if before == state and now - since > self._seconds:
                detail = f"the body was not whole after {self._seconds:g} s"
                connection.give_up(Problem(ProblemKind.REQUEST_TIMEOUT, detail))


def _untaken(connection: Connection) -> int:
    """Bytes of answers that lie here, in the process and in the system."""
    number = connection.transport.get_extra_info("socket").fileno()
    (queued,) = struct.unpack("i", fcntl.ioctl(number, termios.TIOCOUTQ, bytes(4)))
    return int(connection.transport.get_write_buffer_size() + queued)
