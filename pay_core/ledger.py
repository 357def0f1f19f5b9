"""The double-entry ledger: accounts, journals that sum to zero on one slot, entries with running balances."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp

from pay_core import closing
from pay_core.chart import CHART, AccountKind, fits
from pay_core.tables import Account, Book, Entry, Journal
from paykit import context as business_context
from paykit.context import BusinessContext
from paykit.errors import FailedPrecondition
from paykit.ids import SLOT_COUNT, slot_of
from paykit.store.command import Rows, Work
from paykit.store.row import Key, key
from paymesh.event.v1 import events_pb2
from paymesh.pay.v1 import payment_pb2

__all__ = ["AccountKind"]  # and all that is defined here

JOURNAL_POSTED = "ledger.journal_posted"

INSUFFICIENT_FUNDS = "INSUFFICIENT_FUNDS"
ACCOUNT_FROZEN = "ACCOUNT_FROZEN"

OWNED_KINDS = (AccountKind.USER, AccountKind.MERCHANT)  # customers' money: what can be paid to

_INTERNAL = "internal."
BALANCE_MINOR_MAX = 2**62  # far from what a column holds: no sum of one batch can pass it

KIND_NUMBER = {kind: payment_pb2.AccountKind.Value(f"ACCOUNT_KIND_{kind}") for kind in AccountKind}
KIND_OF_NUMBER = {number: kind for kind, number in KIND_NUMBER.items()}


class Leg(StrEnum):
    """How a journal books an instruction. The names are those of the proto's BookingLeg."""

    LOCAL = "LOCAL"  # the whole of it, on one slot
    SENT = "SENT"  # out of this slot into transit
    RECEIVED = "RECEIVED"  # out of transit into this slot


class AccountRef(NamedTuple):
    """Which account: found by its key, made when first posted to."""

    slot: int
    owner_id: str
    kind: AccountKind
    currency: str
    channel: str = ""

    @property
    def account_key(self) -> str:
        """Unique: ``owner/KIND/CUR``; the platform's own are one per slot."""
        kind = f"{self.kind}:{self.channel}" if self.channel else self.kind
        return f"{self.owner_id}/{kind}/{self.currency}"


def owned(owner_id: str, kind: AccountKind, currency: str) -> AccountRef:
    """A customer's account, on the customer's own slot. ``currency`` is POINTS_UNIT for points."""
    assert CHART[kind].is_owned
    assert fits(kind, currency)
    return AccountRef(slot_of(owner_id), owner_id, kind, currency)


def internal(slot: int, kind: AccountKind, currency: str, channel: str = "") -> AccountRef:
    """The platform's account of a kind on a slot. ``currency`` is POINTS_UNIT for points."""
    assert not CHART[kind].is_owned
    assert fits(kind, currency)
    return AccountRef(slot, f"{_INTERNAL}{slot}", kind, currency, channel)


def slot_of_owner(owner_id: str) -> int:
    """Where an owner's accounts lie; the platform's own owners name their slot."""
    if is_internal(owner_id):
        return int(owner_id.removeprefix(_INTERNAL))
    return slot_of(owner_id)


def is_internal(owner_id: str) -> bool:
    """Whether an owner is the platform itself: ``internal.<slot>``. No customer may be called that."""
    number = owner_id.removeprefix(_INTERNAL)
    return owner_id.startswith(_INTERNAL) and number.isdecimal() and int(number) < SLOT_COUNT


class Booking(NamedTuple):
    """An instruction that a journal books, and how."""

    instruction_id: str
    amount_minor: int
    leg: Leg


