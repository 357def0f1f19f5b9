"""Captures and voids of held money are numbered."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "trade_0003"
down_revision = "trade_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # With a default in the database: the version still running inserts without it.
    with op.batch_alter_table("trade") as batch:
        batch.add_column(sa.Column("settle_count", sa.Integer(), nullable=False, server_default="0"))
