"""Tokens of callers: JWTs that an identity provider signed, verified with its published keys."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import jwt
from jwt.exceptions import InvalidTokenError, PyJWKError

from lipmodel.errors import SignatureError
from lipmodel.signed.key_sets import fetch, members_of
from service.auth.scopes import Scope

ALGORITHMS = ("EdDSA", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512")
"""Asymmetric ones alone: with these a key that is published verifies and cannot sign."""
TYPES = ("jwt", "at+jwt", "application/at+jwt")
LEEWAY_SECONDS = 30
REFRESH_SECONDS = 10.0
"""An unknown key has the keys fetched again, but not more often than this."""
KEEP_SECONDS = 600.0
MAX_LENGTH = 16_384

log = logging.getLogger(__name__)


class TokenError(Exception):
    """A token that is not accepted; its text says why."""


class Tokens:
    """Verifies tokens of one issuer.

    Args:
        place: file or https URL of the issuer's JSON Web Key Set.
        issuer: what ``iss`` must be.
        audience: what ``aud`` must name.

    Raises:
        SignatureError: the keys cannot be read.
    """

    def __init__(self, place: str, issuer: str, audience: str) -> None:
        self._place, self._issuer, self._audience = place, issuer, audience
        self._keys = _read(place)
        self._fetched = time.monotonic()
        self._fetching = asyncio.Lock()

    async def verify(self, token: str) -> dict[str, Any]:
        """The claims of a token that is whole, in time, of the issuer, and for us.

        Raises:
            TokenError: why it is not accepted.
        """
        header = _header(token)
        key = await self._key(header.get("kid"))
        if header["alg"] != key.algorithm_name:
            raise TokenError(f"the token's key is for {key.algorithm_name}, not for what its header says")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud"]},
            )
            claims["exp"] = float(claims["exp"])
        except InvalidTokenError as error:
            raise TokenError(f"the token is not accepted: {error}") from None
        except (OverflowError, TypeError, RecursionError):  # exp is 10^400 or a list, or claims lie too deep
            raise TokenError("the token's claims are not understood") from None
        return claims

    async def _key(self, kid: object) -> jwt.PyJWK:
        if not isinstance(kid, str):
            raise TokenError("the token's header names no key (kid)")
        age = time.monotonic() - self._fetched
        if age > KEEP_SECONDS or (kid not in self._keys and age > REFRESH_SECONDS):
            async with self._fetching:
                if time.monotonic() - self._fetched > min(age, REFRESH_SECONDS):  # nobody did meanwhile
                    await self._fetch()
        if kid not in self._keys:
            raise TokenError("the token's key is none of the issuer's")
        return self._keys[kid]

    async def _fetch(self) -> None:
        self._fetched = time.monotonic()
        try:
            self._keys = await asyncio.to_thread(_read, self._place)
        except SignatureError as error:
            log.warning("the keys of the token issuer stay as they were: %s", error)


def scopes_of(claims: dict[str, Any]) -> frozenset[Scope]:
    """Those that ``scope`` lists (RFC 8693) and that mean something here."""
    listed = claims.get("scope", "")
    given = listed.split() if isinstance(listed, str) else []
    return frozenset(scope for scope in Scope if scope.value in given)


def _read(place: str) -> dict[str, jwt.PyJWK]:
    """Keys by id; those for other uses, or that cannot be used, are passed over."""
    keys: dict[str, jwt.PyJWK] = {}
    for jwk in members_of(fetch(place), place):
        kid = jwk.get("kid")
        if not isinstance(kid, str) or jwk.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(jwk)
        except (PyJWKError, InvalidTokenError, jwt.InvalidKeyError):
            continue
        if key.algorithm_name in ALGORITHMS:
            keys[kid] = key
    if not keys:
        raise SignatureError(f"keys at {place}: none that could verify a token is among them")
    return keys


def _header(token: str) -> dict[str, Any]:
    if len(token) > MAX_LENGTH:
        raise TokenError(f"the token is longer than {MAX_LENGTH} characters")
    try:
        header = jwt.get_unverified_header(token)
    except (InvalidTokenError, ValueError, RecursionError):
        raise TokenError("the credential is neither a key of this service nor a JWT") from None
    if header.get("alg") not in ALGORITHMS:
        raise TokenError(f"the token's algorithm is not accepted; {', '.join(ALGORITHMS)} are")
    for name in ("crit", "jwk", "jku", "x5c", "x5u", "b64"):
        if name in header:
            raise TokenError(f"the token's header has '{name}', which is not accepted")
    if str(header.get("typ", "JWT")).lower() not in TYPES:
        raise TokenError("the token's type is not accepted; 'JWT' and 'at+jwt' are")
    return header
