"""Breaks are found by their channel order, and they and their repairs name the provider's reference."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from paykit.store.row import ascii_string

revision = "recon_0008"
down_revision = "recon_0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("recon_break", "recon_repair"):
        op.add_column(table, sa.Column("provider_reference", ascii_string(64), nullable=False, server_default=""))
    op.create_index("ix_recon_break_channel_order_id", "recon_break", ["channel_order_id"])
