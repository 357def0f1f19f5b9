"""Goes through every row once: looks through its texts, and keeps what invariants need of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec
from sqlalchemy import LargeBinary

from meshctl.invariants.partition import Partition
from meshctl.invariants.sensitive import holds_card_number, holds_secret, text_of
from meshctl.invariants.world import BizUse, Flaw, Leg, Listed, Named, decode_changes, slot_named
from pay_core.tables import Journal
from paykit.store.row import Row
from paykit.store.system import CommandRecord, DeadLetter, Outbox
from recon.tables import Match
from trade_core.tables import MerchantTrade

_ID = re.compile(rb"[a-z]{3}_[0-9a-hjkmnp-tv-z]{26}")
_Bookings = list[tuple[str, int, str]]
_decode_bookings = msgspec.json.Decoder(_Bookings).decode


def take(partition: Partition, secrets: Sequence[bytes], service: str, shard: str, mode: str, row: Row) -> None:
    """One row of one database."""
    for flaw in flaws_of(row, secrets):
        partition.add(mode, row.slot, flaw)
    for named in named_by(row):
        partition.add(mode, slot_named(named.id, row.slot), named)
    for leg in legs_of(row):
        partition.add(mode, slot_named(leg.instruction_id, row.slot), leg)
    if isinstance(row, MerchantTrade):
        partition.add(mode, slot_named(row.trade_id, row.slot), listed(row))
    biz_id = getattr(row, "biz_id", "")
    if biz_id:
        partition.add(mode, slot_named(biz_id, row.slot), BizUse(biz_id))
    partition.add(mode, row.slot, lightened(row), service, shard)


def flaws_of(row: Row, secrets: Sequence[bytes]) -> list[Flaw]:
    """What is wrong with the row's own text."""
    text = text_of(msgspec.structs.astuple(row))
    found = []
    if holds_card_number(text):
        found.append("CARD")
    if holds_secret(text, secrets):
        found.append("SECRET")
    if isinstance(row, CommandRecord):
        if row.result is not None and not _is_msgpack(row.result):
            found.append("RESULT")
        if decode_changes(row.changes) is None:
            found.append("CHANGES")
    if isinstance(row, Journal) and _bookings(row) is None:
        found.append("BOOKINGS")
    return [Flaw(what, row.__entity__, row.id) for what in found]


def named_by(row: Row) -> set[Named]:
    """The ids that a message names which has not taken effect yet."""
    is_open = (isinstance(row, Outbox) and row.acked_at_ms is None) or (
        isinstance(row, DeadLetter) and row.state == "OPEN"
    )
    if not is_open:
        return set()
    assert isinstance(row, Outbox | DeadLetter)
    return {Named(found.decode()) for found in _ID.findall(row.body)}


def legs_of(row: Row) -> Iterable[Leg]:
    """The legs that a journal books; none for a row of another table."""
    if isinstance(row, Journal):
        for instruction_id, amount_minor, leg in _bookings(row) or ():
            yield Leg(instruction_id, leg, amount_minor, row.currency, row.id, row.posted_at_ms)


def listed(row: MerchantTrade) -> Listed:
    """What a payee's list says of a trade."""
    told = (row.state, row.amount_minor, row.paid_minor, row.refunded_minor, row.refundable_minor)
    return Listed(row.trade_id, row.trade_version, told)


def lightened(row: Row) -> Row:
    """The row without the bytes that only its own service can read."""
    heavy = _heavy(type(row))
    return msgspec.structs.replace(row, **heavy) if heavy else row


@lru_cache(maxsize=64)
def _heavy(row_type: type[Row]) -> dict[str, bytes]:
    """The columns of bytes, empty; but for what a match holds, which is looked at."""
    return {
        column.name: b""
        for column in row_type.__table__.columns
        if isinstance(column.type, LargeBinary) and column is not Match.__table__.c.sides
    }


def _bookings(row: Journal) -> _Bookings | None:
    try:
        return _decode_bookings(row.bookings)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _is_msgpack(data: bytes) -> bool:
    try:
        msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True
