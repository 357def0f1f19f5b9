"""The tables of pay_core. Every row lies on the slot of its payment, or of the owner of its account."""

from __future__ import annotations

from sqlalchemy import MetaData

from paykit.compensation import CompensationRow
from paykit.store.row import Blob, Code, Id, LongName, LongText, Millis, Minor, Name, Row, Small, Title, mapped

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
    floor_minor: Minor | None  # balance less holds never goes below it; None for accounts of the platform
    created_at_ms: Millis
    freeze_reason: Name = ""  # not empty: nothing leaves it


@mapped(metadata, "journal", index=[("payment_id",), ("slot", "accounting_date", "id")])
class Journal(Row, frozen=True, kw_only=True):
    """A set of entries that sum to zero, and the instructions they book."""

    payment_id: Id
    biz_id: Id
    currency: Code
    bookings: LongText  # JSON [[instruction_id, amount_minor, leg], …], see ledger.Booking
    posted_at_ms: Millis
    accounting_date: Code = ""  # "2026-11-22"


@mapped(metadata, "entry", index=[("account_id", "accounting_date", "id"), ("journal_id",)])
class Entry(Row, frozen=True, kw_only=True):
    """One line of a journal. Positive is a credit. Never changed."""

    journal_id: Id
    account_id: Id
    payment_id: Id
    currency: Code
    amount_minor: Minor
    balance_after_minor: Minor
    posted_at_ms: Millis
    accounting_date: Code = ""  # of its journal


@mapped(
    metadata,
    "payment",
    index=[
        ("source_id",),
        ("payer_id", "id"),
        ("biz_id",),
        ("due_at_ms",),
        ("slot", "accounting_date"),
        ("finished_at_ms",),
    ],
)
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
    due_at_ms: Millis | None  # when to ask for it next, to try a reversal again, or to void what was authorised
    created_at_ms: Millis
    finished_at_ms: Millis | None
    settlement_mode: Code = "IMMEDIATE"
    captured_minor: Minor = 0  # of AUTHORIZE and ESCROW
    payer_fee_minor: Minor = 0  # on top of the amount
    payee_fee_minor: Minor = 0  # out of the amount
    rules_version: Small = 0
    accounting_date: Code = ""  # fixed at intake
    expires_at_ms: Millis | None = None  # of AUTHORIZE and ESCROW: when it is voided by itself
    is_repair: Small = 0  # of a refund: a provider's refusal does not end it
    plan: LongText | None = None  # JSON, see payment.Plan: shares of a later capture, and what was counted on limits


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
    token: Name  # … from or to what, by its vault token; tool coupon: the coupon
    channel_order_id: Id | None  # the channel order that carried it out, once its result came
    original_channel_order_id: Id | None  # of a refund through a channel: the charge it gives back
    reverses_id: Id | None  # the instruction this one undoes, or gives money of back
    refunded_minor: Minor  # of a SUCCEEDED one: given back or being given back
    failure_reason: Code
    reserve_id: Id | None = None  # the RESERVE that a COLLECT takes from, or that a RELEASE gives up
    reference: Name = ""  # the payee's reference it belongs to
    instrument: Code = ""  # tool channel: CARD, BANK_ACCOUNT or WALLET
    unit_count: Minor = 0  # in the tool's own unit, where it has one: points
    refunded_unit_count: Minor = 0
    moved_minor: Minor = 0  # where a channel moved another amount than asked for; else 0
    attempt_no: Small = 1  # of a REVERSE one: which try
    not_before_ms: Millis | None = None  # of an INIT one: begun then
    route: LongText | None = None  # tool channel: JSON, see routes.stored; None where one channel was named


@mapped(metadata, "hold", unique=["instruction_id"], index=[("account_id", "id"), ("payment_id",)])
class Hold(Row, frozen=True, kw_only=True):
    """Money of an account kept for a payment ("hld_…"). What it still keeps: amount less captured and released."""

    account_id: Id
    payment_id: Id
    instruction_id: Id  # the RESERVE
    state: Code  # holds.HoldState
    currency: Code
    amount_minor: Minor
    captured_minor: Minor
    released_minor: Minor
    expires_at_ms: Millis | None
    created_at_ms: Millis


@mapped(metadata, "book", unique=["book_key"], index=[("due_at_ms",)])
class Book(Row, frozen=True, kw_only=True):
    """The ledger of one currency on one slot ("bok_…"), and its accounting dates."""

    book_key: LongName  # "<slot>/<currency>"
    currency: Code
    state: Code  # closing.BookState
    open_date: Code  # what a payment gets at intake
    closed_through: Code  # no journal will be dated on it or before
    drain_until_ms: Millis | None  # of a CLOSING one: waits so long for payments of the old date
    due_at_ms: Millis | None  # when the timer looks at it next
    context: Blob
    created_at_ms: Millis
    closing_date: Code = ""  # of a CLOSING one: the date that drains
    used_date: Code = ""  # the latest date that a payment or journal got
    close_through: Code = ""  # somebody wants the dates up to it closed now
    last_closing_id: Id = ""


