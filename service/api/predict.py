"""Predictions with certified radii."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from lipmodel.certify.predictor import Predictions
from lipmodel.norms import Array
from service.api.bodies import input_array, json_body, reply
from service.api.context import ModelHere, Service, ServiceHere
from service.api.openapi import BODY_PROBLEMS, MODEL_PROBLEMS, json_request, problems
from service.errors import Problem, ProblemKind
from service.registry import Model
from service.schemas import PREDICT_EXAMPLES, ModelReference, Prediction, PredictRequest, PredictResponse

router = APIRouter(tags=["predict"])


@router.post(
    "/v1/models/{name}/predict",
    summary="Classify inputs, each with its certified radius",
    response_model=PredictResponse,
    responses=problems(*BODY_PROBLEMS, *MODEL_PROBLEMS, ProblemKind.NOT_SIGNING),
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
    slow = body.tighten or body.certificate
    most = min(settings.max_rows, settings.max_tightened_rows) if slow else settings.max_rows
    inputs = input_array(body.inputs, predictor.file.graph.input_size, most)
    norm = body.norm or predictor.default_norm
    predictions, portable = await service.engine.predict(
        model, inputs, norm, tighten=body.tighten, portable=body.portable
    )
    reference = ModelReference(name=model.name, version=model.version, sha256=predictor.file.sha256)
    certificates = None
    if body.certificate:
        certificates = await _signed(service, model, inputs, predictions)
    rows = _rows(model, predictions, portable, body.epsilon, certificates)
    return reply(PredictResponse(model=reference, predictions=rows))


async def _signed(service: Service, model: Model, inputs: Array, predictions: Predictions) -> list[str]:
    """Certificates of the answers; in a thread, since each takes as long as a small prediction.

    Raises:
        Problem: 501, the service has no key to sign with.
    """
    if service.signer is None:
        detail = "certificates are not signed here: the setting signing_keys names no keys"
        raise Problem(ProblemKind.NOT_SIGNING, detail)
    return await asyncio.to_thread(service.signer.certificates, model.predictor, inputs, predictions)


def _rows(
    model: Model,
    predictions: Predictions,
    portable: Array | None,
    epsilon: float | None,
    signed: list[str] | None,
) -> list[Prediction]:
    names, radii, tightening = model.predictor.class_names, predictions.radii, predictions.tightening
    count = len(radii.label)
    methods = ["lipschitz"] * count if tightening is None else tightening.method.tolist()
    portables = [None] * count if portable is None else portable.tolist()
    certificates = [None] * count if signed is None else signed
    columns = (radii.label, predictions.scores, radii.margin, radii.certified_radius, radii.runner_up)
    return [
        Prediction(
            label=names[label],
            label_index=label,
            scores=scores,
            margin=margin,
            certified_radius=radius,
            method=method,
            radius_float32_portable=portable_radius,
            runner_up=names[runner_up],
            norm=predictions.norm,
            # A radius of 0 certifies nothing, not even a change of size 0.
            certified=None if epsilon is None else radius > 0.0 and epsilon <= radius,
            certificate=certificate,
        )
        for label, scores, margin, radius, runner_up, method, portable_radius, certificate in zip(
            *(c.tolist() for c in columns), methods, portables, certificates, strict=True
        )
    ]
