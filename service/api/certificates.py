"""Signed certificates: the public keys that verify them, and the check of a certificate."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated

import numpy as np
from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, Response

from lipmodel.audit.findings import as_json
from lipmodel.errors import InputError, SignatureError
from service.api.bodies import json_body, reply
from service.api.context import ServiceDep
from service.api.openapi import BODY_PROBLEMS, json_request, problems
from service.api.schemas.certificates import (
    CERTIFICATE_EXAMPLES,
    CertificateCheck,
    CertificateRequest,
    CertificateVerdict,
    Verdict,
)
from service.api.schemas.models_and_jobs import PublicKey
from service.api.schemas.models_and_jobs import PublicKeys as PublicKeySet
from service.components import Service
from service.models.registry import Model
from service.protocols.v1_schemas import ModelReference

if TYPE_CHECKING:
    from lipmodel.signed.key_sets import PublicKeys
    from lipmodel.verify.consistency import Check

MAX_AGE_SECONDS = 300

router = APIRouter(tags=["certificates"])


class KeySet(JSONResponse):
    """Response of the media type of JSON Web Key Sets."""

    media_type = "application/jwk-set+json"


@router.get(
    "/.well-known/jwks.json",
    summary="Get the public keys of signed certificates (JSON Web Key Set)",
    response_model=PublicKeySet,
    response_class=KeySet,
    responses=problems(),
)
async def show_keys(service: ServiceDep) -> Response:
    """Empty if the service does not sign. Fetch again if a `kid` is missing, which may be newer."""
    return KeySet(
        _published(service).model_dump(), headers={"Cache-Control": f"public, max-age={MAX_AGE_SECONDS}"}
    )


@router.post(
    "/v1/certificates/check",
    summary="Check a signed certificate, each statement against a recomputed value",
    response_model=CertificateVerdict,
    responses=problems(*BODY_PROBLEMS),
    openapi_extra=json_request(CertificateRequest, CERTIFICATE_EXAMPLES),
)
async def check_certificate(
    body: Annotated[CertificateRequest, Depends(json_body(CertificateRequest))], service: ServiceDep
) -> Response:
    """Like `lipmodel verify`, against the model if served here; the command needs no trust in a service."""
    return reply(await asyncio.to_thread(_check, body, service))


def _check(body: CertificateRequest, service: Service) -> CertificateVerdict:
    # Imported on first use: cryptography takes memory that a service without signing need not pay.
    from lipmodel.signed.check import check_answer
    from lipmodel.signed.jws import open_signed
    from lipmodel.verify.consistency import Check

    keys = _keys(body, service)
    try:
        signed = open_signed(body.certificate, keys)
    except SignatureError as error:
        meaning = "no trusted key signed this certificate, so do not trust its statements"
        failed = _as_wire(Check("signature", str(error)))
        return CertificateVerdict(
            verdict="fails", meaning=meaning, checks=[failed], certificate=None, model=None
        )
    model = _find_by_digest(service, signed.answer.model_sha256)
    given = None if body.input is None else np.array(body.input, dtype=np.float64)
    checks = [Check("signature"), *check_answer(signed.answer, model.predictor if model else None, given)]
    verdict: Verdict = "holds" if model and body.input is not None else "signed"
    if not all(check.passed for check in checks):
        verdict = "fails"
    lacking = "give the input" if model else "serve the model here, or use 'lipmodel verify'"
    meanings = {
        "holds": f"signed by '{signed.issuer}', and recomputation confirms every statement",
        "signed": f"signed by '{signed.issuer}'; to have its numbers recomputed, {lacking}",
        "fails": f"signed by '{signed.issuer}', but at least one statement is wrong",
    }
    return CertificateVerdict(
        verdict=verdict,
        meaning=meanings[verdict],
        checks=[_as_wire(check) for check in checks],
        certificate=json.loads(signed.to_json()),
        model=ModelReference(**model.reference) if model else None,
    )


def _keys(body: CertificateRequest, service: Service) -> PublicKeys:
    """Return the trusted keys: those of the request, or by default those of this service, if any."""
    from lipmodel.signed.key_sets import read_public

    if body.keys is not None:
        try:
            return read_public(json.dumps(body.keys).encode(), "'keys'")
        except SignatureError as error:
            raise InputError(str(error), field="keys") from None
    published = _published(service).model_dump_json().encode()
    return read_public(published, "this service") if service.signer else {}


def _as_wire(check: Check) -> CertificateCheck:
    return CertificateCheck(
        name=check.name,
        passed=check.passed,
        reason=check.reason or None,
        stated=as_json(getattr(check, "stated", None)),
        computed=as_json(getattr(check, "computed", None)),
    )


def _published(service: Service) -> PublicKeySet:
    signer = service.signer
    return PublicKeySet(keys=[PublicKey(**key) for key in (signer.keys.published if signer else ())])


def _find_by_digest(service: Service, sha256: str) -> Model | None:
    """Return the newest served version with that file, by its digest; None if there is none."""
    served = [model for versions in service.registry.models.values() for model in versions.served.values()]
    return next((model for model in reversed(served) if model.predictor.file.sha256 == sha256), None)
