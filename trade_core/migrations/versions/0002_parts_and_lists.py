"""Trades with parts, holds and repairs; a payee's list of its trades."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from paykit.store.row import ascii_string

revision = "trade_0002"
down_revision = "trade_0001"
branch_labels = None
depends_on = None

_OPTIONS: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}


def upgrade() -> None:
    _new_columns()
    _merchant_trades()


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
    _add(
        "trade",
        _number("paid_minor"),
        _small("part_count"),
        _small("part_paid_count"),
        _small("open_attempt_count"),
        _text("group_trade_id", 32),
        _text("purpose", 32),
        _text("repairs_attempt_id", 32),
        _number("hold_time_to_live_ms"),
        _time("hold_expires_at_ms"),
    )
    _add("pay_attempt", _number("amount_minor"), _small("awaits_customer"), _number("payment_version"))


def _merchant_trades() -> None:
    op.create_table(
        "merchant_trade",
        *_row_columns(),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("trade_id", ascii_string(32), nullable=False),
        sa.Column("payee_id", ascii_string(64), nullable=False),
        sa.Column("trade_version", sa.BigInteger(), nullable=False),
        sa.Column("trade_type", ascii_string(32), nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("buyer_id", ascii_string(64), nullable=False),
        sa.Column("merchant_order_no", ascii_string(64), nullable=False),
        sa.Column("scene", ascii_string(64), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("paid_minor", sa.BigInteger(), nullable=False),
        sa.Column("refunded_minor", sa.BigInteger(), nullable=False),
        sa.Column("refundable_minor", sa.BigInteger(), nullable=False),
        sa.Column("reason", ascii_string(64), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("paid_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        **_OPTIONS,
    )
    op.create_index("ix_merchant_trade_payee_id_trade_id", "merchant_trade", ["payee_id", "trade_id"])
    op.create_index("uq_merchant_trade_trade_id", "merchant_trade", ["trade_id"], unique=True)
