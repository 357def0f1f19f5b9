"""What a channel order may do, and what a provider's word makes of it. Pure: no I/O, no clock.

Whatever the provider says, by reply, notification or query, passes ``apply_result``. A terminal order never changes;
a duplicate is silent; a contradiction, or another amount, changes nothing and is reported as a mismatch.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from channel_gateway.tables import ChannelOrder
from paykit.state_machine import StateMachine


class ChannelOrderKind(StrEnum):
    """What a provider is asked to do."""

    CHARGE = "CHARGE"
    REFUND = "REFUND"
    PAYOUT = "PAYOUT"
    AUTHORIZE = "AUTHORIZE"
    CAPTURE = "CAPTURE"
    VOID = "VOID"


# What goes back to, or goes on with, an earlier order: which, and by whose route. The others name a token.
FOLLOWING = frozenset({ChannelOrderKind.REFUND, ChannelOrderKind.CAPTURE, ChannelOrderKind.VOID})


class ChannelOrderState(StrEnum):
    """Where a channel order is in its life."""

    ACCEPTED = "ACCEPTED"
    SENDING = "SENDING"
    PENDING = "PENDING"
    UNKNOWN = "UNKNOWN"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


_S = ChannelOrderState
CHANNEL_ORDER = StateMachine(
    "channel_order",
    ChannelOrderState,
    _S.ACCEPTED,
    {
        # FAILED without sending: it could not be handed over for so long that it is given up.
        _S.ACCEPTED: frozenset({_S.SENDING, _S.FAILED}),
        # Back to ACCEPTED only where nothing can have left this machine.
        _S.SENDING: frozenset({_S.ACCEPTED, _S.PENDING, _S.UNKNOWN, _S.SUCCEEDED, _S.FAILED}),
        _S.PENDING: frozenset({_S.UNKNOWN, _S.SUCCEEDED, _S.FAILED}),
        _S.UNKNOWN: frozenset({_S.PENDING, _S.SUCCEEDED, _S.FAILED}),
        _S.SUCCEEDED: frozenset(),
        _S.FAILED: frozenset(),
    },
)


class NotificationState(StrEnum):
    """What became of a notification."""

    APPLIED = "APPLIED"  # it changed its order
    REDUNDANT = "REDUNDANT"  # it said what was known
    MISMATCHED = "MISMATCHED"  # it contradicts what is known
    ORPHANED = "ORPHANED"  # it names no order of ours


class ResultStatus(StrEnum):
    """What is known from one exchange with a provider."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"  # definitely not done
    PENDING = "PENDING"  # the provider has it and will say later
    UNKNOWN = "UNKNOWN"  # no usable answer: it may or may not have it
    NOT_SENT = "NOT_SENT"  # nothing can have left this machine
    NOT_FOUND = "NOT_FOUND"  # asked, the provider does not know it (yet)


class Source(StrEnum):
    """How a result came."""

    REPLY = "REPLY"
    NOTIFICATION = "NOTIFICATION"
    QUERY = "QUERY"


class ProviderResult(msgspec.Struct, frozen=True, kw_only=True):
    """One provider's word on one order. ``amount_minor`` and ``currency`` where it repeats them."""

    status: ResultStatus
    provider_reference: str = ""
    failure_reason: str = ""
    amount_minor: int | None = None
    currency: str | None = None


class ChannelPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What one channel's results are judged by: how long to wait for what, in milliseconds, and what may differ."""

    send_within_ms: int  # the call begins this soon after SENDING is committed, or not at all
    sending_ms: int  # a SENDING order older than this has no call under way any more
    query_ladder_ms: tuple[int, ...]
    not_found_certain_after_ms: int | None  # None: "not found" never becomes certain
    resend_delay_ms: int
    resend_give_up_after_ms: int
    amount_may_differ: bool = False  # a charge may bring another amount than was asked for


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What a result makes of an order: the order to store (None: as it is), an event to announce, a mismatch."""

    order: ChannelOrder | None = None
    announce: str = ""
    mismatch: str = ""


SUCCEEDED_EVENT = "channel.order_succeeded"
FAILED_EVENT = "channel.order_failed"
UNKNOWN_EVENT = "channel.order_unknown"
MISMATCH_EVENT = "channel.mismatch_found"

PROVIDER_NOT_FOUND = "PROVIDER_NOT_FOUND"
PROVIDER_UNREACHABLE = "PROVIDER_UNREACHABLE"

_RESEND_DOUBLINGS_MAX = 6
_AMOUNT_MINOR_MAX = 2**63 - 1
_SILENT = Applied()
_OUTCOMES = {ResultStatus.SUCCEEDED: _S.SUCCEEDED, ResultStatus.FAILED: _S.FAILED}


def start_sending(order: ChannelOrder, now_ms: int, policy: ChannelPolicy) -> ChannelOrder | None:
    """The order on its way, to be stored before the provider is called; None where it is not waiting to be sent."""
    if order.state != _S.ACCEPTED:
        return None
    return CHANNEL_ORDER.move(
        order,
        _S.SENDING,
        send_count=order.send_count + 1,
        sent_at_ms=now_ms,
        due_at_ms=now_ms + policy.sending_ms,
    )


def apply_result(
    order: ChannelOrder,
    result: ProviderResult,
    source: Source,
    now_ms: int,
    policy: ChannelPolicy,
    asked_at_ms: int | None = None,
) -> Applied:
    """What ``result`` makes of ``order``. A query that settles nothing moves the order on along its query ladder.

    ``asked_at_ms``: when a query was begun. Its answer says how things stood then, not when it is applied.
    """
    mismatch = _mismatch(order, result, policy)
    if CHANNEL_ORDER.is_terminal(order.state):
        return Applied(mismatch=mismatch) if mismatch else _SILENT
    if mismatch:
        # Nothing of the order changes but when it is asked about again.
        return _asked_again(order, now_ms, policy, mismatch) if source is Source.QUERY else Applied(mismatch=mismatch)
    status = result.status
    if status in _OUTCOMES:
        return _settle(order, _OUTCOMES[status], result, now_ms)
    if status is ResultStatus.NOT_SENT:
        return _not_sent(order, now_ms, policy)
    if status is ResultStatus.NOT_FOUND and _is_absence_certain(order, asked_at_ms, policy):
        return _settle(order, _S.FAILED, _given_up(PROVIDER_NOT_FOUND), now_ms)
    after = _S.PENDING if status is ResultStatus.PENDING else _S.UNKNOWN
    moved = order
    if order.state == _S.SENDING or (order.state == _S.UNKNOWN and after is _S.PENDING):
        moved = CHANNEL_ORDER.move(
            order,
            after,
            provider_reference=result.provider_reference or order.provider_reference,
            due_at_ms=now_ms + policy.query_ladder_ms[min(order.query_count, len(policy.query_ladder_ms) - 1)],
        )
    if source is Source.QUERY:
        return _asked_again(moved, now_ms, policy, "")
    return _SILENT if moved is order else Applied(order=moved)


def lose(order: ChannelOrder, now_ms: int, policy: ChannelPolicy) -> Applied:
    """A SENDING order whose time has passed: nobody is waiting for its reply any more, so the provider is asked."""
    if order.state != _S.SENDING or order.due_at_ms is None or order.due_at_ms > now_ms:
        return _SILENT
    return Applied(order=CHANNEL_ORDER.move(order, _S.UNKNOWN, due_at_ms=now_ms + policy.query_ladder_ms[0]))


def moved_minor(order: ChannelOrder) -> int:
    """What a SUCCEEDED order moved, or what an order that is under way shall move."""
    return order.settled_minor or order.amount_minor


def _settle(order: ChannelOrder, after: ChannelOrderState, result: ProviderResult, now_ms: int) -> Applied:
    said_minor = result.amount_minor
    differs = after is _S.SUCCEEDED and said_minor is not None and said_minor != order.amount_minor
    settled = CHANNEL_ORDER.move(
        order,
        after,
        provider_reference=result.provider_reference or order.provider_reference,
        failure_reason=result.failure_reason if after is _S.FAILED else "",
        due_at_ms=None,
        finished_at_ms=now_ms,
        settled_minor=said_minor if differs else 0,
    )
    return Applied(order=settled, announce=SUCCEEDED_EVENT if after is _S.SUCCEEDED else FAILED_EVENT)


def _given_up(reason: str) -> ProviderResult:
    return ProviderResult(status=ResultStatus.FAILED, failure_reason=reason)


def _not_sent(order: ChannelOrder, now_ms: int, policy: ChannelPolicy) -> Applied:
    if order.state != _S.SENDING:
        return _SILENT
    if now_ms - order.created_at_ms >= policy.resend_give_up_after_ms:
        return _settle(order, _S.FAILED, _given_up(PROVIDER_UNREACHABLE), now_ms)
    delay_ms = policy.resend_delay_ms << min(order.send_count - 1, _RESEND_DOUBLINGS_MAX)
    return Applied(order=CHANNEL_ORDER.move(order, _S.ACCEPTED, due_at_ms=now_ms + delay_ms))


def _asked_again(order: ChannelOrder, now_ms: int, policy: ChannelPolicy, mismatch: str) -> Applied:
    """One rung further; from the last rung on, the order is announced as UNKNOWN once and asked about for ever."""
    ladder = policy.query_ladder_ms
    asked = order.query_count + 1
    after = msgspec.structs.replace(order, query_count=asked, due_at_ms=now_ms + ladder[min(asked, len(ladder) - 1)])
    if asked != len(ladder):
        return Applied(order=after, mismatch=mismatch)
    if after.state == _S.PENDING:
        after = CHANNEL_ORDER.move(after, _S.UNKNOWN)
    return Applied(order=after, announce=UNKNOWN_EVENT, mismatch=mismatch)


def _is_absence_certain(order: ChannelOrder, asked_at_ms: int | None, policy: ChannelPolicy) -> bool:
    after_ms = policy.not_found_certain_after_ms
    # An order with a provider reference was known to the provider once: its absence is a contradiction, not an answer.
    return (
        after_ms is not None
        and asked_at_ms is not None
        and order.state == _S.UNKNOWN
        and not order.provider_reference
        and order.sent_at_ms is not None
        and asked_at_ms - order.sent_at_ms >= after_ms
    )


def _mismatch(order: ChannelOrder, result: ProviderResult, policy: ChannelPolicy) -> str:
    """Why the provider's word contradicts what is known; empty where it does not."""
    status = result.status
    expected_minor = _expected_minor(order, result, policy)
    if result.amount_minor is not None and result.amount_minor != expected_minor:
        return f"amount {result.amount_minor} instead of {expected_minor}"
    if result.currency is not None and result.currency != order.currency:
        return f"currency {result.currency} instead of {order.currency}"
    if result.provider_reference and order.provider_reference not in ("", result.provider_reference):
        return f"reference {result.provider_reference} instead of {order.provider_reference}"
    if status in _OUTCOMES and order.state in (_S.SUCCEEDED, _S.FAILED) and order.state != _OUTCOMES[status]:
        return f"{status.value} after {order.state}"
    if status in _OUTCOMES and order.state == _S.ACCEPTED:
        return f"{status.value} before it was sent"
    if status is ResultStatus.NOT_FOUND and (order.state == _S.PENDING or order.provider_reference):
        return "not found although the provider had it" if not CHANNEL_ORDER.is_terminal(order.state) else ""
    return ""


def _expected_minor(order: ChannelOrder, result: ProviderResult, policy: ChannelPolicy) -> int:
    """The amount that a result has to repeat. Until an order has succeeded, that is what was asked for."""
    if result.status is not ResultStatus.SUCCEEDED:
        return order.amount_minor
    if order.state == _S.SUCCEEDED:
        return moved_minor(order)
    said_minor = result.amount_minor
    may_differ = policy.amount_may_differ and order.kind == ChannelOrderKind.CHARGE and order.state != _S.FAILED
    if may_differ and said_minor is not None and 0 < said_minor <= _AMOUNT_MINOR_MAX:
        return said_minor
    return order.amount_minor
