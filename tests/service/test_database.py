"""Databases opened: their tables brought up to date step by step, and servers that do not answer."""

from __future__ import annotations

import socket
import time

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

from service.database.connect import MIGRATIONS, REVISION, StoreError, open_database
from service.database.tables import jobs, metadata, revisions
from service.jobs.store import Job, State, Store


@pytest.mark.parametrize("begun", [False, True], ids=["made at once", "step by step"])
def test_the_migrations_lead_to_the_tables(begun, url):
    if begun:  # no step has been taken
        engine = create_engine(url)
        revisions.create(engine)
        engine.dispose()
    for _ in range(2):  # the second time there is nothing to do
        engine = open_database(url)
        with engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []
            assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == [
                REVISION
            ]
        engine.dispose()


def test_the_comparison_can_tell(url):
    engine = open_database(url)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE jobs DROP COLUMN radii"))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()


def test_a_database_from_before_migrations_is_upgraded_with_its_jobs(url):
    engine = create_engine(url)
    old = [c for c in jobs.c if c.name != "attempts"]
    with engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(text("DROP TABLE alembic_version"))
        connection.execute(text("DROP TABLE work"))
        connection.execute(text("DROP TABLE api_keys"))  # as one that a server made, of two that did
        connection.execute(text("ALTER TABLE jobs DROP COLUMN attempts"))
        names = ", ".join(c.name for c in old[:9])
        connection.execute(
            text(f"INSERT INTO jobs ({names}) VALUES ('j1', 'audit', 'm', '0', '{{}}', 'queued', 0, 'a', 1)")
        )
    engine.dispose()
    store = Store(url, "a")
    assert store.get("j1") == Job("j1", "audit", "m", "0", "{}", State.QUEUED, 0.0, "a", 1.0)
    assert store.start("j1")
    assert store.get("j1").attempts == 1
    store.close()
    engine = open_database(url)
    assert {"work", "api_keys"} <= set(inspect(engine).get_table_names())
    engine.dispose()


def test_no_migration_is_left_out():
    assert ScriptDirectory(str(MIGRATIONS)).get_current_head() == REVISION


def test_a_database_of_a_later_version_is_refused(url):
    engine = open_database(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(StoreError, match="of a later version"):
        open_database(url)


def test_a_server_that_does_not_answer_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"postgresql+psycopg://jobs@127.0.0.1:{silent.getsockname()[1]}/jobs"
        begun = time.monotonic()
        with pytest.raises(StoreError, match="timeout"):
            open_database(f"{place}?connect_timeout=2")
        assert time.monotonic() - begun < 60
        with pytest.raises(StoreError, match="timeout"):
            open_database(place)
