"""Finds the channel orders that ended in a range of time: what recon sweeps."""

from __future__ import annotations

from alembic import op

revision = "channel_0007"
down_revision = "channel_0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the index."""
    op.create_index("ix_channel_order_finished_at_ms", "channel_order", ["finished_at_ms"])
