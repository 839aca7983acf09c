"""What routes share: the parts of the application, and the model that a path names.

Dependencies are ``async`` although they wait for nothing: the framework would run plain functions
in a thread each, at more than the cost of a prediction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Request

from service.engine import Engine
from service.errors import Problem, ProblemKind
from service.jobs import Jobs
from service.metrics import Metrics
from service.registry import Model, Registry
from service.settings import Settings
from service.shared_metrics import SharedMetrics


@dataclass(frozen=True)
class Service:
    """What the routes work with."""

    settings: Settings
    registry: Registry
    engine: Engine
    jobs: Jobs
    shared_metrics: SharedMetrics

    @property
    def metrics(self) -> Metrics:
        """What this process counts."""
        return self.shared_metrics.metrics


async def get_service(request: Request) -> Service:
    """The service that ``create_app`` made."""
    service: Service = request.app.state.service
    return service


ServiceHere = Annotated[Service, Depends(get_service)]
ModelName = Annotated[
    str,
    Path(
        description="Name of the ONNX file, without .onnx.",
        openapi_examples={"demo": {"value": "two-moons"}},
    ),
]


async def get_model(name: ModelName, service: ServiceHere) -> Model:
    """The served model of that name.

    Raises:
        Problem: 404 where there is none, 409 where its file was refused.
    """
    registry = service.registry
    if name in registry.served:
        return registry.served[name]
    if name in registry.refused:
        raise Problem(ProblemKind.MODEL_REFUSED, f"model '{name}' is refused: {registry.refused[name]}")
    raise unknown_model(name, registry)


ModelHere = Annotated[Model, Depends(get_model)]


def unknown_model(name: str, registry: Registry) -> Problem:
    """The 404 that tells which names there are."""
    served = ", ".join(f"'{n}'" for n in registry.served) or "none"
    return Problem(ProblemKind.UNKNOWN_MODEL, f"no model is named '{name[:64]}'; served: {served}")
