"""The tables that jobs are kept in, and how their database is opened: SQLite, or PostgreSQL by a URL."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    Column,
    Engine,
    Float,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
)
from sqlalchemy.exc import ArgumentError

from lipmodel.errors import LipcertError


class StoreError(LipcertError):
    """The database or its folder cannot be used."""


_metadata = MetaData()
jobs = Table(
    "jobs",
    _metadata,
    Column("id", String(32), primary_key=True),
    Column("kind", String(16), nullable=False, index=True),
    Column("model", String(64), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("parameters", Text, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("progress", Float, nullable=False),
    Column("owner", String(32), nullable=False),
    Column("created", Float, nullable=False, index=True),
    Column("started", Float),
    Column("finished", Float),
    Column("result", Text),
    Column("problem", Text),
    Column("radii", LargeBinary),
)
reports = Table(
    "reports",
    _metadata,
    Column("job_id", String(32), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("content", LargeBinary, nullable=False),
)
servers = Table(
    "servers",
    _metadata,
    Column("id", String(32), primary_key=True),
    Column("heard_of", Float, nullable=False),
)
ALONE = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(5061706)"}
"""What keeps two servers that start at once from both creating the tables."""


def open_database(url: str) -> Engine:
    """The database with its tables.

    Raises:
        StoreError: a database of another sort.
    """
    try:
        engine = create_engine(url, pool_pre_ping=True)
    except ArgumentError:
        raise StoreError("the database's URL cannot be read; postgresql+psycopg://… is accepted") from None
    name = engine.dialect.name
    if name not in ALONE:
        raise StoreError(f"a database of {name} is not supported; PostgreSQL and SQLite are")
    if name == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
    with engine.begin() as connection:
        connection.exec_driver_sql(ALONE[name])
        _metadata.create_all(connection)
    return engine


def _set_up_sqlite(connection: Any, _: Any) -> None:
    """Readers do not wait for the writer (WAL); what is committed outlives even a power cut (FULL)."""
    for pragma in ("busy_timeout = 10000", "journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")
