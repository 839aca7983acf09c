"""Models: list, proved bounds, versions and samples."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter
from starlette.responses import Response

from lipmodel.network.metadata import Claims, input_claims
from lipmodel.norms import Norm
from service.api.bodies import reply
from service.api.context import ModelDep, ModelName, ModelVersion, ServiceDep, model_route
from service.api.openapi import MODEL_PROBLEMS, problems
from service.api.schemas.models_and_jobs import (
    Bounds,
    Claim,
    InputClaim,
    ModelDetail,
    ModelList,
    PolicySummary,
    RefusedModel,
    SampleSet,
    ServedSummary,
    VersionSummary,
)
from service.models.registry import Model, Registry, Versions
from service.models.samples import Samples
from service.problems import Problem, ProblemKind
from service.protocols.bodies import JSON_TYPE

router = APIRouter(tags=["models"])


@router.get(
    "/v1/models",
    summary="List all models, refused ones with the reason",
    response_model=ModelList,
    responses=problems(),
)
async def list_models(service: ServiceDep) -> Response:
    """All models of the models folder, which is watched for changes."""
    registry = service.registry
    models = [
        _refused(versions)
        if versions.latest is None
        else ServedSummary(**_summary(versions, versions.latest))
        for versions in registry.models.values()
    ]
    return reply(ModelList(models=models, fault=registry.fault))


@router.get(
    "/v1/models/{name}",
    summary="Get the proved bounds of a model, beside the claims of its file",
    response_model=ModelDetail | RefusedModel,
    responses=problems(ProblemKind.UNKNOWN_MODEL),
)
async def show_model(name: ModelName, service: ServiceDep) -> Response:
    """Bounds are derived from the weights in the file; claims are displayed and never used."""
    registry = service.registry
    versions = registry.versions(name)
    return reply(_refused(versions) if versions.latest is None else detail(registry, versions.latest))


@router.get(
    "/v1/models/{name}/versions/{version}",
    summary="Get the proved bounds of one version of a model",
    response_model=ModelDetail,
    responses=problems(*MODEL_PROBLEMS),
)
async def show_version(name: ModelName, version: ModelVersion, service: ServiceDep) -> Response:
    """The version is given by number or label."""
    registry = service.registry
    return reply(detail(registry, registry.find(name, version)))


@model_route(
    router,
    "GET",
    "/samples",
    summary="Get labelled inputs stored beside the model",
    response_model=SampleSet,
    responses=problems(*MODEL_PROBLEMS, ProblemKind.NO_SAMPLES),
)
async def show_samples(model: ModelDep, service: ServiceDep) -> Response:
    """Samples are for display only: no certificate depends on them."""
    samples = samples_of(service.registry, model)
    if samples is None:
        detail = f"model '{model.name}' has no samples that fit it"
        raise Problem(ProblemKind.NO_SAMPLES, detail)
    content = {"model": model.reference, "inputs": samples.inputs, "labels": samples.labels}
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type=JSON_TYPE)


def detail(registry: Registry, model: Model) -> ModelDetail:
    """Return the description of one version of a model."""
    predictor = model.predictor
    file, claims = predictor.file, predictor.claims
    described = input_claims(claims.record, file.graph.input_size)
    samples = samples_of(registry, model)
    bounds = {norm: predictor.bounds(norm) for norm in Norm}
    return ModelDetail(
        **_summary(registry.versions(model.name), model),
        input_shape=list(file.graph.input_shape),
        input_size=file.graph.input_size,
        input_claim=InputClaim(
            shape=None if described.shape is None else list(described.shape),
            columns=list(described.columns),
            units=described.units,
        ),
        samples=0 if samples is None else len(samples.inputs),
        input_box=list(claims.input_box) if claims.input_box else None,
        classes=list(predictor.class_names),
        default_norm=predictor.default_norm,
        bounds={
            norm: Bounds(**{"global": b.bound_global, "per_pair": b.bound_per_pair.tolist()})
            for norm, b in bounds.items()
        },
        claim=_claim(claims, {norm: b.bound_global for norm, b in bounds.items()}),
        record=dict(claims.record),
        ignored_claims=list(claims.ignored),
        operators=file.operators,
        folded_weights_sha256=file.folded_sha256,
        dtype="float32" if file.dtype.__name__ == "float32" else "float64",
    )


def samples_of(registry: Registry, model: Model) -> Samples | None:
    """Return the samples beside a model if they fit this version; None otherwise."""
    samples = registry.versions(model.name).samples
    graph, classes = model.predictor.file.graph, len(model.predictor.class_names)
    return samples if samples is not None and samples.fit(graph.input_size, classes) else None


def _summary(versions: Versions, model: Model) -> dict[str, Any]:
    policy = model.settings.policy
    return {
        **model.reference,
        "versions": _versions(versions),
        "labels": dict(versions.labels),
        "policy": PolicySummary(
            norm=policy.threat.norm, threat=policy.threat_name, epsilon=policy.epsilon, action=policy.action
        ),
        "threats": {name: threat.to_json() for name, threat in model.settings.threats.items()},
        "execution": model.settings.execution,
        "fault": versions.reason or None,
    }


def _refused(versions: Versions) -> RefusedModel:
    return RefusedModel(
        name=versions.name,
        status="checking" if versions.checking else "refused",
        reason=versions.reason,
        versions=_versions(versions),
        labels=dict(versions.labels),
    )


def _versions(versions: Versions) -> list[VersionSummary]:
    served = versions.served
    return [
        VersionSummary(
            version=number,
            status="served" if number in served else "checking" if number in versions.checking else "refused",
            sha256=served[number].predictor.file.sha256 if number in served else None,
            reason=versions.reasons.get(number),
        )
        for number in sorted(served.keys() | versions.reasons.keys(), key=int)
    ]


def _claim(claims: Claims, bound_global: dict[Norm, float]) -> Claim | None:
    """Return the claimed Lipschitz constant; a claim without a norm cannot be proved."""
    if claims.lipschitz is None:
        return None
    proved = claims.norm is not None and bound_global[claims.norm] <= claims.lipschitz
    return Claim(norm=claims.norm, lipschitz=claims.lipschitz, proved=proved)
