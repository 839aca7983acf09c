"""Which models there are, and what is proved of each."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from lipmodel.certify.claims import Claims
from lipmodel.norms import Norm
from service.api.bodies import reply
from service.api.context import ModelName, ServiceHere
from service.api.openapi import problems
from service.errors import ProblemKind
from service.registry import Model
from service.schemas import Bounds, Claim, ModelDetail, ModelList, RefusedModel, ServedSummary

router = APIRouter(tags=["models"])


@router.get(
    "/v1/models",
    summary="Every model, the refused ones with the reason",
    response_model=ModelList,
    responses=problems(),
)
async def list_models(service: ServiceHere) -> Response:
    """Models are the *.onnx files of the folder, as they were when the service started."""
    registry = service.registry
    models: list[ServedSummary | RefusedModel] = [
        ServedSummary(name=m.name, version=m.version, sha256=m.predictor.file.sha256)
        for m in registry.served.values()
    ]
    models += [RefusedModel(name=name, reason=reason) for name, reason in registry.refused.items()]
    return reply(ModelList(models=sorted(models, key=lambda m: m.name), fault=registry.fault))


@router.get(
    "/v1/models/{name}",
    summary="What is proved of one model, beside what its file claims",
    response_model=ModelDetail | RefusedModel,
    responses=problems(ProblemKind.UNKNOWN_MODEL),
)
async def show_model(name: ModelName, service: ServiceHere) -> Response:
    """Bounds are derived from the weights in the file; claims are shown and never used."""
    versions = service.registry.versions(name)
    if versions.latest is None:
        return reply(RefusedModel(name=name, reason=versions.reason))
    return reply(_detail(versions.latest))


def _detail(model: Model) -> ModelDetail:
    predictor = model.predictor
    file, claims = predictor.file, predictor.claims
    bounds = {norm: predictor.bounds(norm) for norm in Norm}
    return ModelDetail(
        name=model.name,
        version=model.version,
        sha256=file.sha256,
        input_shape=list(file.graph.input_shape),
        input_size=file.graph.input_size,
        input_box=list(claims.input_box) if claims.input_box else None,
        classes=list(predictor.class_names),
        default_norm=predictor.default_norm,
        bounds={
            norm: Bounds(**{"global": b.bound_global, "per_pair": b.bound_per_pair.tolist()})
            for norm, b in bounds.items()
        },
        claim=_claim(claims, {norm: b.bound_global for norm, b in bounds.items()}),
        ignored_claims=list(claims.ignored),
        operators=file.operators,
        dtype="float32" if file.dtype.__name__ == "float32" else "float64",
    )


def _claim(claims: Claims, bound_global: dict[Norm, float]) -> Claim | None:
    """The claim of a constant; without a norm it says nothing that could be proved."""
    if claims.lipschitz is None:
        return None
    proved = claims.norm is not None and bound_global[claims.norm] <= claims.lipschitz
    return Claim(norm=claims.norm, lipschitz=claims.lipschitz, proved=proved)
