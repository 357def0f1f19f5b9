"""Ids that say what they name and where it lies.

An id is ``<prefix>_<26 Crockford characters>``: 48 bits of Unix milliseconds, 10 bits of slot and 72 random bits.
The slot is the home of the business order it belongs to, so any id finds its shard alone; a physical shard is
never part of an id. Ids of one prefix sort by time of minting.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
from collections.abc import Callable

SLOT_COUNT = 1024
ID_LENGTH = 30  # 3 letters of prefix, an underscore, 26 characters of body

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUE = {char: value for value, char in enumerate(_ALPHABET)}
_RANDOM_BITS = 72
_SLOT_BITS = 10
_ID = re.compile(r"[a-z]{3}_[0-9a-hjkmnp-tv-z]{26}")
_STEP_BITS = 48
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]

RandomBits = Callable[[int], int]

# Ids must be unique, not secret: a generator seeded by the system costs a tenth of asking the system each time.
_random = random.Random(os.urandom(32))
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


class RisingBits:
    """Random bits for ``new_id`` that rise: ids of one prefix, slot and time sort as they were minted with it."""

    def __init__(self) -> None:
        # The upper half is left free: room for millions of steps.
        self._last = _random.getrandbits(_RANDOM_BITS - 1)

    def __call__(self, bits: int) -> int:
        self._last += 1 + _random.getrandbits(_STEP_BITS)
        assert self._last >> bits == 0
        return self._last


def slot_of(owner: str) -> int:
    """The slot (0 to 1023) an owner lives on. Stable for ever: stored ids depend on it."""
    digest = hashlib.blake2b(owner.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % SLOT_COUNT


def _encode(value: int) -> str:
    pairs = _PAIRS
    return "".join([pairs[(value >> shift) & 1023] for shift in range(120, -1, -10)])


def new_id(prefix: str, slot: int, now_ms: int, random_bits: RandomBits = _random.getrandbits) -> str:
    """Mints an id. ``prefix`` is three lower-case letters; ``now_ms`` Unix milliseconds."""
    assert len(prefix) == 3
    assert 0 <= slot < SLOT_COUNT
    value = (((now_ms << _SLOT_BITS) | slot) << _RANDOM_BITS) | random_bits(_RANDOM_BITS)
    return f"{prefix}_{_encode(value)}"


def first_id(prefix: str, now_ms: int) -> str:
    """The least id of that time (Unix milliseconds): what is minted then or later does not sort before it."""
    return new_id(prefix, 0, now_ms, lambda bits: 0)


def is_id(text: str, prefix: str | None = None) -> bool:
    """Whether ``text`` has the form of an id, and of that prefix where one is given."""
    return _ID.fullmatch(text) is not None and (prefix is None or text.startswith(prefix + "_"))


def slot_in(id_: str) -> int:
    """The slot an id carries. The id must have the form of one (ValueError)."""
    if not is_id(id_):
        raise ValueError(f"not an id: {id_[:40]!r}")
    # Characters 9 to 11 behind the prefix hold bits 70 to 84; the slot is bits 72 to 81.
    return (_VALUE[id_[13]] & 3) << 8 | _VALUE[id_[14]] << 3 | _VALUE[id_[15]] >> 2


def time_ms_in(id_: str) -> int:
    """The Unix milliseconds at which an id was minted."""
    if not is_id(id_):
        raise ValueError(f"not an id: {id_[:40]!r}")
    value = 0
    for char in id_[4:14]:
        value = (value << 5) | _VALUE[char]
    # Ten characters hold bits 80 to 129; the time begins at bit 82.
    return value >> 2


def random_bits_in(id_: str) -> int:
    """The 72 bits of an id that are neither time nor slot."""
    if not is_id(id_):
        raise ValueError(f"not an id: {id_[:40]!r}")
    value = 0
    for char in id_[15:]:
        value = (value << 5) | _VALUE[char]
    # Fifteen characters hold bits 0 to 74.
    return value & ((1 << _RANDOM_BITS) - 1)
