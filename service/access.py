"""Who calls: API keys and tokens of an identity provider, told apart and verified.

Nobody need say who they are as long as no key was ever made and no identity provider is set; from then on
everybody must. Keys are read again every second, so one made or revoked counts within that time.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.errors import Problem, ProblemKind
from service.keys import PREFIX, ApiKey, KeyStore
from service.scopes import Scope
from service.store import StoreError

if TYPE_CHECKING:  # it takes memory that a service without tokens need not pay
    from service.tokens import Tokens

REFRESH_SECONDS = 1.0
TOKEN_SECONDS = 60.0
"""A verified token is taken as verified for so long, or until it ends."""
MAX_TOKENS = 10_000
KEY_START = f"{PREFIX}_".encode()

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a credential that is accepted.

    Attributes:
        identity: ``key:ID`` or ``token:SUBJECT``; fit for logs.
        scopes: what they may do; all, where ``admin`` is among them.
        expires: when this must be found out anew, in seconds since 1970.
    """

    identity: str
    scopes: frozenset[Scope]
    expires: float = math.inf


class Access:
    """Verifies credentials; one a process.

    Args:
        store: of the API keys.
        tokens: of an identity provider, if there is one.

    Raises:
        StoreError: the keys cannot be read.
    """

    def __init__(self, store: KeyStore, tokens: Tokens | None = None) -> None:
        self._store, self._tokens = store, tokens
        self._keys: Mapping[str, tuple[ApiKey, Caller]] = {}
        self._verified: dict[bytes, Caller] = {}
        self._watching: asyncio.Task[None] | None = None
        self._failing = False
        self.refresh()

    @property
    def required(self) -> bool:
        """Whether callers must say who they are."""
        return bool(self._keys) or self._tokens is not None

    def refresh(self) -> None:
        """Reads the keys again; one assignment, so a request sees the keys before or after."""
        self._keys = {key.id: (key, _caller(key)) for key in self._store.all()}

    def known(self, credential: bytes) -> Caller | None:
        """Who sent this, where that takes no waiting: a valid key, or a token verified lately."""
        if credential.startswith(KEY_START):
            entry = self._keys.get(credential[len(KEY_START) :].partition(b"_")[0].decode("latin-1"))
            if entry is None or not entry[0].matches(credential) or entry[0].revoked is not None:
                return None
            caller = entry[1]
        elif self._verified:
            found = self._verified.get(hashlib.sha256(credential).digest())
            if found is None:
                return None
            caller = found
        else:
            return None
        return caller if caller.expires > time.time() else None

    async def identify(self, credential: bytes) -> Caller:
        """Who sent a credential that is not :meth:`known`.

        Raises:
            Problem: 401, and why.
        """
        if credential.startswith(KEY_START):
            raise unauthenticated("the key is unknown, revoked or expired", error="invalid_token")
        if self._tokens is None:
            raise unauthenticated("the credential is no key of this service", error="invalid_token")
        from service.tokens import TokenError, scopes_of

        try:
            claims = await self._tokens.verify(credential.decode("latin-1"))
        except TokenError as error:
            raise unauthenticated(str(error), error="invalid_token") from None
        now = time.time()
        expires = min(float(claims["exp"]), now + TOKEN_SECONDS)
        subject = str(claims.get("sub", ""))[:64]
        caller = Caller(f"token:{subject}", _all_if_admin(scopes_of(claims)), expires)
        if expires > now:  # within the leeway a token is accepted, and verified each time
            if len(self._verified) >= MAX_TOKENS:
                self._verified.clear()
            self._verified[hashlib.sha256(credential).digest()] = caller
        return caller

    async def start(self) -> None:
        """Begins to watch the keys."""
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Ends that, and closes the store."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        self._store.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await asyncio.to_thread(self.refresh)
                self._failing = False
            except StoreError as error:
                if not self._failing:
                    log.error("API keys stay as they were: %s", error)
                self._failing = True


def unauthenticated(detail: str, *, error: str | None = None) -> Problem:
    """The 401 that says how to authenticate (RFC 6750)."""
    challenge = 'Bearer realm="lipserve"' + (f', error="{error}"' if error else "")
    return Problem(ProblemKind.UNAUTHENTICATED, detail, headers={"WWW-Authenticate": challenge})


def _caller(key: ApiKey) -> Caller:
    expires = math.inf if key.expires is None else key.expires
    return Caller(f"key:{key.id}", _all_if_admin(key.scopes), expires)


def _all_if_admin(scopes: frozenset[Scope]) -> frozenset[Scope]:
    return frozenset(Scope) if Scope.ADMIN in scopes else scopes
