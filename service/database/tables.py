"""The tables of the database, as they are now; how they came to be is told in ``migrations/``."""

from __future__ import annotations

from sqlalchemy import Column, Float, Integer, LargeBinary, MetaData, String, Table, Text

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("kind", String(16), nullable=False, index=True),
    Column("model", String(64), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("parameters", Text, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("progress", Float, nullable=False),
    Column("owner", String(32), nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("created", Float, nullable=False, index=True),
    Column("started", Float),
    Column("finished", Float),
    Column("result", Text),
    Column("problem", Text),
    Column("radii", LargeBinary),
)

work = Table(
    "work",
    metadata,
    Column("job_id", String(32), primary_key=True),
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("content", LargeBinary, nullable=False),
)
"""What unfinished jobs of a shared database work on, in parts: whoever takes one over needs it."""

reports = Table(
    "reports",
    metadata,
    Column("job_id", String(32), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("content", LargeBinary, nullable=False),
)

servers = Table(
    "servers",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("heard_of", Float, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("scopes", String(128), nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float),
    Column("revoked", Float),
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("reader", String(128), primary_key=True),
    Column("content", Text, nullable=False),
    Column("created", Float, nullable=False, index=True),
)
"""What the isolated checker found of model files; see :mod:`service.models.verdicts`."""

steps = Table("alembic_version", metadata, Column("version_num", String(32), primary_key=True))
"""The last of the steps that the tables have been through; as Alembic keeps it."""
