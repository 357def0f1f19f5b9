"""Rows as protobuf messages, for answers and events."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from channel_gateway.channel_order import AttemptOutcome, ChannelOrderKind, ChannelOrderState, DoubtType
from channel_gateway.doubt import DoubtState
from channel_gateway.routing import Ask, Health, Judged
from channel_gateway.tables import ChannelAttempt, ChannelDoubt, ChannelOrder
from paymesh.channel.v1 import channel_order_pb2, doubt_pb2, route_pb2
from paymesh.common.v1 import money_pb2
from paymesh.event.v1 import events_pb2

KIND_OF: dict[int, ChannelOrderKind] = {
    channel_order_pb2.ChannelOrderKind.Value(f"CHANNEL_ORDER_KIND_{kind.value}"): kind for kind in ChannelOrderKind
}
_KIND = {
    kind.value: channel_order_pb2.ChannelOrderKind.Value(f"CHANNEL_ORDER_KIND_{kind.value}")
    for kind in ChannelOrderKind
}
_STATE = {
    state.value: channel_order_pb2.ChannelOrderState.Value(f"CHANNEL_ORDER_STATE_{state.value}")
    for state in ChannelOrderState
}

_OUTCOME = {
    outcome.value: channel_order_pb2.AttemptOutcome.Value(f"ATTEMPT_OUTCOME_{outcome.value}")
    for outcome in AttemptOutcome
}
DOUBT_STATE = {state.value: doubt_pb2.DoubtState.Value(f"DOUBT_STATE_{state.value}") for state in DoubtState}
_DOUBT_TYPE = {kind.value: doubt_pb2.DoubtType.Value(f"DOUBT_TYPE_{kind.value}") for kind in DoubtType}


def channel_order(order: ChannelOrder) -> channel_order_pb2.ChannelOrder:
    """A channel order as callers see it; the token stays here."""
    return channel_order_pb2.ChannelOrder(
        channel_order_id=order.id,
        biz_id=order.biz_id,
        kind=_KIND[order.kind],
        state=_STATE[order.state],
        channel=order.channel,
        amount=money_pb2.Money(currency_code=order.currency, amount_minor=order.amount_minor),
        instruction_id=order.instruction_id,
        payment_id=order.payment_id,
        original_channel_order_id=order.original_channel_order_id,
        provider_reference=order.provider_reference,
        failure_reason=order.failure_reason,
        query_count=order.query_count,
        create_time=_timestamp(order.created_at_ms),
        finish_time=None if order.finished_at_ms is None else _timestamp(order.finished_at_ms),
        version=order.version,
        settled_minor=order.settled_minor,
        merchant=order.merchant,
        attempt_no=order.attempt_no,
    )


def channel_attempt(attempt: ChannelAttempt) -> channel_order_pb2.ChannelAttempt:
    """What an order left behind on a channel."""
    return channel_order_pb2.ChannelAttempt(
        attempt_id=attempt.id,
        attempt_no=attempt.attempt_no,
        channel=attempt.channel,
        outcome=_OUTCOME[attempt.outcome],
        failure_reason=attempt.failure_reason,
        provider_reference=attempt.provider_reference,
        leave_time=_timestamp(attempt.left_at_ms),
    )


def channel_doubt(doubt: ChannelDoubt) -> doubt_pb2.ChannelDoubt:
    """A doubt as callers and events have it."""
    return doubt_pb2.ChannelDoubt(
        doubt_id=doubt.id,
        biz_id=doubt.biz_id,
        channel_order_id=doubt.channel_order_id,
        payment_id=doubt.payment_id,
        channel=doubt.channel,
        attempt_no=doubt.attempt_no,
        state=DOUBT_STATE[doubt.state],
        type=_DOUBT_TYPE[doubt.type],
        amount=money_pb2.Money(currency_code=doubt.currency, amount_minor=doubt.amount_minor),
        provider_reference=doubt.provider_reference,
        evidence=doubt.evidence,
        ask_count=doubt.ask_count,
        open_time=_timestamp(doubt.opened_at_ms),
        resolve_time=None if doubt.resolved_at_ms is None else _timestamp(doubt.resolved_at_ms),
        version=doubt.version,
    )


def routed_candidate(judged: Judged, ask: Ask, health: Health) -> route_pb2.RoutedCandidate:
    """A candidate of a route, with what speaks for it or against it."""
    candidate = judged.candidate
    return route_pb2.RoutedCandidate(
        channel=candidate.channel,
        is_in=judged.is_in,
        reason="" if judged.reason is None else judged.reason.value,
        cost_minor=candidate.cost_minor(ask.amount_minor),
        success_ppm=health.success_ppm,
        weight=candidate.weight,
    )


def channel_order_event(order: ChannelOrder) -> events_pb2.ChannelOrderEvent:
    """The body of channel.order_succeeded, order_failed and order_unknown."""
    return events_pb2.ChannelOrderEvent(channel_order=channel_order(order))


def mismatch_event(order: ChannelOrder, evidence: str, doubt: ChannelDoubt) -> events_pb2.ChannelMismatchEvent:
    """The body of channel.mismatch_found."""
    return events_pb2.ChannelMismatchEvent(
        channel_order=channel_order(order),
        evidence=evidence,
        doubt_id=doubt.id,
        channel=doubt.channel,
        type=_DOUBT_TYPE[doubt.type],
    )


def doubt_event(doubt: ChannelDoubt, order: ChannelOrder) -> events_pb2.ChannelDoubtEvent:
    """The body of channel.mismatch_resolved."""
    return events_pb2.ChannelDoubtEvent(doubt=channel_doubt(doubt), channel_order=channel_order(order))


def orphan_event(channel_order_id: str, channel: str, evidence: str) -> events_pb2.ChannelMismatchEvent:
    """As ``mismatch_event``, for a result that names an order which does not exist here."""
    named = channel_order_pb2.ChannelOrder(channel_order_id=channel_order_id, channel=channel)
    return events_pb2.ChannelMismatchEvent(channel_order=named, evidence=evidence, channel=channel)


def _timestamp(ms: int) -> Timestamp:
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)
