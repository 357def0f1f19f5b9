"""What pay_core hears: results from channel_gateway, by event, by refusal of a durable call, or by asking."""

from __future__ import annotations

import structlog

from pay_core import queries
from pay_core.commands import AskLater, SettleInstruction
from pay_core.payment import CHANNEL
from pay_core.settings import PayCoreSettings
from pay_core.tables import Payment
from pay_core.tools.channel import SUBMIT_CHANNEL_ORDER
from paykit import context as business_context
from paykit.context import BusinessContext
from paykit.errors import AlreadyExists, MeshError, NotFound
from paykit.events.calls import DurableCall
from paykit.events.consumers import Consumer
from paykit.events.timers import Timer
from paykit.rpc.channels import Channels
from paykit.store.command import Origin
from paykit.store.store import Store
from paykit.store.system import Outbox
from paymesh.channel.v1 import channel_order_pb2, channel_service_pb2
from paymesh.event.v1 import events_pb2

log = structlog.get_logger()

CHANNEL_RESULTS = "channel_results"
GET_CHANNEL_ORDER = "/paymesh.channel.v1.ChannelService/GetChannelOrder"

_SUCCEEDED = channel_order_pb2.CHANNEL_ORDER_STATE_SUCCEEDED
_FAILED = channel_order_pb2.CHANNEL_ORDER_STATE_FAILED


class ChannelResults:
    """Brings the outcome of channel orders to the instructions they were made for."""

    def __init__(self, store: Store, channels: Channels, settings: PayCoreSettings) -> None:
        self._store = store
        self._channels = channels
        self._due_ms = int(settings.channel_result_due_s * 1000)
        self._due_max_ms = int(settings.channel_result_due_max_s * 1000)

    def consumer(self) -> Consumer:
        """Takes channel.order_succeeded and channel.order_failed."""
        subjects = ("channel.order_succeeded", "channel.order_failed")
        return Consumer(CHANNEL_RESULTS, subjects, self._on_event)

    def call(self) -> DurableCall:
        """SubmitChannelOrder, made durably: a refusal for good is the instruction's failure."""
        return DurableCall(SUBMIT_CHANNEL_ORDER, on_refused=self._on_refused)

    def timer(self) -> Timer[Payment]:
        """Asks for results that no event has brought in time."""
        return Timer("payment_due", Payment, self._ask)

    def _on_event(
        self, context: BusinessContext, message_id: str, subject: str, body: bytes
    ) -> SettleInstruction | None:
        order = events_pb2.ChannelOrderEvent.FromString(body).channel_order
        return self._settle(Origin.event(context, CHANNEL_RESULTS, message_id), order)

    def _settle(self, origin: Origin, order: channel_order_pb2.ChannelOrder) -> SettleInstruction:
        return SettleInstruction(
            origin,
            order.payment_id,
            order.instruction_id,
            tool=CHANNEL,
            failure_reason="" if order.state == _SUCCEEDED else order.failure_reason[:32] or "CHANNEL_FAILED",
            channel_order_id=order.channel_order_id,
            moved=(order.amount.amount_minor, order.amount.currency_code),
            result_due_ms=self._due_ms,
        )

    async def _on_refused(self, context: BusinessContext, row: Outbox, error: MeshError) -> None:
        """Believes a refusal only where channel_gateway has no order: an earlier try may have been taken unanswered."""
        if isinstance(error, AlreadyExists):
            raise error  # the instruction's order is there, and differs: that is for a person
        request = channel_service_pb2.SubmitChannelOrderRequest.FromString(row.body)
        ask = self._channels.batch("channel_gateway", GET_CHANNEL_ORDER)
        try:
            await ask(channel_service_pb2.GetChannelOrderRequest(instruction_id=request.instruction_id), context)
        except NotFound:
            pass
        else:
            log.warning("refusal_not_believed", instruction_id=request.instruction_id, reason=error.reason)
            return  # its result comes by event, or by asking
        command = SettleInstruction(
            Origin.event(context, SUBMIT_CHANNEL_ORDER, row.id),
            request.payment_id,
            request.instruction_id,
            tool=CHANNEL,
            failure_reason=error.reason[:32],
            result_due_ms=self._due_ms,
        )
        await self._store.run(command)

    async def _ask(self, payment: Payment) -> None:
        context = business_context.current()
        origin = Origin.timer(context)
        ask = self._channels.batch("channel_gateway", GET_CHANNEL_ORDER)
        for instruction in await queries.awaited_channel_instructions(self._store, payment, shadow=context.shadow):
            try:
                request = channel_service_pb2.GetChannelOrderRequest(instruction_id=instruction.id)
                order = (await ask(request, context)).channel_order
            except MeshError as error:
                # Not known there yet (the outbox delivers it), or not reachable: both are asked again later.
                log.info("channel_result_unknown", instruction_id=instruction.id, reason=error.reason)
                continue
            if order.state in (_SUCCEEDED, _FAILED):
                await self._store.run(self._settle(origin, order))
                return
        await self._store.run(AskLater(origin, payment.id, self._due_ms, self._due_max_ms))
