"""A row for each channel order that ended: what statements are matched with and reports count."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from paykit.store.row import ascii_string

revision = "recon_0002"
down_revision = "recon_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "recon_order",
        sa.Column("id", ascii_string(32), primary_key=True, nullable=False, autoincrement=False),
        sa.Column("slot", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("payment_id", ascii_string(32), nullable=False),
        sa.Column("instruction_id", ascii_string(32), nullable=False),
        sa.Column("channel", ascii_string(64), nullable=False),
        sa.Column("merchant", ascii_string(64), nullable=False),
        sa.Column("kind", ascii_string(32), nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("provider_reference", ascii_string(64), nullable=False),
        sa.Column("failure_reason", ascii_string(32), nullable=False),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("business_date", ascii_string(32), nullable=False),
        sa.Column("settlement", ascii_string(32), nullable=False),
        sa.Column("statement_line_id", ascii_string(32), nullable=True),
        sa.Column("break_id", ascii_string(32), nullable=True),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
    )
    op.create_index("ix_recon_order_channel_business_date_id", "recon_order", ["channel", "business_date", "id"])
    op.create_index("ix_recon_order_provider_reference", "recon_order", ["provider_reference"])
    op.create_index("ix_recon_order_instruction_id", "recon_order", ["instruction_id"])
