"""How the news of a payment reaches its trade: events of pay_core, replies to the calls made of it, and due times."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from google.protobuf.message import Message
from sqlalchemy import select

from paykit.context import BusinessContext, current
from paykit.errors import AlreadyExists, MeshError, NotFound
from paykit.store.command import Command, Origin
from paykit.store.store import Store
from paykit.store.system import Outbox
from paymesh.event.v1.events_pb2 import PaymentEvent
from paymesh.pay.v1 import pay_service_pb2, payment_pb2
from trade_core import payments
from trade_core.commands import ExpireTrade
from trade_core.holds import SettleHold, SettleRefused
from trade_core.notify import Notifier
from trade_core.payments import PaymentOutcome, PaymentResult
from trade_core.refunds import RetryRefund
from trade_core.results import ApplyPaymentResult, AskLater, PaymentRefused
from trade_core.steps import Policy
from trade_core.tables import PayAttempt, Trade
from trade_core.trade import TradeState, open_among

CONSUMER = "payments"
PAYMENT_SUBJECTS = (
    "pay.payment_succeeded",
    "pay.payment_failed",
    "pay.payment_authorized",
    "pay.payment_voided",
)

GetPayment = Callable[[Any, BusinessContext], Awaitable[Any]]

_log = structlog.get_logger(__name__)


class PaymentNews:
    """Takes the news of payments, whichever way it comes."""

    def __init__(self, store: Store, policy: Policy, notifier: Notifier, get_payment: GetPayment) -> None:
        """``get_payment`` asks pay_core: ``await get_payment(GetPaymentRequest, context)``, raising its MeshError."""
        self._store = store
        self._policy = policy
        self._notifier = notifier
        self._get_payment = get_payment

    def to_command(self, context: BusinessContext, message_id: str, subject: str, body: bytes) -> Command[Any] | None:
        """The command for an event of pay_core; None for a payment that was not made for a trade."""
        payment = PaymentEvent.FromString(body).payment
        if not payments.is_ours(payment.source_id):
            return None
        result = payments.result_of(payment)
        if result is None:
            return None  # told at rest, and moved on since
        return ApplyPaymentResult(Origin.event(context, CONSUMER, message_id), self._policy, result)

    async def on_reply(self, context: BusinessContext, row: Outbox, response: Any) -> None:
        """Takes the reply to a durable call: a payment that ended within it is applied at once."""
        result = payments.result_of(response.payment)
        if result is None:
            return  # the event will tell, or the timer will ask
        await self._run(ApplyPaymentResult(Origin.event(context, "replies", row.id), self._policy, result))

    async def on_refused(self, context: BusinessContext, row: Outbox, error: MeshError) -> None:
        """Takes that pay_core refused a durable call for good; raises where it cannot be asked what is behind that.

        The refusal is of one attempt at the call. An earlier one, whose answer was lost, may have been carried out:
        only where pay_core has no payment of this source has nothing been done.
        """
        if isinstance(error, AlreadyExists):
            # A payment exists under this id: nothing failed for good, and only a person can tell what went wrong.
            raise error
        call: Any = _parse(row)
        try:
            payment = await self._payment_of(payments.attempt_in(call), context)
        except NotFound:
            if row.destination not in payments.PAYING:
                raise error from None  # what is captured or let go must be there
            origin = Origin.event(context, "refusals", row.id)
            await self._run(PaymentRefused(origin, self._policy, call.source_id, error.reason))
            return
        result = payments.result_of(payment)
        if row.destination in payments.PAYING:
            _log.warning("payment_refused_but_there", payment_id=payment.payment_id, reason=error.reason)
        if result is None:
            return  # the event will tell, or the timer will ask
        await self._settle_refused(Origin.event(context, "refusals", row.id), call.request_id, result, error)

    async def _settle_refused(self, origin: Origin, request_id: str, result: PaymentResult, error: MeshError) -> None:
        is_held = result.outcome is PaymentOutcome.AUTHORIZED
        if payments.is_return(request_id) and result.outcome not in (PaymentOutcome.VOIDED, PaymentOutcome.FAILED):
            raise error  # money that nobody wants is not let go: somebody must look
        if is_held and payments.is_settlement(request_id):
            await self._run(SettleRefused(origin, self._policy, request_id, result, error.reason))
        else:
            await self._run(ApplyPaymentResult(origin, self._policy, result))

    async def on_due(self, trade: Trade) -> None:
        """Takes a trade whose due time has passed: asks pay_core about what is under way, then does what is due.

        Runs under the context that the trade stores.
        """
        origin = Origin.timer(current())
        if trade.state == TradeState.CREATED and trade.purpose:
            await self._run(RetryRefund(origin, self._policy, trade.id))
        elif trade.state in (TradeState.CREATED, TradeState.PARTIALLY_PAID):
            await self._run(ExpireTrade(origin, self._policy, trade.id))
        else:
            await self._ask(origin, trade)
            if trade.state == TradeState.PAYING:
                await self._run(ExpireTrade(origin, self._policy, trade.id))
            elif trade.state == TradeState.AUTHORIZED:
                await self._run(SettleHold(origin, self._policy, trade.id))

    async def _ask(self, origin: Origin, trade: Trade) -> None:
        """Asks about every payment of a trade that may have moved on."""
        payment_ids: dict[str, str] = {}
        is_open = trade.state == TradeState.SETTLING
        for attempt_id in await self._under_way(trade, origin.context.shadow):
            result = None
            try:
                payment = await self._payment_of(attempt_id, origin.context)
            except NotFound:
                pass  # the call is still on its way: the outbox will deliver it
            except MeshError as error:
                _log.warning("payment_not_asked", trade_id=trade.id, code=error.code, reason=error.reason)
            else:
                payment_ids[attempt_id] = payment.payment_id
                result = payments.result_of(payment)
            if result is None:
                is_open = True
            else:
                await self._run(ApplyPaymentResult(origin, self._policy, result))
        if is_open:
            await self._run(AskLater(origin, self._policy, trade.id, payment_ids))

    async def _under_way(self, trade: Trade, shadow: bool) -> list[str]:
        if trade.attempt_count <= 1:
            return [trade.attempt_id] if trade.state != TradeState.AUTHORIZED else []
        table = PayAttempt.__table__
        statement = select(table).where(table.c.trade_id == trade.id).order_by(table.c.attempt_no)
        found = await self._store.fetch(PayAttempt, statement, slot=trade.slot, shadow=shadow)
        settling = [trade.attempt_id] if trade.state == TradeState.SETTLING else []
        return settling + [attempt.id for attempt in open_among(found)]

    async def _payment_of(self, attempt_id: str, context: BusinessContext) -> payment_pb2.Payment:
        request = pay_service_pb2.GetPaymentRequest(source_id=attempt_id)
        payment: payment_pb2.Payment = (await self._get_payment(request, context)).payment
        return payment

    async def _run(self, command: Command[Any]) -> None:
        self._notifier.changed(await self._store.run(command))


def _parse(row: Outbox) -> Message:
    return payments.REQUESTS[row.destination].FromString(row.body)
