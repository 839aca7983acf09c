"""Deadlines for long computations, which other threads may cancel."""

from __future__ import annotations

import math
import time


class OutOfTimeError(Exception):
    """The deadline has passed; partial results may be used."""


class CancelledError(Exception):
    """The computation was cancelled; its result is not needed."""


class Deadline:
    """The deadline of one computation, which calls :meth:`check` between its steps.

    Args:
        seconds: time limit from now.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        self._end, self._cancelled = time.monotonic() + seconds, False

    def cancel(self) -> None:
        """Cancel the computation at its next check; may be called from any thread."""
        self._cancelled = True

    def check(self) -> None:
        """Check the deadline.

        Raises:
            CancelledError: the computation was cancelled.
            OutOfTimeError: the deadline has passed.
        """
        if self._cancelled:
            raise CancelledError
        if time.monotonic() >= self._end:
            raise OutOfTimeError
