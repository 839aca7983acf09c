"""Predictions with certified radii."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api.answering import Answered, answer
from service.api.arrays import AnyArray, read_json_inputs, read_npy_inputs
from service.api.bodies import JSON_TYPE, media_type_of, read_body, unsupported_type
from service.api.context import ModelHere, Service, ServiceHere, model_route
from service.api.openapi import BODY_PROBLEMS, MODEL_PROBLEMS, array_request, json_request, problems
from service.errors import FieldError, Problem, ProblemKind
from service.registry import Model
from service.schemas import PREDICT_EXAMPLES, PredictOptions, PredictRequest, PredictResponse

NPY_TYPE = "application/x-npy"

router = APIRouter(tags=["predict"])


@model_route(
    router,
    "POST",
    "/predict",
    summary="Classify inputs, each with its certified radius",
    response_model=PredictResponse,
    responses=problems(
        *BODY_PROBLEMS,
        ProblemKind.NOT_AN_ARRAY,
        *MODEL_PROBLEMS,
        ProblemKind.BELOW_POLICY,
        ProblemKind.NOT_SIGNING,
    ),
    openapi_extra=array_request(json_request(PredictRequest, PREDICT_EXAMPLES), NPY_TYPE, PredictOptions),
)
async def predict(request: Request, model: ModelHere, service: ServiceHere) -> Response:
    """Within `certified_radius` of the input, in the norm given, no change alters the label."""
    return await answer_predict(request, service, model)


async def answer_predict(request: Request, service: Service, model: Model) -> Response:
    """The answer to a predict request; reached by the route above or, faster, by ``hot.py``.

    Raises:
        Problem, InputError: what is wrong with it.
    """
    begun, metrics = perf_counter(), service.metrics
    inputs, options = await _read(request, service, model)
    metrics.parse_seconds.observe(perf_counter() - begun)
    answered = await answer(service, model, inputs, options)
    begun = perf_counter()
    content = {
        "model": {"name": model.name, "version": model.version, "sha256": model.predictor.file.sha256},
        "predictions": _rows(model.predictor.class_names, answered),
    }
    response = Response(orjson.dumps(content), media_type=JSON_TYPE)
    metrics.write_seconds.observe(perf_counter() - begun)
    return response


async def _read(request: Request, service: Service, model: Model) -> tuple[AnyArray, PredictOptions]:
    media_type = media_type_of(request)
    if media_type not in (JSON_TYPE, NPY_TYPE):
        raise unsupported_type(media_type, JSON_TYPE, NPY_TYPE)
    settings = service.settings
    body = await read_body(request, settings.max_body_bytes)
    query = dict(request.query_params) if request.scope["query_string"] else {}
    if media_type == NPY_TYPE:
        return read_npy_inputs(body, query, settings.max_rows)
    if not query.keys().isdisjoint(PredictOptions.model_fields):
        detail = f"options go into the body; in the query they are accepted with '{NPY_TYPE}'"
        raise Problem.invalid([FieldError(field="query", reason=detail)])
    return read_json_inputs(body, model.predictor.file.graph.input_size, settings.max_rows)


def _rows(names: Sequence[str], answered: Answered) -> list[dict[str, Any]]:
    """As :class:`service.schemas.Prediction`; plain dictionaries, which are written ten times as fast."""
    part, judgement, portable = answered.part, answered.judgement, answered.portable
    start, stop = part.start, part.stop
    count, predictions = stop - start, part.batch.predictions
    norm, tightening = predictions.norm.value, predictions.tightening
    nothing = [None] * count
    columns = [
        *(column[start:stop] for column in part.batch.columns),
        ["lipschitz"] * count if tightening is None else tightening.method.tolist(),
        nothing if portable is None else portable.tolist(),
        nothing if judgement.certified is None else judgement.certified.tolist(),
        [False] * count if judgement.abstained is None else judgement.abstained.tolist(),
        answered.certificates or nothing,
    ]
    return [
        {
            "label": None if withheld else names[label],
            "label_index": None if withheld else label,
            "abstained": withheld,
            "scores": scores,
            "margin": margin,
            "certified_radius": radius,
            "method": method,
            "radius_float32_portable": for_all,
            "runner_up": names[runner_up],
            "norm": norm,
            "certified": certified,
            "certificate": certificate,
        }
        for label, scores, margin, radius, runner_up, method, for_all, certified, withheld, certificate
        in zip(*columns, strict=True)
    ]  # fmt: skip
