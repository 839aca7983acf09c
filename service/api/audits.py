"""Audits: what can be observed, against what is certified."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse

from lipmodel.audit.report import AuditReport
from lipmodel.errors import InputError
from service.api.bodies import input_array, json_body
from service.api.context import ModelHere, ServiceHere
from service.api.openapi import BODY_PROBLEMS, MODEL_PROBLEMS, json_request, problems
from service.schemas import AUDIT_EXAMPLES, AuditRequest

router = APIRouter(tags=["audits"])


@router.post(
    "/v1/models/{name}/audits",
    summary="Look for a contradiction of what is certified",
    response_model=AuditReport,
    responses=problems(*BODY_PROBLEMS, *MODEL_PROBLEMS),
    openapi_extra=json_request(AuditRequest, AUDIT_EXAMPLES),
)
async def audit_model(
    model: ModelHere, body: Annotated[AuditRequest, Depends(json_body(AuditRequest))], service: ServiceHere
) -> JSONResponse:
    """Measures gradients of the deployed graph and attacks its radii. Evidence, never a proof."""
    settings = service.settings
    if body.samples > settings.max_audit_samples:
        raise InputError(
            f"is {body.samples}; at most {settings.max_audit_samples} is accepted", field="samples"
        )
    size = model.predictor.file.graph.input_size
    report = await service.engine.audit(
        model,
        norm=body.norm,
        inputs=None if body.inputs is None else input_array(body.inputs, size, settings.max_rows),
        box=None if body.box is None else (body.box.low, body.box.high),
        samples=body.samples,
        seed=body.seed,
    )
    return JSONResponse(report.to_dict())
