"""What every format gives: lines, balances and problems, in the order of the file, with exact whole amounts.

A reader takes the file as a binary stream, holds no more than a record of it at a time, and never raises for what the
file holds: what is wrong is a Problem with the number of the line it stands on (from 1) and a reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import date
from enum import StrEnum
from functools import lru_cache
from typing import BinaryIO

import msgspec

from paykit.money import AMOUNT_MINOR_MAX, EXPONENT

PROBLEMS_MAX = 20  # told of a file; the rest would tell nobody more
LINE_BYTES_MAX = 1 << 20  # of one line of text
REFERENCE_MAX = 64  # characters of a reference

_DIGITS = re.compile(r"[0-9]{1,18}")
_VISIBLE = re.compile(r"[\x20-\x7e]*")


class Format(StrEnum):
    """How a provider writes its statements. The names are those of the proto."""

    CSV = "CSV"
    CAMT053 = "CAMT053"
    MT940 = "MT940"
    STRIPE = "STRIPE"


class LineKind(StrEnum):
    """What a line is. The names are those of the proto."""

    MOVEMENT = "MOVEMENT"
    FEE = "FEE"
    TRANSFER = "TRANSFER"


class BalanceKind(StrEnum):
    """Which end of the statement a balance is of."""

    OPENING = "OPENING"
    CLOSING = "CLOSING"


class Line(msgspec.Struct, frozen=True, array_like=True):
    """One line. ``amount_minor`` is what the account gained, before the fee that the line tells itself.

    Texts for people are not kept: nobody knows what a provider, or a customer, writes there.
    """

    line_no: int
    account: str
    line_id: str  # the provider's own; empty where the format has none
    kind: LineKind
    reference: str  # of our side: a channel order id where it names one
    provider_reference: str
    amount_minor: int
    fee_minor: int
    currency: str
    business_date: str
    is_reversal: bool = False


class Balance(msgspec.Struct, frozen=True, array_like=True):
    """An opening or closing balance."""

    line_no: int
    account: str
    kind: BalanceKind
    amount_minor: int
    currency: str
    business_date: str


class Problem(msgspec.Struct, frozen=True, array_like=True):
    """What is wrong with a file. The reason names what was expected, and nothing that the file holds beyond a name."""

    line_no: int
    reason: str


Item = Line | Balance | Problem


class Declared(msgspec.Struct, frozen=True):
    """What the importer says of a file: where the file itself is silent, this counts."""

    account: str
    business_date: str


Reader = Callable[[BinaryIO, Declared], Iterator[Item]]


class StatementInvalid(Exception):
    """A file that is refused whole: its problems, the first one first, at most PROBLEMS_MAX."""

    def __init__(self, problems: list[Problem]) -> None:
        assert problems
        super().__init__(f"line {problems[0].line_no}: {problems[0].reason}")
        self.problems = problems


class Unreadable(Exception):
    """One record cannot be read; the message is the reason."""


def text_lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines of a stream with their numbers, without line ends; Unreadable where one is too long."""
    number = 0
    while True:
        line = stream.readline(LINE_BYTES_MAX + 1)
        if not line:
            return
        number += 1
        if len(line) > LINE_BYTES_MAX:
            raise Unreadable(f"line {number} is longer than {LINE_BYTES_MAX} bytes")
        yield number, line.rstrip(b"\r\n")


@lru_cache(maxsize=4096)
def iso_date(text: str) -> str:
    """``text`` where it is a day as ISO 8601 writes it (a time behind it is left out); Unreadable where it is none."""
    try:
        return date.fromisoformat(text[:10]).isoformat()
    except ValueError:
        raise Unreadable("a date is not of the form 2026-11-29") from None


def currency_of(text: str) -> str:
    """``text`` where it is an active currency."""
    if text not in EXPONENT:
        raise Unreadable("a currency is not an active ISO 4217 code")
    return text


def minor_of(text: str) -> int:
    """A whole number of minor units, with or without a sign."""
    sign, digits = (-1, text[1:]) if text[:1] == "-" else (1, text[1:] if text[:1] == "+" else text)
    if not _DIGITS.fullmatch(digits):
        raise Unreadable("an amount is not a whole number of minor units")
    return bounded(sign * int(digits))


def decimal_of(text: str, currency: str, mark: str = ".", group: str = "") -> int:
    """A decimal amount as minor units, exactly: more places than the currency has are refused unless they are zeros."""
    sign, digits = (-1, text[1:]) if text[:1] == "-" else (1, text[1:] if text[:1] == "+" else text)
    if group:
        digits = digits.replace(group, "")
    whole, found, part = digits.partition(mark)
    exponent = EXPONENT[currency]
    if found and part and not (part.isascii() and part.isdigit()):
        raise Unreadable("an amount is not a decimal number")
    if part[exponent:].strip("0"):
        raise Unreadable(f"an amount has more than the {exponent} places of {currency}")
    if not _DIGITS.fullmatch(whole):
        raise Unreadable("an amount is not a decimal number")
    minor = int(whole + part[:exponent].ljust(exponent, "0"))
    return bounded(sign * minor)


def bounded(amount_minor: int) -> int:
    """An amount no larger than any operation may be."""
    if abs(amount_minor) > AMOUNT_MINOR_MAX:
        raise Unreadable(f"an amount is beyond {AMOUNT_MINOR_MAX} minor units")
    return amount_minor


def reference_of(text: str) -> str:
    """A reference: at most REFERENCE_MAX visible ASCII characters, spaces around it left out."""
    text = text.strip()
    if len(text) > REFERENCE_MAX or not _VISIBLE.fullmatch(text):
        raise Unreadable(f"a reference is not of at most {REFERENCE_MAX} visible ASCII characters")
    return text
