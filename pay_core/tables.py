"""The tables of pay_core. Every row lies on the slot of its payment, or of the owner of its account."""

from __future__ import annotations

from sqlalchemy import MetaData

from paykit.store.row import Blob, Code, Id, LongName, LongText, Millis, Minor, Name, Row, Small, mapped

metadata = MetaData()


@mapped(metadata, "account", unique=["account_key"], index=[("owner_id",)])
class Account(Row, frozen=True, kw_only=True):
    """An account of the ledger: one owner, kind and currency. ``balance_minor`` is the sum of its entries."""

    account_key: LongName  # see ledger.AccountRef
    owner_id: Name
    kind: Code
    currency: Code
    balance_minor: Minor
    held_minor: Minor
    floor_minor: Minor | None  # the balance never goes below it; None for accounts of the platform
    created_at_ms: Millis


@mapped(metadata, "journal", index=[("payment_id",)])
class Journal(Row, frozen=True, kw_only=True):
    """A set of entries that sum to zero, and the instructions they book."""

    payment_id: Id
    biz_id: Id
    currency: Code
    bookings: LongText  # JSON [[instruction_id, amount_minor, leg], …], see ledger.Booking
    posted_at_ms: Millis


@mapped(metadata, "entry", index=[("account_id", "id"), ("journal_id",)])
class Entry(Row, frozen=True, kw_only=True):
    """One line of a journal. Positive is a credit. Never changed."""

    journal_id: Id
    account_id: Id
    payment_id: Id
    currency: Code
    amount_minor: Minor
    balance_after_minor: Minor
    posted_at_ms: Millis


@mapped(metadata, "payment", index=[("source_id",), ("payer_id", "id"), ("biz_id",), ("due_at_ms",)])
class Payment(Row, frozen=True, kw_only=True):
    """One operation and what became of it."""

    biz_id: Id
    operation: Code
    state: Code
    payer_id: Name
    currency: Code
    amount_minor: Minor
    source_id: Name
    original_payment_id: Id | None
    refunding_minor: Minor  # reserved by refunds under way
    refunded_minor: Minor
    failure_reason: Code
    caller: Name
    context: Blob
    ask_count: Small  # how often the channel result was asked for
    due_at_ms: Millis | None  # when to ask for it next
    created_at_ms: Millis
    finished_at_ms: Millis | None


@mapped(metadata, "instruction", index=[("payment_id",)])
class Instruction(Row, frozen=True, kw_only=True):
    """One persisted step of a payment, carried out by one tool."""

    payment_id: Id
    seq: Small
    direction: Code
    action: Code
    tool: Code
    state: Code
    currency: Code
    amount_minor: Minor
    owner_id: Name  # tool balance: whose account …
    account_kind: Code  # … of which kind
    channel: Name  # tool channel: through which …
    token: Name  # … from or to what, by its vault token
    channel_order_id: Id | None  # the channel order that carried it out, once its result came
    original_channel_order_id: Id | None  # of a refund through a channel: the charge it gives back
    reverses_id: Id | None  # the instruction this one undoes, or gives money of back
    refunded_minor: Minor  # of a SUCCEEDED one: given back or being given back
    failure_reason: Code
