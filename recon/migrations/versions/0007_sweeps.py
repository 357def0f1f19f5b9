"""How far the records of the services were compared, and those that ended long after their payments were made."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from paykit.store.row import ascii_string

revision = "recon_0007"
down_revision = "recon_0006"
branch_labels = None
depends_on = None

_BLOB = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "recon_sweep",
        sa.Column("id", ascii_string(32), primary_key=True, nullable=False, autoincrement=False),
        sa.Column("slot", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("attempt_ms", sa.BigInteger(), nullable=False),
        sa.Column("payment_ms", sa.BigInteger(), nullable=False),
        sa.Column("journal_ms", sa.BigInteger(), nullable=False),
        sa.Column("order_ms", sa.BigInteger(), nullable=False),
        sa.Column("due_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("context", _BLOB, nullable=False),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
    )
    op.create_index("ix_recon_sweep_due_at_ms", "recon_sweep", ["due_at_ms"])
    op.create_table(
        "recon_late_record",
        sa.Column("id", ascii_string(32), primary_key=True, nullable=False, autoincrement=False),
        sa.Column("slot", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("match_id", ascii_string(32), nullable=False),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
    )
