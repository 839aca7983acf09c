"""Health, readiness, metrics, and explanations of problems."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from service.api.bodies import reply
from service.api.context import ServiceDep
from service.api.openapi import problems
from service.api.schemas.models_and_jobs import Health, Readiness
from service.problems import TYPE_PREFIX, Problem, ProblemKind
from service.telemetry.metrics import exposition, job_facts, model_facts

router = APIRouter(tags=["operations"])

DATABASE_SECONDS = 2.0


@router.get(
    "/healthz", summary="Check that the process is alive", response_model=Health, responses=problems()
)
async def health() -> Response:
    """Always 200."""
    return reply(Health())


@router.get(
    "/readyz",
    summary="Check that the process is ready to serve",
    response_model=Readiness,
    responses=problems(ProblemKind.NOT_READY),
)
async def readiness(service: ServiceDep) -> Response:
    """200 if models are served, predictions run, and jobs can be stored; else 503 with the reason.

    After a start, 503 until every file is served or refused, for at most 20 s; during shutdown, 503.
    """
    registry = service.registry
    if service.metrics.draining.value:
        raise Problem(ProblemKind.NOT_READY, "the service is shutting down")
    if not service.models.settled:
        detail = f"the service is starting; models served: {len(registry.defaults)}"
        raise Problem(ProblemKind.NOT_READY, f"{detail}, being checked: {registry.checking}")
    if not registry.defaults:
        refused = "; ".join(f"{name} is refused: {reason}" for name, reason in registry.refused.items())
        raise Problem(ProblemKind.NOT_READY, registry.fault or refused)
    if not service.engine.alive():
        raise Problem(ProblemKind.NOT_READY, "predictions cannot be run")
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
    summary="Get metrics in the format of Prometheus",
    response_class=PlainTextResponse,
    responses=problems(),
)
async def metrics(service: ServiceDep) -> Response:
    """Sums over all processes of the service; margins and radii exclude requests with `tighten`."""
    registry, shared = service.registry, service.shared_metrics
    known = model_facts(registry) + job_facts(await service.jobs.count(DATABASE_SECONDS))
    text = exposition(shared.metrics.descriptions(), shared.total(), known)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@router.get(
    TYPE_PREFIX + "{kind}",
    summary="Explain a type of problem",
    response_class=PlainTextResponse,
    responses=problems(ProblemKind.NO_ROUTE),
)
async def explain_problem(kind: str) -> PlainTextResponse:
    """Return the text at the `type` URI of a problem."""
    for known in ProblemKind:
        if known.slug == kind:
            return PlainTextResponse(f"{known.status} {known.title}. {known.advice}\n")
    raise Problem(ProblemKind.NO_ROUTE, f"no type of problem is named '{kind}'")
