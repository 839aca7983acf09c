"""How much one caller may ask for: requests a second, and requests at a time."""

from __future__ import annotations

import math
import time

from service.problems import Problem, ProblemKind

MAX_CALLERS = 10_000
"""Remembered; beyond, those are forgotten who have not called for a second."""


class Limits:
    """A bucket of requests for each caller, filled at a steady rate, and a count of those in flight.

    A bucket holds what flows into it in one second, one request at least. One a process.

    Args:
        per_second: requests that a caller may make; None for any number.
        at_a_time: requests of a caller that may be in flight; None for any number.
    """

    def __init__(self, per_second: float | None, at_a_time: int | None) -> None:
        self._rate, self._at_a_time = per_second, at_a_time
        self._size = max(1.0, per_second or 0.0)
        self._buckets: dict[str, tuple[float, float]] = {}
        self._in_flight: dict[str, int] = {}

    @property
    def any(self) -> bool:
        """Whether anything is limited."""
        return self._rate is not None or self._at_a_time is not None

    def enter(self, caller: str) -> None:
        """Counts a request that begins; it must :meth:`leave`.

        Raises:
            Problem: 429; it has not begun.
        """
        running = self._in_flight.get(caller, 0)
        if self._at_a_time is not None and running >= self._at_a_time:
            raise _too_many(f"{running} requests of yours are in flight, as many as may be", 1)
        if self._rate is not None:
            now = time.monotonic()
            left, then = self._buckets.get(caller, (self._size, now))
            left = min(self._size, left + (now - then) * self._rate)
            if left < 1.0:
                wait = math.ceil((1.0 - left) / self._rate)
                raise _too_many(f"more than {self._rate:g} requests a second", wait)
            if caller not in self._buckets and len(self._buckets) >= MAX_CALLERS:
                self._forget(now)
            self._buckets[caller] = (left - 1.0, now)
        self._in_flight[caller] = running + 1

    def leave(self, caller: str) -> None:
        """Counts a request that has ended."""
        if (running := self._in_flight[caller] - 1) > 0:
            self._in_flight[caller] = running
        else:
            del self._in_flight[caller]

    def _forget(self, now: float) -> None:
        """Drops buckets that have filled up again, which say nothing."""
        full = self._size / (self._rate or 1.0)
        self._buckets = {name: bucket for name, bucket in self._buckets.items() if now - bucket[1] < full}


def _too_many(detail: str, wait: int) -> Problem:
    headers = {"Retry-After": str(max(1, wait))}
    return Problem(ProblemKind.TOO_MANY_REQUESTS, detail, headers=headers)
