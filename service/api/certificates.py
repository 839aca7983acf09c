"""The keys that signed certificates are verified with."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from service.api.context import ServiceHere
from service.api.openapi import problems
from service.schemas import PublicKey, PublicKeys

MAX_AGE_SECONDS = 300

router = APIRouter(tags=["certificates"])


class KeySet(JSONResponse):
    """A set of keys, as its media type."""

    media_type = "application/jwk-set+json"


@router.get(
    "/.well-known/jwks.json",
    summary="The public keys of signed certificates (a JSON Web Key Set)",
    response_model=PublicKeys,
    response_class=KeySet,
    responses=problems(),
)
async def show_keys(service: ServiceHere) -> Response:
    """None where the service does not sign. Where a `kid` is missing, the key may be newer: look again."""
    signer = service.signer
    published = () if signer is None else signer.keys.published
    keys = PublicKeys(keys=[PublicKey(**key) for key in published])
    return KeySet(keys.model_dump(), headers={"Cache-Control": f"public, max-age={MAX_AGE_SECONDS}"})
