"""The channels that may carry an instruction, where the rules name more than one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "pay_0004"
down_revision = "pay_0003"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(charset="utf8mb4"), "mysql", "mariadb")


def upgrade() -> None:
    with op.batch_alter_table("instruction") as batch:
        batch.add_column(sa.Column("route", _TEXT, nullable=True))
