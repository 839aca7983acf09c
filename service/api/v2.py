"""Open Inference Protocol v2 (KServe, Triton): inference, health, metadata and the model repository.

Certified radii are one more output of each model.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from lipmodel import __version__
from service.api.bodies import headers_of, read_body, reply
from service.api.context import ModelDep, ModelName, ServiceDep, model_route
from service.api.model_admin import Allowed
from service.api.openapi import BODY_PROBLEMS, MODEL_PROBLEMS, json_request, problems
from service.api.operations import readiness
from service.api.predict import respond
from service.api.schemas.models_and_jobs import Health, Readiness
from service.models.registry import Versions
from service.problems import ProblemKind
from service.protocols import v2
from service.protocols.bodies import FILE_TYPE, JSON_TYPE, check_media_type, parse
from service.protocols.v2_schemas import (
    IndexEntry,
    IndexRequest,
    InferRequest,
    InferResponse,
    LoadRequest,
    ModelMetadata,
    ModelReady,
    ServerMetadata,
    TensorMetadata,
    UnloadRequest,
)

M = TypeVar("M", bound=BaseModel)

EXAMPLES: dict[str, dict[str, Any]] = {
    "one input": {
        "inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 0.25]}],
        "parameters": {"epsilon": 0.1},
    }
}
BINARY: dict[int | str, dict[str, Any]] = {
    200: {"content": {FILE_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
}

router = APIRouter(tags=["open inference protocol"])


@model_route(
    router,
    "POST",
    "/infer",
    protocol="v2",
    summary="Classify inputs by the Open Inference Protocol",
    response_model=InferResponse,
    responses=BINARY
    | problems(*BODY_PROBLEMS, *MODEL_PROBLEMS, ProblemKind.BELOW_POLICY, ProblemKind.NOT_SIGNING),
    openapi_extra=json_request(InferRequest, EXAMPLES),
)
async def infer(request: Request, model: ModelDep, service: ServiceDep) -> Response:
    """Tensors in JSON or binary. Outputs are scores, label, label_index, margin, certified_radius, abstained.

    Optional outputs are `certified` where the request or the model's policy has an epsilon,
    `radius_float32_portable` with the parameter `portable`, `tightening_complete` with `tighten`, and
    `certificate` with `certificate`.
    """
    return await respond(request, service, model, v2.CODEC)


@router.get("/v2", summary="Server metadata", response_model=ServerMetadata, responses=problems())
async def server_metadata() -> Response:
    """Name, version and supported extensions of the protocol."""
    extensions = ["binary_tensor_data", "model_repository"]
    return reply(ServerMetadata(name="lipcert", version=__version__, extensions=extensions))


@router.get("/v2/health/live", summary="Liveness", response_model=Health, responses=problems())
async def live() -> Response:
    """Same as /healthz."""
    return reply(Health())


@router.get(
    "/v2/health/ready",
    summary="Readiness",
    response_model=Readiness,
    responses=problems(ProblemKind.NOT_READY),
)
async def ready(service: ServiceDep) -> Response:
    """Same as /readyz."""
    return await readiness(service)


@model_route(
    router,
    "GET",
    "",
    protocol="v2",
    summary="Model metadata",
    response_model=ModelMetadata,
    responses=problems(*MODEL_PROBLEMS),
)
async def model_metadata(model: ModelDep, service: ServiceDep) -> Response:
    """Inputs and outputs of a model; for the outputs that only some requests have see the route infer."""
    graph = model.predictor.file.graph
    classes = [] if graph.output_shape == (1,) else [len(model.predictor.class_names)]
    number: Literal["FP32", "FP64"] = "FP32" if model.predictor.file.dtype.__name__ == "float32" else "FP64"
    scores = TensorMetadata(name=v2.name_of_scores(model), datatype="FP64", shape=[-1, *(classes or [1])])
    others = [
        TensorMetadata(name=output.name, datatype=output.datatype, shape=[-1])
        for output in v2.OUTPUTS
        if not output.optional
    ]
    return reply(
        ModelMetadata(
            name=model.name,
            versions=list(service.registry.versions(model.name).served),
            platform="onnxruntime_onnx",
            inputs=[TensorMetadata(name=graph.input, datatype=number, shape=[-1, *graph.input_shape])],
            outputs=[scores, *others],
        )
    )


@model_route(
    router,
    "GET",
    "/ready",
    protocol="v2",
    summary="Model readiness",
    response_model=ModelReady,
    responses=problems(*MODEL_PROBLEMS),
)
async def model_ready(model: ModelDep) -> Response:
    """200 if the model is served."""
    return reply(ModelReady(name=model.name))


@router.post(
    "/v2/repository/index",
    summary="List every version of every model",
    response_model=list[IndexEntry],
    responses=problems(ProblemKind.NOT_JSON, ProblemKind.INVALID_INPUT, ProblemKind.BODY_TOO_LARGE),
    openapi_extra=json_request(IndexRequest, {"all": {}}),
)
async def index(request: Request, service: ServiceDep) -> Response:
    """Refused versions have the reason."""
    asked = await _optional(request, service.settings.max_body_bytes, IndexRequest)
    entries = [entry for versions in service.registry.models.values() for entry in _entries(versions)]
    chosen = [e.model_dump() for e in entries if e.state == "READY" or not asked.ready]
    return Response(orjson.dumps(chosen), media_type=JSON_TYPE)


@router.post(
    "/v2/repository/models/{name}/load",
    summary="Load a model's files now",
    response_model=ModelReady,
    responses=problems(
        ProblemKind.UPLOADS_OFF, ProblemKind.INSUFFICIENT_STORAGE, *MODEL_PROBLEMS, *BODY_PROBLEMS
    ),
    openapi_extra=json_request(LoadRequest, {"as it is": {}}),
)
async def load(name: ModelName, request: Request, service: Allowed) -> Response:
    """Needs the setting uploads, though the files are in the folder: PUT /v1/models/NAME uploads others."""
    await _optional(request, service.settings.max_body_bytes, LoadRequest)
    model = await service.models.load(name)
    return reply(ModelReady(name=model.name))


@router.post(
    "/v2/repository/models/{name}/unload",
    summary="Unload a model until it is loaded again or its files change",
    status_code=200,
    responses=problems(
        ProblemKind.UPLOADS_OFF, ProblemKind.INSUFFICIENT_STORAGE, ProblemKind.UNKNOWN_MODEL, *BODY_PROBLEMS
    ),
    openapi_extra=json_request(UnloadRequest, {"as it is": {}}),
)
async def unload(name: ModelName, request: Request, service: Allowed) -> Response:
    """The files stay in place. Needs the setting uploads."""
    await _optional(request, service.settings.max_body_bytes, UnloadRequest)
    await service.models.unload(name)
    return Response(b"{}", media_type=JSON_TYPE)


def _entries(versions: Versions) -> list[IndexEntry]:
    """Return every version; a served one counts as ready even if its new file is refused."""
    name, served = versions.name, versions.served
    entries = [IndexEntry(name=name, version=v, state="READY", reason="") for v in served]
    entries += [
        IndexEntry(name=name, version=v, state="UNAVAILABLE", reason=reason)
        for v, reason in versions.refused.items()
        if v not in served
    ]
    if not entries:
        entries = [IndexEntry(name=name, version="", state="UNAVAILABLE", reason=versions.reason)]
    return entries


async def _optional(request: Request, limit: int, schema: type[M]) -> M:
    """Return the body as an object of that type; an empty body counts as an empty object."""
    check_media_type(headers_of(request), JSON_TYPE, missing=JSON_TYPE)  # as infer
    body = await read_body(request, limit)
    return parse(schema, body or b"{}")
