"""Reports of audits and evaluations: the same files as those of ``lipmodel audit|evaluate --report``.

Each file has its own path, without negotiation by ``Accept``: relative links between files work, a browser
can open the JSON, and links can be shared.
"""

from __future__ import annotations

from importlib.util import find_spec

from fastapi import APIRouter, Path
from starlette.responses import Response

from lipmodel.errors import MissingExtraError
from service.api.context import ServiceDep
from service.api.job_routes import PATHS, JobId, find
from service.api.openapi import problems
from service.problems import Problem, ProblemKind

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
HEADERS = {
    # Names of classes and data are untrusted. They are escaped; even if one were not, no script would run
    # and nothing would be fetched.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def require_packages() -> None:
    """Refuse a request for a report that cannot be produced.

    Raises:
        Problem: 501, the packages that produce reports are not installed.
    """
    if not all(map(find_spec, PACKAGES)):  # located, not imported
        raise Problem(ProblemKind.NOT_INSTALLED, str(MissingExtraError("a report", "report")))


def add_report_route(router: APIRouter, kind: str) -> None:
    """Add the route of the report files of one kind of jobs."""
    types = MEDIA_TYPES[kind]
    names = ", ".join(types)
    one_of = Path(description=f"One of {names}.")

    @router.get(
        PATHS[kind] + "/{job_id}/report/{file}",
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
        return Response(content, headers=HEADERS, media_type=types[file])
