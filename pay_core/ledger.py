"""The double-entry ledger: accounts, journals that sum to zero on one slot, entries with running balances."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp

from pay_core.tables import Account, Entry, Journal
from paykit.errors import FailedPrecondition
from paykit.ids import SLOT_COUNT, slot_of
from paykit.store.command import Rows, Work
from paykit.store.row import Key, key
from paymesh.event.v1 import events_pb2
from paymesh.pay.v1 import payment_pb2

JOURNAL_POSTED = "ledger.journal_posted"


class AccountKind(StrEnum):
    """What an account is for. The names are those of the proto."""

    USER = "USER"
    MERCHANT = "MERCHANT"
    EXTERNAL = "EXTERNAL"
    CLEARING = "CLEARING"
    IN_TRANSIT = "IN_TRANSIT"
    FEES = "FEES"
    SUSPENSE = "SUSPENSE"


OWNED_KINDS = (AccountKind.USER, AccountKind.MERCHANT)  # customers' money: never below zero

_INTERNAL = "internal."
_BALANCE_MINOR_MAX = 2**62  # far from what a column holds: no sum of one batch can pass it

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
    """A customer's account, on the customer's own slot."""
    assert kind in OWNED_KINDS
    return AccountRef(slot_of(owner_id), owner_id, kind, currency)


def internal(slot: int, kind: AccountKind, currency: str, channel: str = "") -> AccountRef:
    """The platform's account of a kind on a slot."""
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
    """

    def __init__(self, slot: int, currency: str) -> None:
        self.slot, self.currency = slot, currency
        self.postings: list[tuple[AccountRef, int]] = []
        self.bookings: list[Booking] = []
        self._clearing = internal(slot, AccountKind.CLEARING, currency)
        self._clearing_minor = 0

    def book(self, instruction_id: str, amount_minor: int, leg: Leg, account: AccountRef, credit_minor: int) -> None:
        """Books an instruction: ``account`` changes by ``credit_minor``, clearing by the opposite."""
        assert account.slot == self.slot
        assert abs(credit_minor) == amount_minor > 0
        self.postings.append((account, credit_minor))
        self._clearing_minor -= credit_minor
        self.bookings.append(Booking(instruction_id, amount_minor, leg))

    def move(self, instruction_id: str, amount_minor: int, leg: Leg, debit: AccountRef, credit: AccountRef) -> None:
        """Books an instruction as a movement between two accounts, past clearing."""
        self.postings += [(debit, -amount_minor), (credit, amount_minor)]
        self.bookings.append(Booking(instruction_id, amount_minor, leg))

    def change_of(self, account: AccountRef) -> int:
        """By how much this draft changes an account already."""
        return sum(minor for ref, minor in self.postings if ref == account)

    def all_postings(self) -> list[tuple[AccountRef, int]]:
        """Every posting, clearing last; they sum to zero."""
        clearing = [(self._clearing, self._clearing_minor)] if self._clearing_minor else []
        return self.postings + clearing


def account_keys(refs: list[AccountRef]) -> list[Key]:
    """What a command must read to post to ``refs``."""
    return [key(Account, ref.account_key, "account_key") for ref in refs]


def available_minor(rows: Rows, ref: AccountRef) -> int:
    """What can be taken from a customer's account: balance less holds and floor. Zero where there is no account."""
    account = rows.get(Account, ref.account_key, "account_key")
    return 0 if account is None else account.balance_minor - account.held_minor - (account.floor_minor or 0)


def post(work: Work, draft: Draft, payment_id: str) -> Journal:
    """Writes a draft as one journal with its entries and says so in an event. Nothing may be overdrawn any more."""
    postings = draft.all_postings()
    assert draft.bookings
    assert sum(minor for _, minor in postings) == 0
    journal = Journal(
        id=work.new_id("jnl", draft.slot),
        slot=draft.slot,
        payment_id=payment_id,
        biz_id=work.context.biz_id,
        currency=draft.currency,
        bookings=msgspec.json.encode(draft.bookings).decode(),
        posted_at_ms=work.now_ms,
    )
    event = events_pb2.JournalEvent(
        journal_id=journal.id,
        slot=draft.slot,
        payment_id=payment_id,
        currency_code=draft.currency,
        post_time=timestamp(work.now_ms),
    )
    for booking in draft.bookings:
        leg = events_pb2.BookingLeg.Value(f"BOOKING_LEG_{booking.leg}")
        event.instructions.add(instruction_id=booking.instruction_id, amount_minor=booking.amount_minor, leg=leg)
    for ref, minor in postings:
        account = _credit(work, ref, minor)
        event.entries.add(account_id=account.id, amount_minor=minor)
        entry = Entry(
            id=work.new_id("ent", draft.slot),
            slot=draft.slot,
            journal_id=journal.id,
            account_id=account.id,
            payment_id=payment_id,
            currency=draft.currency,
            amount_minor=minor,
            balance_after_minor=account.balance_minor,
            posted_at_ms=work.now_ms,
        )
        work.insert(entry, audit=False)
    work.insert(journal, parent_id=payment_id, note=describe(postings))
    work.publish(JOURNAL_POSTED, event)
    return journal


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
                floor_minor=0 if ref.kind in OWNED_KINDS else None,
                created_at_ms=work.now_ms,
            ),
            audit=False,
        )
    else:
        account = work.update(
            msgspec.structs.replace(account, balance_minor=account.balance_minor + minor), audit=False
        )
    if abs(account.balance_minor) > _BALANCE_MINOR_MAX:
        raise FailedPrecondition(
            f"account {account.id} cannot hold more", reason="BALANCE_LIMIT_REACHED", subject=account.id
        )
    # Whoever drafted a debit has looked at what is available first.
    assert account.floor_minor is None or account.balance_minor - account.held_minor >= account.floor_minor
    return account


def describe(postings: list[tuple[AccountRef, int]]) -> str:
    """For people: ``alice/USER/EUR -1000, internal.7/IN_TRANSIT/EUR +1000``."""
    return ", ".join(f"{ref.account_key} {minor:+d}" for ref, minor in postings)


def timestamp(ms: int) -> Timestamp:
    """Unix milliseconds as a protobuf Timestamp."""
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)
