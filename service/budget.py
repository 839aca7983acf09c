"""A limit on the bytes of all requests and responses that the process holds at a time."""

from __future__ import annotations

from service.problems import Problem, ProblemKind

LEASE = "lipcert.lease"
"""Key of a request's lease in its ASGI scope."""
PIECE_BYTES = 16_384
"""Size of the pieces in which responses are sent, each once the client has read most of the pieces before."""
FREE_BYTES = 16_384
"""Bytes of each request that are not counted: small requests are answered however much others hold."""


class Budget:
    """A limit on bytes held in memory or on disk; used on the event loop alone.

    Attributes:
        limit: maximum of ``held``.
        held: bytes counted at present.

    Args:
        limit: maximum of bytes held.
        setting: name of the setting that gives the limit, for messages.
        free: bytes of each lease that are not counted.
    """

    def __init__(self, limit: int, setting: str, free: int = 0) -> None:
        self.limit, self.setting, self.free, self.held = limit, setting, free, 0


class Lease:
    """The bytes held by one request.

    Attributes:
        size: bytes held, including free bytes.
    """

    __slots__ = ("_budget", "size")

    def __init__(self, budget: Budget) -> None:
        self._budget, self.size = budget, 0

    def hold(self, size: int) -> None:
        """Hold ``size`` bytes in place of the bytes held so far.

        Raises:
            Problem: 503 if all requests together would exceed the limit; 413 if this request alone would. The
                lease is unchanged then.
        """
        budget = self._budget
        if size <= budget.free >= self.size:
            self.size = size
            return
        counted = max(0, size - budget.free)
        held = budget.held - max(0, self.size - budget.free) + counted
        if held > budget.limit and size > self.size:
            if counted > budget.limit:
                detail = f"the request needs {size} bytes; the setting {budget.setting} is {budget.limit}"
                raise Problem(ProblemKind.BODY_TOO_LARGE, detail)
            held_by_all = f"requests in flight hold {budget.held} bytes"
            detail = f"{held_by_all}; the setting {budget.setting} is {budget.limit}"
            raise Problem(ProblemKind.BUSY, detail, headers={"Retry-After": "1"})
        budget.held, self.size = held, size

    def end(self) -> None:
        """Release all bytes."""
        self.hold(0)
