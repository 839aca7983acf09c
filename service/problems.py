"""Every way a request can fail, as RFC 9457 problems.

A problem's body is ``{type, title, status, detail, error}``, and ``errors: [{field, reason}]`` where
a part of the request is to blame. ``error`` repeats ``detail``, so that clients of the Open Inference
Protocol, which look there, read the same body. ``type`` is a relative URI at which the service
itself says what the kind of problem means.
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

from lipmodel.errors import DataError, InputError
from service.database.connect import StorageError, StoreError
from service.disk import full

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "/problems/"
RETRY_SECONDS = 5
"""After which a database may be back."""

log = logging.getLogger(__name__)


class ProblemKind(Enum):
    """The kinds of problem: name in its URI, HTTP status, title, and what to do about it."""

    NOT_COMPRESSED = (
        "not-compressed",
        400,
        "The body is not compressed as its header says",
        "Send it as gzip or deflate, whole, or without the header Content-Encoding.",
    )
    NOT_AN_ARRAY = (
        "not-an-array",
        400,
        "The body holds no array",
        "Send what numpy.save writes, of floats, with the header 'Content-Type: application/x-npy'.",
    )
    NOT_JSON = ("not-json", 400, "The body cannot be read as JSON", "Send one whole JSON object in UTF-8.")
    NOT_A_FORM = (
        "not-a-form",
        400,
        "The body cannot be read as a form",
        "Send multipart/form-data with the parts that /docs lists, such as curl -F makes.",
    )
    UNAUTHENTICATED = (
        "unauthenticated",
        401,
        "It is not known who calls",
        "Send 'Authorization: Bearer KEY' with a key that 'lipserve keys create' made, or a token.",
    )
    FORBIDDEN = (
        "forbidden",
        403,
        "The caller may not do this",
        "The detail names the scope that it takes; 'lipserve keys create --scope' makes keys that have it.",
    )
    FOREIGN_ORIGIN = (
        "foreign-origin",
        403,
        "A web page of another origin may have sent this",
        "Ask under localhost or an IP address, list the name in allowed_hosts, or have callers use keys.",
    )
    NO_ROUTE = ("no-route", 404, "Nothing is found at this path", "/docs lists the paths there are.")
    UNKNOWN_MODEL = (
        "unknown-model",
        404,
        "No model has this name",
        "GET /v1/models lists the models, the refused ones too.",
    )
    UNKNOWN_VERSION = (
        "unknown-version",
        404,
        "The model has no such version or label",
        "GET /v1/models/NAME lists those it has.",
    )
    UNKNOWN_JOB = (
        "unknown-job",
        404,
        "No audit or evaluation has this id",
        "GET /v1/audits and /v1/evaluations list those there are.",
    )
    NO_REPORT = (
        "no-report",
        404,
        "The audit or evaluation has no such report",
        'One that was asked for it ("report": true) has it once it is done.',
    )
    NO_SAMPLES = (
        "no-samples",
        404,
        "No samples lie beside the model",
        "Put labelled inputs there as NAME.samples.npz, such as lipmodel train writes.",
    )
    METHOD_NOT_ALLOWED = (
        "method-not-allowed",
        405,
        "The path does not take this method",
        "The Allow header names those it takes.",
    )
    UPLOADS_OFF = (
        "uploads-off",
        403,
        "The models of this service are not changed over HTTP",
        "Start it with --uploads, or change the files in its models folder: it notices.",
    )
    NOT_WRITABLE = (
        "not-writable",
        409,
        "The models folder cannot be written",
        "The detail says why. Let the service write there, or put files there by other means.",
    )
    VERSION_LABELLED = (
        "version-labelled",
        409,
        "The version has a label",
        "Give the label to another version, or take it away, first.",
    )
    INCOMPATIBLE_VERSION = (
        "incompatible-version",
        409,
        "The file would break the clients of the version that answers now",
        "The detail says what differs. Send it under another name, or with ?force=true.",
    )
    REQUEST_TIMEOUT = (
        "request-timeout",
        408,
        "The request did not arrive in time",
        "Send it in one go; the limit is the setting request_seconds.",
    )
    MODEL_REFUSED = (
        "model-refused",
        409,
        "The model was refused, so it is not served",
        "The detail gives the reason. Mend or replace the file; the service notices.",
    )
    BODY_TOO_LARGE = (
        "body-too-large",
        413,
        "The body is too large",
        "Send fewer inputs a request, or a smaller file; the limits are settings.",
    )
    UNSUPPORTED_MEDIA_TYPE = (
        "unsupported-media-type",
        415,
        "The body is not in an accepted format",
        "Send it uncompressed, with the Content-Type that the detail names.",
    )
    INVALID_INPUT = (
        "invalid-input",
        422,
        "The request does not fit the model or the service",
        "Each of 'errors' names a field and what is wrong with it.",
    )
    UPLOAD_REFUSED = (
        "upload-refused",
        422,
        "The file sent is refused, and is not kept",
        "The detail gives the reason; lipmodel inspect gives the same.",
    )
    BELOW_POLICY = (
        "below-policy",
        422,
        "Answers are certified less than the model's policy asks for",
        "Each of 'errors' names an input. GET /v1/models/NAME tells the policy.",
    )
    TOO_MANY_REQUESTS = (
        "too-many-requests",
        429,
        "The caller asks too often",
        "Try again after the seconds that the Retry-After header gives.",
    )
    HEADERS_TOO_LARGE = (
        "headers-too-large",
        431,
        "The headers are too large",
        "Send fewer or shorter ones; the limit is the setting max_header_bytes.",
    )
    QUEUE_FULL = (
        "queue-full",
        429,
        "Too many audits, evaluations or other long requests are queued",
        "Try again after the seconds that the Retry-After header gives.",
    )
    JOB_FAILED = (
        "job-failed",
        500,
        "The audit or evaluation failed",
        "The detail says how it ended; the log of the service has more.",
    )
    NOT_INSTALLED = (
        "not-installed",
        501,
        "The service lacks an optional part",
        "The detail names it. Install it where the service runs, or do without.",
    )
    NOT_SIGNING = (
        "not-signing",
        501,
        "The service has no key to sign with",
        "Ask without 'certificate'; or make a key with 'lipserve keys new-signing' and set signing_keys.",
    )
    JOB_INTERRUPTED = (
        "job-interrupted",
        503,
        "The service stopped during the audit or evaluation",
        "Ask for it again: it is not tried again by itself, as it may have been the cause.",
    )
    INTERNAL = (
        "internal",
        500,
        "The service failed",
        "The fault is the service's, not the request's; its log has the details.",
    )
    JOBS_UNAVAILABLE = (
        "jobs-unavailable",
        503,
        "The database of audits and evaluations does not answer",
        "Try again after the seconds that the Retry-After header gives. Predictions need no database.",
    )
    INSUFFICIENT_STORAGE = (
        "insufficient-storage",
        507,
        "The service cannot write what it would have to keep",
        "The detail names the cause. Make room, or let the service write; predictions need no disk.",
    )
    TOO_MANY_CONNECTIONS = (
        "too-many-connections",
        503,
        "The service has as many connections as it may",
        "Try again after the seconds that the Retry-After header gives; send several requests a connection.",
    )
    BUSY = (
        "busy",
        503,
        "The service holds as much of requests and answers as it may",
        "Try again after the seconds that the Retry-After header gives, or send less at a time.",
    )
    MODEL_CHECKING = (
        "model-checking",
        503,
        "The model's file is being checked, so it is not served yet",
        "Try again after the seconds that the Retry-After header gives.",
    )
    NOT_READY = ("not-ready", 503, "No model is served", "The detail says why.")

    def __init__(self, slug: str, status: int, title: str, advice: str) -> None:
        self.slug, self.status, self.title, self.advice = slug, status, title, advice

    @property
    def uri(self) -> str:
        """The ``type`` of the problem."""
        return TYPE_PREFIX + self.slug


class FieldError(BaseModel):
    """One part of the request that is to blame."""

    model_config = ConfigDict(defer_build=True)

    field: str
    reason: str


class ProblemBody(BaseModel):
    """A problem as it goes over the wire (RFC 9457, ``application/problem+json``)."""

    model_config = ConfigDict(defer_build=True)

    type: str
    title: str
    status: int
    detail: str
    error: str
    errors: list[FieldError] | None = None


class Problem(Exception):  # noqa: N818 - the RFC's own word
    """Raised anywhere below a route to answer with a problem.

    Attributes:
        kind: what sort of problem; gives type, title and status.
        detail: what went wrong this time, for people.
        errors: the parts of the request to blame, if any.
        headers: sent along (``Allow`` of a 405).
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
        """A 422 whose detail is read off the fields to blame."""
        return cls(
            ProblemKind.INVALID_INPUT, "; ".join(f"{e.field}: {e.reason}" for e in errors), errors=errors
        )

    def body(self) -> ProblemBody:
        """What the client reads."""
        return ProblemBody(
            type=self.kind.uri,
            title=self.kind.title,
            status=self.kind.status,
            detail=self.detail,
            error=self.detail,
            errors=self.errors or None,
        )

    def response(self) -> Response:
        """The HTTP response."""
        return _ProblemResponse(self)


