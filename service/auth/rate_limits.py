"""RateLimits for each caller: requests per second, and requests in flight."""

from __future__ import annotations

import math
import time

from service.problems import Problem, ProblemKind

MAX_CALLERS = 10_000
"""Maximum buckets kept; beyond that, full buckets are discarded."""


class RateLimits:
    """Token buckets, one for each caller and filled at a steady rate, and counts of requests in flight.

    The capacity of a bucket is the inflow of one second, or one request if that is less. Each process has its
    own limits.

    Args:
        per_second: maximum requests per second from one caller; None for no limit.
        at_a_time: maximum requests in flight from one caller; None for no limit.
    """

    def __init__(self, per_second: float | None, at_a_time: int | None) -> None:
        self._rate, self._at_a_time = per_second, at_a_time
        self._size = max(1.0, per_second or 0.0)
        self._buckets: dict[str, tuple[float, float]] = {}
        self._in_flight: dict[str, int] = {}

    @property
    def any(self) -> bool:
        """True if any limit is set."""
        return self._rate is not None or self._at_a_time is not None

    def enter(self, caller: str) -> None:
        """Count the start of a request, which must :meth:`leave` at its end.

        Raises:
            Problem: 429, and the request is not counted.
        """
        running = self._in_flight.get(caller, 0)
        if self._at_a_time is not None and running >= self._at_a_time:
            raise _too_many(f"concurrency limit reached ({running} in flight)", 1)
        if self._rate is not None:
            now = time.monotonic()
            left, then = self._buckets.get(caller, (self._size, now))
            left = min(self._size, left + (now - then) * self._rate)
            if left < 1.0:
                wait = math.ceil((1.0 - left) / self._rate)
                raise _too_many(f"rate limit reached ({self._rate:g} requests per second)", wait)
            if caller not in self._buckets and len(self._buckets) >= MAX_CALLERS:
                self._forget(now)
            self._buckets[caller] = (left - 1.0, now)
        self._in_flight[caller] = running + 1

    def leave(self, caller: str) -> None:
        """Count the end of a request."""
        if (running := self._in_flight[caller] - 1) > 0:
            self._in_flight[caller] = running
        else:
            del self._in_flight[caller]

    def _forget(self, now: float) -> None:
        """Discard full buckets, which equal new ones."""
        full = self._size / (self._rate or 1.0)
        self._buckets = {name: bucket for name, bucket in self._buckets.items() if now - bucket[1] < full}


def _too_many(detail: str, wait: int) -> Problem:
    headers = {"Retry-After": str(max(1, wait))}
    return Problem(ProblemKind.TOO_MANY_REQUESTS, detail, headers=headers)
