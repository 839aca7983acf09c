"""The retry policy: exponential backoff after connection errors, 429 and 503, observing Retry-After."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Retries:
    """Exponential backoff with full jitter (Brooker 2015), so that clients do not retry simultaneously.

    Attributes:
        tries: maximum number of tries; 1 disables retries.
        first: maximum wait before the second try, in seconds; doubled for each further try.
        longest: maximum wait before any try, in seconds, even if the service's Retry-After is longer.
    """

    tries: int = 4
    first: float = 0.2
    longest: float = 10.0

    def wait(self, tried: int, retry_after: str | None = None) -> float | None:
        """Return the seconds to wait before the next try; None to give up.

        Args:
            tried: number of tries so far, at least 1.
            retry_after: the Retry-After header, if any; ignored unless it is a number of seconds.
        """
        if tried >= self.tries:
            return None
        wait = random.uniform(0, self.first * 2 ** (tried - 1))
        if retry_after is not None and retry_after.isdecimal():
            wait = max(wait, float(retry_after))
        return min(wait, self.longest)
