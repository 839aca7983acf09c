"""Audits: observed gradients and attacks against certified bounds.

An attack of a few inputs is answered at once: the nearest adversarial input found, beside the radius.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from lipmodel.audit.findings import AuditReport
from lipmodel.errors import InputError
from service.api import job_routes as jobs
from service.api.bodies import json_body, reply, until_gone
from service.api.context import ModelDep, ServiceDep, model_route
from service.api.openapi import BODY_PROBLEMS, MODEL_PROBLEMS, json_request, problems
from service.api.schemas.models_and_jobs import (
    ATTACK_EXAMPLES,
    AUDIT_EXAMPLES,
    AttackRequest,
    AttackResponse,
    AuditRequest,
    Finding,
)
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


@jobs.submit_route(
    router,
    "audit",
    summary="Audit a model: search for contradictions of its certified bounds",
    report=AuditReport,
    request=json_request(AuditRequest, AUDIT_EXAMPLES),
)
async def audit_model(
    request: Request,
    model: ModelDep,
    body: Annotated[AuditRequest, Depends(json_body(AuditRequest))],
    service: ServiceDep,
) -> Response:
    """Measure gradients of the deployed graph and attack its radii. An audit is evidence, not proof."""
    settings, predictor = service.settings, model.predictor
    if body.samples > settings.max_audit_samples:
        raise InputError(
            f"is {body.samples}; at most {settings.max_audit_samples} is accepted", field="samples"
        )
    if not body.samples and body.inputs is None:
        raise InputError("is 0; at least 1 is required without inputs", field="samples")
    if body.box is not None and body.box.low > body.box.high:
        raise InputError(f"is empty; low {body.box.low:g} exceeds high {body.box.high:g}", field="box")
    if body.report:
        jobs.require_packages()
    options = body.model_dump(mode="json", exclude={"inputs", "box"})
    options["titles"] = {"model": model.name, "data": "the rows sent" if body.inputs else "random points"}
    options["box"] = None if body.box is None else [body.box.low, body.box.high]
    inputs = None
    if body.inputs is not None:
        rows = input_array(body.inputs, predictor.file.graph.input_size, settings.max_rows)
        inputs = predictor.check_inputs(rows)

    def fill(folder: Path) -> None:
        if inputs is not None:
            np.save(folder / "inputs.npy", inputs)

    parameters = body.model_dump(mode="json", exclude={"inputs"}) | {"rows": len(body.inputs or [])}
    return await jobs.submit(
        request, service.jobs, "audit", model, parameters=parameters, options=options, fill=fill
    )


jobs.add_routes(router, "audit")


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
