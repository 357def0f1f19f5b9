"""Counts over all shards: what is matched, waiting and broken, and what is at risk. Reads only, none on a hot path."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Select, func, select
from sqlalchemy.exc import DBAPIError

from paykit.errors import Unavailable
from paykit.store.store import Store
from recon.matching import BreakState
from recon.tables import Break, Match

_match = Match.__table__.c
_break = Break.__table__.c

# An index-only scan of (kind, state): for people who ask, not for a gauge.
_COUNTS = select(_match.kind, _match.state, func.count()).group_by(_match.kind, _match.state)
# Ranges of ix_recon_match_due_at_ms and ix_recon_break_state_id: as long as there are unmatched rows and open breaks.
_UNMATCHED = (
    select(_match.kind, func.count(), func.min(func.coalesce(_match.first_seen_at_ms, _match.second_seen_at_ms)))
    .where(_match.due_at_ms.is_not(None))
    .group_by(_match.kind)
)
_OPEN = (
    select(_break.type, _break.currency, func.count(), func.sum(_break.amount_minor))
    .where(_break.state == BreakState.OPEN.value)
    .group_by(_break.type, _break.currency)
)


class OpenBreaks(NamedTuple):
    """The OPEN breaks of one type and currency."""

    type: str
    currency: str
    break_count: int
    at_risk_minor: int


class Unmatched(NamedTuple):
    """The matches of one kind whose silent side is still to be asked."""

    kind: str
    match_count: int
    oldest_seen_at_ms: int | None


async def counts(store: Store, mode: str) -> dict[tuple[str, str], int]:
    """How many matches there are, by (kind, state)."""
    result: dict[tuple[str, str], int] = {}
    for kind, state, count in await _everywhere(store, mode, _COUNTS):
        result[kind, state] = result.get((kind, state), 0) + count
    return result


async def unmatched(store: Store, mode: str) -> list[Unmatched]:
    """What waits, by kind."""
    result: dict[str, Unmatched] = {}
    for kind, count, seen_at_ms in await _everywhere(store, mode, _UNMATCHED):
        before = result.get(kind, Unmatched(kind, 0, None))
        ages = [ms for ms in (before.oldest_seen_at_ms, seen_at_ms) if ms is not None]
        result[kind] = Unmatched(kind, before.match_count + count, min(ages, default=None))
    return list(result.values())


async def open_breaks(store: Store, mode: str) -> list[OpenBreaks]:
    """The OPEN breaks, by type and currency."""
    result: dict[tuple[str, str], OpenBreaks] = {}
    for type_, currency, count, amount_minor in await _everywhere(store, mode, _OPEN):
        before = result.get((type_, currency), OpenBreaks(type_, currency, 0, 0))
        total_minor = before.at_risk_minor + int(amount_minor)  # SUM is a DECIMAL on MariaDB
        result[type_, currency] = OpenBreaks(type_, currency, before.break_count + count, total_minor)
    return list(result.values())


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
