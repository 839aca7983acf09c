"""For operators: is the process alive, does it serve, what does a problem mean."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from service.api.bodies import reply
from service.api.context import ServiceHere
from service.api.openapi import problems
from service.errors import TYPE_PREFIX, Problem, ProblemKind
from service.metrics import exposition
from service.schemas import Health, Readiness

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="Is the process alive?", response_model=Health, responses=problems())
async def health() -> Response:
    """200 as long as the process answers at all."""
    return reply(Health())


@router.get(
    "/readyz",
    summary="Is any model served?",
    response_model=Readiness,
    responses=problems(ProblemKind.NOT_READY),
)
async def readiness(service: ServiceHere) -> Response:
    """200 once at least one model is served; otherwise 503, and why."""
    registry = service.registry
    if not registry.served:
        refused = "; ".join(f"{name} is refused: {reason}" for name, reason in registry.refused.items())
        raise Problem(ProblemKind.NOT_READY, registry.fault or refused)
    return reply(Readiness(served=len(registry.served), refused=len(registry.refused)))


@router.get(
    "/metrics",
    summary="Histograms of margins and certified radii, for Prometheus",
    response_class=PlainTextResponse,
    responses=problems(),
)
async def metrics(service: ServiceHere) -> Response:
    """Per model, norm and class, of predictions since the start; those asked to tighten are left out."""
    return Response(exposition(service.engine.served), media_type=CONTENT_TYPE_LATEST)


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
