"""Puts the aggregates of all shards together into one report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from paykit.errors import FailedPrecondition
from paykit.store.reads import Snapshot
from paykit.store.store import Store
from paymesh.recon.v1 import report_service_pb2
from recon.matching import BreakType
from recon.reports import queries
from recon.reports.queries import Wanted
from recon.statements.judging import Settlement
from recon.statements.views import LINE_KINDS
from recon.views import KINDS, STATES, TYPES

_CHANNELS_MAX = 1_000
GROUPS_MAX = 20_000  # of one table on one shard
ROWS_MAX = 5_000  # of a report: what is more does not fit into a message

SETTLEMENTS = {one.value: report_service_pb2.Settlement.Value(f"SETTLEMENT_{one}") for one in Settlement}

_Place = tuple[str, str, str, str]  # date, channel, currency, merchant
_Sums = dict[tuple[Any, ...], list[int]]


class Counted(msgspec.Struct):
    """Sums by place and by what is counted, over all shards so far."""

    orders: _Sums = {}
    lines: _Sums = {}
    breaks: _Sums = {}
    ages: _Sums = {}


async def count(store: Store, wanted: Wanted, *, shadow: bool) -> report_service_pb2.GetDailyReportResponse:
    """The report; FailedPrecondition REPORT_TOO_LARGE. Each shard is looked at in one state of it."""
    now_ms = store.clock.now_ms()
    counted = Counted({}, {}, {}, {})
    mode = "shadow" if shadow else "live"
    for shard in store.shards(mode):
        async with store.snapshot(store.map.slots_of(shard).start, shadow=shadow) as snapshot:
            limit = GROUPS_MAX + 1
            names = [wanted.channel] if wanted.channel else await _channels(snapshot)
            add(counted.orders, await snapshot.rows(queries.orders(wanted, names, limit)), 2)
            add(counted.lines, await snapshot.rows(queries.lines(wanted, limit)), 3)
            found = await snapshot.rows(queries.breaks(wanted, limit))
            add(counted.breaks, [(queries.day_of(int(row[0])), *row[1:]) for row in found], 3)
            add(counted.ages, await snapshot.rows(queries.ageing(wanted, now_ms, limit)), 2)
    report = as_report(counted)
    report.as_of.FromMilliseconds(now_ms)
    return report


async def _channels(snapshot: Snapshot) -> list[str]:
    found = await snapshot.rows(queries.channels(_CHANNELS_MAX + 1))
    if len(found) > _CHANNELS_MAX:
        raise _too_large()
    return [name for (name,) in found]


def add(sums: _Sums, found: Sequence[tuple[Any, ...]], numbers: int) -> None:
    """Adds what one shard has; the last ``numbers`` of each tuple are sums, what is before says of what."""
    if len(found) > GROUPS_MAX:
        raise _too_large()
    for row in found:
        into = sums.setdefault(row[:-numbers], [0] * numbers)
        for at, number in enumerate(row[-numbers:]):
            into[at] += int(number)


def as_report(counted: Counted) -> report_service_pb2.GetDailyReportResponse:
    """As the API shows it: rows by place, figures in order."""
    rows: dict[_Place, report_service_pb2.DailyReportRow] = {}

    def row(place: _Place) -> report_service_pb2.DailyReportRow:
        found = rows.get(place)
        if found is None:
            day, channel, currency, merchant = place
            found = rows[place] = report_service_pb2.DailyReportRow(
                date=day, channel=channel, currency_code=currency, merchant=merchant
            )
        return found

    for (*place, kind, state, settlement), (number, amount_minor) in sorted(counted.orders.items()):
        row(_place(place)).orders.add(
            kind=kind, state=state, settlement=SETTLEMENTS[settlement], count=number, amount_minor=amount_minor
        )
    for (*place, kind, wrong), (number, amount_minor, fee_minor) in sorted(counted.lines.items()):
        row(_place(place)).lines.add(
            kind=LINE_KINDS[kind],
            difference=TYPES[BreakType(wrong)] if wrong else 0,
            count=number,
            amount_minor=amount_minor,
            fee_minor=fee_minor,
        )
    for (*place, kind, type_, state), (number, amount_minor, difference_minor) in sorted(counted.breaks.items()):
        row(_place(place)).breaks.add(
            kind=KINDS[kind],
            type=TYPES[type_],
            state=STATES[state],
            count=number,
            amount_minor=amount_minor,
            difference_minor=difference_minor,
        )
    if len(rows) > ROWS_MAX:
        raise _too_large()
    ordered = [rows[place] for place in sorted(rows)]
    return report_service_pb2.GetDailyReportResponse(rows=ordered, ageing=_ageing(counted.ages))


def _ageing(ages: _Sums) -> Iterable[report_service_pb2.AgeingRow]:
    rows: dict[tuple[str, str, str], report_service_pb2.AgeingRow] = {}
    for (channel, currency, merchant, age), (number, amount_minor) in sorted(ages.items()):
        place = (channel, currency, merchant)
        if place not in rows:
            rows[place] = report_service_pb2.AgeingRow(channel=channel, currency_code=currency, merchant=merchant)
        rows[place].ages.add(bucket=1 + int(age), count=number, amount_minor=amount_minor)
    if len(rows) > ROWS_MAX:
        raise _too_large()
    return rows.values()


def _place(place: Sequence[str]) -> _Place:
    day, channel, currency, merchant = place
    return day, channel, currency, merchant


def _too_large() -> FailedPrecondition:
    return FailedPrecondition(
        f"the report has more than {ROWS_MAX} rows: ask for fewer days, or for one channel, currency or merchant",
        reason="REPORT_TOO_LARGE",
    )