class Draft:
    """A journal being put together: movements of one payment on one slot that are posted as one.

    Postings to CLEARING add up, so that money that comes in and goes out in the same step leaves no trace there.
    Clearing and bookings are in ``currency``; ``shift`` moves what has another unit. Each unit sums to zero.
    """

    def __init__(self, slot: int, currency: str) -> None:
        self.slot, self.currency = slot, currency
        self.postings: list[tuple[AccountRef, int]] = []
        self.bookings: list[Booking] = []
        self._clearing_minor = 0

    def book(self, instruction_id: str, amount_minor: int, leg: Leg, account: AccountRef, credit_minor: int) -> None:
        """Books an instruction: ``account`` changes by ``credit_minor``, clearing by the opposite."""
        self.book_split(instruction_id, amount_minor, leg, [(account, credit_minor)])

    def book_split(
        self, instruction_id: str, amount_minor: int, leg: Leg, credits: Sequence[tuple[AccountRef, int]]
    ) -> None:
        """Books an instruction over several accounts; clearing changes by the opposite of their sum: the amount.

        A channel that collected 1,200 instead of 1,000: ``[(external, -1200), (suspense, +200)]``.
        """
        total_minor = sum(minor for _, minor in credits)
        assert abs(total_minor) == amount_minor > 0
        for account, minor in credits:
            assert (account.slot, account.currency) == (self.slot, self.currency)
            assert minor
            self.postings.append((account, minor))
        self._clearing_minor -= total_minor
        self.bookings.append(Booking(instruction_id, amount_minor, leg))

    def move(self, instruction_id: str, amount_minor: int, leg: Leg, debit: AccountRef, credit: AccountRef) -> None:
        """Books an instruction as a movement between two accounts, past clearing."""
        assert debit.currency == credit.currency == self.currency
        self.shift(debit, credit, amount_minor)
        self.bookings.append(Booking(instruction_id, amount_minor, leg))

    def shift(self, debit: AccountRef, credit: AccountRef, amount_minor: int) -> None:
        """A movement between two accounts of one unit, past clearing, that books no instruction: points."""
        assert amount_minor > 0
        assert debit.currency == credit.currency
        assert debit.slot == credit.slot == self.slot
        self.postings += [(debit, -amount_minor), (credit, amount_minor)]

    def change_of(self, account: AccountRef) -> int:
        """By how much this draft changes an account already."""
        return sum(minor for ref, minor in self.postings if ref == account)

    def all_postings(self) -> list[tuple[AccountRef, int]]:
        """Every posting, clearing last; they sum to zero."""
        if not self._clearing_minor:
            return self.postings
        clearing = internal(self.slot, AccountKind.CLEARING, self.currency)
        return [*self.postings, (clearing, self._clearing_minor)]


def account_keys(refs: list[AccountRef]) -> list[Key]:
    """What a command must read to post to ``refs``: the accounts, and the books that date the journal."""
    return list(dict.fromkeys([found for ref in refs for found in _account_keys(ref)]))


@lru_cache(maxsize=16_384)  # every round of every command that goes on with a payment asks for the same few
def _account_keys(ref: AccountRef) -> tuple[Key, Key]:
    return key(Account, ref.account_key, "account_key"), book_key(ref.slot, ref.currency)


def book_key(slot: int, unit: str) -> Key:
    """What a command must read to give a date: the book of a currency, or of points, on a slot."""
    return key(Book, f"{slot}/{unit}", "book_key")


def available_minor(rows: Rows, ref: AccountRef) -> int:
    """What can be taken from a customer's account: balance less holds and floor. Zero where there is no account."""
    account = rows.get(Account, ref.account_key, "account_key")
    return 0 if account is None else account.balance_minor - account.held_minor - (account.floor_minor or 0)


def refusal(rows: Rows, ref: AccountRef, amount_minor: int, draft: Draft) -> str:
    """Why ``amount_minor`` cannot be taken from a customer's account after what ``draft`` does: a reason, or empty."""
    account = rows.get(Account, ref.account_key, "account_key")
    if account is not None and account.freeze_reason:
        return ACCOUNT_FROZEN
    return "" if available_minor(rows, ref) + draft.change_of(ref) >= amount_minor else INSUFFICIENT_FUNDS


def intake_date(work: Work, slot: int, unit: str) -> str:
    """The accounting date of a new payment: the open date of its book, which must have been read (``book_key``)."""
    book = _book(work, slot, unit)
    _use(work, book, book.open_date)
    return book.open_date


def _book(work: Work, slot: int, unit: str) -> Book:
    """The book, made with the first that is dated by it: today is its first date."""
    book = work.get(Book, f"{slot}/{unit}", "book_key")
    if book is not None:
        return book
    open_date = closing.date_at(work.now_ms)
    # The end of day is nobody's business operation: it gets an id of its own.
    context = BusinessContext(biz_id=work.new_id("biz", slot), shadow=work.context.shadow)
    book = Book(
        id=work.new_id("bok", slot),
        slot=slot,
        book_key=f"{slot}/{unit}",
        currency=unit,
        state=closing.BOOK.initial.value,
        open_date=open_date,
        closed_through=closing.days_after(open_date, -1),
        drain_until_ms=None,
        due_at_ms=closing.end_ms(open_date),
        context=business_context.pack(context),
        created_at_ms=work.now_ms,
        used_date=open_date,
    )
    return work.insert(book, audit=False)


def _use(work: Work, book: Book, date: str) -> None:
    # Once a date, not once a journal: only a book that was used has a date to close.
    if book.used_date < date:
        work.update(msgspec.structs.replace(book, used_date=date), audit=False)


