"""What routes share: the parts of the application, and the model that a path names.

Dependencies are ``async`` although they wait for nothing: the framework would run plain functions
in a thread each, at more than the cost of a prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Request

from service.budget import Budget
from service.inference.attack_search import Attacker
from service.inference.engine import Engine
from service.jobs.queue import Jobs
from service.models.admin import Changes
from service.models.registry import Model, Registry
from service.models.watcher import Models
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.multiprocess import SharedMetrics

if TYPE_CHECKING:  # what it imports takes memory that a service that does not sign need not pay
    from service.inference.signer import Signer

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Service:
    """What the routes work with."""

    settings: Settings
    models: Models
    changes: Changes
    engine: Engine
    jobs: Jobs
    attacker: Attacker
    spooled: Budget
    shared_metrics: SharedMetrics
    signer: Signer | None = None

    @property
    def registry(self) -> Registry:
        """What is served now. To be read once in a request, which then sees one state of the folder."""
        return self.models.current

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
        description="Name of the model: of its file without .onnx, or of its folder.",
        openapi_examples={"demo": {"value": "two-moons"}},
    ),
]

OF_VERSION = "Number of a version, or a label."
ModelVersion = Annotated[str, Path(description=OF_VERSION, openapi_examples={"demo": {"value": "1"}})]


async def get_model(name: ModelName, request: Request, service: ServiceHere) -> Model:
    """The model that a path names, and the version where it names one; see ``Registry.find``."""
    return service.registry.find(name, request.path_params.get("version"))


ModelHere = Annotated[Model, Depends(get_model)]
VERSION = {
    "name": "version",
    "in": "path",
    "required": True,
    "description": OF_VERSION,
    "schema": {"type": "string"},
    "examples": {"demo": {"value": "1"}},
}


def model_route(
    router: APIRouter, method: str, path: str, *, protocol: str = "v1", **described: Any
) -> Callable[[F], F]:
    """Adds a route of a model, ``/v1/models/{name}PATH``, and the same of one of its versions."""
    extra = described.get("openapi_extra", {})
    of_version = {**extra, "parameters": [*extra.get("parameters", []), VERSION]}

    def add(endpoint: F) -> F:
        model = f"/{protocol}/models/{{name}}"
        router.add_api_route(model + path, endpoint, methods=[method], **described)
        described["openapi_extra"] = of_version
        router.add_api_route(model + "/versions/{version}" + path, endpoint, methods=[method], **described)
        return endpoint

    return add
