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

log = logging.getLogger(__name__)


class ProblemKind(Enum):
    """Kinds of problem: slug of the URI, HTTP status, title, and advice to the caller."""

    NOT_COMPRESSED = (
        "not-compressed",
        400,
        "Invalid compression",
        "Send the whole body as gzip or deflate, or omit the header Content-Encoding.",
    )
    NOT_AN_ARRAY = (
        "not-an-array",
        400,
        "Invalid array",
        "Send a file of floats as written by numpy.save, with the header 'Content-Type: application/x-npy'.",
    )
    NOT_JSON = ("not-json", 400, "Invalid JSON", "Send one complete JSON object in UTF-8.")
    NOT_A_FORM = (
        "not-a-form",
        400,
        "Invalid form",
        "Send multipart/form-data with the parts listed in /docs; curl -F makes such a body.",
    )
    UNAUTHENTICATED = (
        "unauthenticated",
        401,
        "Authentication required",
        "Send 'Authorization: Bearer KEY' with a key made by 'lipserve keys create', or a token.",
    )
    FORBIDDEN = (
        "forbidden",
        403,
        "Insufficient scope",
        "The detail names the required scope; 'lipserve keys create --scope' makes a key with that scope.",
    )
    FOREIGN_ORIGIN = (
        "foreign-origin",
        403,
        "Cross-origin request refused",
        "Use localhost or an IP address, list the host name in the setting allowed_hosts, or require keys.",
    )
    NO_ROUTE = ("no-route", 404, "Path not found", "/docs lists all paths.")
    UNKNOWN_MODEL = (
        "unknown-model",
        404,
        "Model not found",
        "GET /v1/models lists all models, including refused ones.",
    )
    UNKNOWN_VERSION = (
        "unknown-version",
        404,
        "Version or label not found",
        "GET /v1/models/NAME lists the versions and labels of the model.",
    )
    UNKNOWN_JOB = (
        "unknown-job",
        404,
        "Audit or evaluation not found",
        "GET /v1/audits and GET /v1/evaluations list the stored audits and evaluations.",
    )
    NO_REPORT = (
        "no-report",
        404,
        "Report not found",
        'Reports are made on request ("report": true) and available once the audit or evaluation is done.',
    )
    NO_SAMPLES = (
        "no-samples",
        404,
        "No samples for this model",
        "Put labelled inputs beside the model as NAME.samples.npz, as written by lipmodel train.",
    )
    METHOD_NOT_ALLOWED = (
        "method-not-allowed",
        405,
        "Method not allowed",
        "The Allow header lists the accepted methods.",
    )
    UPLOADS_OFF = (
        "uploads-off",
        403,
        "Uploads are disabled",
        "Start the service with --uploads, or change the files in its models folder, which is watched.",
    )
    NOT_WRITABLE = (
        "not-writable",
        409,
        "Models folder not writable",
        "The detail gives the reason. Grant the service write access, or place the files by other means.",
    )
    VERSION_LABELLED = (
        "version-labelled",
        409,
        "Version is labelled",
        "First move the label to another version, or remove it.",
    )
    INCOMPATIBLE_VERSION = (
        "incompatible-version",
        409,
        "Incompatible with the current version",
        "The detail names the difference. Upload under another name, or with ?force=true.",
    )
    REQUEST_TIMEOUT = (
        "request-timeout",
        408,
        "Request timeout",
        "Send the request without pauses; the limit is the setting request_seconds.",
    )
    MODEL_REFUSED = (
        "model-refused",
        409,
        "Model refused",
        "The detail gives the reason. Repair or replace the file; the models folder is watched.",
    )
    BODY_TOO_LARGE = (
        "body-too-large",
        413,
        "Body too large",
        "Send fewer inputs per request, or a smaller file; the limits are settings.",
    )
    UNSUPPORTED_MEDIA_TYPE = (
        "unsupported-media-type",
        415,
        "Unsupported media type",
        "Send the body uncompressed, with the Content-Type named in the detail.",
    )
    INVALID_INPUT = (
        "invalid-input",
        422,
        "Invalid request",
        "Each entry of 'errors' names a field and the reason.",
    )
    UPLOAD_REFUSED = (
        "upload-refused",
        422,
        "Uploaded file refused",
        "The detail gives the reason, as does lipmodel inspect. The file is not kept.",
    )
    BELOW_POLICY = (
        "below-policy",
        422,
        "Certified radius below the model's policy",
        "Each entry of 'errors' names an input. GET /v1/models/NAME shows the policy.",
    )
    TOO_MANY_REQUESTS = (
        "too-many-requests",
        429,
        "Rate limit exceeded",
        "Retry after the number of seconds in the Retry-After header.",
    )
    HEADERS_TOO_LARGE = (
        "headers-too-large",
        431,
        "Request headers too large",
        "Send fewer or shorter headers; the limit is the setting max_header_bytes.",
    )
    QUEUE_FULL = (
        "queue-full",
        429,
        "Queue full",
        "Retry after the number of seconds in the Retry-After header.",
    )
    JOB_FAILED = (
        "job-failed",
        500,
        "Audit or evaluation failed",
        "The detail gives the outcome; the log of the service has more.",
    )
    NOT_INSTALLED = (
        "not-installed",
        501,
        "Optional package not installed",
        "The detail names the package. Install it where the service runs, or omit the option.",
    )
    NOT_SIGNING = (
        "not-signing",
        501,
        "No signing key",
        "Omit 'certificate', or make a key with 'lipserve keys new-signing' and set signing_keys.",
    )
    JOB_INTERRUPTED = (
        "job-interrupted",
        503,
        "Audit or evaluation interrupted",
        "The service stopped meanwhile. Submit again: jobs that may have caused a stop are not retried.",
    )
    INTERNAL = (
        "internal",
        500,
        "Internal error",
        "The fault lies in the service, not in the request; the log of the service has the details.",
    )
    JOBS_UNAVAILABLE = (
        "jobs-unavailable",
        503,
        "Job database unavailable",
        "Retry after the number of seconds in the Retry-After header. Predictions need no database.",
    )
    INSUFFICIENT_STORAGE = (
        "insufficient-storage",
        507,
        "Insufficient storage",
        "The detail names the cause. Free disk space, or grant write access; predictions need no disk.",
    )
    TOO_MANY_CONNECTIONS = (
        "too-many-connections",
        503,
        "Connection limit reached",
        "Retry after the number of seconds in the Retry-After header; send several requests per connection.",
    )
    BUSY = (
        "busy",
        503,
        "Memory limit for requests and responses reached",
        "Retry after the number of seconds in the Retry-After header, or send smaller requests.",
    )
    MODEL_CHECKING = (
        "model-checking",
        503,
        "Model is being checked",
        "Retry after the number of seconds in the Retry-After header.",
    )
    NOT_READY = ("not-ready", 503, "Service not ready", "The detail gives the reason.")

    def __init__(self, slug: str, status: int, title: str, advice: str) -> None:
        self.slug, self.status, self.title, self.advice = slug, status, title, advice

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
    """Install handlers that answer every error of the application and of the framework with a problem."""

    @app.exception_handler(Problem)
    @app.exception_handler(InputError)
    async def on_problem(_: Request, error: Exception) -> Response:
        problem = problem_of(error)
        assert problem is not None
        return problem.response()

    @app.exception_handler(DataError)
    async def on_data_error(_: Request, error: DataError) -> Response:
        return Problem.invalid([FieldError(field="data", reason=str(error))]).response()

    @app.exception_handler(OSError)
    async def on_full_disk(_: Request, error: OSError) -> Response:
        if (reason := full(error)) is None:
            raise error
        log.error("%s", error)
        return Problem(ProblemKind.INSUFFICIENT_STORAGE, reason).response()

    @app.exception_handler(StorageError)
    async def on_storage_error(_: Request, error: StorageError) -> Response:
        log.error("%s", error)
        return Problem(ProblemKind.INSUFFICIENT_STORAGE, error.cause).response()

    @app.exception_handler(StoreError)
    async def on_store_error(_: Request, error: StoreError) -> Response:
        log.warning("%s", error)  # not sent to the client: may name hosts and users of the database
        detail, headers = (
            "the database of audits and evaluations does not answer",
            {"Retry-After": str(RETRY_SECONDS)},
        )
        return Problem(ProblemKind.JOBS_UNAVAILABLE, detail, headers=headers).response()

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(_: Request, error: RequestValidationError) -> Response:
        fields = [FieldError(field=".".join(map(str, e["loc"])), reason=e["msg"]) for e in error.errors()]
        return Problem.invalid(fields).response()

    @app.exception_handler(HTTPException)
    async def on_http_exception(request: Request, error: HTTPException) -> Response:
        path, method = request.url.path, request.method
        if error.status_code == HTTPStatus.NOT_FOUND:
            return Problem(ProblemKind.NO_ROUTE, f"{path} not found; /docs lists all paths").response()
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("Allow", "")
            detail = f"{path} accepts {allowed}, not {method}"
            return Problem(ProblemKind.METHOD_NOT_ALLOWED, detail, headers=error.headers).response()
        raise error  # the framework raises no other status; a new one would be a fault here
