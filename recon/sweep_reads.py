"""What recon knows of the records that ended in a range of time, read from its matches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence

import msgspec
from sqlalchemy import select

from paykit.ids import first_id, time_ms_in
from paykit.records import Digest
from paykit.store.queries import Query, among
from paykit.store.store import Store
from recon import sides
from recon.sides import CLOCK_SKEW_MS, NEAR_MS, Record, Sides
from recon.tables import LateRecord, Match

_PAGE = 500
_match, _late = Match.__table__.c, LateRecord.__table__.c
_BY_ID = Query(select(_match.id, _match.sides).where(among(_match.id)), _match.id)
_decode = msgspec.msgpack.Decoder(Sides).decode
_NOTHING = Digest()

Known = dict[str, dict[int, Digest]]  # by kind of record and slot


class Named(msgspec.Struct, frozen=True):
    """A record that recon knows, and the payment it belongs to."""

    record: Record
    payment_id: str


async def digests(store: Store, mode: str, kinds: Collection[str], start_ms: int, end_ms: int) -> Known:
    """Digests of the records of ``kinds`` that ended in a range of time, of all shards of a side."""
    known: Known = {kind: {} for kind in kinds}

    def count(match_id: str, record: Record) -> None:
        of_kind = known.get(record.kind)
        if of_kind is not None:
            before = of_kind.get(record.slot, _NOTHING)
            of_kind[record.slot] = before.plus(record.amount_minor, record.hash64)

    await _each(store, mode, start_ms, end_ms, count)
    return known


async def listed(
    store: Store, mode: str, kind: str, slots: Collection[int], start_ms: int, end_ms: int
) -> dict[str, Named]:
    """The records of a kind and of some slots that ended in a range of time, by id."""
    found: dict[str, Named] = {}

    def keep(match_id: str, record: Record) -> None:
        if record.kind == kind and record.slot in slots:
            found[record.id] = Named(record, "pay" + match_id[3:])

    await _each(store, mode, start_ms, end_ms, keep)
    return found


async def named(store: Store, mode: str, kind: str, payment_ids: Collection[str]) -> dict[str, Record]:
    """The records of a kind that are known of some payments, by id, whenever they ended."""
    ids = [sides.match_id(payment_id) for payment_id in payment_ids]
    found: dict[str, Record] = {}
    for start in range(0, len(ids), _PAGE):
        rows = await store.query_everywhere(_BY_ID, ids[start : start + _PAGE], shadow=mode == "shadow")
        for _, packed in rows:
            found.update({record.id: record for record in _decode(packed).records if record.kind == kind})
    return found


async def _each(store: Store, mode: str, start_ms: int, end_ms: int, take: Callable[[str, Record], None]) -> None:
    await asyncio.gather(
        *(
            each(store, mode, shard, start_ms, end_ms, take)
            for shard in store.shards(mode)
            for each in (_each_near, _each_late)
        )
    )


async def _each_near(
    store: Store, mode: str, shard: str, start_ms: int, end_ms: int, take: Callable[[str, Record], None]
) -> None:
    """Those that ended soon after their payment was made: a range of the matches' ids."""
    first, last = first_id("mat", max(0, start_ms - NEAR_MS)), first_id("mat", end_ms + CLOCK_SKEW_MS)
    async for match_id, packed in _pages(store, mode, shard, first, last):
        made_at_ms = time_ms_in(match_id)
        for record in _decode(packed).records:
            if start_ms <= record.at_ms < end_ms and sides.is_near(made_at_ms, record):
                take(match_id, record)


async def _pages(store: Store, mode: str, shard: str, first: str, last: str) -> AsyncIterator[tuple[str, bytes]]:
    is_more = _match.id >= first
    while True:
        statement = select(_match.id, _match.sides).where(is_more, _match.id < last).order_by(_match.id).limit(_PAGE)
        page = await store.aggregate(mode, shard, statement)
        for match_id, packed in page:
            yield match_id, packed
        if len(page) < _PAGE:
            return
        is_more = _match.id > page[-1][0]


async def _each_late(
    store: Store, mode: str, shard: str, start_ms: int, end_ms: int, take: Callable[[str, Record], None]
) -> None:
    """Those that ended later: named by rows whose ids are of the time."""
    first, last = first_id("ltr", start_ms), first_id("ltr", end_ms)
    done: set[str] = set()
    while True:
        statement = select(_late.id, _late.match_id).where(_late.id >= first, _late.id < last).order_by(_late.id)
        page = await store.aggregate(mode, shard, statement.limit(_PAGE))
        wanted = sorted({match_id for _, match_id in page} - done)
        done.update(wanted)
        for match_id, packed in await _of_shard(store, mode, shard, wanted):
            made_at_ms = time_ms_in(match_id)
            for record in _decode(packed).records:
                if start_ms <= record.at_ms < end_ms and not sides.is_near(made_at_ms, record):
                    take(match_id, record)
        if len(page) < _PAGE:
            return
        first = page[-1][0] + "0"  # sorts behind it


async def _of_shard(store: Store, mode: str, shard: str, ids: Sequence[str]) -> list[tuple[str, bytes]]:
    if not ids:
        return []
    statement = select(_match.id, _match.sides).where(_match.id.in_(ids))
    return [(match_id, packed) for match_id, packed in await store.aggregate(mode, shard, statement)]
