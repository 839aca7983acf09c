"""TokenVerifier of callers: JWTs signed by an identity provider, verified with its published keys."""

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
"""Asymmetric algorithms only: a published key can verify but not sign."""
TYPES = ("jwt", "at+jwt", "application/at+jwt")
LEEWAY_SECONDS = 30
REFRESH_SECONDS = 10.0
"""Minimum interval between fetches of the keys because of an unknown key id."""
KEEP_SECONDS = 600.0
MAX_LENGTH = 16_384

log = logging.getLogger(__name__)


class TokenError(Exception):
    """A token is not accepted; the message gives the reason."""


class TokenVerifier:
    """Verifier of the tokens of one issuer.

    Args:
        place: file or https URL of the issuer's JSON Web Key Set.
        issuer: required ``iss`` claim.
        audience: required member of the ``aud`` claim.

    Raises:
        SignatureError: the keys cannot be read.
    """

    def __init__(self, place: str, issuer: str, audience: str) -> None:
        self._place, self._issuer, self._audience = place, issuer, audience
        self._keys = _read(place)
        self._fetched = time.monotonic()
        self._fetching = asyncio.Lock()

    async def verify(self, token: str) -> dict[str, Any]:
        """Return the claims of a token after checks of its signature, times, issuer and audience.

        Raises:
            TokenError: the token is not accepted.
        """
        header = _header(token)
        key = await self._key(header.get("kid"))
        if header["alg"] != key.algorithm_name:
            raise TokenError(
                f"the token's key is for {key.algorithm_name}, not for {header['alg']} as in its header"
            )
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
        except (OverflowError, TypeError, RecursionError):  # exp is 10^400 or a list, or claims are too deep
            raise TokenError("the token's claims are malformed") from None
        return claims

    async def _key(self, kid: object) -> jwt.PyJWK:
        if not isinstance(kid, str):
            raise TokenError("the token's header names no key (kid)")
        age = time.monotonic() - self._fetched
        if age > KEEP_SECONDS or (kid not in self._keys and age > REFRESH_SECONDS):
            async with self._fetching:
                # Unless fetched by another request meanwhile.
                if time.monotonic() - self._fetched > min(age, REFRESH_SECONDS):
                    await self._fetch()
        if kid not in self._keys:
            raise TokenError("the token's key (kid) is not among the issuer's keys")
        return self._keys[kid]

    async def _fetch(self) -> None:
        self._fetched = time.monotonic()
        try:
            self._keys = await asyncio.to_thread(_read, self._place)
        except SignatureError as error:
            log.warning("cannot reload the token issuer's keys, the previous ones stay valid: %s", error)


def scopes_of(claims: dict[str, Any]) -> frozenset[Scope]:
    """Return the known scopes listed in the ``scope`` claim (RFC 8693)."""
    listed = claims.get("scope", "")
    given = listed.split() if isinstance(listed, str) else []
    return frozenset(scope for scope in Scope if scope.value in given)


def _read(place: str) -> dict[str, jwt.PyJWK]:
    """Return verification keys by id, without keys for other uses or of unsupported types."""
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
        raise SignatureError(f"keys at {place}: no key can verify a token")
    return keys


def _header(token: str) -> dict[str, Any]:
    if len(token) > MAX_LENGTH:
        raise TokenError(f"the token is longer than {MAX_LENGTH} characters")
    try:
        header = jwt.get_unverified_header(token)
    except (InvalidTokenError, ValueError, RecursionError):
        raise TokenError("the credential is neither an API key of this service nor a JWT") from None
    if header.get("alg") not in ALGORITHMS:
        raise TokenError(f"the token's algorithm is not accepted; accepted: {', '.join(ALGORITHMS)}")
    for name in ("crit", "jwk", "jku", "x5c", "x5u", "b64"):
        if name in header:
            raise TokenError(f"the token's header has '{name}', which is not accepted")
    if str(header.get("typ", "JWT")).lower() not in TYPES:
        raise TokenError("the token's type is not accepted; accepted: 'JWT', 'at+jwt'")
    return header
