"""Kinds of failure of a request, and the RFC 9457 problems that report them.

The body of a problem is ``{type, title, status, detail, error}``, and ``errors: [{field, reason}]`` where
parts of the request are invalid. ``error`` repeats ``detail`` for clients of the Open Inference Protocol,
which read that field. ``type`` is a relative URI at which the service itself explains the kind of problem.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from enum import Enum
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lipmodel.errors import DataError, InputError, about_field
from service.database.connect import StorageError, StoreError
from service.disk import full

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "/problems/"
RETRY_SECONDS = 5
"""Value of Retry-After while the database does not answer."""
RETRY_AFTER = "Retry after the number of seconds in the Retry-After header."

log = logging.getLogger(__name__)


class ProblemKind(Enum):
    """Kinds of problem: HTTP status, title, and advice to the caller; the name gives the slug of the URI."""

    NOT_COMPRESSED = (
        400,
        "Invalid compression",
        "Send the whole body as gzip or deflate, or omit the header Content-Encoding.",
    )
    NOT_AN_ARRAY = (
        400,
        "Invalid array",
        "Send a file of floats as written by numpy.save, with the header 'Content-Type: application/x-npy'.",
    )
    NOT_JSON = (400, "Invalid JSON", "Send one complete JSON object in UTF-8.")
    NOT_A_FORM = (
        400,
        "Invalid form",
        "Send multipart/form-data with the parts listed in /docs; curl -F makes such a body.",
    )
    UNAUTHENTICATED = (
        401,
        "Authentication required",
        "Send 'Authorization: Bearer KEY' with a key made by 'lipserve keys create', or a token.",
    )
    FORBIDDEN = (
        403,
        "Insufficient scope",
        "The detail names the required scope; 'lipserve keys create --scope' makes a key with that scope.",
    )
    FOREIGN_ORIGIN = (
        403,
        "Cross-origin request refused",
        "Use localhost or an IP address, list the host name in the setting allowed_hosts, or require keys.",
    )
    NO_ROUTE = (404, "Path not found", "/docs lists all paths.")
    UNKNOWN_MODEL = (404, "Model not found", "GET /v1/models lists all models, including refused ones.")
    UNKNOWN_VERSION = (
        404,
        "Version or label not found",
        "GET /v1/models/NAME lists the versions and labels of the model.",
    )
    UNKNOWN_JOB = (
        404,
        "Audit or evaluation not found",
        "GET /v1/audits and GET /v1/evaluations list the stored audits and evaluations.",
    )
    NO_REPORT = (
        404,
        "Report not found",
        'Reports are made on request ("report": true) and available once the audit or evaluation is done.',
    )
    NO_SAMPLES = (
        404,
        "No samples for this model",
        "Put labelled inputs beside the model as NAME.samples.npz, as written by lipmodel train.",
    )
    METHOD_NOT_ALLOWED = (405, "Method not allowed", "The Allow header lists the accepted methods.")
    UPLOADS_OFF = (
        403,
        "Uploads are disabled",
        "Start the service with --uploads, or change the files in its models folder, which is watched.",
    )
    NOT_WRITABLE = (
        409,
        "Models folder not writable",
        "The detail gives the reason. Grant the service write access, or place the files by other means.",
    )
    VERSION_LABELLED = (409, "Version is labelled", "First move the label to another version, or remove it.")
    INCOMPATIBLE_VERSION = (
        409,
        "Incompatible with the current version",
        "The detail names the difference. Upload under another name, or with ?force=true.",
    )
    REQUEST_TIMEOUT = (
        408,
        "Request timeout",
        "Send the request without pauses; the limit is the setting request_seconds.",
    )
    MODEL_REFUSED = (
        409,
        "Model refused",
        "The detail gives the reason. Repair or replace the file; the models folder is watched.",
    )
    BODY_TOO_LARGE = (
        413,
        "Body too large",
        "Send fewer inputs per request, or a smaller file; the limits are settings.",
    )
    UNSUPPORTED_MEDIA_TYPE = (
        415,
        "Unsupported media type",
        "Send the body uncompressed, with the Content-Type named in the detail.",
    )
    INVALID_INPUT = (422, "Invalid request", "Each entry of 'errors' names a field and the reason.")
    UPLOAD_REFUSED = (
        422,
        "Uploaded file refused",
        "The detail gives the reason, as does lipmodel inspect. The file is not kept.",
    )
    BELOW_POLICY = (
        422,
        "Certified radius below the model's policy",
        "Each entry of 'errors' names an input. GET /v1/models/NAME shows the policy.",
    )
    TOO_MANY_REQUESTS = (429, "Rate limit exceeded", RETRY_AFTER)
    HEADERS_TOO_LARGE = (
        431,
        "Request headers too large",
        "Send fewer or shorter headers; the limit is the setting max_header_bytes.",
    )
    QUEUE_FULL = (429, "Queue full", RETRY_AFTER)
    JOB_FAILED = (
        500,
        "Audit or evaluation failed",
        "The detail gives the outcome; the log of the service has more.",
    )
    NOT_INSTALLED = (
        501,
        "Optional package not installed",
        "The detail names the package. Install it where the service runs, or omit the option.",
    )
    NOT_SIGNING = (
        501,
        "No signing key",
        "Omit 'certificate', or make a key with 'lipserve keys new-signing' and set signing_keys.",
    )
    JOB_INTERRUPTED = (
        503,
        "Audit or evaluation interrupted",
        "The service stopped meanwhile. Submit again: jobs that may have caused a stop are not retried.",
    )
    INTERNAL = (
        500,
        "Internal error",
        "The fault lies in the service, not in the request; the log of the service has the details.",
    )
    JOBS_UNAVAILABLE = (
        503,
        "Job database unavailable",
        "Retry after the number of seconds in the Retry-After header. Predictions need no database.",
    )
    INSUFFICIENT_STORAGE = (
        507,
        "Insufficient storage",
        "The detail names the cause. Free disk space, or grant write access; predictions need no disk.",
    )
    TOO_MANY_CONNECTIONS = (
        503,
        "Connection limit reached",
        "Retry after the number of seconds in the Retry-After header; send several requests per connection.",
    )
    BUSY = (
        503,
        "Memory limit for requests and responses reached",
        "Retry after the number of seconds in the Retry-After header, or send smaller requests.",
    )
    MODEL_CHECKING = (503, "Model is being checked", RETRY_AFTER)
    NOT_READY = (503, "Service not ready", "The detail gives the reason.")

    def __init__(self, status: int, title: str, advice: str) -> None:
        self.slug = self.name.lower().replace("_", "-")
        self.status, self.title, self.advice = status, title, advice

    @property
    def uri(self) -> str:
        """The ``type`` member of the problem."""
        return TYPE_PREFIX + self.slug


class FieldError(BaseModel):
    """An invalid part of the request, and the reason."""

    model_config = ConfigDict(defer_build=True)

    field: str
    reason: str


class ProblemBody(BaseModel):
    """A problem on the wire (RFC 9457, ``application/problem+json``)."""

    model_config = ConfigDict(defer_build=True)

    type: str
    title: str
    status: int
    detail: str
    error: str
    errors: list[FieldError] | None = None


class Problem(Exception):  # noqa: N818 - the RFC's own word
    """Exception that becomes the problem response of a request.

    Attributes:
        kind: gives type, title and status.
        detail: description of this occurrence, for people.
        errors: invalid parts of the request, if any.
        headers: of the response (``Allow`` of a 405).
    """

    def __init__(
        self,
        kind: ProblemKind,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.errors, self.headers = kind, detail, list(errors), headers

    @classmethod
    def invalid(cls, errors: Sequence[FieldError]) -> Problem:
        """Return a 422 with the detail made from the field errors."""
        detail = "; ".join(about_field(e.field, e.reason) for e in errors)
        return cls(ProblemKind.INVALID_INPUT, detail, errors=errors)

    def body(self) -> ProblemBody:
        """Return the body of the response."""
        return ProblemBody(
            type=self.kind.uri,
            title=self.kind.title,
            status=self.kind.status,
            detail=self.detail,
            error=self.detail,
            errors=self.errors or None,
        )

    def response(self) -> Response:
        """Return the HTTP response."""
        return _ProblemResponse(self)


class _ProblemResponse(Response):
    """Response that leaves its problem's slug in the ASGI scope, for the metrics and the log."""

    media_type = MEDIA_TYPE

    def __init__(self, problem: Problem) -> None:
        content = problem.body().model_dump_json(exclude_none=True)
        super().__init__(content, problem.kind.status, problem.headers)
        self._slug = problem.kind.slug

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["problem"] = self._slug
        await super().__call__(scope, receive, send)


