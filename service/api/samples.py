"""Samples of a model, to look at and to begin from."""

from __future__ import annotations

import orjson
from fastapi import APIRouter
from starlette.responses import Response

from service.api.context import ModelHere, ServiceHere, model_route
from service.api.openapi import MODEL_PROBLEMS, problems
from service.api.schemas.models_and_jobs import SampleSet
from service.models.registry import Model, Registry
from service.models.samples import Samples
from service.problems import Problem, ProblemKind
from service.protocols.bodies import JSON_TYPE

router = APIRouter(tags=["models"])


@model_route(
    router,
    "GET",
    "/samples",
    summary="Labelled inputs that lie beside the model",
    response_model=SampleSet,
    responses=problems(*MODEL_PROBLEMS, ProblemKind.NO_SAMPLES),
)
async def show_samples(model: ModelHere, service: ServiceHere) -> Response:
    """They are shown and nothing else: nothing that is certified depends on them."""
    samples = samples_of(service.registry, model)
    if samples is None:
        detail = f"no samples that fit it lie beside model '{model.name}'"
        raise Problem(ProblemKind.NO_SAMPLES, detail)
    content = {
        "model": {"name": model.name, "version": model.version, "sha256": model.predictor.file.sha256},
        "inputs": samples.inputs,
        "labels": samples.labels,
    }
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type=JSON_TYPE)


def samples_of(registry: Registry, model: Model) -> Samples | None:
    """The samples beside a model, where they can be of this version of it."""
    samples = registry.versions(model.name).samples
    graph, classes = model.predictor.file.graph, len(model.predictor.class_names)
    return samples if samples is not None and samples.fit(graph.input_size, classes) else None