class _ProblemResponse(Response):
    """Tells the layers outside, by the request's scope, which kind of problem it is."""

    media_type = MEDIA_TYPE

    def __init__(self, problem: Problem) -> None:
        content = problem.body().model_dump_json(exclude_none=True)
        super().__init__(content, problem.kind.status, problem.headers)
        self._slug = problem.kind.slug

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["problem"] = self._slug
        await super().__call__(scope, receive, send)


def problem_of(error: Exception) -> Problem | None:
    """The problem that an error of a request is; None where it is a fault of the service."""
    if isinstance(error, InputError):
        return Problem.invalid([FieldError(field=error.field, reason=error.reason)])
    return error if isinstance(error, Problem) else None


def install_handlers(app: FastAPI) -> None:
    """Makes every error of the application a problem, those of the framework included."""

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
        log.warning("%s", error)  # which may name hosts and users, that are none of a client's business
        detail, headers = "audits and evaluations cannot be reached", {"Retry-After": str(RETRY_SECONDS)}
        return Problem(ProblemKind.JOBS_UNAVAILABLE, detail, headers=headers).response()

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(_: Request, error: RequestValidationError) -> Response:
        fields = [FieldError(field=".".join(map(str, e["loc"])), reason=e["msg"]) for e in error.errors()]
        return Problem.invalid(fields).response()

    @app.exception_handler(HTTPException)
    async def on_http_exception(request: Request, error: HTTPException) -> Response:
        path, method = request.url.path, request.method
        if error.status_code == HTTPStatus.NOT_FOUND:
            return Problem(
                ProblemKind.NO_ROUTE, f"nothing is found at {path}; /docs lists the paths there are"
            ).response()
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("Allow", "")
            detail = f"{path} takes {allowed}, not {method}"
            return Problem(ProblemKind.METHOD_NOT_ALLOWED, detail, headers=error.headers).response()
        raise error  # the framework raises no other; one that it came to raise is a fault of ours
