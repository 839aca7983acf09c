"""Sign answers and open signed certificates: compact JWS with Ed25519, in exactly one form.

Every deviation is refused. The header has the members ``alg``, ``kid``, ``typ`` and no others, so a sender
cannot choose a key, an algorithm or an extension; every part is the canonical base64url text of its bytes; no
text precedes or follows. The form is checked here; the library then verifies the signature.
"""

from __future__ import annotations

import base64
import re
import time
import uuid
from typing import Any

from jwt import PyJWS
from jwt.exceptions import InvalidTokenError

from lipmodel.certificates.strict_json import parse_object, shown
from lipmodel.errors import CertificateError, SignatureError
from lipmodel.signed.claims import Answer, SignedCertificate
from lipmodel.signed.key_sets import ALGORITHM, PublicKeys, SigningKeys

TYPE = "lipcert-certificate+jws"
MAX_LENGTH = 2**20
FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_HEADER = ("alg", "kid", "typ")
_JWS = PyJWS()


def sign(answer: Answer, keys: SigningKeys, issuer: str) -> str:
    """Return the signed certificate of an answer, issued now; takes some 0.1 ms."""
    certificate = SignedCertificate(issuer, int(time.time()), uuid.uuid4().hex, answer)
    header = {"kid": keys.kid, "typ": TYPE}
    return _JWS.encode(certificate.to_json(), keys.private, algorithm=ALGORITHM, headers=header)


def open_signed(token: str, keys: PublicKeys) -> SignedCertificate:
    """Return the certificate in a token signed by one of the keys.

    Raises:
        SignatureError: the token is malformed, its key is unknown, or its signature is invalid.
    """
    if len(token) > MAX_LENGTH:
        raise SignatureError(f"is longer than {MAX_LENGTH} characters")
    if not FORM.fullmatch(token):
        raise SignatureError("is not three parts of base64url joined by dots")
    header, payload, signature = (
        _bytes(part, name)
        for part, name in zip(token.split("."), ("header", "payload", "signature"), strict=True)
    )
    kid = _kid(header)
    if kid not in keys:
        raise SignatureError(f"kid {shown(kid)} is not the id of a known key")
    if len(signature) != 64:
        raise SignatureError(f"signature has {len(signature)} bytes; Ed25519 signatures have 64")
    try:
        _JWS.decode(token, keys[kid], algorithms=[ALGORITHM])
    except InvalidTokenError:
        raise SignatureError(f"signature does not verify with the key {shown(kid)}") from None
    try:
        return SignedCertificate.from_json(payload)
    except CertificateError as error:
        raise SignatureError(f"payload: {error.field} {error.reason}") from error


def _bytes(part: str, name: str) -> bytes:
    if len(part) % 4 == 1:
        raise SignatureError(f"{name} is not base64url: its length is impossible")
    decoded = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if base64.urlsafe_b64encode(decoded).rstrip(b"=").decode() != part:
        raise SignatureError(f"{name} is not canonical base64url: unused bits at its end are set")
    return decoded


def _kid(header: bytes) -> str:
    try:
        members = parse_object(header)
    except CertificateError as error:
        raise SignatureError(f"header: {error.field} {error.reason}") from error
    for name in (*_HEADER, *members):
        if name not in members:
            raise SignatureError(f"header: {name} is missing")
        if name not in _HEADER:
            raise SignatureError(f"header: {shown(name)} is not accepted; allowed are {', '.join(_HEADER)}")
    expected: dict[str, Any] = {"alg": ALGORITHM, "typ": TYPE}
    for name, value in expected.items():
        if members[name] != value:
            raise SignatureError(f"header: {name} is {shown(members[name])}; must be '{value}'")
    if not isinstance(members["kid"], str):
        raise SignatureError(f"header: kid is {shown(members['kid'])}; must be a string")
    return members["kid"]
