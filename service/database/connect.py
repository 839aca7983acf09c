"""Connections to the database: SQLite, or PostgreSQL by a URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, make_url, select
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError, SQLAlchemyError

from lipmodel.errors import LipcertError
from service.database.tables import metadata, revisions
from service.disk import close_to_others, private_file

EXCLUSIVE = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(5061706)"}
"""Statement by which a server holds off others while it creates or upgrades the tables."""
CONNECT_SECONDS = 5
"""Time limit to connect to PostgreSQL."""
MIGRATIONS = Path(__file__).with_name("migrations")
REVISION = "0003"
"""Latest of the migrations."""


class StoreError(LipcertError):
    """The database or its folder cannot be used."""


class StorageError(StoreError):
    """The disk of the database or of the state folder cannot be written: it is full, for instance.

    Attributes:
        cause: safe to return to callers, without paths and hosts.
    """

    def __init__(self, what: str, cause: str) -> None:
        super().__init__(f"{what} cannot be written: {cause}")
        self.cause = cause


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Raise an operating system error of writing ``what``, which the message names, as a StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(what, error.strerror or str(error)) from error


NO_STORAGE = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN")
"""Prefixes of the names of SQLite's disk errors."""
POSTGRESQL_FULL = "53100"


def unusable(error: Exception) -> StoreError:
    """Return a database error as one of this service, with the database's reason in one line."""
    origin = getattr(error, "orig", None) or error
    reason = str(origin).strip().splitlines()[0]
    if getattr(origin, "sqlite_errorname", "").startswith(NO_STORAGE):
        return StorageError("the database", reason)
    if getattr(origin, "sqlstate", None) == POSTGRESQL_FULL:
        return StorageError("the database", "its server's disk is full")
    return StoreError(f"the database cannot be used: {reason}")


def open_database(url: str) -> Engine:
    """Open a database, and create or upgrade its tables (:mod:`service.database.tables`).

    Args:
        url: of SQLAlchemy: ``sqlite:///file`` or ``postgresql+psycopg://…``.

    Raises:
        StoreError: the database cannot be opened, or is not supported.
    """
    try:
        place = make_url(url)
        if place.get_backend_name() == "postgresql" and "connect_timeout" not in place.query:
            place = place.update_query_dict({"connect_timeout": str(CONNECT_SECONDS)})
        engine = create_engine(place, pool_pre_ping=True)
    except ArgumentError:
        raise StoreError("the database's URL is not valid; expected postgresql+psycopg://…") from None
    except ModuleNotFoundError as error:
        raise unusable(error) from error
    name = engine.dialect.name
    if name not in EXCLUSIVE:
        raise StoreError(f"databases of {name} are not supported; use PostgreSQL or SQLite")
    if name == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
    try:
        if name == "sqlite" and place.database not in (None, "", ":memory:"):
            _make_private(Path(str(place.database)))
        with engine.begin() as connection:
            connection.exec_driver_sql(EXCLUSIVE[name])
            _migrate(connection)
    except StoreError:
        engine.dispose()
        raise
    except (SQLAlchemyError, OSError) as error:
        engine.dispose()
        raise unusable(error) from error
    return engine


def _make_private(file: Path) -> None:
    """Make a database file readable for its owner alone; SQLite creates its other files with equal modes."""
    private_file(file)
    for beside in (file.with_name(f"{file.name}{end}") for end in ("-wal", "-shm")):
        if beside.exists():
            close_to_others(beside)


def _migrate(connection: Connection) -> None:
    """Create the tables of an empty database, or run the migrations that an older one lacks."""
    tables = set(inspect(connection).get_table_names())
    if tables.isdisjoint(metadata.tables):
        metadata.create_all(connection)
        connection.execute(insert(revisions).values(version_num=REVISION))
        return
    if revisions.name in tables and connection.scalar(select(revisions.c.version_num)) == REVISION:
        return
    from alembic import command  # 10 MiB and 0.1 s, which only an older database needs
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, REVISION)
    except CommandError:
        raise StoreError("the database is of a later version of lipserve; run that version") from None


def _set_up_sqlite(connection: Any, _: Any) -> None:
    """Set pragmas: readers do not wait for the writer (WAL); commits survive even a power failure (FULL)."""
    for pragma in ("busy_timeout = 10000", "journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Yield a connection whose statements all take effect, or none.

    Raises:
        StoreError: the database does not respond.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except (OperationalError, InterfaceError) as error:
        raise unusable(error) from error
