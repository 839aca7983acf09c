"""Signed certificates: the keys that they are verified with, and one checked."""

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
    """A set of keys, as its media type."""

    media_type = "application/jwk-set+json"


@router.get(
    "/.well-known/jwks.json",
    summary="The public keys of signed certificates (a JSON Web Key Set)",
    response_model=PublicKeySet,
    response_class=KeySet,
    responses=problems(),
)
async def show_keys(service: ServiceDep) -> Response:
    """None where the service does not sign. Where a `kid` is missing, the key may be newer: look again."""
    return KeySet(
        _published(service).model_dump(), headers={"Cache-Control": f"public, max-age={MAX_AGE_SECONDS}"}
    )


@router.post(
    "/v1/certificates/check",
    summary="Check a signed certificate, each statement beside the number computed again",
    response_model=CertificateVerdict,
    responses=problems(*BODY_PROBLEMS),
    openapi_extra=json_request(CertificateRequest, CERTIFICATE_EXAMPLES),
)
async def check_certificate(
    body: Annotated[CertificateRequest, Depends(json_body(CertificateRequest))], service: ServiceDep
) -> Response:
    """As `lipmodel verify` does, against the model where it is served here; the command trusts nobody."""
    return reply(await asyncio.to_thread(_check, body, service))


def _check(body: CertificateRequest, service: Service) -> CertificateVerdict:
    # What these import takes memory that a service that does not sign need not pay.
    from lipmodel.signed.check import check_answer
    from lipmodel.signed.jws import open_signed
    from lipmodel.verify.consistency import Check

    keys = _keys(body, service)
    try:
        signed = open_signed(body.certificate, keys)
    except SignatureError as error:
        meaning = "nobody known here signed this, so nothing that it states is to be trusted"
        failed = _told(Check("signature", str(error)))
        return CertificateVerdict(
            verdict="fails", meaning=meaning, checks=[failed], certificate=None, model=None
        )
    model = _served(service, signed.answer.model_sha256)
    given = None if body.input is None else np.array(body.input, dtype=np.float64)
    checks = [Check("signature"), *check_answer(signed.answer, model.predictor if model else None, given)]
    verdict: Verdict = "holds" if model and body.input is not None else "signed"
    if not all(check.passed for check in checks):
        verdict = "fails"
    lacking = "give the input that was sent" if model else "serve its model here, or use 'lipmodel verify'"
    meanings = {
        "holds": f"'{signed.issuer}' signed this, and every statement holds by what was computed again",
        "signed": f"'{signed.issuer}' signed this; to have its numbers computed again, {lacking}",
        "fails": f"not every statement is what '{signed.issuer}' should have signed",
    }
    return CertificateVerdict(
        verdict=verdict,
        meaning=meanings[verdict],
        checks=[_told(check) for check in checks],
        certificate=json.loads(signed.to_json()),
        model=ModelReference(name=model.name, version=model.version, sha256=signed.answer.model_sha256)
        if model
        else None,
    )


def _keys(body: CertificateRequest, service: Service) -> PublicKeys:
    """Those that are trusted: of the request, or else of this service, which may have none.

    Raises:
        InputError: those of the request cannot be used.
    """
    from lipmodel.signed.key_sets import read_public

    if body.keys is not None:
        try:
            return read_public(json.dumps(body.keys).encode(), "'keys'")
        except SignatureError as error:
            raise InputError(str(error), field="keys") from None
    published = _published(service).model_dump_json().encode()
    return read_public(published, "this service") if service.signer else {}


def _told(check: Check) -> CertificateCheck:
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


def _served(service: Service, sha256: str) -> Model | None:
    """The newest version of a model that is that very file."""
    served = [model for versions in service.registry.models.values() for model in versions.served.values()]
    return next((model for model in reversed(served) if model.predictor.file.sha256 == sha256), None)
