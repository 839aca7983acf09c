"""What routes share: the parts of the application, and the model that a path names.

Dependencies are ``async`` although they wait for nothing: the framework would run plain functions
in a thread each, at more than the cost of a prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Request

from service.components import Service
from service.models.registry import Model

F = TypeVar("F", bound=Callable[..., Any])


async def get_service(request: Request) -> Service:
    """The service that ``create_app`` made."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]
ModelName = Annotated[
    str,
    Path(
        description="Name of the model: of its file without .onnx, or of its folder.",
        openapi_examples={"demo": {"value": "two-moons"}},
    ),
]

OF_VERSION = "Number of a version, or a label."
ModelVersion = Annotated[str, Path(description=OF_VERSION, openapi_examples={"demo": {"value": "1"}})]


async def get_model(name: ModelName, request: Request, service: ServiceDep) -> Model:
    """The model that a path names, and the version where it names one; see ``Registry.find``."""
    return service.registry.find(name, request.path_params.get("version"))


ModelDep = Annotated[Model, Depends(get_model)]
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
