"""How many bytes of requests and answers the process holds at a time, all of them together."""

from __future__ import annotations

from service.problems import Problem, ProblemKind

LEASE = "lipcert.lease"
"""Where in a request's scope its lease is."""
PIECE_BYTES = 16_384
"""Answers are sent in pieces of this size, each once most of those before has been taken."""
FREE_BYTES = 16_384
"""Of each request, which are not counted: small requests are answered however much others hold."""


class Budget:
    """Bytes that may be held, in memory or on the disk; used on the event loop alone.

    Attributes:
        limit: at most so many.
        held: so many now.

    Args:
        limit: the same.
        setting: that it follows from, for messages.
        free: bytes of each lease that are not counted.
    """

    def __init__(self, limit: int, setting: str, free: int = 0) -> None:
        self.limit, self.setting, self.free, self.held = limit, setting, free, 0


class Lease:
    """The bytes that one request holds.

    Attributes:
        size: so many, the free ones included.

    Args:
        budget: in which they are counted.
    """

    __slots__ = ("_budget", "size")

    def __init__(self, budget: Budget) -> None:
        self._budget, self.size = budget, 0

    def hold(self, size: int) -> None:
        """Hold so many bytes in place of those held until now.

        Raises:
            Problem: 503, all requests together hold too many then; 413 where this one alone would. Nothing is
                changed.
        """
        budget = self._budget
        if size <= budget.free >= self.size:
            self.size = size
            return
        counted = max(0, size - budget.free)
        held = budget.held - max(0, self.size - budget.free) + counted
        if held > budget.limit and size > self.size:
            if counted > budget.limit:
                detail = f"this takes {size} bytes; the setting {budget.setting} allows {budget.limit} in all"
                raise Problem(ProblemKind.BODY_TOO_LARGE, detail)
            detail = f"requests hold {budget.held} bytes; the setting {budget.setting} allows {budget.limit}"
            raise Problem(ProblemKind.BUSY, detail, headers={"Retry-After": "1"})
        budget.held, self.size = held, size

    def end(self) -> None:
        """Hold nothing any longer."""
        self.hold(0)
