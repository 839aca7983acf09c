"""For operators: is the process alive, is it fit to serve, what is counted, what does a problem mean."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from service.api.bodies import reply
from service.api.context import ServiceDep
from service.api.openapi import problems
from service.api.schemas.models_and_jobs import Health, Readiness
from service.problems import TYPE_PREFIX, Problem, ProblemKind
from service.telemetry.info_metrics import job_facts, model_facts
from service.telemetry.metrics import exposition

router = APIRouter(tags=["operations"])

DATABASE_SECONDS = 2.0


@router.get("/healthz", summary="Is the process alive?", response_model=Health, responses=problems())
async def health() -> Response:
    """200 as long as the process answers at all."""
    return reply(Health())


@router.get(
    "/readyz",
    summary="Is this process fit to answer?",
    response_model=Readiness,
    responses=problems(ProblemKind.NOT_READY),
)
async def readiness(service: ServiceDep) -> Response:
    """200 while models are served, work is taken, jobs can be kept and none said stop; else 503, and why.

    After a start, first once every file that was there is served or refused, or after 20 s.
    """
    registry = service.registry
    if service.metrics.draining.value:
        raise Problem(ProblemKind.NOT_READY, "the service was told to stop")
    if not service.models.settled:
        detail = f"the service has just started; served so far: {len(registry.defaults)} models"
        raise Problem(ProblemKind.NOT_READY, f"{detail}, being checked: {registry.checking}")
    if not registry.defaults:
        refused = "; ".join(f"{name} is refused: {reason}" for name, reason in registry.refused.items())
        raise Problem(ProblemKind.NOT_READY, registry.fault or refused)
    if not service.engine.alive():
        raise Problem(ProblemKind.NOT_READY, "no predictions can be run")
    if fault := await service.jobs.fault(DATABASE_SECONDS):
        raise Problem(ProblemKind.NOT_READY, fault)
    mirror = service.models.mirror
    return reply(
        Readiness(
            served=len(registry.defaults),
            refused=len(registry.refused),
            checking=registry.checking,
            digest=registry.digest,
            behind=None if mirror is None else mirror.fault,
        )
    )


@router.get(
    "/metrics",
    summary="What is counted, for Prometheus",
    response_class=PlainTextResponse,
    responses=problems(),
)
async def metrics(service: ServiceDep) -> Response:
    """Of all processes of the service together; margins and radii without those asked to tighten."""
    registry, shared = service.registry, service.shared_metrics
    known = model_facts(registry) + job_facts(await service.jobs.count(DATABASE_SECONDS))
    text = exposition(shared.metrics.descriptions(), shared.total(), known)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@router.get(
    TYPE_PREFIX + "{kind}",
    summary="What a kind of problem means",
    response_class=PlainTextResponse,
    responses=problems(ProblemKind.NO_ROUTE),
)
async def explain_problem(kind: str) -> PlainTextResponse:
    """Where the 'type' of a problem leads."""
    for known in ProblemKind:
        if known.slug == kind:
            return PlainTextResponse(f"{known.status} {known.title}. {known.advice}\n")
    raise Problem(ProblemKind.NO_ROUTE, f"no kind of problem is named '{kind}'")
