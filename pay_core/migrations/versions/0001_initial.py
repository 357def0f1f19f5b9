"""Accounts, journals, entries, payments and their instructions."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from paykit.store.row import ascii_string

revision = "pay_0001"
down_revision = None

_LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(charset="utf8mb4"), "mysql", "mariadb")
_BLOB = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
_OPTIONS: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}


def _row_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("id", ascii_string(32), primary_key=True, nullable=False, autoincrement=False),
        sa.Column("slot", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
    ]


def upgrade() -> None:
    _ledger()
    _payments()


def _ledger() -> None:
    op.create_table(
        "account",
        *_row_columns(),
        sa.Column("account_key", ascii_string(160), nullable=False),
        sa.Column("owner_id", ascii_string(64), nullable=False),
        sa.Column("kind", ascii_string(32), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("balance_minor", sa.BigInteger(), nullable=False),
        sa.Column("held_minor", sa.BigInteger(), nullable=False),
        sa.Column("floor_minor", sa.BigInteger(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        **_OPTIONS,
    )
    op.create_index("uq_account_account_key", "account", ["account_key"], unique=True)
    op.create_index("ix_account_owner_id", "account", ["owner_id"])
    op.create_table(
        "journal",
        *_row_columns(),
        sa.Column("payment_id", ascii_string(32), nullable=False),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("bookings", _LONG_TEXT, nullable=False),
        sa.Column("posted_at_ms", sa.BigInteger(), nullable=False),
        **_OPTIONS,
    )
    op.create_index("ix_journal_payment_id", "journal", ["payment_id"])
    op.create_table(
        "entry",
        *_row_columns(),
        sa.Column("journal_id", ascii_string(32), nullable=False),
        sa.Column("account_id", ascii_string(32), nullable=False),
        sa.Column("payment_id", ascii_string(32), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("balance_after_minor", sa.BigInteger(), nullable=False),
        sa.Column("posted_at_ms", sa.BigInteger(), nullable=False),
        **_OPTIONS,
    )
    op.create_index("ix_entry_account_id_id", "entry", ["account_id", "id"])
    op.create_index("ix_entry_journal_id", "entry", ["journal_id"])


def _payments() -> None:
    op.create_table(
        "payment",
        *_row_columns(),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("operation", ascii_string(32), nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("payer_id", ascii_string(64), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("source_id", ascii_string(64), nullable=False),
        sa.Column("original_payment_id", ascii_string(32), nullable=True),
        sa.Column("refunding_minor", sa.BigInteger(), nullable=False),
        sa.Column("refunded_minor", sa.BigInteger(), nullable=False),
        sa.Column("failure_reason", ascii_string(32), nullable=False),
        sa.Column("caller", ascii_string(64), nullable=False),
        sa.Column("context", _BLOB, nullable=False),
        sa.Column("ask_count", sa.Integer(), nullable=False),
        sa.Column("due_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        **_OPTIONS,
    )
    op.create_index("ix_payment_source_id", "payment", ["source_id"])
    op.create_index("ix_payment_payer_id_id", "payment", ["payer_id", "id"])
    op.create_index("ix_payment_biz_id", "payment", ["biz_id"])
    op.create_index("ix_payment_due_at_ms", "payment", ["due_at_ms"])
    op.create_table(
        "instruction",
        *_row_columns(),
        sa.Column("payment_id", ascii_string(32), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("direction", ascii_string(32), nullable=False),
        sa.Column("action", ascii_string(32), nullable=False),
        sa.Column("tool", ascii_string(32), nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("owner_id", ascii_string(64), nullable=False),
        sa.Column("account_kind", ascii_string(32), nullable=False),
        sa.Column("channel", ascii_string(64), nullable=False),
        sa.Column("token", ascii_string(64), nullable=False),
        sa.Column("channel_order_id", ascii_string(32), nullable=True),
        sa.Column("original_channel_order_id", ascii_string(32), nullable=True),
        sa.Column("reverses_id", ascii_string(32), nullable=True),
        sa.Column("refunded_minor", sa.BigInteger(), nullable=False),
        sa.Column("failure_reason", ascii_string(32), nullable=False),
        **_OPTIONS,
    )
    op.create_index("ix_instruction_payment_id", "instruction", ["payment_id"])
