"""Inference by the Open Inference Protocol v2 (KServe, Triton), certified radii as one more output."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api.context import ModelDep, ServiceDep, model_route
from service.api.openapi import BODY_PROBLEMS, MODEL_PROBLEMS, json_request, problems
from service.api.predict import respond
from service.problems import ProblemKind
from service.protocols import v2
from service.protocols.bodies import FILE_TYPE
from service.protocols.v2_schemas import InferRequest, InferResponse

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
