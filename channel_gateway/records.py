"""What recon compares with what it heard: channel orders that ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, case, select

from channel_gateway.messages import channel_order_event
from channel_gateway.tables import ChannelOrder
from paykit.records import RecordKind, RecordSource, Told
from paykit.store.queries import Query, among
from paykit.store.statements import as_rows
from paykit.store.store import Store

_table = ChannelOrder.__table__
_order = _table.c
_BY_ID = Query(select(_table).where(among(_order.id)), _order.id)


def _orders(where: ColumnElement[bool]) -> Select[Any]:
    moved_minor = case((_order.settled_minor != 0, _order.settled_minor), else_=_order.amount_minor)
    return select(
        _order.id,
        _order.slot,
        _order.finished_at_ms.label("at_ms"),
        _order.state,
        moved_minor.label("amount_minor"),
        _order.currency,
        _order.payment_id,
    ).where(where)


def _ended(start_ms: int, end_ms: int) -> Select[Any]:
    return _orders((_order.finished_at_ms >= start_ms) & (_order.finished_at_ms < end_ms))


async def _tell(store: Store, ids: Sequence[str], shadow: bool) -> Mapping[str, Told]:
    if not ids:
        return {}
    rows = as_rows(ChannelOrder, await store.query_everywhere(_BY_ID, list(ids), shadow=shadow))
    return {
        row.id: Told(row.biz_id, _SUBJECTS.get(row.state, ""), channel_order_event(row).SerializeToString())
        for row in rows
    }


_SUBJECTS = {"SUCCEEDED": "channel.order_succeeded", "FAILED": "channel.order_failed"}

SOURCES = (RecordSource(RecordKind.ORDER, "chn", _ended, lambda ids: _orders(_order.id.in_(ids)), _tell),)
