"""The provider's decision on an order: a pure function of the request, what is booked already, and the behaviour."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec

from channel_gateway.sandbox.behaviour import Behaviour, Notice, Status, for_refund, for_token

Kind = Literal["charge", "refund", "payout"]
_Reference = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]
_Text = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[A-Za-z0-9_.-]*$")]


class OrderBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/charges, /v1/refunds and /v1/payouts."""

    reference: _Reference  # the caller's own
    amount_minor: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}$")]
    token: _Text = ""
    original_reference: _Text = ""  # refunds: the charge's reference


class OrderRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated order."""

    kind: Kind
    account: str
    livemode: bool
    idempotency_key: str
    body: OrderBody

    @property
    def body_hash(self) -> str:
        """What makes two requests the same one."""
        return hashlib.blake2b(msgspec.json.encode((self.kind, self.body)), digest_size=16).hexdigest()


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller is told of an order."""

    provider_reference: str
    reference: str
    kind: Kind
    status: Status
    failure_code: str
    amount_minor: int
    currency: str
    livemode: bool


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One booked order. It never changes: until ``settle_at_ms`` it is pending, from then on ``outcome``."""

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
            amount_minor=self.amount_minor,
            currency=self.currency,
            livemode=self.livemode,
        )


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


def decide(
    request: OrderRequest,
    forced: Behaviour | None,
    original: Entry | None,
    refunded_minor: int,
    now_ms: int,
    timing: Timing,
) -> Decision:
    """Decides a new order. ``forced``: the behaviour of a fault rule. ``original`` and ``refunded_minor``: for a
    refund, the entry it refers to on the same account, and what of it is given back or being given back already."""
    refused = _refund_refusal(request.body, original, refunded_minor, now_ms) if request.kind == "refund" else ""
    if refused:
        behaviour = Behaviour(name=refused, outcome="failed", failure_code=refused)
    elif forced is not None:
        behaviour = forced
    elif request.kind == "refund":
        assert original is not None  # or it was refused above
        behaviour = for_refund(original.token)
    else:
        behaviour = for_token(request.body.token)
    if not behaviour.books:
        return Decision(behaviour=behaviour, entry=None, notifications=[])
    settle_ms = timing.settle_ms if behaviour.pending_first else 0
    entry = Entry(
        account=request.account,
        livemode=request.livemode,
        kind=request.kind,
        reference=request.body.reference,
        idempotency_key=request.idempotency_key,
        body_hash=request.body_hash,
        provider_reference=_provider_reference(request),
        amount_minor=request.body.amount_minor,
        currency=request.body.currency,
        token=request.body.token,
        original_reference=request.body.original_reference,
        outcome=behaviour.outcome,
        failure_code=behaviour.failure_code,
        settle_at_ms=now_ms + settle_ms,
        created_at_ms=now_ms,
    )
    notifications = [_notification(entry, notice, n, timing.late_ms) for n, notice in enumerate(behaviour.notices)]
    return Decision(behaviour=behaviour, entry=entry, notifications=notifications)


def _refund_refusal(body: OrderBody, original: Entry | None, refunded_minor: int, now_ms: int) -> str:
    if original is None or original.kind != "charge":
        return "charge_not_found"
    if original.status(now_ms) != "succeeded":
        return "charge_not_succeeded"
    if original.currency != body.currency:
        return "currency_mismatch"
    if refunded_minor + body.amount_minor > original.amount_minor:
        return "refund_exceeds_charge"
    return ""


def _provider_reference(request: OrderRequest) -> str:
    digest = hashlib.blake2b(f"{request.account}\x00{request.body.reference}".encode(), digest_size=12).hexdigest()
    return f"sbx_{request.kind}_{digest}"


def _notification(entry: Entry, notice: Notice, number: int, late_ms: int) -> Notification:
    answer = entry.answer(entry.settle_at_ms)
    status = notice.status or answer.status
    answer = msgspec.structs.replace(
        answer,
        status=status,
        failure_code="contradicted" if status == "failed" and not answer.failure_code else answer.failure_code,
        amount_minor=answer.amount_minor + notice.amount_error_minor,
    )
    notification_id = f"ntf_{entry.provider_reference}_{number}"
    body = {"notification_id": notification_id, "created_at_ms": entry.settle_at_ms, "order": answer}
    return Notification(
        id=notification_id,
        account=entry.account,
        body=msgspec.json.encode(body).decode(),
        due_at_ms=entry.settle_at_ms + (late_ms if notice.late else 0),
        copies=notice.copies,
    )
