"""What the provider's book holds of an order, and what it is asked and tells. Data; ``decision`` makes it."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec

from channel_gateway.sandbox.behaviour import Behaviour, Forgery, Kind, Operation, Status

FOLLOWING: frozenset[Kind] = frozenset({"refund", "capture", "void"})
_Reference = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]
_Text = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[A-Za-z0-9_.-]*$")]


class OrderBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/charges, /v1/refunds, /v1/payouts, /v1/authorizations, /v1/captures and /v1/voids."""

    reference: _Reference  # the caller's own
    amount_minor: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}$")]
    token: _Text = ""
    original_reference: _Text = ""  # refunds: the charge's or capture's; captures and voids: the authorisation's
    is_final: bool = True  # captures: what is not captured is given up


class OrderRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated order."""

    kind: Kind
    account: str
    livemode: bool
    idempotency_key: str
    body: OrderBody
    customer_confirms: bool = False  # the account's charges wait for its customers
    merchant: str = ""  # the account's id as a merchant; empty: its name

    @property
    def body_hash(self) -> str:
        """What makes two requests the same one."""
        return hashlib.blake2b(msgspec.json.encode((self.kind, self.body)), digest_size=16).hexdigest()


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller is told of an order. ``amount_minor`` is what was asked for until it succeeded, then what moved."""

    provider_reference: str
    reference: str
    kind: Kind
    status: Status
    failure_code: str
    amount_minor: int
    currency: str
    livemode: bool
    merchant: str


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One booked order: until ``settle_at_ms`` it is pending, or what is said of it first; from then on ``outcome``.

    It is there from ``created_at_ms`` on, which may lie ahead. It never changes, but that the customer of a pending one
    may decide it sooner and otherwise.
    """

    account: str
    livemode: bool
    kind: Kind
    reference: str
    idempotency_key: str
    body_hash: str
    provider_reference: str
    amount_minor: int
    currency: str
    token: str
    original_reference: str
    outcome: Literal["succeeded", "failed"]
    failure_code: str
    settle_at_ms: int
    created_at_ms: int
    moved_minor: int = 0  # where it moves another amount than asked for; else 0
    is_final: bool = True  # of a capture
    merchant: str = ""  # empty: the account's name
    said_first: Status = "pending"
    behaviour: str = "ok"
    times: int = 1  # how often it is booked
    copy_no: int = 0  # which of them this is

    def exists(self, now_ms: int) -> bool:
        """Whether it is in the book yet."""
        return now_ms >= self.created_at_ms

    def status(self, now_ms: int) -> Status:
        """Its status at ``now_ms``."""
        return self.outcome if now_ms >= self.settle_at_ms else self.said_first

    def answer(self, now_ms: int) -> Answer:
        """What a caller is told at ``now_ms``."""
        status = self.status(now_ms)
        return Answer(
            provider_reference=self.provider_reference,
            reference=self.reference,
            kind=self.kind,
            status=status,
            failure_code=self.failure_code if status == "failed" else "",
            amount_minor=self.moving_minor if status == "succeeded" else self.amount_minor,
            currency=self.currency,
            livemode=self.livemode,
            merchant=self.merchant or self.account,
        )

    @property
    def moving_minor(self) -> int:
        """What it moves when it succeeds; of an authorisation, what it reserves."""
        return self.moved_minor or self.amount_minor


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """A notification that waits for its delivery. ``body`` is what is signed and sent."""

    id: str
    account: str
    body: str
    due_at_ms: int
    attempt_count: int = 0
    copies: int = 1
    forgery: Forgery = ""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of an order: the behaviour, and what is booked, if anything."""

    behaviour: Behaviour
    entry: Entry | None
    notifications: list[Notification]
    again: Entry | None = None  # the same order, booked a second time


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to one call about ``reference``, where it was anything but plainly carried out."""

    account: str
    reference: str
    operation: Operation
    behaviour: str
    at_ms: int


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long things take at this provider, in milliseconds."""

    settle_ms: int
    late_ms: int
    hold_ms: int = 604_800_000  # how long an authorisation can be captured
    abandon_ms: int = 900_000  # how long an order waits for a customer who never comes
    later_ms: int = 3_000  # how long an order takes into the book that gets there later
    very_late_ms: int = 3_600_000  # … very late


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """What the orders that follow an entry have made of it, succeeded or pending; minor units."""

    refunded_minor: int = 0
    captured_minor: int = 0
    is_closed: bool = False  # nothing is reserved any more: voided, or captured for good

    def with_entry(self, entry: Entry) -> Used:
        """With one more order that follows."""
        if entry.outcome != "succeeded":
            return self
        return Used(
            refunded_minor=self.refunded_minor + (entry.amount_minor if entry.kind == "refund" else 0),
            captured_minor=self.captured_minor + (entry.amount_minor if entry.kind == "capture" else 0),
            is_closed=self.is_closed or entry.kind == "void" or (entry.kind == "capture" and entry.is_final),
        )


UNUSED = Used()
