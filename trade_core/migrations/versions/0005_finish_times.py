"""Finds the pay attempts that ended in a range of time: what recon sweeps."""

from __future__ import annotations

from alembic import op

revision = "trade_0005"
down_revision = "trade_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the index."""
    op.create_index("ix_pay_attempt_finished_at_ms", "pay_attempt", ["finished_at_ms"])
