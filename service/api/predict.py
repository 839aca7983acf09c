"""Predictions with certified radii."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from lipmodel.certify.predictor import Predictions
from lipmodel.norms import Array
from service.api.bodies import input_array, json_body, reply
from service.api.context import ModelHere, ServiceHere, model_route
from service.api.openapi import BODY_PROBLEMS, MODEL_PROBLEMS, json_request, problems
from service.errors import ProblemKind
from service.policy import Judgement, judge
from service.registry import Model
from service.schemas import PREDICT_EXAMPLES, ModelReference, Prediction, PredictRequest, PredictResponse

router = APIRouter(tags=["predict"])


@model_route(
    router,
    "POST",
    "/predict",
    summary="Classify inputs, each with its certified radius",
    response_model=PredictResponse,
    responses=problems(*BODY_PROBLEMS, *MODEL_PROBLEMS, ProblemKind.BELOW_POLICY),
    openapi_extra=json_request(PredictRequest, PREDICT_EXAMPLES),
)
async def predict(
    model: ModelHere,
    body: Annotated[PredictRequest, Depends(json_body(PredictRequest))],
    service: ServiceHere,
) -> Response:
    """Within `certified_radius` of the input, in the norm given, no change alters the label."""
    predictor = model.predictor
    settings = service.settings
    most = min(settings.max_rows, settings.max_tightened_rows) if body.tighten else settings.max_rows
    inputs = input_array(body.inputs, predictor.file.graph.input_size, most)
    norm = model.settings.policy.norm_for(body.norm)
    predictions, portable = await service.engine.predict(
        model, inputs, norm, tighten=body.tighten, portable=body.portable
    )
    reference = ModelReference(name=model.name, version=model.version, sha256=predictor.file.sha256)
    judgement = judge(model.settings.policy, norm, predictions.radii.certified_radius, body.epsilon)
    if judgement.abstained is not None:
        service.engine.served.abstentions[model.name] += int(judgement.abstained.sum())
    rows = _rows(model, predictions, portable, judgement)
    return reply(PredictResponse(model=reference, predictions=rows))


def _rows(
    model: Model, predictions: Predictions, portable: Array | None, judgement: Judgement
) -> list[Prediction]:
    names, radii, tightening = model.predictor.class_names, predictions.radii, predictions.tightening
    count = len(radii.label)
    methods = ["lipschitz"] * count if tightening is None else tightening.method.tolist()
    portables = [None] * count if portable is None else portable.tolist()
    certified = [None] * count if judgement.certified is None else judgement.certified.tolist()
    abstained = [False] * count if judgement.abstained is None else judgement.abstained.tolist()
    columns = (radii.label, predictions.scores, radii.margin, radii.certified_radius, radii.runner_up)
    return [
        Prediction(
            label=None if withheld else names[label],
            label_index=None if withheld else label,
            abstained=withheld,
            scores=scores,
            margin=margin,
            certified_radius=radius,
            method=method,
            radius_float32_portable=portable_radius,
            runner_up=names[runner_up],
            norm=predictions.norm,
            certified=certain,
        )
        for label, scores, margin, radius, runner_up, method, portable_radius, certain, withheld in zip(
            *(c.tolist() for c in columns), methods, portables, certified, abstained, strict=True
        )
    ]
