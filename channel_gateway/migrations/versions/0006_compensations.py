"""Repairs that reconciliation asks for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from paykit.store.row import ascii_string, utf8_string

revision = "channel_0006"
down_revision = "channel_0005"
branch_labels = None
depends_on = None

_BLOB = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "compensation",
        sa.Column("id", ascii_string(32), primary_key=True, nullable=False, autoincrement=False),
        sa.Column("slot", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("repair_id", ascii_string(32), nullable=False),
        sa.Column("break_id", ascii_string(32), nullable=False),
        sa.Column("kind", ascii_string(32), nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("outcome", ascii_string(32), nullable=False),
        sa.Column("detail", utf8_string(255), nullable=False),
        sa.Column("effect_id", ascii_string(32), nullable=False),
        sa.Column("request", _BLOB, nullable=False),
        sa.Column("due_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("ask_count", sa.Integer(), nullable=False),
        sa.Column("context", _BLOB, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
    )
    op.create_index("uq_compensation_repair_id", "compensation", ["repair_id"], unique=True)
    op.create_index("ix_compensation_due_at_ms", "compensation", ["due_at_ms"])
    op.create_index("ix_compensation_biz_id", "compensation", ["biz_id"])
