"""Counts over all shards: what is matched, waiting and broken, and what is at risk. Reads only, none on a hot path."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Select, func, select
from sqlalchemy.exc import DBAPIError

from paykit.errors import Unavailable
from paykit.store.store import Store
from recon.matching import BreakState, MatchState
from recon.repair import REPAIR, RepairState
from recon.sides import counts_in
from recon.sweep_commands import SLOT, reached, sweep_id
from recon.tables import Break, Match, Repair, Sweep

_match = Match.__table__.c
_break = Break.__table__.c
_repair = Repair.__table__.c

# A scan of the table: for people who ask, not for a gauge.
_COUNTS = select(_match.pair_counts, _match.waiting_counts, _match.broken_counts, func.count()).group_by(
    _match.pair_counts, _match.waiting_counts, _match.broken_counts
)
# Ranges of indexes by due time and state: as long as there are unmatched rows, open breaks and repairs under way.
_UNMATCHED = (
    select(
        _match.waiting_counts,
        _match.currency,
        func.count(),
        func.sum(_match.waiting_minor),
        func.min(_match.waiting_since_ms),
    )
    .where(_match.due_at_ms.is_not(None))
    .group_by(_match.waiting_counts, _match.currency)
)
_OPEN = (
    select(_break.type, _break.currency, func.count(), func.sum(_break.amount_minor))
    .where(_break.state == BreakState.OPEN.value)
    .group_by(_break.type, _break.currency)
)
_UNDER_WAY = (
    select(_repair.kind, _repair.state, func.count(), func.min(_repair.proposed_at_ms))
    .where(_repair.state.in_([state.value for state in RepairState if not REPAIR.is_terminal(state)]))
    .group_by(_repair.kind, _repair.state)
)


class OpenBreaks(NamedTuple):
    """The OPEN breaks of one type and currency."""

    type: str
    currency: str
    break_count: int
    at_risk_minor: int


class RepairsUnderWay(NamedTuple):
    """The repairs of one kind and state that have not ended."""

    kind: str
    state: str
    repair_count: int
    oldest_ms: int  # when the first of them was proposed


class Unmatched(NamedTuple):
    """What waits for its other side."""

    pair_counts: dict[str, int]  # by kind
    minor: dict[str, int]  # by currency
    oldest_ms: dict[str, int]  # by kind: of the oldest row that has one, by the clock of the service that told of it


async def counts(store: Store, mode: str) -> dict[tuple[str, str], int]:
    """How many pairs there are, by (kind, state)."""
    result: dict[tuple[str, str], int] = {}
    for pairs, waiting, broken, rows in await _everywhere(store, mode, _COUNTS):
        in_state = {MatchState.WAITING: counts_in(waiting), MatchState.BROKEN: counts_in(broken)}
        for kind, count in counts_in(pairs).items():
            others = {state: found.get(kind, 0) for state, found in in_state.items()}
            for state, part in {MatchState.MATCHED: count - sum(others.values()), **others}.items():
                if part:
                    result[kind, state.value] = result.get((kind, state.value), 0) + part * rows
    return result


async def unmatched(store: Store, mode: str) -> Unmatched:
    """What waits."""
    found = Unmatched({}, {}, {})
    for waiting, currency, rows, amount_minor, since_ms in await _everywhere(store, mode, _UNMATCHED):
        kinds = {kind: count for kind, count in counts_in(waiting).items() if count}
        for kind, count in kinds.items():
            found.pair_counts[kind] = found.pair_counts.get(kind, 0) + count * rows
            found.oldest_ms[kind] = min(found.oldest_ms.get(kind, since_ms), since_ms)
        if kinds:
            found.minor[currency] = found.minor.get(currency, 0) + int(amount_minor)  # SUM is a DECIMAL on MariaDB
    return found


async def open_breaks(store: Store, mode: str) -> list[OpenBreaks]:
    """The OPEN breaks, by type and currency."""
    result: dict[tuple[str, str], OpenBreaks] = {}
    for type_, currency, count, amount_minor in await _everywhere(store, mode, _OPEN):
        before = result.get((type_, currency), OpenBreaks(type_, currency, 0, 0))
        total_minor = before.at_risk_minor + int(amount_minor)  # SUM is a DECIMAL on MariaDB
        result[type_, currency] = OpenBreaks(type_, currency, before.break_count + count, total_minor)
    return list(result.values())


async def repairs_under_way(store: Store, mode: str) -> list[RepairsUnderWay]:
    """The repairs that have not ended, by kind and state."""
    result: dict[tuple[str, str], RepairsUnderWay] = {}
    for kind, state, count, oldest_ms in await _everywhere(store, mode, _UNDER_WAY):
        before = result.get((kind, state), RepairsUnderWay(kind, state, 0, oldest_ms))
        total = before.repair_count + count
        result[kind, state] = RepairsUnderWay(kind, state, total, min(before.oldest_ms, oldest_ms))
    return list(result.values())


async def swept_until(store: Store, mode: str) -> list[int]:
    """Up to when what ended was compared the first time, of each kind of record; now, where nothing was yet."""
    sweep = await store.get(Sweep, sweep_id(0), slot=SLOT, shadow=mode == "shadow")
    return [store.clock.now_ms()] if sweep is None else list(reached(sweep).values())


async def _everywhere(store: Store, mode: str, statement: Select[Any]) -> Sequence[Any]:
    async def one(shard: str) -> Sequence[Any]:
        async with store.executor(mode, shard).engines.reader.connect() as connection:
            rows: Sequence[Any] = (await connection.execute(statement)).all()
            return rows

    try:
        parts = await asyncio.gather(*(one(shard) for shard in store.shards(mode)))
    except DBAPIError as error:
        raise Unavailable("a shard cannot be read now", retry_after_ms=500) from error
    return [row for part in parts for row in part]
