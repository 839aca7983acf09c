"""Authentication of callers, by API keys and by tokens of an identity provider.

No credential is required as long as no API key was ever created and no identity provider is configured;
from then on every request needs one. API keys are reloaded every second: a new or revoked key takes effect
within that time.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.auth.api_keys import PREFIX, ApiKey, KeyStore
from service.auth.scopes import Scope
from service.database.connect import StoreError
from service.problems import Problem, ProblemKind

if TYPE_CHECKING:  # cryptography takes memory that a service without tokens need not pay
    from service.auth.tokens import TokenVerifier

REFRESH_SECONDS = 1.0
TOKEN_SECONDS = 60.0
"""Seconds before a verified token is verified again, unless the token expires earlier."""
MAX_VERIFIED = 10_000
KEY_START = f"{PREFIX}_".encode()

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller.

    Attributes:
        identity: ``key:ID`` or ``token:SUBJECT``; may be logged.
        scopes: permissions of the caller; every scope if ``admin`` is among them.
        expires: time at which the credential must be verified again, in seconds since 1970.
    """

    identity: str
    scopes: frozenset[Scope]
    expires: float = math.inf


class Authenticator:
    """Verifier of credentials, one for each process; of tokens only if an identity provider is configured.

    Raises:
        StoreError: the keys cannot be read.
    """

    def __init__(self, store: KeyStore, tokens: TokenVerifier | None = None) -> None:
        self._store, self._tokens = store, tokens
        self._keys: Mapping[str, ApiKey] = {}
        self._verified: dict[bytes, Caller] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._use(store.all())

    @property
    def required(self) -> bool:
        """True if every request needs a credential."""
        return bool(self._keys) or self._tokens is not None

    def known(self, credential: bytes) -> Caller | None:
        """Return the caller of a credential that was verified before and has not expired; None for others.

        The lookup is by digest, so its duration reveals nothing about the secrets of other callers.
        """
        caller = self._verified.get(hashlib.sha256(credential).digest())
        return caller if caller is not None and caller.expires > time.time() else None

    async def identify(self, credential: bytes) -> Caller:
        """Verify a credential that is not :meth:`known`, and return its caller.

        Raises:
            Problem: 401 with the reason.
        """
        caller = (
            self._of_key(credential) if credential.startswith(KEY_START) else await self._of_token(credential)
        )
        if len(self._verified) >= MAX_VERIFIED:
            self._verified.clear()
        self._verified[hashlib.sha256(credential).digest()] = caller
        return caller

    def _of_key(self, credential: bytes) -> Caller:
        key = self._keys.get(credential[len(KEY_START) :].partition(b"_")[0].decode("latin-1"))
        if key is None or not key.matches(credential):
            raise unauthenticated("unknown API key", error="invalid_token")
        if key.state != "valid":
            raise unauthenticated(f"the API key is {key.state}", error="invalid_token")
        expires = math.inf if key.expires is None else key.expires
        return Caller(f"key:{key.id}", _all_if_admin(key.scopes), expires)

    async def _of_token(self, credential: bytes) -> Caller:
        if self._tokens is None:
            raise unauthenticated("the credential is not an API key of this service", error="invalid_token")
        from service.auth.tokens import TokenError, scopes_of

        try:
            claims = await self._tokens.verify(credential.decode("latin-1"))
        except TokenError as error:
            raise unauthenticated(str(error), error="invalid_token") from None
        subject = str(claims.get("sub", ""))[:64]
        expires = min(claims["exp"], time.time() + TOKEN_SECONDS)
        return Caller(f"token:{subject}", _all_if_admin(scopes_of(claims)), expires)

    async def start(self) -> None:
        """Start reloading the keys every second."""
        self._refreshing = asyncio.create_task(self._refresh())

    async def stop(self) -> None:
        """Stop reloading the keys, and close the store."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        self._store.close()

    async def _refresh(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                self._use(await asyncio.to_thread(self._store.all))
                failing = False
            except StoreError as error:
                if not failing:
                    log.error("cannot reload the API keys, the previous ones stay valid: %s", error)
                failing = True

    def _use(self, keys: Iterable[ApiKey]) -> None:
        """Replace the keys; a change discards all credentials verified with the previous keys."""
        found = {key.id: key for key in keys}
        if found != self._keys:
            self._keys, self._verified = found, {}


def unauthenticated(detail: str, *, error: str | None = None) -> Problem:
    """Return a 401 with a Bearer challenge (RFC 6750)."""
    challenge = 'Bearer realm="lipserve"' + (f', error="{error}"' if error else "")
    return Problem(ProblemKind.UNAUTHENTICATED, detail, headers={"WWW-Authenticate": challenge})


def _all_if_admin(scopes: frozenset[Scope]) -> frozenset[Scope]:
    return frozenset(Scope) if Scope.ADMIN in scopes else scopes
