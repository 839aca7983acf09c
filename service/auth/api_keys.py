"""API keys, stored as digests in the job database.

A key is ``lipcert_ID_SECRET``: a prefix for scanners of leaked secrets, a public id, and 256 random bits. A
slow hash is unnecessary for random bits: it protects guessable secrets chosen by people, at a cost for every
request.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from service.auth.scopes import Scope
from service.database.connect import StoreError, open_database, unusable
from service.database.tables import api_keys as keys
from service.disk import private_folder
from service.settings import Settings

PREFIX = "lipcert"


@dataclass(frozen=True)
class ApiKey:
    """An API key without its secret. Times are in seconds since 1970.

    Attributes:
        id: public id.
        name: name of the owner, for display.
        digest: SHA-256 of the whole key, in hexadecimal.
        scopes: permissions of the key.
        created: time of creation.
        expires: time of expiry; None if the key does not expire.
        revoked: time of revocation; None if the key is not revoked.
    """

    id: str
    name: str
    digest: str
    scopes: frozenset[Scope]
    created: float
    expires: float | None
    revoked: float | None

    def matches(self, presented: bytes) -> bool:
        """Return True for the key itself; takes the same time for every wrong key."""
        return hmac.compare_digest(hashlib.sha256(presented).hexdigest(), self.digest)

    @property
    def state(self) -> str:
        """State of the key: ``valid``, ``expired`` or ``revoked``."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= time.time() else "valid"


class KeyStore:
    """The API keys in the database, which several processes may use at a time.

    Raises:
        StoreError: the database cannot be opened; from every method: the database cannot be used.
    """

    def __init__(self, url: str) -> None:
        self._engine = open_database(url)

    @classmethod
    def beside_jobs(cls, settings: Settings) -> KeyStore:
        """Open the key store of a service with the given settings, which may be running.

        Raises:
            StoreError: the store cannot be opened.
        """
        folder = settings.state_folder
        try:
            if settings.database is None:
                private_folder(folder)
        except OSError as error:
            raise StoreError(f"cannot store keys in {folder}: {error.strerror}") from error
        return cls(settings.database_url)

    def create(self, name: str, scopes: Collection[Scope], days: float | None = None) -> str:
        """Create a key, with a lifetime in days if given, and return it; only its digest is stored."""
        now, key_id = time.time(), secrets.token_hex(6)
        key = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
        row = {
            "id": key_id,
            "name": name,
            "digest": hashlib.sha256(key.encode()).hexdigest(),
            "scopes": " ".join(sorted(scopes)),
            "created": now,
            "expires": None if days is None else now + days * 86400,
        }
        with _store_errors(), self._engine.begin() as connection:
            connection.execute(insert(keys).values(row))
        return key

    def revoke(self, key_id: str) -> bool:
        """Revoke a key; return False if no unrevoked key has the id."""
        holds = (keys.c.id == key_id) & keys.c.revoked.is_(None)
        with _store_errors(), self._engine.begin() as connection:
            return connection.execute(update(keys).where(holds).values(revoked=time.time())).rowcount == 1

    def all(self) -> list[ApiKey]:
        """Return all keys, revoked and expired ones too, the oldest first."""
        with _store_errors(), self._engine.connect() as connection:
            rows = connection.execute(select(keys).order_by(keys.c.created, keys.c.id)).mappings()
            return [ApiKey(**{**row, "scopes": frozenset(map(Scope, row["scopes"].split()))}) for row in rows]

    def close(self) -> None:
        """Close the connections to the database."""
        self._engine.dispose()


@contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise unusable(error) from error
