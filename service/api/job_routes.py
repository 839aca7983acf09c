"""Routes shared by audits and evaluations: submit, list, show, follow, cancel, and files of reports.

The files of a report are those of ``lipmodel audit|evaluate --report``. Each has its own path, without
negotiation by ``Accept``: relative links between files work, a browser can open the JSON, and links can be
shared.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response, StreamingResponse

from lipmodel.errors import MissingExtraError, about_field
from service.api.bodies import reply
from service.api.context import F, ServiceDep, model_route
from service.api.openapi import BODY_PROBLEMS, MODEL_PROBLEMS, problems
from service.api.schemas.models_and_jobs import JobDetail, JobList, JobModel, JobSummary
from service.auth.admission import Admission
from service.components import Service
from service.database.connect import StoreError
from service.jobs.queue import Fill, Jobs
from service.jobs.store import Job, State
from service.models.registry import Model
from service.problems import FieldError, Problem, ProblemKind

DEFAULT_WAIT_SECONDS = 5
MAX_WAIT_SECONDS = 60
KEEP_ALIVE_SECONDS = 5.0
"""Interval of events of a stream without changes; the credential is verified before each event."""
PATHS = {"audit": "/v1/audits", "evaluation": "/v1/evaluations"}
MIN_SHARE = 0.02
"""Completed share from which the time left is estimated."""
PACKAGES = ("matplotlib", "jinja2")
"""Packages that produce a report, in the worker."""
MEDIA_TYPES = {
    "audit": {"audit.html": "text/html", "audit.md": "text/markdown", "audit.json": "application/json"},
    "evaluation": {
        "evaluation.html": "text/html",
        "evaluation.md": "text/markdown",
        "evaluation.json": "application/json",
        "curve.svg": "image/svg+xml",
        "curve.png": "image/png",
    },
}
REPORT_HEADERS = {
    # Names of classes and data are untrusted. They are escaped; even if one were not, no script would run
    # and nothing would be fetched.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": f"`wait=N`: seconds to wait for the report, at most {MAX_WAIT_SECONDS} (RFC 7240); "
    f"{DEFAULT_WAIT_SECONDS} by default. `respond-async`: do not wait.",
    "schema": {"type": "string"},
    "examples": {"wait up to 30 s": {"value": "wait=30"}},
}
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "The report was not ready in time; Location gives the path of the job",
        "model": JobDetail,
        "headers": {"Location": {"schema": {"type": "string"}}},
    }
}
JobId = Annotated[str, Path(description="Id of the job, as in the Location header.", max_length=64)]
JOB_PROBLEMS = (
    ProblemKind.QUEUE_FULL,
    ProblemKind.JOB_FAILED,
    ProblemKind.JOBS_UNAVAILABLE,
    ProblemKind.INSUFFICIENT_STORAGE,
    ProblemKind.NOT_INSTALLED,
)


def submit_route(
    router: APIRouter, kind: str, *, summary: str, report: type[Any], request: dict[str, Any]
) -> Callable[[F], F]:
    """Add a route that submits a job of a kind about a model, and one about one version of a model."""
    return model_route(
        router,
        "POST",
        f"/{kind}s",
        summary=summary,
        response_model=report,
        responses=ACCEPTED | problems(*BODY_PROBLEMS, *MODEL_PROBLEMS, *JOB_PROBLEMS),
        openapi_extra=request | {"parameters": [PREFER]},
    )


async def submit(
    request: Request,
    jobs: Jobs,
    kind: str,
    model: Model,
    *,
    parameters: dict[str, Any],
    options: dict[str, Any],
    fill: Fill,
) -> Response:
    """Queue a job; return 200 with its report if that is ready within the preferred wait, else 202.

    Raises:
        Problem: 429, the queue is full; or the problem of a job that failed within the wait.
    """
    wait, applied = preferred_wait(request)
    job = await jobs.submit(kind, model, parameters, options, fill)
    with suppress(StoreError):  # the job is queued, even if the database does not answer now
        job = await jobs.wait(job.id, wait)
    place = f"{PATHS[kind]}/{job.id}"
    headers = {"Preference-Applied": applied} if applied else {}
    if job.state is State.DONE:
        headers["Content-Location"] = place
        return Response(job.result, headers=headers, media_type="application/json")
    if job.state is State.FAILED:
        headers["Content-Location"] = place
        raise _problem(job, headers)
    answer = reply(JobDetail(**_summary(job), result=None))
    answer.status_code = 202
    answer.headers.update(headers | {"Location": place})
    return answer


def require_packages() -> None:
    """Refuse a request for a report that cannot be produced.

    Raises:
        Problem: 501, the packages that produce reports are not installed.
    """
    if not all(map(find_spec, PACKAGES)):  # located, not imported
        raise Problem(ProblemKind.NOT_INSTALLED, str(MissingExtraError("a report", "report")))


def preferred_wait(request: Request) -> tuple[float, str]:
    """Return the seconds to wait, and the preference applied, if any (RFC 7240, section 4.3).

    Unknown and invalid preferences are ignored, as the RFC demands.
    """
    given = ",".join(request.headers.getlist("prefer"))
    preferences = [part.partition(";")[0].strip().lower() for part in given.split(",")]
    for preference in preferences:
        found = re.fullmatch(r'wait\s*=\s*"?(\d{1,9})"?', preference, re.ASCII)
        if found and int(found[1]) <= MAX_WAIT_SECONDS:
            return int(found[1]), f"wait={int(found[1])}"
    if "respond-async" in preferences:
        return 0, "respond-async"
    return DEFAULT_WAIT_SECONDS, ""


async def find(service: Service, kind: str, job_id: str, *, bulk: bool = True) -> Job:
    """Return the job of a kind with an id; without ``bulk``, result and radii are omitted.

    Raises:
        Problem: 404, there is no such job.
    """
    job = await service.jobs.get(job_id, bulk=bulk)
    if job is None or job.kind != kind:
        raise Problem(ProblemKind.UNKNOWN_JOB, f"no {kind} has the id '{job_id[:64]}'")
    return job


def add_routes(router: APIRouter, kind: str) -> None:
    """Add the routes of existing jobs of one kind."""
    path, types = PATHS[kind], MEDIA_TYPES[kind]
    names = ", ".join(types)
    unknown = problems(ProblemKind.UNKNOWN_JOB, ProblemKind.INVALID_INPUT, ProblemKind.JOBS_UNAVAILABLE)

    async def named(job_id: JobId, service: ServiceDep) -> Job:
        return await find(service, kind, job_id)

    job_here = Depends(named)

    @router.get(path, summary=f"List {kind}s, newest first", response_model=JobList, responses=unknown)
    async def list_jobs(
        service: ServiceDep,
        limit: Annotated[int, Query(ge=1, le=100, description="Maximum number of jobs on a page.")] = 20,
        before: Annotated[
            str | None, Query(max_length=64, description="Id of the job after which the page begins.")
        ] = None,
    ) -> Response:
        """The list omits reports."""
        last = None if before is None else await find(service, kind, before)
        found = await service.jobs.page(kind, limit + 1, last)
        more = f"{path}?limit={limit}&before={found[limit - 1].id}" if len(found) > limit else None
        return reply(JobList(jobs=[JobSummary(**_summary(job)) for job in found[:limit]], next=more))

    @router.get(
        path + "/{job_id}",
        summary=f"Get an {kind} and its report",
        response_model=JobDetail,
        responses=unknown,
    )
    async def show_job(job: Job = job_here) -> Response:
        """State, progress, estimated time left, and the report if done."""
        return _detail(job)

    @router.get(
        path + "/{job_id}/events",
        summary=f"Follow an {kind} (server-sent events)",
        response_class=StreamingResponse,
        responses=unknown | {200: {"description": "Events", "content": {"text/event-stream": {}}}},
    )
    async def follow_job(request: Request, service: ServiceDep, job: Job = job_here) -> Response:
        """Events `progress`, then one event `end`; the data of each event is the job without its report.

        The stream ends without `end` when the credential is revoked or expires.
        """
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(
            _events(request, service.jobs, job.id), headers=headers, media_type="text/event-stream"
        )

    @router.delete(
        path + "/{job_id}", summary=f"Cancel an {kind}", response_model=JobDetail, responses=unknown
    )
    async def cancel_job(service: ServiceDep, job: Job = job_here) -> Response:
        """Cancel a queued or running job. A finished job is unchanged."""
        await service.jobs.cancel(job.id)
        return _detail(await find(service, kind, job.id))

    one_of = Path(description=f"One of {names}.")

    @router.get(
        path + "/{job_id}/report/{file}",
        summary=f"Get a file of the report of an {kind}",
        response_class=Response,
        responses=problems(ProblemKind.UNKNOWN_JOB, ProblemKind.INVALID_INPUT)
        | {200: {"description": "The file", "content": {media: {} for media in types.values()}}},
    )
    async def show_report(service: ServiceDep, job_id: JobId, file: str = one_of) -> Response:
        """Available once the job is done, if requested (`"report": true`)."""
        job = await find(service, kind, job_id, bulk=False)
        if file not in types:
            raise Problem(ProblemKind.NO_REPORT, f"a report has no file '{file[:64]}'; its files are {names}")
        content = await service.jobs.report_file(job.id, file)
        if content is None:
            raise Problem(ProblemKind.NO_REPORT, f"the {kind} is {job.state.value} and has no report")
        return Response(content, headers=REPORT_HEADERS, media_type=types[file])


async def _events(request: Request, jobs: Jobs, job_id: str) -> AsyncIterator[str]:
    admission: Admission = request.app.state.admission
    async for job in jobs.watch(job_id, KEEP_ALIVE_SECONDS):
        try:
            await admission.identify(request.scope)
        except Problem:  # credential revoked or expired meanwhile
            return
        name = "end" if job.state.final else "progress"
        yield f"event: {name}\ndata: {JobSummary(**_summary(job)).model_dump_json()}\n\n"


def _detail(job: Job) -> Response:
    return reply(JobDetail(**_summary(job), result=json.loads(job.result) if job.result else None))


def _summary(job: Job) -> dict[str, Any]:
    problem = None
    if job.problem is not None:
        problem = _problem(job).body()
    return {
        "id": job.id,
        "kind": job.kind,
        "model": JobModel(name=job.model, sha256=job.sha256),
        "parameters": json.loads(job.parameters),
        "state": job.state,
        "progress": job.progress,
        "seconds_left": _seconds_left(job),
        "created": _time(job.created),
        "started": _time(job.started),
        "finished": _time(job.finished),
        "problem": problem,
    }


def _seconds_left(job: Job) -> float | None:
    if job.state is not State.RUNNING or job.started is None or job.progress < MIN_SHARE:
        return None
    return round(max(0.0, time.time() - job.started) * (1 - job.progress) / job.progress, 1)


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _problem(job: Job, headers: dict[str, str] | None = None) -> Problem:
    kept = json.loads(job.problem or "{}")
    kind, detail = next(k for k in ProblemKind if k.slug == kept["kind"]), kept["detail"]
    if "field" not in kept:
        return Problem(kind, detail, headers=headers)
    error = FieldError(field=kept["field"], reason=detail)
    return Problem(kind, about_field(error.field, detail), errors=[error], headers=headers)
