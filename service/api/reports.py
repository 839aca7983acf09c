"""The report of an evaluation, as the files that ``lipmodel evaluate --report`` writes.

A path for each file, and not one for all with ``Accept``: links between them hold, a browser that is
pointed at the JSON still gets it, and a link can be passed on.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from service.api.context import ServiceHere
from service.api.jobs import PATHS, JobId, find
from service.api.openapi import problems
from service.errors import Problem, ProblemKind

router = APIRouter(tags=["evaluations"])

MEDIA_TYPES = {
    "evaluation.html": "text/html",
    "evaluation.md": "text/markdown",
    "evaluation.json": "application/json",
    "curve.svg": "image/svg+xml",
    "curve.png": "image/png",
}
FILES = ", ".join(MEDIA_TYPES)
HEADERS = {
    # Names of classes and of data come from whoever made them. They are escaped; were one not, still
    # no script would run and nothing would be fetched.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@router.get(
    PATHS["evaluation"] + "/{job_id}/report/{file}",
    summary="The report of one evaluation, file by file",
    response_class=Response,
    responses=problems(ProblemKind.UNKNOWN_JOB, ProblemKind.INVALID_INPUT)
    | {200: {"description": "The file", "content": {kind: {} for kind in MEDIA_TYPES.values()}}},
)
async def show_report(
    service: ServiceHere,
    job_id: JobId,
    file: Annotated[str, Path(description=f"One of {FILES}.")],
) -> Response:
    """Of an evaluation that was asked for one (`"report": true`), once it is done."""
    job = await find(service, "evaluation", job_id, bulk=False)
    if file not in MEDIA_TYPES:
        raise Problem(ProblemKind.NO_REPORT, f"'{file[:64]}' is no file of a report; those are {FILES}")
    content = await service.jobs.report_file(job.id, file)
    if content is None:
        raise Problem(ProblemKind.NO_REPORT, f"the evaluation is {job.state.value} and has no report")
    return Response(content, headers=HEADERS, media_type=MEDIA_TYPES[file])
