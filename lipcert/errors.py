"""What can go wrong.

::

    LipcertClientError
    ├── ServiceUnreachableError   no answer: refused, reset, timed out
    └── ProblemError              an answer that is a problem (RFC 9457)
        ├── InvalidRequestError       4xx: asking again will not help
        ├── TryAgainError             429, 503: it may, later
        └── ServiceFailedError        any other 5xx
"""

from __future__ import annotations

from dataclasses import dataclass


class LipcertClientError(Exception):
    """All errors of this package."""


class ServiceUnreachableError(LipcertClientError):
    """The service gave no answer, as often as it was tried."""


@dataclass(frozen=True)
class FieldError:
    """A part of the request that is to blame, and why."""

    field: str
    reason: str


class ProblemError(LipcertClientError):
    """The service answered with a problem.

    Attributes:
        status: of HTTP.
        kind: the last part of the problem's type, "invalid-input"; "" where the answer has none.
        detail: what went wrong, for people.
        errors: the parts of the request to blame, if any.
        request_id: by which the service's log names the request; "" where the answer has none.
    """

    def __init__(
        self, status: int, kind: str, detail: str, errors: tuple[FieldError, ...] = (), request_id: str = ""
    ) -> None:
        super().__init__(f"{status} {kind}: {detail}" if kind else f"{status}: {detail}")
        self.status, self.kind, self.detail = status, kind, detail
        self.errors, self.request_id = errors, request_id


class InvalidRequestError(ProblemError):
    """The request is at fault: the same again is answered the same."""


class TryAgainError(ProblemError):
    """The service is busy or not ready, and was so as often as it was tried."""


class ServiceFailedError(ProblemError):
    """The service is at fault; its log, by the request id, says more."""


def problem_error(
    status: int, kind: str, detail: str, errors: tuple[FieldError, ...], request_id: str
) -> ProblemError:
    """The error of that status."""
    if status in (429, 503):
        return TryAgainError(status, kind, detail, errors, request_id)
    chosen = ServiceFailedError if status >= 500 else InvalidRequestError
    return chosen(status, kind, detail, errors, request_id)
