"""Models put into the folder over HTTP, taken out of it, and labelled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from lipmodel.errors import InputError, ModelError
from service.api.bodies import json_body, read_file, reply
from service.api.context import ModelName, ServiceDep
from service.api.models import detail
from service.api.openapi import BODY_PROBLEMS, MODEL_PROBLEMS, json_request, problems
from service.api.schemas.models_and_jobs import LABEL_EXAMPLES, LabelRequest, ModelDetail
from service.components import Service
from service.disk import full
from service.models.layout import ACCEPTED_NAMES
from service.models.reader import is_label
from service.models.writer import check_name
from service.problems import Problem, ProblemKind

router = APIRouter(tags=["models"])
Number = Annotated[str, Path(description="Number of the version.", openapi_examples={"demo": {"value": "1"}})]
Label = Annotated[
    str,
    Path(description="As a name, but no number.", openapi_examples={"demo": {"value": "canary"}}),
]
Force = Annotated[
    bool, Query(description="Serve it even where its inputs, classes or norm would break present clients.")
]
CHANGE_PROBLEMS = (
    ProblemKind.UPLOADS_OFF,
    ProblemKind.NOT_WRITABLE,
    ProblemKind.INSUFFICIENT_STORAGE,
    ProblemKind.INVALID_INPUT,
)
FILE = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
CREATED: dict[int | str, dict[str, Any]] = {
    201: {
        "description": "Served as a new version, to which Location leads",
        "model": ModelDetail,
        "headers": {"Location": {"schema": {"type": "string"}}},
    }
}
NO_CONTENT: dict[int | str, dict[str, Any]] = {204: {"description": "It is gone"}}


async def allowed(service: ServiceDep, name: ModelName) -> Service:
    """The service, where its folder may be changed over HTTP.

    Raises:
        Problem: 403 where it may not.
        InputError: no model can have the name.
    """
    if not service.settings.uploads:
        detail = "this service was not started with --uploads, so its models are not changed over HTTP"
        raise Problem(ProblemKind.UPLOADS_OFF, detail)
    try:
        check_name(name)
    except ModelError as error:
        raise InputError(str(error), field="name") from None
    return service


Allowed = Annotated[Service, Depends(allowed)]


@contextmanager
def written() -> Iterator[None]:
    """Makes a folder that cannot be written a problem; a full disk is one everywhere."""
    try:
        yield
    except OSError as error:
        if full(error):
            raise
        detail = f"the models folder cannot be written: {error.strerror or error}"
        raise Problem(ProblemKind.NOT_WRITABLE, detail) from error
    except ModelError as error:
        raise Problem(ProblemKind.UPLOAD_REFUSED, f"the file is refused: {error}") from None


@router.put(
    "/v1/models/{name}",
    summary="Upload an ONNX file as the next version",
    response_model=ModelDetail,
    responses=CREATED
    | problems(
        *CHANGE_PROBLEMS,
        ProblemKind.INCOMPATIBLE_VERSION,
        ProblemKind.QUEUE_FULL,
        ProblemKind.UPLOAD_REFUSED,
        ProblemKind.BODY_TOO_LARGE,
        ProblemKind.UNSUPPORTED_MEDIA_TYPE,
    ),
    openapi_extra={"requestBody": {"required": True, "content": FILE}},
)
async def upload_model(name: ModelName, request: Request, service: Allowed, force: Force = False) -> Response:
    """Checked in a process of its own before it is served. The file that is the latest already: 200.

    A file with other inputs, classes or norm than the version that answers now is refused, unless forced.
    """
    content = read_file(request, service.settings.max_model_bytes)
    with written():
        model, new = await service.admin.add(name, content, force=force)
    answer = reply(detail(service.registry, model))
    if new:
        answer.status_code = 201
        answer.headers["Location"] = f"/v1/models/{name}/versions/{model.version}"
    return answer


@router.delete(
    "/v1/models/{name}",
    summary="Remove a model, all its versions and settings",
    status_code=204,
    responses=NO_CONTENT | problems(*CHANGE_PROBLEMS, ProblemKind.UNKNOWN_MODEL),
)
async def delete_model(name: ModelName, service: Allowed) -> Response:
    """Requests that have begun are still answered."""
    with written():
        await service.admin.remove(name)
    return Response(status_code=204)


@router.delete(
    "/v1/models/{name}/versions/{version}",
    summary="Remove one version",
    status_code=204,
    responses=NO_CONTENT
    | problems(
        *CHANGE_PROBLEMS, ProblemKind.UNKNOWN_MODEL, ProblemKind.UNKNOWN_VERSION, ProblemKind.VERSION_LABELLED
    ),
)
async def delete_version(name: ModelName, version: Number, service: Allowed) -> Response:
    """Its number, not a label. One that a label was given to stays."""
    with written():
        await service.admin.remove(name, version)
    return Response(status_code=204)


@router.put(
    "/v1/models/{name}/labels/{label}",
    summary="Give a label to a version",
    response_model=ModelDetail,
    responses=problems(*CHANGE_PROBLEMS, *BODY_PROBLEMS, *MODEL_PROBLEMS),
    openapi_extra=json_request(LabelRequest, LABEL_EXAMPLES),
)
async def put_label(
    name: ModelName,
    label: Label,
    service: Allowed,
    body: Annotated[LabelRequest, Depends(json_body(LabelRequest))],
) -> Response:
    """`latest` answers where no version is asked for: given to an older version, it rolls back."""
    if not is_label(label):
        reason = f"is '{label[:64]}'; {ACCEPTED_NAMES}, and it is no number"
        raise InputError(reason, field="label")
    with written():
        await service.admin.label(name, label, str(body.version))
    registry = service.registry
    return reply(detail(registry, registry.find(name, label)))


@router.delete(
    "/v1/models/{name}/labels/{label}",
    summary="Take a label away",
    status_code=204,
    responses=NO_CONTENT | problems(*CHANGE_PROBLEMS, ProblemKind.UNKNOWN_MODEL, ProblemKind.UNKNOWN_VERSION),
)
async def delete_label(name: ModelName, label: Label, service: Allowed) -> Response:
    """`latest` goes back to the largest number."""
    with written():
        await service.admin.label(name, label, None)
    return Response(status_code=204)
