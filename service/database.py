"""How databases are opened and spoken to: SQLite, or PostgreSQL by a URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, create_engine, event
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError, SQLAlchemyError

from lipmodel.errors import LipcertError

ALONE = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(5061706)"}
"""What keeps two servers that start at once from both creating the tables."""


class StoreError(LipcertError):
    """The database or its folder cannot be used."""


def unusable(error: Exception) -> StoreError:
    """The database's own reason, in one line."""
    reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    return StoreError(f"the database cannot be used: {reason}")


def open_database(url: str, metadata: MetaData) -> Engine:
    """The database, with those tables in it.

    Raises:
        StoreError: it cannot be opened, or is of another sort.
    """
    try:
        engine = create_engine(url, pool_pre_ping=True)
    except ArgumentError:
        raise StoreError("the database's URL cannot be read; postgresql+psycopg://… is accepted") from None
    except ModuleNotFoundError as error:
        raise unusable(error) from error
    name = engine.dialect.name
    if name not in ALONE:
        raise StoreError(f"a database of {name} is not supported; PostgreSQL and SQLite are")
    if name == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(ALONE[name])
            metadata.create_all(connection)
    except SQLAlchemyError as error:
        raise unusable(error) from error
    return engine


def _set_up_sqlite(connection: Any, _: Any) -> None:
    """Readers do not wait for the writer (WAL); what is committed outlives even a power cut (FULL)."""
    for pragma in ("busy_timeout = 10000", "journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A connection whose statements all take effect, or none.

    Raises:
        StoreError: the database does not answer.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except (OperationalError, InterfaceError) as error:
        raise unusable(error) from error