def problem_of(error: Exception) -> Problem | None:
    """Return the problem for an error of the request; None for a fault of the service."""
    if isinstance(error, InputError):
        return Problem.invalid([FieldError(field=error.field, reason=error.reason)])
    return error if isinstance(error, Problem) else None


def install_handlers(app: FastAPI) -> None:
    """Install a handler that answers every error of the application and of the framework with a problem."""

    async def answer(request: Request, error: Exception) -> Response:
        return _problem_of_any(request, error).response()

    for kind in (Problem, InputError, DataError, OSError, StoreError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer)


def _problem_of_any(request: Request, error: Exception) -> Problem:
    """Return the problem for an error in a route; raise the error again if it is a fault of the service."""
    if (problem := problem_of(error)) is not None:
        return problem
    match error:
        case DataError():
            return Problem.invalid([FieldError(field="data", reason=str(error))])
        case OSError() if (reason := full(error)) is not None:
            log.error("%s", error)
            return Problem(ProblemKind.INSUFFICIENT_STORAGE, reason)
        case StorageError():
            log.error("%s", error)
            return Problem(ProblemKind.INSUFFICIENT_STORAGE, error.cause)
        case StoreError():
            log.warning("%s", error)  # not sent to the client: may name hosts and users of the database
            detail = "the database of audits and evaluations does not answer"
            return Problem(ProblemKind.JOBS_UNAVAILABLE, detail, headers={"Retry-After": str(RETRY_SECONDS)})
        case RequestValidationError():
            fields = error.errors()
            return Problem.invalid(
                [FieldError(field=".".join(map(str, e["loc"])), reason=e["msg"]) for e in fields]
            )
        case HTTPException(status_code=HTTPStatus.NOT_FOUND):
            return Problem(ProblemKind.NO_ROUTE, f"{request.url.path} not found; /docs lists all paths")
        case HTTPException(status_code=HTTPStatus.METHOD_NOT_ALLOWED):
            allowed = (error.headers or {}).get("Allow", "")
            detail = f"{request.url.path} accepts {allowed}, not {request.method}"
            return Problem(ProblemKind.METHOD_NOT_ALLOWED, detail, headers=error.headers)
    raise error  # the framework raises no other status; a new one would be a fault here
