"""What a provider really moved, where that may differ from what was asked for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "channel_0002"
down_revision = "channel_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # With a default in the database: the version still running inserts without it.
    with op.batch_alter_table("channel_order") as batch:
        batch.add_column(sa.Column("settled_minor", sa.BigInteger(), nullable=False, server_default="0"))
