"""Wire types of the check of a signed certificate."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from service.protocols.v1_schemas import ModelReference
from service.wire import Row, Wire

Verdict = Literal["holds", "signed", "fails"]


class CertificateRequest(Wire):
    """A certificate to check, with the input and the trusted keys if given."""

    certificate: str = Field(description="The certificate as a compact JWS, as in a prediction.")
    input: Row | None = Field(
        None, description="The input of the prediction; with it every number is recomputed."
    )
    keys: dict[str, Any] | None = Field(
        None,
        description="JSON Web Key Set of the trusted issuers; by default that of this service.",
    )


class CertificateCheck(Wire):
    """Check of one statement of a certificate."""

    name: str
    passed: bool
    reason: str | None = Field(description="Reason of a failure.")
    stated: Any = Field(description="Signed value; null if not a single number or name.")
    computed: Any = Field(description="Recomputed value; for a bound, the best proved.")


class CertificateVerdict(Wire):
    """Result of the check of a certificate."""

    verdict: Verdict = Field(
        description="'holds': signed, and every statement confirmed by recomputation. 'signed': every "
        "possible check passed, but the numbers rest on the signature alone. 'fails': do not rely on it."
    )
    meaning: str = Field(description="The verdict in a sentence.")
    checks: list[CertificateCheck]
    certificate: dict[str, Any] | None = Field(
        description="Contents of the certificate; null without a valid signature by a trusted key."
    )
    model: ModelReference | None = Field(description="Model of the certificate, if served here.")


CERTIFICATE_EXAMPLES: dict[str, dict[str, Any]] = {
    "a certificate and the input that was sent": {
        "certificate": "eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJsaXBzZXJ2ZSJ9.c2lnbmF0dXJl",
        "input": [0.0, 1.0],
    }
}
