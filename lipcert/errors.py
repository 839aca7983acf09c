"""The exceptions of the client.

::

    LipcertClientError
    ├── ServiceUnreachableError   no response: connection refused, reset, timed out
    └── ProblemError              a problem response (RFC 9457)
        ├── InvalidRequestError       4xx: a retry will not help
        ├── TryAgainError             429, 503: a later retry may help
        └── ServiceFailedError        any other 5xx
"""

from __future__ import annotations

from dataclasses import dataclass


class LipcertClientError(Exception):
    """Base class of the client's errors."""


class ServiceUnreachableError(LipcertClientError):
    """The service did not respond to any try."""


@dataclass(frozen=True)
class FieldError:
    """An invalid part of the request.

    Attributes:
        field: path of the field, ``inputs[0]``.
        reason: the value, the limit and the remedy.
    """

    field: str
    reason: str


class ProblemError(LipcertClientError):
    """A problem response of the service (RFC 9457).

    Attributes:
        status: HTTP status.
        kind: last segment of the problem's type, such as "invalid-input"; "" without a type.
        detail: description of the problem, for people.
        errors: the invalid parts of the request, if any.
        request_id: id of the request in the service's log; "" without one.
    """

    def __init__(
        self, status: int, kind: str, detail: str, errors: tuple[FieldError, ...] = (), request_id: str = ""
    ) -> None:
        super().__init__(f"{status} {kind}: {detail}" if kind else f"{status}: {detail}")
        self.status, self.kind, self.detail = status, kind, detail
        self.errors, self.request_id = errors, request_id


class InvalidRequestError(ProblemError):
    """The request is invalid; repeating it does not help."""


class TryAgainError(ProblemError):
    """The service was busy or not ready on every try."""


class ServiceFailedError(ProblemError):
    """The service failed; its log has the details under the request id."""


def problem_error(
    status: int, kind: str, detail: str, errors: tuple[FieldError, ...], request_id: str
) -> ProblemError:
    """Return the error class of a status, with the problem's members."""
    if status in (429, 503):
        return TryAgainError(status, kind, detail, errors, request_id)
    chosen = ServiceFailedError if status >= 500 else InvalidRequestError
    return chosen(status, kind, detail, errors, request_id)
