"""Holds, books and their closing, limits, coupons, cases, versions of the rules; and what payments need of them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from paykit.store.row import ascii_string, utf8_string

revision = "pay_0002"
down_revision = "pay_0001"
branch_labels = None
depends_on = None

_LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(charset="utf8mb4"), "mysql", "mariadb")
_BLOB = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
_OPTIONS: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}


def upgrade() -> None:
    _new_columns()
    _ledger()
    _payments()


def _add(table: str, *columns: sa.Column[Any]) -> None:
    # With defaults in the database: the version still running inserts without them.
    with op.batch_alter_table(table) as batch:
        for column in columns:
            batch.add_column(column)


def _text(name: str, length: int, default: str = "") -> sa.Column[str]:
    return sa.Column(name, ascii_string(length), nullable=False, server_default=default)


def _number(name: str, default: int = 0) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default=str(default))


def _small(name: str, default: int = 0) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False, server_default=str(default))


def _time(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=True)


def _row_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("id", ascii_string(32), primary_key=True, nullable=False, autoincrement=False),
        sa.Column("slot", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
    ]


def _new_columns() -> None:
    _add("account", _text("freeze_reason", 64))
    _add("journal", _text("accounting_date", 32))
    op.create_index("ix_journal_slot_accounting_date_id", "journal", ["slot", "accounting_date", "id"])
    _add("entry", _text("accounting_date", 32))
    op.create_index("ix_entry_account_id_accounting_date_id", "entry", ["account_id", "accounting_date", "id"])
    op.drop_index("ix_entry_account_id_id", "entry")
    _add(
        "payment",
        _text("settlement_mode", 32, "IMMEDIATE"),
        _number("captured_minor"),
        _number("payer_fee_minor"),
        _number("payee_fee_minor"),
        _small("rules_version"),
        _text("accounting_date", 32),
        _time("expires_at_ms"),
        _small("is_repair"),
        sa.Column("plan", _LONG_TEXT, nullable=True),
    )
    op.create_index("ix_payment_slot_accounting_date", "payment", ["slot", "accounting_date"])
    _add(
        "instruction",
        sa.Column("reserve_id", ascii_string(32), nullable=True),
        _text("reference", 64),
        _text("instrument", 32),
        _number("unit_count"),
        _number("refunded_unit_count"),
        _number("moved_minor"),
        _small("attempt_no", 1),
        _time("not_before_ms"),
    )


def _ledger() -> None:
    op.create_table(
        "hold",
        *_row_columns(),
        sa.Column("account_id", ascii_string(32), nullable=False),
        sa.Column("payment_id", ascii_string(32), nullable=False),
        sa.Column("instruction_id", ascii_string(32), nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("captured_minor", sa.BigInteger(), nullable=False),
        sa.Column("released_minor", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        **_OPTIONS,
    )
    op.create_index("ix_hold_account_id_id", "hold", ["account_id", "id"])
    op.create_index("ix_hold_payment_id", "hold", ["payment_id"])
    op.create_index("uq_hold_instruction_id", "hold", ["instruction_id"], unique=True)
    op.create_table(
        "book",
        *_row_columns(),
        sa.Column("book_key", ascii_string(160), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("open_date", ascii_string(32), nullable=False),
        sa.Column("closed_through", ascii_string(32), nullable=False),
        sa.Column("drain_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("due_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("context", _BLOB, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("closing_date", ascii_string(32), nullable=False),
        sa.Column("used_date", ascii_string(32), nullable=False),
        sa.Column("close_through", ascii_string(32), nullable=False),
        sa.Column("last_closing_id", ascii_string(32), nullable=False),
        **_OPTIONS,
    )
    op.create_index("ix_book_due_at_ms", "book", ["due_at_ms"])
    op.create_index("uq_book_book_key", "book", ["book_key"], unique=True)
    op.create_table(
        "closing",
        *_row_columns(),
        sa.Column("closing_key", ascii_string(160), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("accounting_date", ascii_string(32), nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("journal_count", sa.BigInteger(), nullable=False),
        sa.Column("debit_minor", sa.BigInteger(), nullable=False),
        sa.Column("credit_minor", sa.BigInteger(), nullable=False),
        sa.Column("carried_payment_count", sa.BigInteger(), nullable=False),
        sa.Column("due_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("context", _BLOB, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("previous_id", ascii_string(32), nullable=False),
        sa.Column("counted_through", ascii_string(32), nullable=False),
        sa.Column("totals", _LONG_TEXT, nullable=False),
        **_OPTIONS,
    )
    op.create_index("ix_closing_slot_currency_accounting_date", "closing", ["slot", "currency", "accounting_date"])
    op.create_index("ix_closing_accounting_date", "closing", ["accounting_date"])
    op.create_index("ix_closing_due_at_ms", "closing", ["due_at_ms"])
    op.create_index("uq_closing_closing_key", "closing", ["closing_key"], unique=True)
    op.create_table(
        "balance_snapshot",
        *_row_columns(),
        sa.Column("snapshot_key", ascii_string(160), nullable=False),
        sa.Column("account_id", ascii_string(32), nullable=False),
        sa.Column("account_kind", ascii_string(32), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("accounting_date", ascii_string(32), nullable=False),
        sa.Column("balance_minor", sa.BigInteger(), nullable=False),
        sa.Column("debit_minor", sa.BigInteger(), nullable=False),
        sa.Column("credit_minor", sa.BigInteger(), nullable=False),
        **_OPTIONS,
    )
    op.create_index(
        "ix_balance_snapshot_account_id_accounting_date", "balance_snapshot", ["account_id", "accounting_date"]
    )
    op.create_index("ix_balance_snapshot_slot_accounting_date", "balance_snapshot", ["slot", "accounting_date"])
    op.create_index("uq_balance_snapshot_snapshot_key", "balance_snapshot", ["snapshot_key"], unique=True)


def _payments() -> None:
    op.create_table(
        "limit_usage",
        *_row_columns(),
        sa.Column("usage_key", ascii_string(160), nullable=False),
        sa.Column("owner_id", ascii_string(64), nullable=False),
        sa.Column("limit_name", ascii_string(64), nullable=False),
        sa.Column("accounting_date", ascii_string(32), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("payment_count", sa.BigInteger(), nullable=False),
        **_OPTIONS,
    )
    op.create_index("ix_limit_usage_owner_id", "limit_usage", ["owner_id"])
    op.create_index("uq_limit_usage_usage_key", "limit_usage", ["usage_key"], unique=True)
    op.create_table(
        "coupon",
        *_row_columns(),
        sa.Column("owner_id", ascii_string(64), nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("face_value_minor", sa.BigInteger(), nullable=False),
        sa.Column("funder", ascii_string(32), nullable=False),
        sa.Column("merchant_id", ascii_string(64), nullable=False),
        sa.Column("campaign", ascii_string(64), nullable=False),
        sa.Column("payment_id", ascii_string(32), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("paid_minor", sa.BigInteger(), nullable=False),
        **_OPTIONS,
    )
    op.create_index("ix_coupon_owner_id_id", "coupon", ["owner_id", "id"])
    op.create_index("ix_coupon_payment_id", "coupon", ["payment_id"])
    op.create_table(
        "payment_case",
        *_row_columns(),
        sa.Column("case_key", ascii_string(160), nullable=False),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("type", ascii_string(32), nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("payment_id", ascii_string(32), nullable=False),
        sa.Column("instruction_id", ascii_string(32), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("owner", ascii_string(64), nullable=False),
        sa.Column("evidence", ascii_string(64), nullable=False),
        sa.Column("resolution", ascii_string(32), nullable=False),
        sa.Column("reason", utf8_string(255), nullable=False),
        sa.Column("resolved_by", ascii_string(64), nullable=False),
        sa.Column("resolution_payment_id", ascii_string(32), nullable=False),
        sa.Column("opened_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("resolved_at_ms", sa.BigInteger(), nullable=True),
        **_OPTIONS,
    )
    op.create_index("ix_payment_case_biz_id", "payment_case", ["biz_id"])
    op.create_index("ix_payment_case_payment_id", "payment_case", ["payment_id"])
    op.create_index("ix_payment_case_state_id", "payment_case", ["state", "id"])
    op.create_index("uq_payment_case_case_key", "payment_case", ["case_key"], unique=True)
    op.create_table(
        "rule_version",
        *_row_columns(),
        sa.Column("rule_key", ascii_string(64), nullable=False),
        sa.Column("rules_version", sa.Integer(), nullable=False),
        sa.Column("sha256", ascii_string(64), nullable=False),
        sa.Column("text", _LONG_TEXT, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        **_OPTIONS,
    )
    op.create_index("uq_rule_version_rule_key", "rule_version", ["rule_key"], unique=True)
