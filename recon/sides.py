"""What a match holds: the pairs of one payment and the records that were heard of, packed into its row.

Adding to it is commutative and idempotent, as it is for each pair: whatever the order, the repetition and the batches
in which facts and records come, the row is the same in the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec.structs import replace

from paykit.ids import new_id, time_ms_in
from paykit.records import unsigned
from recon.matching import REAL_TIME, MatchState
from recon.pair import Pair, since_ms
from recon.tables import LateRecord, Match

_PLACE = {kind.value: place for place, kind in enumerate(REAL_TIME)}


class Record(msgspec.Struct, frozen=True, array_like=True, order=True):
    """That a service has a record which ended: what the sweep compares with what the service itself says."""

    kind: str  # a recon.records.RecordKind
    id: str
    at_ms: int  # when it ended, by the service's clock
    amount_minor: int
    hash64: int  # see paykit.records.hash64
    slot: int  # its own


class Sides(msgspec.Struct, frozen=True, array_like=True):
    """In one order: the same contents are the same bytes."""

    source_id: str = ""  # what the payment was made for; empty where that was not heard
    pairs: tuple[Pair, ...] = ()  # by match key
    records: tuple[Record, ...] = ()  # by kind and id


# The sweep finds what ended in a range of time by the ids of the matches, which tell when their payments were made.
# What ended later than this after its payment has a LateRecord besides. Clocks of services may differ by the second.
NEAR_MS = 60_000
CLOCK_SKEW_MS = 5_000

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Sides).decode
EMPTY = Sides()


def match_id(payment_id: str) -> str:
    """The id of a payment's match."""
    return "mat" + payment_id[3:]


def unpack(match: Match | None) -> Sides:
    """What a match holds; nothing where there is none."""
    return EMPTY if match is None else _decode(match.sides)


def pairs_of(match: Match) -> dict[str, Pair]:
    """Its pairs, by match key."""
    return {pair.match_key: pair for pair in unpack(match).pairs}


def with_records(known: tuple[Record, ...], heard: Iterable[Record]) -> tuple[Record, ...]:
    """The records with those that were heard; of one that was told differently before, one and the same is kept."""
    records = {(record.kind, record.id): record for record in known}
    changed = False
    for record in heard:
        key = (record.kind, record.id)
        before = records.get(key)
        if before is None or before < record:
            records[key] = record
            changed = True
    return tuple(sorted(records.values())) if changed else known


def is_near(made_at_ms: int, record: Record) -> bool:
    """Whether a record is found by when its payment was made."""
    return made_at_ms - CLOCK_SKEW_MS <= record.at_ms < made_at_ms + NEAR_MS


def late_records(match: Match, before: tuple[Record, ...], after: tuple[Record, ...]) -> list[LateRecord]:
    """The rows for the records of a match that are new and not near."""
    if after is before:
        return []
    made_at_ms, known = time_ms_in(match.id), set(before)
    return [
        LateRecord(id=late_id(match.slot, record), slot=match.slot, match_id=match.id)
        for record in after
        if record not in known and not is_near(made_at_ms, record)
    ]


def late_id(slot: int, record: Record) -> str:
    """Follows from the record: one each, however often it is heard of."""
    return new_id("ltr", slot, record.at_ms, lambda bits: unsigned(record.hash64) % (1 << bits))


def blank(payment_id: str, slot: int, biz_id: str) -> Match:
    """A match before anything was said."""
    return Match(
        id=match_id(payment_id),
        slot=slot,
        biz_id=biz_id,
        state=MatchState.WAITING.value,
        currency="",
        pair_counts="",
        waiting_counts="",
        broken_counts="",
        waiting_minor=0,
        waiting_since_ms=None,
        due_at_ms=None,
        context=b"",
        sides=b"",
    )


def pack(match: Match, sides: Sides, context: bytes) -> Match:
    """The match with what it now holds; ``context`` is kept while something is due, the first that was given."""
    pairs = sides.pairs
    waiting = [pair for pair in pairs if pair.state == MatchState.WAITING]
    broken = [pair for pair in pairs if pair.state == MatchState.BROKEN]
    state = MatchState.BROKEN if broken else MatchState.WAITING if waiting else MatchState.MATCHED
    due = [pair.due_at_ms for pair in pairs if pair.due_at_ms is not None]
    return replace(
        match,
        state=state.value,
        currency=_currency(pairs),
        pair_counts=_counts(pairs),
        waiting_counts=_counts(waiting),
        broken_counts=_counts(broken),
        waiting_minor=sum([_spoken_minor(pair) for pair in waiting]),
        waiting_since_ms=min([since_ms(pair) for pair in waiting]) if waiting else None,
        due_at_ms=min(due) if due else None,
        context=(match.context or context) if due else b"",
        sides=_encode(sides),
    )


def in_order(pairs: Mapping[str, Pair]) -> tuple[Pair, ...]:
    """The pairs as ``Sides`` has them."""
    return tuple([pairs[key] for key in sorted(pairs)])


def _counts(pairs: Iterable[Pair]) -> str:
    found = [0] * len(_PLACE)
    for pair in pairs:
        found[_PLACE[pair.kind]] += 1
    return ".".join([str(count) for count in found]) if any(found) else ""


def counts_in(text: str) -> dict[str, int]:
    """The counts of a column, by kind."""
    return dict(zip(_PLACE, [int(part) for part in text.split(".")], strict=True)) if text else {}


def _spoken_minor(pair: Pair) -> int:
    return max([said.amount_minor for said in (pair.first, pair.second, pair.unknown, pair.expected) if said])


def _currency(pairs: Iterable[Pair]) -> str:
    for pair in pairs:
        for said in (pair.first, pair.second, pair.unknown, pair.expected):
            if said is not None:
                return said.currency
    return ""
