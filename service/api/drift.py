"""Drift: recently served radii against those of a reference evaluation."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query
from starlette.responses import Response

from lipmodel.errors import InputError
from lipmodel.norms import Norm
from service.api import job_routes as jobs
from service.api.bodies import reply
from service.api.context import ModelDep, ServiceDep, model_route
from service.api.openapi import MODEL_PROBLEMS, problems
from service.api.schemas.models_and_jobs import Drift, RadiiReference, RadiiServed
from service.problems import ProblemKind
from service.telemetry.drift import kolmogorov_smirnov, share_below

router = APIRouter(tags=["drift"])


@model_route(
    router,
    "GET",
    "/drift",
    summary="Compare recently served radii with those of an evaluation",
    response_model=Drift,
    responses=problems(ProblemKind.UNKNOWN_JOB, ProblemKind.INVALID_INPUT, *MODEL_PROBLEMS),
)
async def measure_drift(
    model: ModelDep,
    service: ServiceDep,
    evaluation: Annotated[str, Query(max_length=64, description="Id of the evaluation to compare with.")],
    epsilon: Annotated[
        float, Query(ge=0, allow_inf_nan=False, description="Radius threshold of share_below.")
    ] = 0.0,
) -> Response:
    """Radii are those of the plain tier in the norm of the evaluation, of right and wrong predictions."""
    job = await jobs.find(service, "evaluation", evaluation)
    if job.result is None:
        raise InputError(f"is {job.state.value}; it must be done", field="evaluation")
    if job.radii is None:
        raise InputError("is of a scaled threat set; one in a norm is accepted", field="evaluation")
    if job.sha256 != model.predictor.file.sha256:
        raise InputError("is of another model, or of another file of this model", field="evaluation")
    norm = Norm(json.loads(job.result)["norm"])
    reference = np.frombuffer(job.radii, dtype="<f8")
    distribution = service.metrics.served_radii.of(model, norm)
    latest, since = distribution.latest, distribution.since
    test = kolmogorov_smirnov(latest, reference) if len(latest) else None
    return reply(
        Drift(
            evaluation=job.id,
            norm=norm,
            epsilon=epsilon,
            served=RadiiServed(
                count=len(latest),
                share_below=share_below(latest, epsilon) if len(latest) else None,
                since=None if since is None else datetime.fromtimestamp(since, UTC),
            ),
            reference=RadiiReference(count=len(reference), share_below=share_below(reference, epsilon)),
            statistic=None if test is None else test.statistic,
            p_value=None if test is None else test.p_value,
        )
    )
