"""One row a payment with all that must agree about it, made from the rows that had one pair each.

The old table stays as it is, for processes of the version before that still run; nothing reads it any more. What they
hear after this is made good by the sweep, which begins an hour back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from paykit.store.row import ascii_string

revision = "recon_0006"
down_revision = "recon_0004"
branch_labels = None
depends_on = None

_BLOB = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
_PAGE = 1000
_KINDS = ("TRADE_PAY", "PAY_CHANNEL", "PAY_LEDGER", "TRANSIT")
_STATE, _DUE = 2, 8  # places in a pair
_SAID = slice(3, 7)

_old = sa.table(
    "recon_match",
    *[sa.column(name) for name in ("id", "slot", "match_key", "kind", "biz_id", "payment_id", "source_id", "state")],
    *[
        sa.column(f"{side}_{what}")
        for side in ("first", "second", "unknown")
        for what in ("amount_minor", "currency", "seen_at_ms")
    ],
    *[sa.column(name) for name in ("conflict", "due_at_ms", "ask_count", "break_id", "mismatch_break_id")],
    sa.column("context", _BLOB),
)
_new = sa.table(
    "recon_payment",
    *[sa.column(name) for name in ("id", "slot", "version", "biz_id", "state", "currency")],
    *[sa.column(f"{what}_counts") for what in ("pair", "waiting", "broken")],
    *[sa.column(name) for name in ("waiting_minor", "waiting_since_ms", "due_at_ms")],
    sa.column("context", _BLOB),
    sa.column("sides", _BLOB),
)


def upgrade() -> None:
    op.create_table(
        "recon_payment",
        sa.Column("id", ascii_string(32), primary_key=True, nullable=False, autoincrement=False),
        sa.Column("slot", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("biz_id", ascii_string(32), nullable=False),
        sa.Column("state", ascii_string(32), nullable=False),
        sa.Column("currency", ascii_string(32), nullable=False),
        sa.Column("pair_counts", ascii_string(64), nullable=False),
        sa.Column("waiting_counts", ascii_string(64), nullable=False),
        sa.Column("broken_counts", ascii_string(64), nullable=False),
        sa.Column("waiting_minor", sa.BigInteger(), nullable=False),
        sa.Column("waiting_since_ms", sa.BigInteger(), nullable=True),
        sa.Column("due_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("context", _BLOB, nullable=False),
        sa.Column("sides", _BLOB, nullable=False),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
    )
    op.create_index("ix_recon_payment_due_at_ms", "recon_payment", ["due_at_ms"])
    copy(op.get_bind())


def copy(connection: sa.Connection) -> None:
    """Makes the new rows from the old ones, a page at a time."""
    after = ""
    while page := connection.execute(
        sa.select(_old).where(_old.c.id > after).order_by(_old.c.id).limit(_PAGE)
    ).fetchall():
        _take(connection, page)
        after = page[-1].id


def _take(connection: sa.Connection, page: Sequence[Any]) -> None:
    """Adds a page of old rows: those of one payment may lie on several pages."""
    by_match: dict[str, list[Any]] = {}
    for row in page:
        by_match.setdefault("mat" + row.payment_id[3:], []).append(row)
    known = {
        row.id: row
        for row in connection.execute(
            sa.select(_new.c.id, _new.c.context, _new.c.sides).where(_new.c.id.in_(list(by_match)))
        )
    }
    for match_id, rows in by_match.items():
        found = known.get(match_id)
        source_id, pairs, records = msgspec.msgpack.decode(found.sides) if found is not None else ("", [], [])
        source_id = max([source_id, *[row.source_id for row in rows]])
        pairs = sorted([*pairs, *[_pair(row) for row in rows]], key=lambda pair: f"{pair[0]}/{pair[1]}")
        context = (found.context if found is not None else b"") or rows[0].context
        values = _columns(pairs, context) | {"sides": msgspec.msgpack.encode([source_id, pairs, records])}
        if found is not None:
            connection.execute(sa.update(_new).where(_new.c.id == match_id).values(values))
        else:
            first = {"id": match_id, "slot": rows[0].slot, "version": 1, "biz_id": rows[0].biz_id}
            connection.execute(sa.insert(_new).values(first | values))


def _pair(row: Any) -> list[Any]:
    return [
        row.kind,
        row.match_key.partition("/")[2],
        row.state,
        _said(row.first_amount_minor, row.first_currency, row.first_seen_at_ms),
        _said(row.second_amount_minor, row.second_currency, row.second_seen_at_ms),
        _said(row.unknown_amount_minor, row.unknown_currency, row.unknown_seen_at_ms),
        None,
        row.conflict,
        row.due_at_ms,
        row.ask_count,
        row.break_id,
        row.mismatch_break_id,
    ]


def _said(amount_minor: int | None, currency: str | None, seen_at_ms: int | None) -> list[Any] | None:
    return None if amount_minor is None else [amount_minor, currency, seen_at_ms, seen_at_ms]


def _columns(pairs: list[list[Any]], context: bytes) -> dict[str, Any]:
    waiting = [pair for pair in pairs if pair[_STATE] == "WAITING"]
    broken = [pair for pair in pairs if pair[_STATE] == "BROKEN"]
    due = [pair[_DUE] for pair in pairs if pair[_DUE] is not None]
    said = [[side for side in pair[_SAID] if side] for pair in waiting]
    return {
        "state": "BROKEN" if broken else "WAITING" if waiting else "MATCHED",
        "currency": next((side[1] for pair in pairs for side in pair[_SAID] if side), ""),
        "pair_counts": _counts(pairs),
        "waiting_counts": _counts(waiting),
        "broken_counts": _counts(broken),
        "waiting_minor": sum(max(side[0] for side in sides) for sides in said),
        "waiting_since_ms": min((side[3] for sides in said for side in sides), default=None),
        "due_at_ms": min(due, default=None),
        "context": context if due else b"",
    }


def _counts(pairs: list[list[Any]]) -> str:
    counts = [sum(pair[0] == kind for pair in pairs) for kind in _KINDS]
    return ".".join(map(str, counts)) if any(counts) else ""
