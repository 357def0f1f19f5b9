"""What a channel order may do, and what a provider's word makes of it. Pure: no I/O, no clock.

Whatever the provider says, by reply, notification or query, passes ``apply_result``. A terminal order never changes;
a duplicate is silent; a contradiction, or another amount, changes nothing and is reported as a mismatch.

An order goes on to another channel only where nothing is open on its own: the call's own reply says that it failed for
good, or nothing was ever sent. Once its outcome was unknown for a moment, it stays.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

import msgspec

from channel_gateway.routing import next_channel, onward_of, stored
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
        # Back to ACCEPTED only where nothing is open: nothing can have left this machine, or another channel is tried.
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


class AttemptOutcome(StrEnum):
    """How an order came to nothing on a channel that it left."""

    FAILED = "FAILED"  # refused by the provider, for good
    NOT_SENT = "NOT_SENT"  # never left for it


class DoubtType(StrEnum):
    """What a provider's word makes one fear: see ``doubt``."""

    LATE = "LATE"  # done, and counts as failed
    DUPLICATE = "DUPLICATE"  # done, beside what another channel or order did
    DENIED = "DENIED"  # not done, and counts as done
    AMOUNT = "AMOUNT"  # another amount, currency or merchant


class ProviderResult(msgspec.Struct, frozen=True, kw_only=True):
    """One provider's word on one order. ``amount_minor``, ``currency`` and ``merchant`` (its name for the account)
    where it repeats them."""

    status: ResultStatus
    provider_reference: str = ""
    failure_reason: str = ""
    amount_minor: int | None = None
    currency: str | None = None
    merchant: str | None = None


class ChannelPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What one channel's results are judged by: how long to wait for what, in milliseconds, and what may differ.

    ``channel`` and ``merchant_id`` (the provider's name for our account, empty where it is not compared) are filled in
    by ``ChannelSet``, which knows whose policy it is.
    """

    send_within_ms: int  # the call begins this soon after SENDING is committed, or not at all
    sending_ms: int  # a SENDING order older than this has no call under way any more
    query_ladder_ms: tuple[int, ...]
    not_found_certain_after_ms: int | None  # None: "not found" never becomes certain
    resend_delay_ms: int
    resend_give_up_after_ms: int
    amount_may_differ: bool = False  # a charge may bring another amount than was asked for
    confirm_notifications: bool = False  # a notification settles nothing: it has the provider asked
    channel: str = ""
    merchant_id: str = ""


class Mismatch(msgspec.Struct, frozen=True):
    """A provider's word that contradicts what is known: what it is, for people, and what there is to fear."""

    evidence: str
    feared: DoubtType


class Left(msgspec.Struct, frozen=True):
    """How an order came to nothing on the channel it has left."""

    outcome: AttemptOutcome
    failure_reason: str
    provider_reference: str = ""


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What a result makes of an order: the order to store (None: as it is), an event to announce, a mismatch.

    ``left``: it has gone on to another channel; how it came to nothing on the one before.
    """

    order: ChannelOrder | None = None
    announce: str = ""
    mismatch: Mismatch | None = None
    left: Left | None = None


SUCCEEDED_EVENT = "channel.order_succeeded"
FAILED_EVENT = "channel.order_failed"
UNKNOWN_EVENT = "channel.order_unknown"
MISMATCH_EVENT = "channel.mismatch_found"

PROVIDER_NOT_FOUND = "PROVIDER_NOT_FOUND"
PROVIDER_UNREACHABLE = "PROVIDER_UNREACHABLE"

# The process that accepted an order sends it at once; a timer looks for those it did not live to send.
HANDOVER_GRACE_MS = 5_000

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
    avoid: Collection[str] = (),
) -> Applied:
    """What ``result`` makes of ``order``. A query that settles nothing moves the order on along its query ladder.

    ``asked_at_ms``: when a query was begun. Its answer says how things stood then, not when it is applied.
    ``avoid``: channels that are not well, should it have to go on to another.
    """
    mismatch = find_mismatch(order, result, policy)
    if CHANNEL_ORDER.is_terminal(order.state):
        return Applied(mismatch=mismatch) if mismatch else _SILENT
    if mismatch:
        # Nothing of the order changes but when it is asked about again.
        return _asked_again(order, now_ms, policy, mismatch) if source is Source.QUERY else Applied(mismatch=mismatch)
    status = result.status
    if source is Source.NOTIFICATION and status in _OUTCOMES and policy.confirm_notifications:
        return _due_now(order, now_ms)
    if status is ResultStatus.FAILED and order.state == _S.SENDING:
        return _refused(order, result, source, now_ms, avoid)
    if status in _OUTCOMES:
        return _settle(order, _OUTCOMES[status], result, now_ms)
    if status is ResultStatus.NOT_SENT:
        return _not_sent(order, now_ms, policy, avoid)
    if status is ResultStatus.NOT_FOUND and is_absence_certain(order, asked_at_ms, policy):
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
        return _asked_again(moved, now_ms, policy, None)
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


def _due_now(order: ChannelOrder, now_ms: int) -> Applied:
    """The provider is asked at once. While a call is under way its due time stays: its reply is an answer too."""
    if order.state == _S.SENDING or (order.due_at_ms is not None and order.due_at_ms <= now_ms):
        return _SILENT
    return Applied(order=msgspec.structs.replace(order, due_at_ms=now_ms))


def _refused(
    order: ChannelOrder, result: ProviderResult, source: Source, now_ms: int, avoid: Collection[str]
) -> Applied:
    """A definite failure while the call is under way: its own reply decides whether another channel is tried."""
    channel = _next_channel(order, result.failure_reason, avoid)
    if channel is None:
        return _settle(order, _S.FAILED, result, now_ms)
    if source is not Source.REPLY:
        return _SILENT
    reference = result.provider_reference or order.provider_reference
    return _go_on(order, channel, Left(AttemptOutcome.FAILED, result.failure_reason, reference), now_ms)


def _not_sent(order: ChannelOrder, now_ms: int, policy: ChannelPolicy, avoid: Collection[str]) -> Applied:
    if order.state != _S.SENDING:
        return _SILENT
    channel = _next_channel(order, PROVIDER_UNREACHABLE, avoid)
    if channel is not None:
        return _go_on(order, channel, Left(AttemptOutcome.NOT_SENT, PROVIDER_UNREACHABLE), now_ms)
    if now_ms - order.created_at_ms >= policy.resend_give_up_after_ms:
        return _settle(order, _S.FAILED, _given_up(PROVIDER_UNREACHABLE), now_ms)
    delay_ms = policy.resend_delay_ms << min(order.send_count - 1, _RESEND_DOUBLINGS_MAX)
    return Applied(order=CHANNEL_ORDER.move(order, _S.ACCEPTED, due_at_ms=now_ms + delay_ms))


def _next_channel(order: ChannelOrder, reason: str, avoid: Collection[str]) -> str | None:
    return None if order.route is None else next_channel(onward_of(order.route), order.attempt_no, reason, avoid)


def _go_on(order: ChannelOrder, channel: str, left: Left, now_ms: int) -> Applied:
    """The same order on another channel, as new there. Its own id stays the reference that providers are given."""
    assert order.route is not None
    way = onward_of(order.route)
    rest = tuple([other for other in way.channels if other != channel])
    changes = {
        "channel": channel,
        "attempt_no": order.attempt_no + 1,
        "route": stored(msgspec.structs.replace(way, channels=rest)) if rest else None,
        "provider_reference": "",
        "query_count": 0,
        "send_count": 0,
        "sent_at_ms": None,
        "due_at_ms": now_ms + HANDOVER_GRACE_MS,
    }
    return Applied(order=CHANNEL_ORDER.move(order, _S.ACCEPTED, **changes), left=left)


def _asked_again(order: ChannelOrder, now_ms: int, policy: ChannelPolicy, mismatch: Mismatch | None) -> Applied:
    """One rung further; from the last rung on, the order is announced as UNKNOWN once and asked about for ever."""
    ladder = policy.query_ladder_ms
    asked = order.query_count + 1
    after = msgspec.structs.replace(order, query_count=asked, due_at_ms=now_ms + ladder[min(asked, len(ladder) - 1)])
    if asked != len(ladder):
        return Applied(order=after, mismatch=mismatch)
    if after.state == _S.PENDING:
        after = CHANNEL_ORDER.move(after, _S.UNKNOWN)
    return Applied(order=after, announce=UNKNOWN_EVENT, mismatch=mismatch)


def is_absence_certain(order: ChannelOrder, asked_at_ms: int | None, policy: ChannelPolicy) -> bool:
    """Whether "not found", asked at ``asked_at_ms``, means that the provider never had an UNKNOWN order."""
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


def find_mismatch(order: ChannelOrder, result: ProviderResult, policy: ChannelPolicy) -> Mismatch | None:
    """Why the provider's word contradicts what is known; None where it does not."""
    status, said = result.status, _contradicted_terms(order, result, policy)
    if said:
        return Mismatch(said, DoubtType.AMOUNT)
    if result.provider_reference and order.provider_reference not in ("", result.provider_reference):
        evidence = f"reference {result.provider_reference} instead of {order.provider_reference}"
        return Mismatch(evidence, DoubtType.DUPLICATE)
    if status in _OUTCOMES and CHANNEL_ORDER.is_terminal(order.state) and order.state != _OUTCOMES[status]:
        feared = DoubtType.LATE if order.state == _S.FAILED else DoubtType.DENIED
        return Mismatch(f"{status.value} after {order.state}", feared)
    if status in _OUTCOMES and order.state == _S.ACCEPTED:
        return Mismatch(f"{status.value} before it was sent", DoubtType.LATE)
    was_there = order.state == _S.PENDING or bool(order.provider_reference)
    if status is ResultStatus.NOT_FOUND and was_there and not CHANNEL_ORDER.is_terminal(order.state):
        return Mismatch("not found although the provider had it", DoubtType.DENIED)
    return None


def _contradicted_terms(order: ChannelOrder, result: ProviderResult, policy: ChannelPolicy) -> str:
    """What of amount, currency and merchant is not what was sent, for people; empty where all is."""
    expected_minor = _expected_minor(order, result, policy)
    if result.amount_minor is not None and result.amount_minor != expected_minor:
        return f"amount {result.amount_minor} instead of {expected_minor}"
    if result.currency is not None and result.currency != order.currency:
        return f"currency {result.currency} instead of {order.currency}"
    if result.merchant is not None and policy.merchant_id and result.merchant != policy.merchant_id:
        return f"merchant {result.merchant[:64]} instead of {policy.merchant_id}"
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
