"""When to try again: after broken connections, 429 and 503; ever later, and no sooner than told."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Retries:
    """Exponential backoff with full jitter (Brooker 2015), so that clients do not come back all at once.

    Attributes:
        tries: at most so many in all; 1 never tries again.
        first: seconds waited at most before the second try; twice that before the third, and so on.
        longest: seconds waited at most before any try, also where the service's Retry-After is longer.
    """

    tries: int = 4
    first: float = 0.2
    longest: float = 10.0

    def wait(self, tried: int, retry_after: str | None = None) -> float | None:
        """Seconds to wait after so many tries; None to give up.

        Args:
            tried: how often, 1 or more.
            retry_after: the answer's header, if any; where it is no number of seconds it is passed over.
        """
        if tried >= self.tries:
            return None
        wait = random.uniform(0, self.first * 2 ** (tried - 1))
        if retry_after is not None and retry_after.isdecimal():
            wait = max(wait, float(retry_after))
        return min(wait, self.longest)
