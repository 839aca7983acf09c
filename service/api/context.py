"""Dependencies of routes: the service, and the model named in the path.

Dependencies are ``async`` although they await nothing: the framework would run plain functions in threads,
at more than the cost of a prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Request

from service.components import Service
from service.models.registry import Model

F = TypeVar("F", bound=Callable[..., Any])


async def get_service(request: Request) -> Service:
    """Return the service made by ``create_app``."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]
ModelName = Annotated[
    str,
    Path(
        description="Name of the model: its file name without .onnx, or the name of its folder.",
        openapi_examples={"demo": {"value": "two-moons"}},
    ),
]

VERSION_TEXT = "Number or label of a version."
ModelVersion = Annotated[str, Path(description=VERSION_TEXT, openapi_examples={"demo": {"value": "1"}})]


async def get_model(name: ModelName, request: Request, service: ServiceDep) -> Model:
    """Return the model named in the path, in the version named there if any; see ``Registry.find``."""
    return service.registry.find(name, request.path_params.get("version"))


ModelDep = Annotated[Model, Depends(get_model)]
VERSION = {
    "name": "version",
    "in": "path",
    "required": True,
    "description": VERSION_TEXT,
    "schema": {"type": "string"},
    "examples": {"demo": {"value": "1"}},
}


def model_route(
    router: APIRouter, method: str, path: str, *, protocol: str = "v1", **described: Any
) -> Callable[[F], F]:
    """Add a route of a model, ``/v1/models/{name}PATH``, and the corresponding route of one version."""
    extra = described.get("openapi_extra", {})
    of_version = {**extra, "parameters": [*extra.get("parameters", []), VERSION]}

    def add(endpoint: F) -> F:
        model = f"/{protocol}/models/{{name}}"
        router.add_api_route(model + path, endpoint, methods=[method], **described)
        described["openapi_extra"] = of_version
        router.add_api_route(model + "/versions/{version}" + path, endpoint, methods=[method], **described)
        return endpoint

    return add
