"""Records that ended, compared between services: how they are told apart, and digests over many of them.

A service says by a select which of its records ended in a range of time. Digests and pages of them follow from it: on
MySQL the server makes the digests, on SQLite, whose functions are this process's own, they are made here.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Select, and_, cast, func, or_, select
from sqlalchemy.dialects.mysql import BIGINT

from paykit.ids import is_id, slot_in
from paykit.store.store import Store

_64_BITS = 1 << 64


class RecordKind(StrEnum):
    """Which records. The names are those of the proto."""

    ATTEMPT = "ATTEMPT"
    PAYMENT = "PAYMENT"
    JOURNAL = "JOURNAL"
    ORDER = "ORDER"


class Ended(msgspec.Struct, frozen=True, array_like=True):
    """A record as digests see it: the columns of a source's select, in their order."""

    id: str
    slot: int
    at_ms: int | None  # when it ended, Unix milliseconds; None where it has not
    state: str
    amount_minor: int
    currency: str
    payment_id: str

    @property
    def hash64(self) -> int:
        """See ``hash64``."""
        return hash64(self.id, self.state, self.amount_minor, self.currency)


class Told(NamedTuple):
    """The event that tells of a record. ``subject`` (without mode) is empty where none does."""

    biz_id: str
    subject: str
    body: bytes


class RecordSource(msgspec.Struct, frozen=True):
    """The records of one kind of a service.

    ``ended(start_ms, end_ms)`` and ``named(ids)`` select the columns of ``Ended``, labelled so: of what ended then, and
    of what has these ids whether it ended or not. ``tell(store, ids, shadow)`` finds the events of records.
    """

    kind: RecordKind
    prefix: str  # of the ids
    ended: Callable[[int, int], Select[Any]]
    named: Callable[[Sequence[str]], Select[Any]]
    tell: Callable[[Store, Sequence[str], bool], Awaitable[Mapping[str, Told]]]


class Digest(NamedTuple):
    """What the records of one slot come to."""

    record_count: int = 0
    amount_sum_minor: int = 0
    hash_xor: int = 0  # signed, as ``hash64`` is

    def plus(self, amount_minor: int, hash_: int) -> Digest:
        """With one more record."""
        return Digest(self.record_count + 1, self.amount_sum_minor + amount_minor, self.hash_xor ^ hash_)


def hash64(id_: str, state: str, amount_minor: int, currency: str) -> int:
    """The first 64 bits of the SHA-256 of ``id|state|amount|currency``, as a signed integer."""
    digest = hashlib.sha256(f"{id_}|{state}|{amount_minor}|{currency}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def signed(value: int) -> int:
    """64 bits as a signed integer."""
    return value - _64_BITS if value >= _64_BITS >> 1 else value


def unsigned(value: int) -> int:
    """64 bits as they stand in a message."""
    return value % _64_BITS


def digest_of(records: Iterable[Ended]) -> dict[int, Digest]:
    """By slot."""
    found: dict[int, Digest] = {}
    for record in records:
        before = found.get(record.slot, _NOTHING)
        found[record.slot] = before.plus(record.amount_minor, record.hash64)
    return found


_NOTHING = Digest()


async def digests(store: Store, source: RecordSource, mode: str, start_ms: int, end_ms: int) -> dict[int, Digest]:
    """Of all shards of a side, by slot. Unavailable where one is away."""
    ended = source.ended(start_ms, end_ms)
    parts = await asyncio.gather(*(_of_shard(store, mode, shard, ended) for shard in store.shards(mode)))
    return {slot: digest for part in parts for slot, digest in part.items()}


async def _of_shard(store: Store, mode: str, shard: str, ended: Select[Any]) -> dict[int, Digest]:
    if store.executor(mode, shard).engines.is_sqlite:
        return digest_of([Ended(*found) for found in await store.aggregate(mode, shard, ended)])
    found = await store.aggregate(mode, shard, digest_statement(ended))
    return {slot: Digest(count, int(total), signed(int(xor))) for slot, count, total, xor in found}


def digest_statement(ended: Select[Any]) -> Select[Any]:
    """The digests as the server makes them: (slot, count, sum, exclusive or)."""
    of = ended.subquery().c
    text = func.concat_ws("|", of.id, of.state, of.amount_minor, of.currency)
    hash_ = cast(func.conv(func.left(func.sha2(text, 256), 16), 16, 10), BIGINT(unsigned=True))
    return select(of.slot, func.count(), cast(func.sum(of.amount_minor), BigInteger), func.bit_xor(hash_)).group_by(
        of.slot
    )


class Range(NamedTuple):
    """Records of some slots that ended in a range of time, behind a position (time, id)."""

    start_ms: int
    end_ms: int
    slots: tuple[int, ...]
    after: tuple[int, str] | None = None


async def page(store: Store, source: RecordSource, mode: str, wanted: Range, limit: int) -> list[Ended]:
    """The next ``limit`` records, by time and id."""
    of = source.ended(wanted.start_ms, wanted.end_ms).subquery().c
    is_wanted: ColumnElement[bool] = of.slot.in_(wanted.slots)
    if wanted.after is not None:
        at_ms, id_ = wanted.after
        is_wanted = and_(is_wanted, or_(of.at_ms > at_ms, and_(of.at_ms == at_ms, of.id > id_)))
    statement = select(*of).where(is_wanted).order_by(of.at_ms, of.id).limit(limit)
    shards = {store.map.shard_of(slot) for slot in wanted.slots}
    parts = await asyncio.gather(*(store.aggregate(mode, shard, statement) for shard in sorted(shards)))
    records = [Ended(*found) for part in parts for found in part]
    records.sort(key=lambda record: (record.at_ms or 0, record.id))
    return records[:limit]


async def by_ids(store: Store, source: RecordSource, mode: str, ids: Sequence[str]) -> list[Ended]:
    """Those of the records that exist, whether they ended or not."""
    by_shard: dict[str, list[str]] = {}
    for id_ in ids:
        if is_id(id_, source.prefix):
            by_shard.setdefault(store.map.shard_of(slot_in(id_)), []).append(id_)
    reads = [store.aggregate(mode, shard, source.named(some)) for shard, some in by_shard.items()]
    return [Ended(*found) for part in await asyncio.gather(*reads) for found in part]
