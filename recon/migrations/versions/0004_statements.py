"""Statements of providers, their balances and lines; orders by what statements say of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from paykit.store.row import ascii_string, utf8_string

revision = "recon_0004"
down_revision = "recon_0005"
branch_labels = None
depends_on = None

_BLOB = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


def _row() -> list[sa.Column[object]]:
    """What every row has."""
    return [
        sa.Column("id", ascii_string(32), primary_key=True, nullable=False, autoincrement=False),
        sa.Column("slot", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
    ]


def upgrade() -> None:
    op.create_table(
        "statement",
        *_row(),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("channel", ascii_string(64), nullable=False),
        sa.Column("account", ascii_string(64), nullable=False),
        sa.Column("format", ascii_string(32), nullable=False),
        sa.Column("business_date", ascii_string(32), nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("file_name", utf8_string(255), nullable=False),
        sa.Column("file_digest", ascii_string(64), nullable=False),
        sa.Column("file_key", ascii_string(160), nullable=False),
        sa.Column("active_key", ascii_string(160), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("line_count", sa.BigInteger(), nullable=False),
        sa.Column("known_line_count", sa.BigInteger(), nullable=False),
        sa.Column("replaces_id", ascii_string(32), nullable=False),
        sa.Column("replaced_by_id", ascii_string(32), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("matched_ref", ascii_string(32), nullable=False),
        sa.Column("due_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("context", _BLOB, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
    )
    op.create_index("uq_statement_file_key", "statement", ["file_key"], unique=True)
    op.create_index("uq_statement_active_key", "statement", ["active_key"], unique=True)
    op.create_index("ix_statement_channel_business_date", "statement", ["channel", "business_date"])
    op.create_index("ix_statement_due_at_ms", "statement", ["due_at_ms"])
    op.create_index("ix_statement_biz_id", "statement", ["biz_id"])
    op.create_table(
        "statement_balance",
        *_row(),
        sa.Column("statement_id", ascii_string(32), nullable=False),
        sa.Column("account_key", ascii_string(160), nullable=False),
        sa.Column("account", ascii_string(64), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("opening_minor", sa.BigInteger(), nullable=True),
        sa.Column("closing_minor", sa.BigInteger(), nullable=True),
        sa.Column("from_date", ascii_string(32), nullable=False),
        sa.Column("to_date", ascii_string(32), nullable=False),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
    )
    op.create_index("ix_statement_balance_statement_id", "statement_balance", ["statement_id"])
    op.create_index("ix_statement_balance_account_key_to_date", "statement_balance", ["account_key", "to_date"])
    op.create_table(
        "statement_line",
        *_row(),
        sa.Column("statement_id", ascii_string(32), nullable=False),
        sa.Column("channel", ascii_string(64), nullable=False),
        sa.Column("account", ascii_string(64), nullable=False),
        sa.Column("line_no", sa.BigInteger(), nullable=False),
        sa.Column("provider_line_id", ascii_string(64), nullable=False),
        sa.Column("kind", ascii_string(32), nullable=False),
        sa.Column("match_ref", ascii_string(32), nullable=False),
        sa.Column("provider_reference", ascii_string(64), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("fee_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("business_date", ascii_string(32), nullable=False),
        sa.Column("is_reversal", sa.Integer(), nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("difference", ascii_string(32), nullable=False),
        sa.Column("break_id", ascii_string(32), nullable=True),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
    )
    op.create_index("ix_statement_line_statement_id_match_ref", "statement_line", ["statement_id", "match_ref"])
    op.create_index("ix_statement_line_match_ref", "statement_line", ["match_ref"])
    op.create_index("ix_statement_line_business_date_channel", "statement_line", ["business_date", "channel"])
    op.create_index(
        "ix_recon_order_channel_settlement_business_date",
        "recon_order",
        ["channel", "settlement", "business_date"],
    )
