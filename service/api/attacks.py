"""Attacks on inputs: the nearest adversarial input found, beside the certified radius."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from service.api.bodies import json_body, reply, until_gone
from service.api.context import ModelDep, ServiceDep, model_route
from service.api.openapi import BODY_PROBLEMS, MODEL_PROBLEMS, json_request, problems
from service.api.schemas.models_and_jobs import ATTACK_EXAMPLES, AttackRequest, AttackResponse, Finding
from service.auth.admission import CALLER
from service.inference.attack_search import AttackSearchResult
from service.models.registry import Model
from service.problems import ProblemKind
from service.protocols.bodies import input_array
from service.protocols.v1_schemas import ModelReference

router = APIRouter(tags=["audits"])


@model_route(
    router,
    "POST",
    "/attacks",
    summary="Attack a few inputs: find the nearest change of label",
    response_model=AttackResponse,
    responses=problems(*BODY_PROBLEMS, *MODEL_PROBLEMS, ProblemKind.QUEUE_FULL),
    openapi_extra=json_request(AttackRequest, ATTACK_EXAMPLES),
)
async def attack_model(
    request: Request,
    model: ModelDep,
    body: Annotated[AttackRequest, Depends(json_body(AttackRequest))],
    service: ServiceDep,
) -> Response:
    """Use the attacks of an audit, in the model's own execution. A nearer change of label may still exist."""
    predictor = model.predictor
    rows = input_array(body.inputs, predictor.file.graph.input_size, service.settings.max_rows)
    norm = body.norm or predictor.default_norm
    search = service.attacker.attack(model, predictor.check_inputs(rows), norm, request.scope[CALLER])
    attacked = await until_gone(request, search)
    return reply(
        AttackResponse(
            model=ModelReference(**model.reference),
            norm=norm,
            execution=model.settings.execution,
            findings=_findings(model, attacked),
        )
    )


def _findings(model: Model, attacked: AttackSearchResult) -> list[Finding]:
    names, attack = model.predictor.class_names, attacked.attack
    radii = attacked.before.radii
    return [
        Finding(
            label=names[label],
            certified_radius=radius,
            found=found,
            adversarial=adversarial if found else None,
            adversarial_label=names[other] if found else None,
            distance=distance if found else None,
            refuted=found and distance <= radius,
        )
        for label, radius, found, adversarial, other, distance in zip(
            radii.label.tolist(),
            radii.certified_radius.tolist(),
            attack.flipped.tolist(),
            attack.adversarial.tolist(),
            attacked.after.radii.label.tolist(),
            attack.distance.tolist(),
            strict=True,
        )
    ]
