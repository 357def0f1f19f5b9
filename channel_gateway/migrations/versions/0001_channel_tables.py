"""The channel gateway's tables: channel orders and notifications."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from paykit.store.row import ascii_string

revision = "channel_0001"
down_revision = None

_BLOB = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
_OPTIONS: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}


def _row_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("id", ascii_string(32), primary_key=True, nullable=False, autoincrement=False),
        sa.Column("slot", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
    ]


def upgrade() -> None:
    op.create_table(
        "channel_order",
        *_row_columns(),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("kind", ascii_string(32), nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("channel", ascii_string(64), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("instruction_id", ascii_string(32), nullable=False),
        sa.Column("payment_id", ascii_string(32), nullable=False),
        sa.Column("original_channel_order_id", ascii_string(32), nullable=False),
        sa.Column("original_provider_reference", ascii_string(64), nullable=False),
        sa.Column("token", ascii_string(64), nullable=False),
        sa.Column("provider_reference", ascii_string(64), nullable=False),
        sa.Column("failure_reason", ascii_string(32), nullable=False),
        sa.Column("query_count", sa.Integer(), nullable=False),
        sa.Column("send_count", sa.Integer(), nullable=False),
        sa.Column("sent_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("due_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("context", _BLOB, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        **_OPTIONS,
    )
    op.create_index("uq_channel_order_instruction_id", "channel_order", ["instruction_id"], unique=True)
    op.create_index("ix_channel_order_payment_id_id", "channel_order", ["payment_id", "id"])
    op.create_index("ix_channel_order_original_channel_order_id", "channel_order", ["original_channel_order_id"])
    op.create_index("ix_channel_order_provider_reference", "channel_order", ["provider_reference"])
    op.create_index("ix_channel_order_due_at_ms", "channel_order", ["due_at_ms"])
    op.create_index("ix_channel_order_biz_id", "channel_order", ["biz_id"])
    op.create_table(
        "notification",
        *_row_columns(),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("notification_key", ascii_string(160), nullable=False),
        sa.Column("channel", ascii_string(64), nullable=False),
        sa.Column("channel_order_id", ascii_string(32), nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("body", _BLOB, nullable=False),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        **_OPTIONS,
    )
    op.create_index("uq_notification_notification_key", "notification", ["notification_key"], unique=True)
    op.create_index("ix_notification_channel_order_id", "notification", ["channel_order_id"])
    op.create_index("ix_notification_biz_id", "notification", ["biz_id"])
    op.create_index("ix_notification_received_at_ms", "notification", ["received_at_ms"])
