"""The aggregates of a report on one shard: each a range of rows, grouped in the database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Select, case, func, literal, select

from paykit.ids import first_id
from recon.matching import BreakState
from recon.statements.judging import LineState
from recon.tables import Break, RecordedOrder, StatementLine

DAY_MS = 86_400_000
# From this age, in days, a break is in the bucket of this place: the numbers of AgeBucket less one.
AGES_DAYS = (0, 1, 3, 7, 30)

_order = RecordedOrder.__table__.c
_line = StatementLine.__table__.c
_break = Break.__table__.c
_lines_with_orders = StatementLine.__table__.outerjoin(RecordedOrder.__table__, _order.id == _line.match_ref)
_breaks_with_orders = Break.__table__.outerjoin(RecordedOrder.__table__, _order.id == _break.channel_order_id)
# Of lines and breaks that name no order of ours nobody knows whose they are.
_merchant = func.coalesce(_order.merchant, literal(""))
_channel_of_break = case((_break.channel != "", _break.channel), else_=func.coalesce(_order.channel, literal("")))


class Wanted(msgspec.Struct, frozen=True):
    """What a report is of. Dates are inclusive; a name that is empty stands for all."""

    from_date: str
    to_date: str
    channel: str = ""
    currency: str = ""
    merchant: str = ""


def channels(limit: int) -> Select[Any]:
    """The channels that have orders."""
    return select(_order.channel).distinct().limit(limit)


def orders(wanted: Wanted, channels: Sequence[str], limit: int) -> Select[Any]:
    """(date, channel, currency, merchant, kind, state, settlement, count, sum)."""
    keys = (
        _order.business_date,
        _order.channel,
        _order.currency,
        _order.merchant,
        _order.kind,
        _order.state,
        _order.settlement,
    )
    where = [
        _order.business_date.between(wanted.from_date, wanted.to_date),
        _order.channel.in_(channels),  # the index of days is one of channels first
        *_named(wanted, _order.channel, _order.currency, _order.merchant),
    ]
    return select(*keys, func.count(), func.sum(_order.amount_minor)).where(*where).group_by(*keys).limit(limit)


def lines(wanted: Wanted, limit: int) -> Select[Any]:
    """(date, channel, currency, merchant, kind, difference, count, sum, sum of fees)."""
    keys = (_line.business_date, _line.channel, _line.currency, _merchant, _line.kind, _line.difference)
    sums = (func.count(), func.sum(_line.amount_minor), func.sum(_line.fee_minor))
    where = [
        _line.business_date.between(wanted.from_date, wanted.to_date),
        _line.state == LineState.CURRENT.value,
        *_named(wanted, _line.channel, _line.currency, _merchant),
    ]
    return select(*keys, *sums).select_from(_lines_with_orders).where(*where).group_by(*keys).limit(limit)


def breaks(wanted: Wanted, limit: int) -> Select[Any]:
    """(start of the day in ms, channel, currency, merchant, kind, type, state, count, at risk, difference)."""
    day = _break.opened_at_ms - _break.opened_at_ms % DAY_MS
    keys = (day, _channel_of_break, _break.currency, _merchant, _break.kind, _break.type, _break.state)
    sums = (func.count(), func.sum(_break.amount_minor), func.sum(_break.difference_minor))
    from_ms, to_ms = day_ms(wanted.from_date), day_ms(wanted.to_date) + DAY_MS
    where = [
        _break.opened_at_ms >= from_ms,
        _break.opened_at_ms < to_ms,
        # By the primary key: ids rise with the time at which they were minted.
        _break.id >= first_id("brk", from_ms),
        _break.id < first_id("brk", to_ms),
        *_named(wanted, _channel_of_break, _break.currency, _merchant),
    ]
    return select(*keys, *sums).select_from(_breaks_with_orders).where(*where).group_by(*keys).limit(limit)


def ageing(wanted: Wanted, now_ms: int, limit: int) -> Select[Any]:
    """(channel, currency, merchant, place of the age in AGES_DAYS, count, at risk) of all open breaks."""
    older_first = sorted(enumerate(AGES_DAYS), reverse=True)
    age = case(*[(_break.opened_at_ms <= now_ms - days * DAY_MS, place) for place, days in older_first], else_=0)
    keys = (_channel_of_break, _break.currency, _merchant, age)
    where = [
        _break.state == BreakState.OPEN.value,
        *_named(wanted, _channel_of_break, _break.currency, _merchant),
    ]
    sums = (func.count(), func.sum(_break.amount_minor))
    return select(*keys, *sums).select_from(_breaks_with_orders).where(*where).group_by(*keys).limit(limit)


def _named(wanted: Wanted, channel: Any, currency: Any, merchant: Any) -> list[ColumnElement[bool]]:
    names = ((channel, wanted.channel), (currency, wanted.currency), (merchant, wanted.merchant))
    return [column == name for column, name in names if name]


def day_ms(day: str) -> int:
    """When a UTC day begins, Unix milliseconds."""
    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    return int(start.timestamp()) * 1000


def day_of(ms: int) -> str:
    """The UTC day of a time."""
    return datetime.fromtimestamp(ms // 1000, UTC).date().isoformat()
