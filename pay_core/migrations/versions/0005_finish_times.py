"""Finds the payments that ended in a range of time: what recon sweeps."""

from __future__ import annotations

from alembic import op

revision = "pay_0005"
down_revision = "pay_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the index."""
    op.create_index("ix_payment_finished_at_ms", "payment", ["finished_at_ms"])
