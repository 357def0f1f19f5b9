"""Records that ended, compared between services: how they are told apart, and digests over many of them."""

from __future__ import annotations

import hashlib
from enum import StrEnum


class RecordKind(StrEnum):
    """Which records. The names are those of the proto."""

    ATTEMPT = "ATTEMPT"
    PAYMENT = "PAYMENT"
    JOURNAL = "JOURNAL"
    ORDER = "ORDER"


def hash64(id_: str, state: str, amount_minor: int, currency: str) -> int:
    """The first 64 bits of the SHA-256 of ``id|state|amount|currency``, as a signed integer."""
    digest = hashlib.sha256(f"{id_}|{state}|{amount_minor}|{currency}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
