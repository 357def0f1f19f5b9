"""What pay_core hears: results from channel_gateway, by event, refusal or question; and due times."""

from __future__ import annotations

import structlog

from pay_core import queries
from pay_core.capture import ExpirePayment
from pay_core.commands import Advance, SettleInstruction
from pay_core.payment import CHANNEL, PaymentState
from pay_core.tables import Instruction, Payment
from pay_core.terms import TermsBook
from pay_core.tools import TOOLS
from pay_core.tools.base import Outcome
from pay_core.tools.channel import GET_CHANNEL_ORDER, SERVICE, SUBMIT_CHANNEL_ORDER, outcome_of
from paykit import context as business_context
from paykit.context import BusinessContext
from paykit.errors import AlreadyExists, MeshError, NotFound
from paykit.events.calls import DurableCall
from paykit.events.consumers import Consumer
from paykit.events.timers import Timer
from paykit.ids import is_id
from paykit.rpc.channels import Channels
from paykit.store.command import Origin
from paykit.store.store import Store
from paykit.store.system import Outbox
from paymesh.channel.v1 import channel_service_pb2
from paymesh.event.v1 import events_pb2

log = structlog.get_logger()

CHANNEL_RESULTS = "channel_results"


class ChannelResults:
    """Brings the outcome of channel orders to the instructions they were made for."""

    def __init__(self, store: Store, channels: Channels, terms: TermsBook) -> None:
        self._store = store
        self._channels = channels
        self._terms = terms

    def consumer(self) -> Consumer:
        """Takes channel.order_succeeded and channel.order_failed."""
        subjects = ("channel.order_succeeded", "channel.order_failed")
        return Consumer(CHANNEL_RESULTS, subjects, self._on_event)

    def call(self) -> DurableCall:
        """SubmitChannelOrder, made durably: a refusal for good is the instruction's failure."""
        return DurableCall(SUBMIT_CHANNEL_ORDER, on_refused=self._on_refused)

    def _on_event(
        self, context: BusinessContext, message_id: str, subject: str, body: bytes
    ) -> SettleInstruction | None:
        order = events_pb2.ChannelOrderEvent.FromString(body).channel_order
        outcome = outcome_of(order)
        if outcome is None or is_id(order.instruction_id, "rpr"):
            return None  # what a repair ordered is no step of a payment
        return SettleInstruction(
            Origin.event(context, CHANNEL_RESULTS, message_id),
            order.payment_id,
            order.instruction_id,
            tool=CHANNEL,
            outcome=outcome,
            terms=self._terms.now(),
        )

    async def _on_refused(self, context: BusinessContext, row: Outbox, error: MeshError) -> None:
        """Believes a refusal only where channel_gateway has no order: an earlier try may have been taken unanswered."""
        if isinstance(error, AlreadyExists):
            raise error  # the instruction's order is there, and differs: that is for a person
        request = channel_service_pb2.SubmitChannelOrderRequest.FromString(row.body)
        ask = self._channels.batch(SERVICE, GET_CHANNEL_ORDER)
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
            outcome=Outcome(error.reason[:32]),
            terms=self._terms.now(),
        )
        await self._store.run(command)


class DuePayments:
    """Goes on with payments whose due time has passed: asks for results, tries reversals again, ends authorisations."""

    def __init__(self, store: Store, channels: Channels, terms: TermsBook) -> None:
        self._store = store
        self._channels = channels
        self._terms = terms

    def timer(self) -> Timer[Payment]:
        """Fires on ``payment.due_at_ms``."""
        return Timer("payment_due", Payment, self._fire)

    async def _fire(self, payment: Payment) -> None:
        context = business_context.current()
        origin = Origin.timer(context)
        if payment.state == PaymentState.AUTHORIZED:
            await self._store.run(ExpirePayment(origin, payment.id, self._terms.now()))
            return
        is_settled, refusal = False, None
        for instruction in await queries.awaited_instructions(self._store, payment, shadow=context.shadow):
            try:
                is_settled = await self._ask(instruction, origin) or is_settled
            except MeshError as error:
                # A person must look at this result: what is undone beside it goes on.
                refusal = refusal or error
        if not is_settled:
            # What was refused is asked for at the same pace, until there is a ticket.
            await self._store.run(Advance(origin, payment.id, self._terms.now(), was_asked=refusal is None))
        if refusal is not None:
            raise refusal

    async def _ask(self, instruction: Instruction, origin: Origin) -> bool:
        """Asks for the outcome of an instruction; whether there was one."""
        outcome = await ask_outcome(self._channels, instruction, origin.context)
        if outcome is None:
            return False
        command = SettleInstruction(
            origin,
            instruction.payment_id,
            instruction.id,
            tool=instruction.tool,
            outcome=outcome,
            terms=self._terms.now(),
        )
        await self._store.run(command)
        return True


async def ask_outcome(channels: Channels, instruction: Instruction, context: BusinessContext) -> Outcome | None:
    """The outcome of a PROCESSING instruction, as the service that carries it out says; None where it is still open."""
    question = TOOLS[instruction.tool].query(instruction)
    if question is None:
        return None
    try:
        answer = await channels.batch(question.service, question.method)(question.request, context)
    except MeshError as error:
        # Not known there yet (the outbox delivers it), or not reachable: both are asked again later.
        log.info("result_unknown", instruction_id=instruction.id, tool=instruction.tool, reason=error.reason)
        return None
    return question.read(answer)
