"""The provider's decision on an order: a pure function of the request, what is booked already, and the behaviour."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec

from channel_gateway.sandbox.behaviour import (
    CUSTOMER_DECLINED,
    Behaviour,
    Kind,
    Notice,
    Status,
    as_confirmed,
    for_following,
    for_token,
)

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


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One booked order: until ``settle_at_ms`` it is pending, from then on ``outcome``.

    It never changes, but that the customer of a pending one may decide it sooner and otherwise.
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

    def status(self, now_ms: int) -> Status:
        """Its status at ``now_ms``."""
        return self.outcome if now_ms >= self.settle_at_ms else "pending"

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


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of an order: the behaviour, and what is booked, if anything."""

    behaviour: Behaviour
    entry: Entry | None
    notifications: list[Notification]


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long things take at this provider, in milliseconds."""

    settle_ms: int
    late_ms: int
    hold_ms: int = 604_800_000  # how long an authorisation can be captured
    abandon_ms: int = 900_000  # how long an order waits for a customer who never comes


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


def decide(
    request: OrderRequest,
    forced: Behaviour | None,
    original: Entry | None,
    used: Used,
    now_ms: int,
    timing: Timing,
) -> Decision:
    """Decides a new order. ``forced``: the behaviour of a fault rule. ``original`` and ``used``: for an order that
    follows another, that one's entry on the same account, and what others have made of it."""
    behaviour = _behaviour(request, forced, original, used, now_ms, timing)
    if not behaviour.books:
        return Decision(behaviour=behaviour, entry=None, notifications=[])
    body = request.body
    pending_ms = _pending_ms(behaviour, timing)
    differs = request.kind == "charge" and behaviour.moved_error_minor
    entry = Entry(
        account=request.account,
        livemode=request.livemode,
        kind=request.kind,
        reference=body.reference,
        idempotency_key=request.idempotency_key,
        body_hash=request.body_hash,
        provider_reference=_provider_reference(request),
        amount_minor=body.amount_minor,
        currency=body.currency,
        # A refund of a capture behaves as the token of the authorisation says.
        token=original.token if request.kind == "capture" and original is not None else body.token,
        original_reference=body.original_reference,
        outcome=behaviour.outcome,
        failure_code=behaviour.failure_code,
        settle_at_ms=now_ms + pending_ms,
        created_at_ms=now_ms,
        moved_minor=max(1, body.amount_minor + behaviour.moved_error_minor) if differs else 0,
        is_final=body.is_final,
    )
    notifications = [_notification(entry, notice, n, timing.late_ms) for n, notice in enumerate(behaviour.notices)]
    return Decision(behaviour=behaviour, entry=entry, notifications=notifications)


def decide_as_customer(entry: Entry, confirms: bool, now_ms: int) -> tuple[Entry, Notification] | None:
    """The entry once its customer has confirmed or declined it, and what is told of it; None where it is settled."""
    if entry.status(now_ms) != "pending":
        return None
    decided = msgspec.structs.replace(
        entry,
        outcome="succeeded" if confirms else "failed",
        failure_code="" if confirms else CUSTOMER_DECLINED,
        settle_at_ms=now_ms,
    )
    return decided, _notification(decided, Notice(), 0, 0)


def _behaviour(
    request: OrderRequest, forced: Behaviour | None, original: Entry | None, used: Used, now_ms: int, timing: Timing
) -> Behaviour:
    refused = _refusal(request, original, used, now_ms, timing)
    if refused:
        return Behaviour(name=refused, outcome="failed", failure_code=refused)
    if forced is not None:
        behaviour = forced
    elif request.kind in FOLLOWING:
        assert original is not None  # or it was refused above
        behaviour = for_following(request.kind, original.token)
    else:
        behaviour = for_token(request.body.token)
    waits = request.customer_confirms and request.kind in ("charge", "authorize")
    return as_confirmed(behaviour) if waits else behaviour


def _pending_ms(behaviour: Behaviour, timing: Timing) -> int:
    if not behaviour.pending_first:
        return 0
    waits_ms = {"soon": timing.settle_ms, "late": timing.settle_ms + timing.late_ms, "never": timing.abandon_ms}
    return waits_ms[behaviour.customer]


def _refusal(request: OrderRequest, original: Entry | None, used: Used, now_ms: int, timing: Timing) -> str:
    if request.kind == "refund":
        return _refund_refusal(request.body, original, used, now_ms)
    if request.kind in ("capture", "void"):
        return _authorization_refusal(request, original, used, now_ms, timing)
    return ""


def _refund_refusal(body: OrderBody, original: Entry | None, used: Used, now_ms: int) -> str:
    if original is None or original.kind not in ("charge", "capture"):
        return "charge_not_found"
    if original.status(now_ms) != "succeeded":
        return "charge_not_succeeded"
    if original.currency != body.currency:
        return "currency_mismatch"
    if used.refunded_minor + body.amount_minor > original.moving_minor:
        return "refund_exceeds_charge"
    return ""


def _authorization_refusal(
    request: OrderRequest, original: Entry | None, used: Used, now_ms: int, timing: Timing
) -> str:
    """A void of what is not reserved any more is no error; a void of what was captured is, for it undoes nothing."""
    body, is_capture = request.body, request.kind == "capture"
    if original is None or original.kind != "authorize":
        return "auth_not_found"
    if original.currency != body.currency:
        return "currency_mismatch"
    if original.status(now_ms) != "succeeded" or (is_capture and used.is_closed):
        return "auth_not_open"
    if is_capture and now_ms - original.created_at_ms >= timing.hold_ms:
        return "auth_expired"
    if used.captured_minor + body.amount_minor > original.amount_minor:
        return "capture_exceeds_auth" if is_capture else "auth_not_open"
    return ""


def _provider_reference(request: OrderRequest) -> str:
    # At most 35 characters with its kind, so that it fits the references of ISO 20022.
    digest = hashlib.blake2b(f"{request.account}\x00{request.body.reference}".encode(), digest_size=10).hexdigest()
    return f"sbx_{request.kind}_{digest}"


def notification_prefix(entry: Entry) -> str:
    """What the ids of an entry's notifications begin with."""
    return f"ntf_{entry.provider_reference}_"


def _notification(entry: Entry, notice: Notice, number: int, late_ms: int) -> Notification:
    answer = entry.answer(entry.settle_at_ms)
    status = notice.status or answer.status
    answer = msgspec.structs.replace(
        answer,
        status=status,
        failure_code="contradicted" if status == "failed" and not answer.failure_code else answer.failure_code,
        amount_minor=answer.amount_minor + notice.amount_error_minor,
    )
    notification_id = f"{notification_prefix(entry)}{number}"
    body = {"notification_id": notification_id, "created_at_ms": entry.settle_at_ms, "order": answer}
    return Notification(
        id=notification_id,
        account=entry.account,
        body=msgspec.json.encode(body).decode(),
        due_at_ms=entry.settle_at_ms + (late_ms if notice.late else 0),
        copies=notice.copies,
    )
