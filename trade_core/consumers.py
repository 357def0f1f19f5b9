"""How the news of a payment reaches its trade: events of pay_core, replies to the calls made of it, and due times."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from google.protobuf.message import Message

from paykit.context import BusinessContext, current
from paykit.errors import AlreadyExists, MeshError, NotFound
from paykit.store.command import Command, Origin
from paykit.store.store import Store
from paykit.store.system import Outbox
from paymesh.event.v1.events_pb2 import PaymentEvent
from paymesh.pay.v1 import pay_service_pb2
from trade_core import payments
from trade_core.commands import ExpireTrade, Policy
from trade_core.notify import Notifier
from trade_core.results import ApplyPaymentResult, AskLater, PaymentRefused
from trade_core.tables import Trade
from trade_core.trade import TradeState

CONSUMER = "payments"
PAYMENT_SUBJECTS = ("pay.payment_succeeded", "pay.payment_failed")

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
        assert result is not None, f"{subject} about {payment.payment_id}, which is under way"
        return ApplyPaymentResult(Origin.event(context, CONSUMER, message_id), self._policy, result)

    async def on_reply(self, context: BusinessContext, row: Outbox, response: Any) -> None:
        """Takes the reply to a durable call: a payment that ended within it is applied at once."""
        result = payments.result_of(response.payment)
        if result is None:
            return  # the event will tell, or the timer will ask
        origin = Origin.event(context, "replies", row.id)
        self._notifier.changed(await self._store.run(ApplyPaymentResult(origin, self._policy, result)))

    async def on_refused(self, context: BusinessContext, row: Outbox, error: MeshError) -> None:
        """Takes that pay_core refused a durable call for good; raises where it cannot be asked what is behind that.

        The refusal is of one attempt at the call. An earlier one, whose answer was lost, may have been carried out:
        only where pay_core has no payment of this source has nothing been done.
        """
        if isinstance(error, AlreadyExists):
            # A payment exists under this id: nothing failed for good, and only a person can tell what went wrong.
            raise error
        call: Any = _parse(row)
        origin = Origin.event(context, "refusals", row.id)
        command: ApplyPaymentResult | PaymentRefused
        try:
            request = pay_service_pb2.GetPaymentRequest(source_id=call.source_id)
            payment = (await self._get_payment(request, context)).payment
        except NotFound:
            command = PaymentRefused(origin, self._policy, call.source_id, error.reason)
        else:
            _log.warning("payment_refused_but_there", payment_id=payment.payment_id, reason=error.reason)
            result = payments.result_of(payment)
            if result is None:
                return  # the event will tell, or the timer will ask
            command = ApplyPaymentResult(origin, self._policy, result)
        self._notifier.changed(await self._store.run(command))

    async def on_due(self, trade: Trade) -> None:
        """Takes a trade whose due time has passed: closes it when unpaid, asks pay_core when being paid.

        Runs under the context that the trade stores.
        """
        context = current()
        if trade.state == TradeState.CREATED:
            self._notifier.changed(await self._store.run(ExpireTrade(Origin.timer(context), trade.id)))
        elif trade.state == TradeState.PAYING:
            await self._ask(context, trade)

    async def _ask(self, context: BusinessContext, trade: Trade) -> None:
        payment_id = ""
        try:
            request = pay_service_pb2.GetPaymentRequest(source_id=trade.attempt_id)
            payment = (await self._get_payment(request, context)).payment
        except NotFound:
            pass  # the call is still on its way: the outbox will deliver it
        except MeshError as error:
            _log.warning("payment_not_asked", trade_id=trade.id, code=error.code, reason=error.reason)
        else:
            result = payments.result_of(payment)
            if result is not None:
                command = ApplyPaymentResult(Origin.timer(context), self._policy, result)
                self._notifier.changed(await self._store.run(command))
                return
            payment_id = payment.payment_id
        later = AskLater(Origin.timer(context), self._policy, trade.attempt_id, payment_id)
        self._notifier.changed(await self._store.run(later))


def _parse(row: Outbox) -> Message:
    return payments.REQUESTS[row.destination].FromString(row.body)
