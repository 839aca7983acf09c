"""Administration of models over HTTP: upload, removal and labels."""

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
    Path(
        description="A label: characters as in a model name, but not a number.",
        openapi_examples={"demo": {"value": "canary"}},
    ),
]
Force = Annotated[
    bool, Query(description="Accept a file with inputs, classes or a norm that would break present clients.")
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
        "description": "Served as a new version; Location gives its path",
        "model": ModelDetail,
        "headers": {"Location": {"schema": {"type": "string"}}},
    }
}
NO_CONTENT: dict[int | str, dict[str, Any]] = {204: {"description": "Removed"}}


async def allowed(service: ServiceDep, name: ModelName) -> Service:
    """Return the service if its models may be changed over HTTP.

    Raises:
        Problem: 403, uploads are disabled.
        InputError: the name is not a valid name of a model.
    """
    if not service.settings.uploads:
        detail = "uploads are disabled; start the service with --uploads to change models over HTTP"
        raise Problem(ProblemKind.UPLOADS_OFF, detail)
    try:
        check_name(name)
    except ModelError as error:
        raise InputError(str(error), field="name") from None
    return service


Allowed = Annotated[Service, Depends(allowed)]


@contextmanager
def written() -> Iterator[None]:
    """Turn errors of writing the models folder into problems, except a full disk, handled for all routes."""
    try:
        yield
    except OSError as error:
        if full(error):
            raise
        detail = f"cannot write the models folder: {error.strerror or error}"
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
    """The file is checked in a separate process before it is served. 200 if it is the latest version already.

    A file with other inputs, classes or norm than the default version is refused, unless forced.
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
    summary="Remove a model with all versions and settings",
    status_code=204,
    responses=NO_CONTENT | problems(*CHANGE_PROBLEMS, ProblemKind.UNKNOWN_MODEL),
)
async def delete_model(name: ModelName, service: Allowed) -> Response:
    """Requests in flight are still answered."""
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
    """The version is given by number, not by label. A labelled version cannot be removed."""
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
    """`latest` is the default version: move it to an older version to roll back."""
    if not is_label(label):
        reason = f"is '{label[:64]}'; {ACCEPTED_NAMES}, and it is no number"
        raise InputError(reason, field="label")
    with written():
        await service.admin.label(name, label, str(body.version))
    registry = service.registry
    return reply(detail(registry, registry.find(name, label)))


@router.delete(
    "/v1/models/{name}/labels/{label}",
    summary="Remove a label",
    status_code=204,
    responses=NO_CONTENT | problems(*CHANGE_PROBLEMS, ProblemKind.UNKNOWN_MODEL, ProblemKind.UNKNOWN_VERSION),
)
async def delete_label(name: ModelName, label: Label, service: Allowed) -> Response:
    """Without a label `latest`, the version with the largest number is the default."""
    with written():
        await service.admin.label(name, label, None)
    return Response(status_code=204)
