"""API keys, kept as digests in the database of jobs.

A key is ``lipcert_ID_SECRET``: a prefix that scanners of leaked secrets find, an id that may be shown, and
256 random bits. Of these no slow hash is needed: it protects secrets that people choose, which others can
guess, and would cost every request.
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
    """A key without its secret. Times are in seconds since 1970.

    Attributes:
        id: may be shown.
        name: whose it is, for people.
        digest: SHA-256 of the whole key, in hexadecimal.
        scopes: what it may do.
        expires: when it ends; None if it does not.
        revoked: when it was revoked; None while it holds.
    """

    id: str
    name: str
    digest: str
    scopes: frozenset[Scope]
    created: float
    expires: float | None
    revoked: float | None

    def matches(self, presented: bytes) -> bool:
        """Whether this is the key; takes as long for any wrong one."""
        return hmac.compare_digest(hashlib.sha256(presented).hexdigest(), self.digest)

    @property
    def state(self) -> str:
        """``valid``, ``expired`` or ``revoked``."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= time.time() else "valid"


class KeyStore:
    """The keys in the database; any number of processes may use it at a time.

    Args:
        url: of SQLAlchemy: ``sqlite:///file`` or ``postgresql+psycopg://…``.

    Raises:
        StoreError: the database cannot be opened; of every method: it cannot be used any more.
    """

    def __init__(self, url: str) -> None:
        self._engine = open_database(url)

    @classmethod
    def beside_jobs(cls, settings: Settings) -> KeyStore:
        """The keys of a service with those settings, which may be running.

        Raises:
            StoreError: they cannot be opened.
        """
        folder = settings.state_folder
        try:
            if settings.database is None:
                private_folder(folder)
        except OSError as error:
            raise StoreError(f"no keys can be kept in {folder}: {error.strerror}") from error
        return cls(settings.database_url)

    def create(self, name: str, scopes: Collection[Scope], days: float | None = None) -> str:
        """Makes a key that ends after so many days, if any; returns it, this once."""
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
        with _told(), self._engine.begin() as connection:
            connection.execute(insert(keys).values(row))
        return key

    def revoke(self, key_id: str) -> bool:
        """Ends a key for good; False where there is none of that id that still holds."""
        holds = (keys.c.id == key_id) & keys.c.revoked.is_(None)
        with _told(), self._engine.begin() as connection:
            return connection.execute(update(keys).where(holds).values(revoked=time.time())).rowcount == 1

    def all(self) -> list[ApiKey]:
        """Every key that ever was, the oldest first."""
        with _told(), self._engine.connect() as connection:
            rows = connection.execute(select(keys).order_by(keys.c.created, keys.c.id)).mappings()
            return [ApiKey(**{**row, "scopes": frozenset(map(Scope, row["scopes"].split()))}) for row in rows]

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise unusable(error) from error
