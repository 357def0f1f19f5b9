"""What recon compares with what it heard: pay attempts whose payment counts, or was given back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, literal, select

from paykit.records import RecordKind, RecordSource, Told
from paykit.store.queries import Query, among
from paykit.store.statements import as_rows
from paykit.store.store import Store
from trade_core import wire
from trade_core.steps import TRADE_CHANGED, TRADE_PAID
from trade_core.tables import PayAttempt, Trade
from trade_core.trade import AttemptState

_table = PayAttempt.__table__
_attempt = _table.c
_ATTEMPTS = Query(select(_table).where(among(_attempt.id)), _attempt.id)
_TRADES = Query(select(Trade.__table__).where(among(Trade.__table__.c.id)), Trade.__table__.c.id)
_KEPT = (AttemptState.EFFECTIVE.value, AttemptState.RETURNED.value)


def _attempts(where: ColumnElement[bool]) -> Select[Any]:
    return select(
        _attempt.id,
        _attempt.slot,
        _attempt.finished_at_ms.label("at_ms"),
        _attempt.state,
        _attempt.amount_minor,
        literal("").label("currency"),  # the trade's, and not in the row
        _attempt.payment_id,
    ).where(where & (_attempt.payment_id != ""))


def _ended(start_ms: int, end_ms: int) -> Select[Any]:
    in_time = (_attempt.finished_at_ms >= start_ms) & (_attempt.finished_at_ms < end_ms)
    return _attempts(in_time & _attempt.state.in_(_KEPT))


async def _tell(store: Store, ids: Sequence[str], shadow: bool) -> Mapping[str, Told]:
    if not ids:
        return {}
    attempts = as_rows(PayAttempt, await store.query_everywhere(_ATTEMPTS, list(ids), shadow=shadow))
    trade_ids = sorted({attempt.trade_id for attempt in attempts})
    trades = {row.id: row for row in as_rows(Trade, await store.query_everywhere(_TRADES, trade_ids, shadow=shadow))}
    return {attempt.id: _told(trades[attempt.trade_id], attempt) for attempt in attempts if attempt.trade_id in trades}


def _told(trade: Trade, attempt: PayAttempt) -> Told:
    # That it was given back is told by nothing: the trade may have been paid by another, or not at all.
    subject = TRADE_PAID if attempt.state == AttemptState.EFFECTIVE else TRADE_CHANGED
    return Told(attempt.biz_id, subject, wire.event(trade, attempt).SerializeToString())


SOURCES = (RecordSource(RecordKind.ATTEMPT, "att", _ended, lambda ids: _attempts(_attempt.id.in_(ids)), _tell),)
