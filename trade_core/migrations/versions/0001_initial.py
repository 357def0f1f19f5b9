"""The first tables: trades, their lines, relations and pay attempts."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from paykit.store.row import ascii_string, utf8_string

revision = "trade_0001"
down_revision = None
branch_labels = None
depends_on = None

_BLOB = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
_OPTIONS: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}


def _row() -> tuple[sa.Column[str], sa.Column[int], sa.Column[int]]:
    """What every row has."""
    return (
        sa.Column("id", ascii_string(32), primary_key=True, nullable=False, autoincrement=False),
        sa.Column("slot", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
    )


def upgrade() -> None:
    _create_trade()
    _create_trade_line()
    _create_trade_relation()
    _create_pay_attempt()


def _create_trade() -> None:
    op.create_table(
        "trade",
        *_row(),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("trade_type", ascii_string(32), nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("buyer_id", ascii_string(64), nullable=False),
        sa.Column("payee_id", ascii_string(64), nullable=False),
        sa.Column("merchant_order_no", ascii_string(64), nullable=False),
        sa.Column("order_key", ascii_string(64), nullable=False),
        sa.Column("parent_trade_id", ascii_string(32), nullable=False),
        sa.Column("scene", ascii_string(64), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("refunded_minor", sa.BigInteger(), nullable=False),
        sa.Column("refundable_minor", sa.BigInteger(), nullable=False),
        sa.Column("reason", ascii_string(64), nullable=False),
        sa.Column("note", utf8_string(255), nullable=False),
        sa.Column("attempt_id", ascii_string(32), nullable=False),
        sa.Column("attempt_count", sa.Integer(), nullable=False),
        sa.Column("follow_up_count", sa.Integer(), nullable=False),
        sa.Column("ask_count", sa.Integer(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("paid_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("due_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("context", _BLOB, nullable=False),
        **_OPTIONS,
    )
    op.create_index("uq_trade_order_key", "trade", ["order_key"], unique=True)
    op.create_index("ix_trade_buyer_id_id", "trade", ["buyer_id", "id"])
    op.create_index("ix_trade_biz_id", "trade", ["biz_id"])
    op.create_index("ix_trade_due_at_ms", "trade", ["due_at_ms"])


def _create_trade_line() -> None:
    op.create_table(
        "trade_line",
        *_row(),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("trade_id", ascii_string(32), nullable=False),
        sa.Column("line_no", sa.Integer(), nullable=False),
        sa.Column("sku", ascii_string(64), nullable=False),
        sa.Column("title", utf8_string(255), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("unit_price_minor", sa.BigInteger(), nullable=False),
        **_OPTIONS,
    )
    op.create_index("ix_trade_line_trade_id", "trade_line", ["trade_id"])


def _create_trade_relation() -> None:
    op.create_table(
        "trade_relation",
        *_row(),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("root_trade_id", ascii_string(32), nullable=False),
        sa.Column("parent_trade_id", ascii_string(32), nullable=False),
        sa.Column("child_trade_id", ascii_string(32), nullable=False),
        sa.Column("kind", ascii_string(32), nullable=False),
        **_OPTIONS,
    )
    op.create_index("ix_trade_relation_parent_trade_id", "trade_relation", ["parent_trade_id"])
    op.create_index("ix_trade_relation_child_trade_id", "trade_relation", ["child_trade_id"])


def _create_pay_attempt() -> None:
    op.create_table(
        "pay_attempt",
        *_row(),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("trade_id", ascii_string(32), nullable=False),
        sa.Column("attempt_no", sa.Integer(), nullable=False),
        sa.Column("attempt_key", ascii_string(160), nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("payment_id", ascii_string(32), nullable=False),
        sa.Column("failure_reason", ascii_string(64), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        **_OPTIONS,
    )
    op.create_index("uq_pay_attempt_attempt_key", "pay_attempt", ["attempt_key"], unique=True)
    op.create_index("ix_pay_attempt_trade_id", "pay_attempt", ["trade_id"])
