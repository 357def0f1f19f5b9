"""Accounting dates: which one a payment and a journal get, and how a book closes one after another.

A date is text, ``2026-11-22``, so that dates compare as they follow each other. It begins and ends at midnight UTC.
A book has its ``open_date`` open, and while it is CLOSING the ``closing_date`` as well; all before is closed.
"""

from __future__ import annotations

import datetime
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

import msgspec

from pay_core.tables import Book, Closing
from paykit.state_machine import StateMachine

_DAY_MS = 86_400_000


class BookState(StrEnum):
    """Where a book is."""

    OPEN = "OPEN"
    CLOSING = "CLOSING"  # payments of the closing date drain


class ClosingState(StrEnum):
    """Where the closing of a date is. The date itself is closed from the start."""

    PENDING = "PENDING"  # its snapshots are being written
    DONE = "DONE"


BOOK = StateMachine(
    "book",
    BookState,
    BookState.OPEN,
    {BookState.OPEN: frozenset({BookState.CLOSING}), BookState.CLOSING: frozenset({BookState.OPEN})},
)

CLOSING = StateMachine(
    "closing",
    ClosingState,
    ClosingState.PENDING,
    {ClosingState.PENDING: frozenset({ClosingState.DONE}), ClosingState.DONE: frozenset()},
)


def date_at(ms: int) -> str:
    """The accounting date of a moment (Unix milliseconds)."""
    return _date_of_day(ms // _DAY_MS)


@lru_cache(maxsize=64)
def _date_of_day(day: int) -> str:
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days=day)).isoformat()


def is_date(text: str) -> bool:
    """Whether ``text`` is a date as it is written here."""
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


@lru_cache(maxsize=256)
def days_after(date: str, days: int) -> str:
    """The date so many days later; earlier where ``days`` is negative."""
    return (datetime.date.fromisoformat(date) + datetime.timedelta(days=days)).isoformat()


def days_between(first: str, last: str) -> int:
    """How many days ``last`` is after ``first``; negative where it is before."""
    return (datetime.date.fromisoformat(last) - datetime.date.fromisoformat(first)).days


def end_ms(date: str) -> int:
    """When a date ends: Unix milliseconds."""
    return ((datetime.date.fromisoformat(date) - datetime.date(1970, 1, 1)).days + 1) * _DAY_MS


def dated(book: Book, accounting_date: str) -> str:
    """The date of a journal of a payment that got ``accounting_date`` at intake: the same, or the first open after it.

    The open date where the payment has none. A date of another slot's book may be ahead of this one.
    """
    if accounting_date and book.closing_date and accounting_date <= book.closing_date:
        return book.closing_date
    return max(accounting_date, book.open_date)


def roll(book: Book, now_ms: int, drain_ms: int) -> Book:
    """An OPEN book once its date is over, or is to be closed at once: the next date is open for new payments.

    A book that was used on its date is CLOSING now; one that was not goes straight on. The same book where it is not
    time yet.
    """
    today = date_at(now_ms)
    wanted = max(today, days_after(book.close_through, 1)) if book.close_through else today
    if book.state != BookState.OPEN or wanted <= book.open_date:
        return book
    if book.used_date < book.open_date:
        return msgspec.structs.replace(
            book, open_date=wanted, closed_through=days_after(wanted, -1), due_at_ms=end_ms(wanted)
        )
    # Another slot's book, or another unit's, may have been ahead and dated a journal: no date is passed over then.
    is_ahead = book.used_date > book.open_date
    return BOOK.move(
        book,
        BookState.CLOSING,
        closing_date=book.open_date,
        open_date=days_after(book.open_date, 1) if is_ahead else wanted,
        drain_until_ms=now_ms + drain_ms,
        due_at_ms=now_ms,
    )


def close(book: Book, now_ms: int, closing_id: str) -> Book:
    """A CLOSING book once nothing more is waited for: all before the open date is closed for good."""
    is_due = book.close_through >= book.open_date
    return BOOK.move(
        book,
        BookState.OPEN,
        closed_through=days_after(book.open_date, -1),
        closing_date="",
        drain_until_ms=None,
        due_at_ms=now_ms if is_due else end_ms(book.open_date),
        last_closing_id=closing_id,
    )


class KindTotal(msgspec.Struct, frozen=True, array_like=True):
    """All accounts of a kind in one book at the end of a date. Credits and debits, both positive, are of the date."""

    kind: str
    account_count: int = 0
    balance_minor: int = 0
    credit_minor: int = 0
    debit_minor: int = 0


class Move(NamedTuple):
    """What the journals of a page did to an account. ``opening_minor``: at the end of the date on which it last moved;
    None where it never did.
    """

    account_id: str
    kind: str
    opening_minor: int | None
    credit_minor: int
    debit_minor: int


_decode_totals = msgspec.json.Decoder(list[KindTotal]).decode


def totals_of(closing: Closing) -> dict[str, KindTotal]:
    """By kind of account; whole once the closing is DONE."""
    return {total.kind: total for total in _decode_totals(closing.totals)}


def carried_totals(previous: Closing | None) -> dict[str, KindTotal]:
    """What a date begins with: the balances of the closing before, nothing moved yet."""
    before = {} if previous is None else totals_of(previous)
    return {kind: msgspec.structs.replace(total, credit_minor=0, debit_minor=0) for kind, total in before.items()}


def add_move(totals: dict[str, KindTotal], move: Move, *, is_new: bool) -> None:
    """Adds what a page did to an account; ``is_new`` where the account never moved before, nor on an earlier page."""
    total = totals.get(move.kind, KindTotal(move.kind))
    totals[move.kind] = KindTotal(
        move.kind,
        total.account_count + is_new,
        total.balance_minor + move.credit_minor - move.debit_minor,
        total.credit_minor + move.credit_minor,
        total.debit_minor + move.debit_minor,
    )


def count_page(
    closing: Closing, totals: dict[str, KindTotal], journal_count: int, through: str, *, is_last: bool
) -> Closing:
    """The closing with one more page of journals in its totals; DONE with the last."""
    counted = msgspec.structs.replace(
        closing,
        journal_count=closing.journal_count + journal_count,
        credit_minor=sum(total.credit_minor for total in totals.values()),
        debit_minor=sum(total.debit_minor for total in totals.values()),
        counted_through=through,
        totals=msgspec.json.encode(sorted(totals.values(), key=lambda total: total.kind)).decode(),
    )
    if not is_last:
        return counted
    assert counted.credit_minor == counted.debit_minor
    assert sum(total.balance_minor for total in totals.values()) == 0
    return CLOSING.move(counted, ClosingState.DONE, due_at_ms=None)
