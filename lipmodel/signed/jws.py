"""Signing answers and opening what was signed: compact JWS, Ed25519, one form only.

Any doubt is a refusal. The header has ``alg``, ``kid``, ``typ`` and nothing else, so no key, no algorithm and
no extension of the sender's choosing is ever looked at; every part is the one base64url text of its bytes;
nothing stands before or after. The library verifies the signature; the form is decided here, before.
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
    """The signed certificate of an answer, issued now; some 0.1 ms."""
    certificate = SignedCertificate(issuer, int(time.time()), uuid.uuid4().hex, answer)
    header = {"kid": keys.kid, "typ": TYPE}
    return _JWS.encode(certificate.to_json(), keys.private, algorithm=ALGORITHM, headers=header)


def open_signed(token: str, keys: PublicKeys) -> SignedCertificate:
    """What a token states, once one of the keys is known to have signed it.

    Raises:
        SignatureError: says why it is not to be trusted.
    """
    if len(token) > MAX_LENGTH:
        raise SignatureError(f"is longer than {MAX_LENGTH} characters")
    if not FORM.fullmatch(token):
        raise SignatureError("is not three parts of base64url joined by dots, and nothing around them")
    header, payload, signature = (
        _bytes(part, name)
        for part, name in zip(token.split("."), ("header", "payload", "signature"), strict=True)
    )
    kid = _kid(header)
    if kid not in keys:
        raise SignatureError(f"kid {shown(kid)} is the id of none of the keys given")
    if len(signature) != 64:
        raise SignatureError(f"signature has {len(signature)} bytes; Ed25519 makes 64")
    try:
        _JWS.decode(token, keys[kid], algorithms=[ALGORITHM])
    except InvalidTokenError:
        raise SignatureError(f"signature was not made over this by the key {shown(kid)}") from None
    try:
        return SignedCertificate.from_json(payload)
    except CertificateError as error:
        raise SignatureError(f"payload: {error.field} {error.reason}") from error


def _bytes(part: str, name: str) -> bytes:
    if len(part) % 4 == 1:
        raise SignatureError(f"{name} is no base64url: it has a length that no bytes have")
    decoded = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if base64.urlsafe_b64encode(decoded).rstrip(b"=").decode() != part:
        raise SignatureError(f"{name} is not the one way to write its bytes: spare bits at its end are set")
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
            raise SignatureError(f"header: {shown(name)} is not accepted; only {', '.join(_HEADER)} are")
    expected: dict[str, Any] = {"alg": ALGORITHM, "typ": TYPE}
    for name, value in expected.items():
        if members[name] != value:
            raise SignatureError(f"header: {name} is {shown(members[name])}; '{value}' is accepted")
    if not isinstance(members["kid"], str):
        raise SignatureError(f"header: kid is {shown(members['kid'])}; a string is accepted")
    return members["kid"]
