"""One order to its provider and back: what is stored before the call and after it, whoever decided that it may go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

import msgspec
import structlog

from channel_gateway.channel_order import (
    ChannelOrderKind,
    ChannelOrderState,
    ProviderResult,
    ResultStatus,
    Source,
    is_asked_about,
)
from channel_gateway.channels.base import Channel
from channel_gateway.commands import ApplyResult, MarkSending
from channel_gateway.contexts import OrderContexts
from channel_gateway.tables import ChannelOrder
from paykit.context import set_current, unpack
from paykit.store.command import Origin
from paykit.store.guard import assert_outside_transaction
from paykit.store.store import Store

log = structlog.get_logger(__name__)

QUERY = "QUERY"
UNANSWERED = ProviderResult(status=ResultStatus.UNKNOWN)
_NOT_SENT = ProviderResult(status=ResultStatus.NOT_SENT)
_OPERATIONS: Mapping[str, Callable[[Channel, ChannelOrder], Awaitable[ProviderResult]]] = {
    ChannelOrderKind.CHARGE: lambda channel, order: channel.charge(order),
    ChannelOrderKind.REFUND: lambda channel, order: channel.refund(order),
    ChannelOrderKind.PAYOUT: lambda channel, order: channel.payout(order),
    ChannelOrderKind.AUTHORIZE: lambda channel, order: channel.authorize(order),
    ChannelOrderKind.CAPTURE: lambda channel, order: channel.capture(order),
    ChannelOrderKind.VOID: lambda channel, order: channel.void(order),
    QUERY: lambda channel, order: channel.query(order),
}

Call = Callable[[str, ChannelOrder], Awaitable[ProviderResult]]  # (operation, order), within the limits
Avoided = Callable[[str, ChannelOrder], Collection[str]]  # (mode, order) -> of its further channels those not well
HandOn = Callable[[str, ChannelOrder], object]  # (mode, order): takes an order that has gone on to another channel


class Question(msgspec.Struct, frozen=True):
    """An order that is asked about for another reason than its own due time. ``id``: of what asks."""

    id: str
    order: ChannelOrder
    answer: asyncio.Future[ProviderResult]

    def answered(self, result: ProviderResult) -> None:
        """Who asked may have gone meanwhile."""
        if not self.answer.done():
            self.answer.set_result(result)


async def call(channel: Channel, operation: str, order: ChannelOrder, timeout_s: float) -> ProviderResult:
    """One call to a provider. Never raises: whatever is not certain is UNKNOWN."""
    assert_outside_transaction()
    try:
        async with asyncio.timeout(timeout_s):
            return await _OPERATIONS[operation](channel, order)
    except TimeoutError:
        log.warning("channel_call_timed_out", channel=channel.name, channel_order_id=order.id)
    except Exception:  # a channel's bug leaves the outcome as open as a lost connection does
        log.exception("channel_raised", channel=channel.name, operation=operation, channel_order_id=order.id)
    return UNANSWERED


class Carrier:
    """Carries the orders of one channel in one mode."""

    def __init__(
        self, mode: str, channel: Channel, store: Store, contexts: OrderContexts, avoided: Avoided, hand_on: HandOn
    ) -> None:
        self._mode = mode
        self._channel = channel
        self._store = store
        self._contexts = contexts
        self._avoided = avoided
        self._hand_on = hand_on

    async def carry(self, order: ChannelOrder, call: Call) -> ApplyResult | None:
        """Takes an order to the provider; what is to be stored of it."""
        context = unpack(order.context)
        set_current(context)
        origin = Origin.timer(context)
        policy = self._channel.policy
        if order.state == ChannelOrderState.ACCEPTED:
            self._contexts.remember(order.id, context)
            sending = await self._store.run(MarkSending(origin, order.id, policy))
            if sending is None:
                return None
            assert sending.sent_at_ms is not None
            if self._store.clock.now_ms() - sending.sent_at_ms > policy.send_within_ms:
                # Too late for a call to be over when others take it for lost; as none was made, another can be.
                return self._reply(origin, sending, _NOT_SENT)
            return self._reply(origin, sending, await call(order.kind, sending))
        if is_asked_about(order):
            asked_at_ms = self._store.clock.now_ms()
            result = await call(QUERY, order)
            return ApplyResult(origin, order.id, policy, result, Source.QUERY, asked_at_ms)
        return None

    async def give_up(self, order: ChannelOrder) -> None:
        """Ends an order that is not on its way as one that was never sent."""
        origin = Origin.timer(unpack(order.context))
        sending = await self._store.run(MarkSending(origin, order.id, self._channel.policy))
        if sending is not None:
            await self.settle(self._reply(origin, sending, _NOT_SENT))

    async def settle(self, outcome: ApplyResult) -> ChannelOrder | None:
        """Stores an outcome. An order that has gone on to another channel need not wait for its due time."""
        order = await self._store.run(outcome)
        if order is not None and order.channel != self._channel.name:
            self._hand_on(self._mode, order)
        return order

    def _reply(self, origin: Origin, order: ChannelOrder, result: ProviderResult) -> ApplyResult:
        avoid = self._avoided(self._mode, order)
        return ApplyResult(origin, order.id, self._channel.policy, result, Source.REPLY, avoid=avoid)
