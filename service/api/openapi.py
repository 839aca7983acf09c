"""Parts of the OpenAPI document that the framework cannot derive from the routes."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.problems import MEDIA_TYPE, ProblemBody, ProblemKind

REFERENCE = "#/components/schemas/{model}"

_referred: list[type[BaseModel]] = [ProblemBody]
"""Types that appear in no signature of a route: the problem, and the requests that routes read themselves."""
MODEL_PROBLEMS = (ProblemKind.UNKNOWN_MODEL, ProblemKind.UNKNOWN_VERSION, ProblemKind.MODEL_REFUSED)
BODY_PROBLEMS = (
    ProblemKind.NOT_JSON,
    ProblemKind.BODY_TOO_LARGE,
    ProblemKind.UNSUPPORTED_MEDIA_TYPE,
    ProblemKind.INVALID_INPUT,
)


def problems(*kinds: ProblemKind) -> dict[int | str, dict[str, Any]]:
    """Return the problem responses of a route; ``default`` stands for any other problem."""
    content = {MEDIA_TYPE: {"schema": {"$ref": REFERENCE.format(model=ProblemBody.__name__)}}}
    responses: dict[int | str, dict[str, Any]] = {"default": {"description": "Any other problem"}}
    for kind in kinds:
        earlier = responses[kind.status]["description"] + "; or " if kind.status in responses else ""
        responses[kind.status] = {"description": earlier + kind.title}
    return {status: {**response, "content": content} for status, response in responses.items()}


def json_request(schema: type[BaseModel], examples: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the request body of a route that reads it with ``json_body``."""
    _referred.append(schema)
    content = {
        "schema": {"$ref": REFERENCE.format(model=schema.__name__)},
        "examples": {name: {"value": value} for name, value in examples.items()},
    }
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def array_request(described: dict[str, Any], media_type: str, options: type[BaseModel]) -> dict[str, Any]:
    """Return a JSON request body that may also be an array in its own format, with options in the query."""
    content = described["requestBody"]["content"]
    content[media_type] = {"schema": {"type": "string", "format": "binary"}}
    text = f"Only with a body of type {media_type}; a JSON body contains its options."
    fields = options.model_json_schema(ref_template=REFERENCE)["properties"]
    for schema in fields.values():
        schema.pop("default", None)  # generated clients would send a default with every request
    parameters = [
        {"name": name, "in": "query", "required": False, "description": text, "schema": schema}
        for name, schema in fields.items()
    ]
    return {**described, "parameters": parameters}


def form_request(schema: type[BaseModel], files: dict[str, str]) -> dict[str, Any]:
    """Return the content of a form: the request as JSON, and files with their descriptions by name."""
    properties: dict[str, Any] = {"request": {"$ref": REFERENCE.format(model=schema.__name__)}}
    properties |= {
        name: {"type": "string", "format": "binary", "description": text} for name, text in files.items()
    }
    return {"multipart/form-data": {"schema": {"type": "object", "properties": properties}}}


def describe(app: FastAPI) -> None:
    """Add the types that routes only refer to."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            _, definitions = models_json_schema(
                [(schema, "validation") for schema in _referred], ref_template=REFERENCE
            )
            document["components"]["schemas"].update(definitions["$defs"])
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
