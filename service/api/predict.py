"""Predictions with certified radii."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api.context import ModelHere, ServiceHere, model_route
from service.api.openapi import BODY_PROBLEMS, MODEL_PROBLEMS, array_request, json_request, problems
from service.inference.pipeline import Answered, Asked, Protocol, Sent, respond
from service.inference.request import PredictOptions
from service.models.registry import Model
from service.problems import FieldError, Problem, ProblemKind
from service.protocols.arrays import read_json_inputs, read_npy_inputs
from service.protocols.bodies import JSON_TYPE, media_type_of
from service.protocols.v1_schemas import PREDICT_EXAMPLES, PredictRequest, PredictResponse
from service.settings import Settings
from service.wire import Header

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
    return await respond(request, service, model, PROTOCOL)


def _read(sent: Sent, settings: Settings, model: Model) -> Asked:
    if media_type_of(sent.headers) == NPY_TYPE:
        return Asked(*read_npy_inputs(sent.body, dict(sent.query), settings.max_rows))
    if not sent.query.keys().isdisjoint(PredictOptions.model_fields):
        detail = f"options go into the body; in the query they are accepted with '{NPY_TYPE}'"
        raise Problem.invalid([FieldError(field="query", reason=detail)])
    return Asked(*read_json_inputs(sent.body, model.predictor.file.graph.input_size, settings.max_rows))


def _write(model: Model, _: Asked, answered: Answered) -> tuple[bytes, list[Header]]:
    content = {
        "model": {"name": model.name, "version": model.version, "sha256": model.predictor.file.sha256},
        "execution": answered.part.execution,
        "predictions": _rows(model.predictor.class_names, answered),
        "warnings": [warning.model_dump() for warning in answered.warnings],
    }
    return orjson.dumps(content), [(b"content-type", JSON_TYPE.encode())]


def _rows(names: Sequence[str], answered: Answered) -> list[dict[str, Any]]:
    """Return rows of ``Prediction`` as plain dictionaries, which are written ten times as fast."""
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
    rows: list[dict[str, Any]] = [
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
    if tightening is not None:
        for row, complete in zip(rows, tightening.complete.tolist(), strict=True):
            row["tightening_complete"] = complete
    return rows


PROTOCOL = Protocol((JSON_TYPE, NPY_TYPE), _read, _write)
