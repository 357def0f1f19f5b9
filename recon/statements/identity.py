"""What makes a line the same line again, and where it lies. Stable for ever: stored ids depend on it."""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime

from paykit.ids import SLOT_COUNT, is_id, new_id, random_bits_in, slot_in, time_ms_in
from recon.statements.judging import ORDER_PREFIX
from recon.statements.model import Line

KEY_BYTES = 16
_RANDOM_BITS_MASK = 2**72 - 1


def names_order(reference: str) -> bool:
    """Whether a reference has the form of a channel order's id."""
    return is_id(reference, ORDER_PREFIX[:3])


def key_of(channel: str, line: Line) -> bytes:
    """By the provider's own id of the line; where it has none, by all that it says, which others may say too."""
    if line.line_id:
        return _digest("id", channel, line.account, line.line_id)
    said = (line.kind, line.reference, line.provider_reference, line.currency, line.business_date)
    amounts = (str(line.amount_minor), str(line.fee_minor), str(line.is_reversal))
    return _digest("said", channel, line.account, *said, *amounts)


def occurrence_key(key: bytes, occurrence: int) -> bytes:
    """The key of the how-manieth line (from 1) of a day that says the same."""
    return key if occurrence == 1 else _digest("again", key.hex(), str(occurrence))


def slot_of(key: bytes, match_ref: str) -> int:
    """Where a line lies: with the order that it names; where it names none, anywhere, but always there."""
    return slot_in(match_ref) if match_ref else int.from_bytes(key[9:11], "big") % SLOT_COUNT


def line_id_of(key: bytes, slot: int, match_ref: str, business_date: str, revision: int) -> str:
    """The id of a line. Its time is that of the order it names, else its day: neighbours in time lie together.

    ``revision``: how many corrections of its statement came before; a corrected line is another row.
    """
    time_ms = time_ms_in(match_ref) if match_ref else _day_ms(business_date)
    bits = (int.from_bytes(key[:9], "big") + revision) & _RANDOM_BITS_MASK
    return new_id("stl", slot, time_ms, lambda _: bits)


def moved_id(line_id: str, order_id: str) -> str:
    """The id that a line would have, had it been known to name that order."""
    return new_id("stl", slot_in(order_id), time_ms_in(order_id), lambda _: random_bits_in(line_id))


def _day_ms(day: str) -> int:
    start = date.fromisoformat(day)
    return int(datetime(start.year, start.month, start.day, tzinfo=UTC).timestamp()) * 1000


def _digest(*parts: str) -> bytes:
    return hashlib.blake2b("\x00".join(parts).encode(), digest_size=KEY_BYTES).digest()
