"""What routes share: the parts of the application, and the model that a path names.

Dependencies are ``async`` although they wait for nothing: the framework would run plain functions
in a thread each, at more than the cost of a prediction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Request

from service.engine import Engine
from service.jobs import Jobs
from service.models import Models
from service.registry import Model, Registry
from service.settings import Settings


@dataclass(frozen=True)
class Service:
    """What the routes work with."""

    settings: Settings
    models: Models
    engine: Engine
    jobs: Jobs

    @property
    def registry(self) -> Registry:
        """What is served now. To be read once in a request, which then sees one state of the folder."""
        return self.models.current


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
    """The served model of that name; see :meth:`service.registry.Registry.find`."""
    return service.registry.find(name)


ModelHere = Annotated[Model, Depends(get_model)]
