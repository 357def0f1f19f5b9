"""What a break is about, and the repairs of breaks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from paykit.store.row import ascii_string, utf8_string

revision = "recon_0005"
down_revision = "recon_0002"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(charset="utf8mb4"), "mysql", "mariadb")
_BLOB = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


def upgrade() -> None:
    for column in (
        sa.Column("payment_id", ascii_string(32), nullable=False, server_default=""),
        sa.Column("channel", ascii_string(64), nullable=False, server_default=""),
        sa.Column("channel_order_id", ascii_string(32), nullable=False, server_default=""),
        sa.Column("subject_id", ascii_string(32), nullable=False, server_default=""),
        sa.Column("difference_minor", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("repair_id", ascii_string(32), nullable=False, server_default=""),
    ):
        op.add_column("recon_break", column)
    op.create_table(
        "recon_repair",
        sa.Column("id", ascii_string(32), primary_key=True, nullable=False, autoincrement=False),
        sa.Column("slot", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("break_id", ascii_string(32), nullable=False),
        sa.Column("break_type", ascii_string(32), nullable=False),
        sa.Column("match_kind", ascii_string(32), nullable=False),
        sa.Column("match_key", ascii_string(64), nullable=False),
        sa.Column("kind", ascii_string(32), nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("service", ascii_string(64), nullable=False),
        sa.Column("channel", ascii_string(64), nullable=False),
        sa.Column("payment_id", ascii_string(32), nullable=False),
        sa.Column("channel_order_id", ascii_string(32), nullable=False),
        sa.Column("subject_id", ascii_string(32), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("evidence", _TEXT, nullable=False),
        sa.Column("is_automatic", sa.Integer(), nullable=False),
        sa.Column("proposed_by", ascii_string(64), nullable=False),
        sa.Column("proposal", utf8_string(255), nullable=False),
        sa.Column("decided_by", ascii_string(64), nullable=False),
        sa.Column("decision", utf8_string(255), nullable=False),
        sa.Column("outcome", ascii_string(32), nullable=False),
        sa.Column("detail", utf8_string(255), nullable=False),
        sa.Column("effect_id", ascii_string(32), nullable=False),
        sa.Column("due_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("ask_count", sa.Integer(), nullable=False),
        sa.Column("context", _BLOB, nullable=False),
        sa.Column("proposed_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("decided_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("sent_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
    )
    op.create_index("ix_recon_repair_break_id", "recon_repair", ["break_id"])
    op.create_index("ix_recon_repair_state_id", "recon_repair", ["state", "id"])
    op.create_index("ix_recon_repair_due_at_ms", "recon_repair", ["due_at_ms"])
    op.create_index("ix_recon_repair_biz_id", "recon_repair", ["biz_id"])
