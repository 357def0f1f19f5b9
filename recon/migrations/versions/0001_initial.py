"""The matches and the breaks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from paykit.store.row import ascii_string, utf8_string

revision = "recon_0001"
down_revision = None
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(charset="utf8mb4"), "mysql", "mariadb")
_BLOB = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


def upgrade() -> None:
    """Makes both tables."""
    op.create_table(
        "recon_match",
        sa.Column("id", ascii_string(32), primary_key=True, autoincrement=False, nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("match_key", ascii_string(64), nullable=False),
        sa.Column("kind", ascii_string(32), nullable=False),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("payment_id", ascii_string(32), nullable=False),
        sa.Column("source_id", ascii_string(64), nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("first_amount_minor", sa.BigInteger(), nullable=True),
        sa.Column("first_currency", ascii_string(32), nullable=True),
        sa.Column("first_seen_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("second_amount_minor", sa.BigInteger(), nullable=True),
        sa.Column("second_currency", ascii_string(32), nullable=True),
        sa.Column("second_seen_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("unknown_amount_minor", sa.BigInteger(), nullable=True),
        sa.Column("unknown_currency", ascii_string(32), nullable=True),
        sa.Column("unknown_seen_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("conflict", sa.Integer(), nullable=False),
        sa.Column("due_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("ask_count", sa.Integer(), nullable=False),
        sa.Column("break_id", ascii_string(32), nullable=True),
        sa.Column("mismatch_break_id", ascii_string(32), nullable=True),
        sa.Column("context", _BLOB, nullable=False),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
    )
    op.create_index("uq_recon_match_match_key", "recon_match", ["match_key"], unique=True)
    op.create_index("ix_recon_match_due_at_ms", "recon_match", ["due_at_ms"])
    op.create_index("ix_recon_match_biz_id", "recon_match", ["biz_id"])
    op.create_index("ix_recon_match_kind_state", "recon_match", ["kind", "state"])
    op.create_table(
        "recon_break",
        sa.Column("id", ascii_string(32), primary_key=True, autoincrement=False, nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("type", ascii_string(32), nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("kind", ascii_string(32), nullable=False),
        sa.Column("match_key", ascii_string(64), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("owner", ascii_string(64), nullable=False),
        sa.Column("evidence", _TEXT, nullable=False),
        sa.Column("close_reason", utf8_string(255), nullable=False),
        sa.Column("opened_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("closed_at_ms", sa.BigInteger(), nullable=True),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
    )
    op.create_index("ix_recon_break_state_id", "recon_break", ["state", "id"])
    op.create_index("ix_recon_break_biz_id", "recon_break", ["biz_id"])
    op.create_index("ix_recon_break_match_key", "recon_break", ["match_key"])
