"""What becomes of a channel order: sent, lost, settled, asked about again. Pure: no I/O, no clock.

Whatever the provider says, by reply, notification or query, passes ``apply_result``. What a terminal order says never
changes; a duplicate is silent; a contradiction, or another amount, changes nothing and is reported as a mismatch.

An order goes on to another channel only where nothing is open on its own: the call's own reply says that it failed for
good, or nothing was ever sent. Once its outcome was unknown for a moment, it stays.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from channel_gateway.channel_order import (
    CHANNEL_ORDER,
    FAILED_EVENT,
    HANDOVER_GRACE_MS,
    OUTCOMES,
    PROVIDER_NOT_FOUND,
    PROVIDER_UNREACHABLE,
    SUCCEEDED_EVENT,
    UNKNOWN_EVENT,
    AttemptOutcome,
    ChannelOrderState,
    ChannelPolicy,
    Mismatch,
    ProviderResult,
    ResultStatus,
    Source,
)
from channel_gateway.mismatch import find_mismatch
from channel_gateway.routing import next_channel, onward_of, stored
from channel_gateway.tables import ChannelOrder


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


_RESEND_DOUBLINGS_MAX = 6
_SILENT = Applied()
_S = ChannelOrderState


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
        is_again = source is Source.QUERY and order.due_at_ms is not None
        return Applied(order=_once_more(order, result, now_ms, policy) if is_again else None, mismatch=mismatch)
    if mismatch:
        # Nothing of the order changes but when it is asked about again.
        return _asked_again(order, now_ms, policy, mismatch) if source is Source.QUERY else Applied(mismatch=mismatch)
    status = result.status
    if source is Source.NOTIFICATION and status in OUTCOMES and policy.confirm_notifications:
        return _due_now(order, now_ms)
    if status is ResultStatus.FAILED and order.state == _S.SENDING:
        return _refused(order, result, source, now_ms, avoid)
    if status in OUTCOMES:
        return _settle(order, OUTCOMES[status], result, now_ms)
    if status is ResultStatus.NOT_SENT:
        return _not_sent(order, now_ms, policy, avoid)
    if status is ResultStatus.NOT_FOUND and is_absence_certain(order, asked_at_ms, policy):
        return _not_there(order, now_ms, policy)
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


def _not_there(order: ChannelOrder, now_ms: int, policy: ChannelPolicy) -> Applied:
    """The provider never had the order, by what it declares. It is asked again later whether that was so: what it did
    after all and tells nobody would else be known by its statement alone."""
    applied = _settle(order, _S.FAILED, _given_up(PROVIDER_NOT_FOUND), now_ms)
    assert applied.order is not None
    return msgspec.structs.replace(applied, order=_next_look(applied.order, now_ms, policy))


def _once_more(order: ChannelOrder, result: ProviderResult, now_ms: int, policy: ChannelPolicy) -> ChannelOrder:
    """A FAILED order that was asked about once more. What was done after all is the doubt's to go on with."""
    if result.status in (ResultStatus.SUCCEEDED, ResultStatus.FAILED):
        return msgspec.structs.replace(order, due_at_ms=None)
    after = _next_look(order, now_ms, policy)
    if after.due_at_ms is None and result.status is not ResultStatus.NOT_FOUND:
        return msgspec.structs.replace(order, due_at_ms=now_ms + policy.query_ladder_ms[-1])  # that was no answer
    return after


def _next_look(order: ChannelOrder, now_ms: int, policy: ChannelPolicy) -> ChannelOrder:
    assert order.finished_at_ms is not None
    looks_ms = [order.finished_at_ms + after_ms for after_ms in policy.not_found_again_after_ms]
    return msgspec.structs.replace(order, due_at_ms=min((at for at in looks_ms if at > now_ms), default=None))


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