@mapped(
    metadata,
    "closing",
    unique=["closing_key"],
    index=[("slot", "currency", "accounting_date"), ("accounting_date",), ("due_at_ms",)],
)
class Closing(Row, frozen=True, kw_only=True):
    """What closing one book's date came to ("cls_…")."""

    closing_key: LongName  # "<slot>/<currency>/<date>"
    currency: Code
    accounting_date: Code
    state: Code  # closing.ClosingState: until its snapshots are written
    journal_count: Minor
    debit_minor: Minor
    credit_minor: Minor
    carried_payment_count: Minor  # payments of the date still under way when it closed
    due_at_ms: Millis | None
    context: Blob
    created_at_ms: Millis
    previous_id: Id = ""  # the book's closing before it, which must be DONE first
    counted_through: Id = ""  # the last journal that its snapshots have in them
    totals: LongText = "[]"  # JSON, see closing.KindTotal: per kind of account, at the end of the date


@mapped(
    metadata,
    "balance_snapshot",
    unique=["snapshot_key"],
    index=[("account_id", "accounting_date"), ("slot", "accounting_date")],
)
class BalanceSnapshot(Row, frozen=True, kw_only=True):
    """An account at the end of an accounting date on which it moved ("snp_…"). Fixed once its Closing is DONE."""

    snapshot_key: LongName  # "<account id>/<date>"
    account_id: Id
    account_kind: Code
    currency: Code
    accounting_date: Code
    balance_minor: Minor
    debit_minor: Minor  # of the date
    credit_minor: Minor  # of the date


@mapped(metadata, "limit_usage", unique=["usage_key"], index=[("owner_id",)])
class LimitUsage(Row, frozen=True, kw_only=True):
    """What an owner has used of a limit on an accounting date, the last on which it used any ("usg_…")."""

    usage_key: LongName  # "<owner>/<limit>/<currency>"
    owner_id: Name
    limit_name: Name
    accounting_date: Code
    amount_minor: Minor
    payment_count: Minor


@mapped(metadata, "coupon", index=[("owner_id", "id"), ("payment_id",)])
class Coupon(Row, frozen=True, kw_only=True):
    """A coupon in a user's hands ("cpn_…"); on the owner's slot."""

    owner_id: Name
    state: Code  # coupon.CouponState
    currency: Code
    face_value_minor: Minor
    funder: Code  # coupon.CouponFunder
    merchant_id: Name  # empty where the platform funds it
    campaign: Name
    payment_id: Id  # reserved for, or used by; empty otherwise
    expires_at_ms: Millis
    created_at_ms: Millis
    paid_minor: Minor = 0  # of a USED one: what it paid, less what was given back of that


@mapped(metadata, "payment_case", unique=["case_key"], index=[("payment_id",), ("biz_id",), ("state", "id")])
class PaymentCase(Row, frozen=True, kw_only=True):
    """Something about a payment that a person must decide ("cas_…")."""

    case_key: LongName  # "<instruction id>/<type>"
    biz_id: Id
    type: Code  # case.CaseType
    state: Code  # case.CaseState
    payment_id: Id
    instruction_id: Id
    currency: Code
    amount_minor: Minor
    owner: Name
    evidence: Name  # a reason constant
    resolution: Code  # case.CaseResolution; empty while OPEN
    reason: Title
    resolved_by: Name
    resolution_payment_id: Id
    opened_at_ms: Millis
    resolved_at_ms: Millis | None


@mapped(
    metadata, "adjustment", unique=["repair_id"], index=[("journal_id",), ("reversed_journal_id",), ("payment_id",)]
)
class Adjustment(Row, frozen=True, kw_only=True):
    """A journal that no payment posted: a repair did ("adj_…"). Never changed."""

    biz_id: Id
    repair_id: Id
    break_id: Id
    kind: Code  # ADJUST or REVERSE
    journal_id: Id
    reversed_journal_id: Id  # of a REVERSE: the journal it undoes
    payment_id: Id  # the one it is about; empty where nobody knows
    instruction_id: Id
    channel: Name  # of an ADJUST
    currency: Code
    amount_minor: Minor  # of an ADJUST: by how much more came in outside; of a REVERSE: what the instruction booked
    proposed_by: Name
    approved_by: Name
    created_at_ms: Millis


@mapped(metadata, "compensation", unique=["repair_id"], index=[("due_at_ms",), ("biz_id",)])
class Compensation(CompensationRow, frozen=True, kw_only=True):
    """A repair that reconciliation asked for."""


@mapped(metadata, "rule_version", unique=["rule_key"])
class RuleVersion(Row, frozen=True, kw_only=True):
    """A version of the rules that was active ("rul_…"); on slot 0. Never changed."""

    rule_key: Name  # the version, as text
    rules_version: Small
    sha256: Name
    text: LongText
    created_at_ms: Millis
