"""Data of jobs, so that another server can take them over, and the number of attempts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    """Add a table and a column."""
    op.create_table(
        "work",
        sa.Column("job_id", sa.String(32), primary_key=True),
        sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.add_column("jobs", sa.Column("attempts", sa.Integer, nullable=False, server_default="0"))
