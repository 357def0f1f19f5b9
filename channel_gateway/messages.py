"""Rows as protobuf messages, for answers and events."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from channel_gateway.channel_order import ChannelOrderKind, ChannelOrderState
from channel_gateway.tables import ChannelOrder
from paymesh.channel.v1 import channel_order_pb2
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
    )


def channel_order_event(order: ChannelOrder) -> events_pb2.ChannelOrderEvent:
    """The body of channel.order_succeeded, order_failed and order_unknown."""
    return events_pb2.ChannelOrderEvent(channel_order=channel_order(order))


def mismatch_event(order: ChannelOrder, evidence: str) -> events_pb2.ChannelMismatchEvent:
    """The body of channel.mismatch_found."""
    return events_pb2.ChannelMismatchEvent(channel_order=channel_order(order), evidence=evidence)


def orphan_event(channel_order_id: str, channel: str, evidence: str) -> events_pb2.ChannelMismatchEvent:
    """As ``mismatch_event``, for a result that names an order which does not exist here."""
    named = channel_order_pb2.ChannelOrder(channel_order_id=channel_order_id, channel=channel)
    return events_pb2.ChannelMismatchEvent(channel_order=named, evidence=evidence)


def _timestamp(ms: int) -> Timestamp:
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)
