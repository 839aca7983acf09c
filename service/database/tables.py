"""Tables of the database, in their latest revision; ``migrations/`` upgrades older databases."""

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

job_data = Table(
    "work",
    metadata,
    Column("job_id", String(32), primary_key=True),
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("content", LargeBinary, nullable=False),
)
"""Data of the unfinished jobs of a shared database, in parts, for servers that take them over."""

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
"""Verdicts of the isolated checker on model files; see :mod:`service.models.verdicts`."""

revisions = Table("alembic_version", metadata, Column("version_num", String(32), primary_key=True))
"""Revision of the tables, in the table of Alembic."""
