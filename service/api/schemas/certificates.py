"""What goes over the wire where a signed certificate is checked, in and out."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from service.protocols.v1_schemas import ModelReference
from service.wire import Row, Wire

Verdict = Literal["holds", "signed", "fails"]


class CertificateRequest(Wire):
    """A certificate, and what to check it against."""

    certificate: str = Field(description="As an answer gave it: a compact JWS.")
    input: Row | None = Field(
        None, description="The numbers that were sent; with them every number is computed again."
    )
    keys: dict[str, Any] | None = Field(
        None,
        description="The keys of issuers that are trusted (JSON Web Key Set); this service's by default.",
    )


class CertificateCheck(Wire):
    """One statement of a certificate."""

    name: str
    passed: bool
    reason: str | None = Field(description="Why it did not pass.")
    stated: Any = Field(description="What was signed; null where it is no single number or name.")
    computed: Any = Field(description="The same computed again here; of a bound, the best that is proved.")


class CertificateVerdict(Wire):
    """What was found of a certificate."""

    verdict: Verdict = Field(
        description="'holds': signed, and every statement holds by what was computed again. 'signed': what "
        "could be checked is right; the numbers are the word of the key. 'fails': do not rely on it."
    )
    meaning: str = Field(description="The verdict in a sentence.")
    checks: list[CertificateCheck]
    certificate: dict[str, Any] | None = Field(
        description="What it states; null where nobody known signed it."
    )
    model: ModelReference | None = Field(description="The model that it speaks of, where it is served here.")


CERTIFICATE_EXAMPLES: dict[str, dict[str, Any]] = {
    "a certificate and the input that was sent": {
        "certificate": "eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJsaXBzZXJ2ZSJ9.c2lnbmF0dXJl",
        "input": [0.0, 1.0],
    }
}