def _date(work: Work, slot: int, units: Iterable[str], accounting_date: str) -> str:
    """One date for the whole journal: the first that none of its units' books has closed or passes over."""
    books = [_book(work, slot, unit) for unit in units]
    date = max([closing.dated(book, accounting_date) for book in books])
    while len(books) > 1 and (later := max([closing.dated(book, date) for book in books])) > date:
        date = later
    for book in books:
        _use(work, book, date)
    return date


def post(work: Work, draft: Draft, payment_id: str, accounting_date: str = "") -> Journal:
    """Writes a draft as one journal with its entries and says so in an event. Nothing may be overdrawn any more.

    ``accounting_date`` is the payment's; the journal gets it, or the next that is still open (``closing.dated``).
    """
    postings = draft.all_postings()
    sums: dict[str, int] = {}
    for ref, minor in postings:
        sums[ref.currency] = sums.get(ref.currency, 0) + minor
    assert sums
    assert not any(sums.values())
    date = _date(work, draft.slot, sums, accounting_date)
    journal = Journal(
        id=work.new_id("jnl", draft.slot),
        slot=draft.slot,
        payment_id=payment_id,
        biz_id=work.context.biz_id,
        currency=draft.currency,
        bookings=msgspec.json.encode(draft.bookings).decode(),
        posted_at_ms=work.now_ms,
        accounting_date=date,
    )
    entries = []
    for ref, minor in postings:
        account = _credit(work, ref, minor)
        entries.append((account.id, minor))
        entry = Entry(
            id=work.new_id("ent", draft.slot),
            slot=draft.slot,
            journal_id=journal.id,
            account_id=account.id,
            payment_id=payment_id,
            currency=ref.currency,
            amount_minor=minor,
            balance_after_minor=account.balance_minor,
            posted_at_ms=work.now_ms,
            accounting_date=date,
        )
        work.insert(entry, audit=False)
    work.insert(journal, parent_id=payment_id, note=describe(postings))
    work.publish(JOURNAL_POSTED, journal_event(journal, draft.bookings, entries))
    return journal


def journal_event(
    journal: Journal, bookings: Iterable[Booking], entries: Iterable[tuple[str, int]]
) -> events_pb2.JournalEvent:
    """The body of ledger.journal_posted. ``entries``: account id and minor units of each, positive is a credit."""
    event = events_pb2.JournalEvent(
        journal_id=journal.id,
        slot=journal.slot,
        payment_id=journal.payment_id,
        currency_code=journal.currency,
        post_time=timestamp(journal.posted_at_ms),
    )
    for booking in bookings:
        leg = events_pb2.BookingLeg.Value(f"BOOKING_LEG_{booking.leg}")
        event.instructions.add(instruction_id=booking.instruction_id, amount_minor=booking.amount_minor, leg=leg)
    for account_id, minor in entries:
        event.entries.add(account_id=account_id, amount_minor=minor)
    return event


def _credit(work: Work, ref: AccountRef, minor: int) -> Account:
    account = work.get(Account, ref.account_key, "account_key")
    if account is None:
        account = work.insert(
            Account(
                id=work.new_id("acc", ref.slot),
                slot=ref.slot,
                account_key=ref.account_key,
                owner_id=ref.owner_id,
                kind=ref.kind.value,
                currency=ref.currency,
                balance_minor=minor,
                held_minor=0,
                floor_minor=CHART[ref.kind].floor_minor,
                created_at_ms=work.now_ms,
            ),
            audit=False,
        )
    else:
        account = work.update(
            msgspec.structs.replace(account, balance_minor=account.balance_minor + minor), audit=False
        )
    if abs(account.balance_minor) > BALANCE_MINOR_MAX:
        raise FailedPrecondition(
            f"account {account.id} cannot hold more", reason="BALANCE_LIMIT_REACHED", subject=account.id
        )
    # Whoever drafted a debit has asked ``refusal`` first. Credits land in any case: a lowered floor is no reason.
    assert minor > 0 or account.floor_minor is None or account.balance_minor - account.held_minor >= account.floor_minor
    assert minor > 0 or not account.freeze_reason
    return account


def describe(postings: list[tuple[AccountRef, int]]) -> str:
    """For people: ``alice/USER/EUR -1000, internal.7/IN_TRANSIT/EUR +1000``."""
    return ", ".join(f"{ref.account_key} {minor:+d}" for ref, minor in postings)


def timestamp(ms: int) -> Timestamp:
    """Unix milliseconds as a protobuf Timestamp."""
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)
