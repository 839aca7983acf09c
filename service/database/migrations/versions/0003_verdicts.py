"""Verdicts of the isolated checker on model files."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"


def upgrade() -> None:
    """Add a table."""
    op.create_table(
        "verdicts",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("reader", sa.String(128), primary_key=True),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        if_not_exists=True,
    )
    op.create_index("ix_verdicts_created", "verdicts", ["created"], if_not_exists=True)
