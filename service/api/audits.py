"""Audits: observed gradients and attacks against certified bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from lipmodel.audit.findings import AuditReport
from lipmodel.errors import InputError
from service.api import job_routes as jobs
from service.api.bodies import json_body
from service.api.context import ModelDep, ServiceDep
from service.api.openapi import json_request
from service.api.reports import add_report_route, require_packages
from service.api.schemas.models_and_jobs import AUDIT_EXAMPLES, AuditRequest
from service.protocols.bodies import input_array

router = APIRouter(tags=["audits"])


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
        require_packages()
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
add_report_route(router, "audit")
