"""Predictions with certified radii."""

from __future__ import annotations

from time import perf_counter

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api.bodies import headers_of, lease_of, read_body, until_gone
from service.api.context import ModelDep, ServiceDep, model_route
from service.api.openapi import BODY_PROBLEMS, MODEL_PROBLEMS, array_request, json_request, problems
from service.auth.admission import CALLER
from service.components import Service
from service.inference.request import PredictOptions
from service.models.registry import Model
from service.problems import ProblemKind
from service.protocols import v1
from service.protocols.protocol import Codec, Payload
from service.protocols.v1_schemas import PREDICT_EXAMPLES, PredictRequest, PredictResponse

router = APIRouter(tags=["predict"])


@model_route(
    router,
    "POST",
    "/predict",
    summary="Classify inputs with certified radii",
    response_model=PredictResponse,
    responses=problems(
        *BODY_PROBLEMS,
        ProblemKind.NOT_AN_ARRAY,
        *MODEL_PROBLEMS,
        ProblemKind.BELOW_POLICY,
        ProblemKind.NOT_SIGNING,
    ),
    openapi_extra=array_request(json_request(PredictRequest, PREDICT_EXAMPLES), v1.NPY_TYPE, PredictOptions),
)
async def predict(request: Request, model: ModelDep, service: ServiceDep) -> Response:
    """No change of the input within `certified_radius`, measured in the norm given, changes the label."""
    return await respond(request, service, model, v1.CODEC)


async def respond(request: Request, service: Service, model: Model, codec: Codec) -> Response:
    """Return the response to a request for predictions; ``service.http.fast_path`` takes the same steps.

    Raises:
        Problem, InputError: the request is invalid, or exceeds a limit.
    """
    begun, pipeline, headers = perf_counter(), service.pipeline, headers_of(request)
    codec.check_media_type(headers)
    body = await read_body(request, service.settings.max_body_bytes)
    payload = Payload(headers, dict(request.query_params), body)
    decoded = codec.decode(payload, service.settings.max_rows, model)
    question = pipeline.question(model, decoded, request.scope[CALLER], lease_of(request), begun)
    del body, payload, decoded  # which may be large
    answer = pipeline.answer(question)
    answers = await (until_gone(request, answer) if question.long else answer)
    content, described = codec.response(pipeline, answers)
    response = Response(content)
    response.raw_headers += described
    return response
