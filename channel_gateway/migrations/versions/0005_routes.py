"""Where an order may go besides its channel, what it left behind there, and doubts about what is settled."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from paykit.store.row import ascii_string

revision = "channel_0005"
down_revision = "channel_0004"
branch_labels = None
depends_on = None

_BLOB = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(charset="utf8mb4"), "mysql", "mariadb")
_OPTIONS: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}


def _row_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("id", ascii_string(32), primary_key=True, nullable=False, autoincrement=False),
        sa.Column("slot", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
    ]


def upgrade() -> None:
    # With a default in the database: the version still running inserts without them.
    with op.batch_alter_table("channel_order") as batch:
        batch.add_column(sa.Column("merchant", ascii_string(64), nullable=False, server_default=""))
        batch.add_column(sa.Column("attempt_no", sa.Integer(), nullable=False, server_default="1"))
        batch.add_column(sa.Column("route", _TEXT, nullable=True))
    op.create_table(
        "channel_attempt",
        *_row_columns(),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("attempt_key", ascii_string(160), nullable=False),
        sa.Column("channel_order_id", ascii_string(32), nullable=False),
        sa.Column("attempt_no", sa.Integer(), nullable=False),
        sa.Column("channel", ascii_string(64), nullable=False),
        sa.Column("outcome", ascii_string(32), nullable=False),
        sa.Column("failure_reason", ascii_string(32), nullable=False),
        sa.Column("provider_reference", ascii_string(64), nullable=False),
        sa.Column("sent_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("left_at_ms", sa.BigInteger(), nullable=False),
        **_OPTIONS,
    )
    op.create_index("uq_channel_attempt_attempt_key", "channel_attempt", ["attempt_key"], unique=True)
    op.create_index("ix_channel_attempt_channel_order_id", "channel_attempt", ["channel_order_id"])
    op.create_index("ix_channel_attempt_provider_reference", "channel_attempt", ["provider_reference"])
    op.create_index("ix_channel_attempt_biz_id", "channel_attempt", ["biz_id"])
    op.create_table(
        "channel_doubt",
        *_row_columns(),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("doubt_key", ascii_string(160), nullable=False),
        sa.Column("channel_order_id", ascii_string(32), nullable=False),
        sa.Column("payment_id", ascii_string(32), nullable=False),
        sa.Column("channel", ascii_string(64), nullable=False),
        sa.Column("attempt_no", sa.Integer(), nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("type", ascii_string(32), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("provider_reference", ascii_string(64), nullable=False),
        sa.Column("evidence", _TEXT, nullable=False),
        sa.Column("ask_count", sa.Integer(), nullable=False),
        sa.Column("due_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("context", _BLOB, nullable=False),
        sa.Column("opened_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("resolved_at_ms", sa.BigInteger(), nullable=True),
        **_OPTIONS,
    )
    op.create_index("uq_channel_doubt_doubt_key", "channel_doubt", ["doubt_key"], unique=True)
    op.create_index("ix_channel_doubt_channel_order_id", "channel_doubt", ["channel_order_id"])
    op.create_index("ix_channel_doubt_due_at_ms", "channel_doubt", ["due_at_ms"])
    op.create_index("ix_channel_doubt_state_id", "channel_doubt", ["state", "id"])
    op.create_index("ix_channel_doubt_biz_id", "channel_doubt", ["biz_id"])
