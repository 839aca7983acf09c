"""An end for long work: a moment, or sooner when another thread cancels it."""

from __future__ import annotations

import math
import time


class OutOfTimeError(Exception):
    """The time is up; the part of a result that is there by then may be used."""


class CancelledError(Exception):
    """The work was cancelled; its result is not wanted any more."""


class Deadline:
    """The end of one piece of work, which calls :meth:`check` between its steps.

    Args:
        seconds: that it may take from now on.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        self._end, self._cancelled = time.monotonic() + seconds, False

    def cancel(self) -> None:
        """End the work at its next check; for any thread."""
        self._cancelled = True

    def check(self) -> None:
        """Raise CancelledError or OutOfTimeError where the work is to end."""
        if self._cancelled:
            raise CancelledError
        if time.monotonic() >= self._end:
            raise OutOfTimeError
