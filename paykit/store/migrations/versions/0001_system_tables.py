"""The tables every service has: command records, outbox, dead letters, shard epoch."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from paykit.store.row import ascii_string, utf8_string

revision = "paykit_0001"
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
    op.create_table(
        "command_record",
        *_row_columns(),
        sa.Column("name", ascii_string(32), nullable=False),
        sa.Column("trigger", ascii_string(32), nullable=False),
        sa.Column("caller", ascii_string(64), nullable=False),
        sa.Column("request_id", ascii_string(64), nullable=False),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("input_hash", _BLOB, nullable=False),
        sa.Column("result", _BLOB, nullable=True),
        sa.Column("changes", _LONG_TEXT, nullable=False),
        sa.Column("commit_id", ascii_string(32), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        **_OPTIONS,
    )
    op.create_index("ix_command_record_biz_id", "command_record", ["biz_id"])
    op.create_table(
        "outbox",
        *_row_columns(),
        sa.Column("kind", ascii_string(32), nullable=False),
        sa.Column("destination", ascii_string(160), nullable=False),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("context", _BLOB, nullable=False),
        sa.Column("body", _BLOB, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("due_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("attempt_count", sa.Integer(), nullable=False),
        sa.Column("acked_at_ms", sa.BigInteger(), nullable=True),
        **_OPTIONS,
    )
    op.create_index("ix_outbox_acked_at_ms_due_at_ms", "outbox", ["acked_at_ms", "due_at_ms"])
    op.create_table(
        "dead_letter",
        *_row_columns(),
        sa.Column("consumer", ascii_string(160), nullable=False),
        sa.Column("destination", ascii_string(160), nullable=False),
        sa.Column("message_id", ascii_string(32), nullable=False),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("context", _BLOB, nullable=False),
        sa.Column("body", _BLOB, nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("error", utf8_string(255), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        **_OPTIONS,
    )
    op.create_index("ix_dead_letter_state_created_at_ms", "dead_letter", ["state", "created_at_ms"])
    op.create_index("ix_dead_letter_biz_id", "dead_letter", ["biz_id"])
    op.create_table(
        "shard_epoch",
        *_row_columns(),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("service", ascii_string(64), nullable=False),
        sa.Column("shard", ascii_string(64), nullable=False),
        sa.Column("mode", ascii_string(32), nullable=False),
        **_OPTIONS,
    )
