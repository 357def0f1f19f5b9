"""What people set the breakers of channels to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from paykit.store.row import ascii_string, utf8_string

revision = "channel_0004"
down_revision = "channel_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "channel_override",
        sa.Column("id", ascii_string(32), primary_key=True, nullable=False, autoincrement=False),
        sa.Column("slot", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("override_key", ascii_string(160), nullable=False),
        sa.Column("channel", ascii_string(64), nullable=False),
        sa.Column("merchant", ascii_string(64), nullable=False),
        sa.Column("mode", ascii_string(32), nullable=False),
        sa.Column("reason", utf8_string(255), nullable=False),
        sa.Column("set_by", ascii_string(64), nullable=False),
        sa.Column("set_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expire_at_ms", sa.BigInteger(), nullable=True),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
    )
    op.create_index("uq_channel_override_override_key", "channel_override", ["override_key"], unique=True)
    op.create_index("ix_channel_override_expire_at_ms", "channel_override", ["expire_at_ms"])
    op.create_index("ix_channel_override_biz_id", "channel_override", ["biz_id"])
