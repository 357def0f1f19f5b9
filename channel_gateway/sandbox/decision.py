"""The provider's decision on an order: a pure function of the request, what is booked already, and the behaviour."""

from __future__ import annotations

import hashlib

import msgspec

from channel_gateway.sandbox.behaviour import (
    CUSTOMER_DECLINED,
    Behaviour,
    Kind,
    Notice,
    as_confirmed,
    for_following,
    for_token,
)
from channel_gateway.sandbox.entries import (
    FOLLOWING,
    Decision,
    Entry,
    Notification,
    OrderBody,
    OrderRequest,
    Timing,
    Used,
)
from channel_gateway.sandbox.notices import notification

_BOOKED_TWICE: frozenset[Kind] = frozenset({"charge", "capture", "payout"})  # whose second booking moves money


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
    entry = _entry(request, behaviour, original, now_ms, timing)
    notifications = _notifications(entry, behaviour, timing)
    again = None
    if entry.times > 1:
        again = msgspec.structs.replace(entry, copy_no=1, provider_reference=_provider_reference(request, 1))
        notifications += _notifications(again, behaviour, timing)
    return Decision(behaviour=behaviour, entry=entry, notifications=notifications, again=again)


def _entry(request: OrderRequest, behaviour: Behaviour, original: Entry | None, now_ms: int, timing: Timing) -> Entry:
    body = request.body
    differs = request.kind == "charge" and behaviour.moved_error_minor
    appears_ms = {"now": 0, "later": timing.later_ms, "very_late": timing.very_late_ms}
    booked_at_ms = now_ms + appears_ms[behaviour.appears]
    return Entry(
        account=request.account,
        livemode=request.livemode,
        kind=request.kind,
        reference=body.reference,
        idempotency_key=request.idempotency_key,
        body_hash=request.body_hash,
        provider_reference=_provider_reference(request, 0),
        amount_minor=body.amount_minor,
        currency=body.currency,
        # A refund of a capture behaves as the token of the authorisation says.
        token=original.token if request.kind == "capture" and original is not None else body.token,
        original_reference=body.original_reference,
        outcome=behaviour.outcome,
        failure_code=behaviour.failure_code,
        settle_at_ms=booked_at_ms + _pending_ms(behaviour, timing),
        created_at_ms=booked_at_ms,
        moved_minor=max(1, body.amount_minor + behaviour.moved_error_minor) if differs else 0,
        is_final=body.is_final,
        merchant=request.merchant,
        said_first=behaviour.said_first,
        behaviour=behaviour.name,
        times=behaviour.times if request.kind in _BOOKED_TWICE else 1,
    )


def decide_as_customer(entry: Entry, confirms: bool, now_ms: int) -> tuple[Entry, Notification] | None:
    """The entry once its customer has confirmed or declined it, and what is told of it; None where it is settled."""
    if entry.status(now_ms) != "pending" or not entry.exists(now_ms):
        return None
    decided = msgspec.structs.replace(
        entry,
        outcome="succeeded" if confirms else "failed",
        failure_code="" if confirms else CUSTOMER_DECLINED,
        settle_at_ms=now_ms,
    )
    return decided, notification(decided, Notice(), 0, 0)


def _behaviour(
    request: OrderRequest, forced: Behaviour | None, original: Entry | None, used: Used, now_ms: int, timing: Timing
) -> Behaviour:
    refused = _refusal(request, original, used, now_ms, timing)
    if refused and (forced is None or forced.books):
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
    if used.refunded_minor + body.amount_minor > original.moving_minor * original.times:
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


def _provider_reference(request: OrderRequest, copy_no: int) -> str:
    named = f"{request.account}\x00{request.body.reference}" + (f"\x00{copy_no}" if copy_no else "")
    # At most 35 characters with its kind, so that it fits the references of ISO 20022.
    return f"sbx_{request.kind}_{hashlib.blake2b(named.encode(), digest_size=10).hexdigest()}"


def _notifications(entry: Entry, behaviour: Behaviour, timing: Timing) -> list[Notification]:
    return [notification(entry, notice, n, timing.late_ms) for n, notice in enumerate(behaviour.notices)]
