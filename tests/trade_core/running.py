"""A running trade_core, and the requests that tests make of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from paykit.clock import SystemClock
from paykit.context import BusinessContext
from paykit.events.bus import Bus
from paykit.events.message import Message, to_headers
from paykit.ids import new_id
from paykit.service import Service
from paymesh.common.v1.money_pb2 import Money
from paymesh.event.v1.events_pb2 import PaymentEvent
from paymesh.pay.v1 import payment_pb2
from paymesh.trade.v1 import trade_pb2
from paymesh.trade.v1 import trade_service_pb2 as pb
from tests.paykit.events.waits import until
from tests.trade_core.scripted_pay import ScriptedPay
from tests.trade_core.support import BUYER, MERCHANT, SLOT, Bench, fresh

BALANCE = trade_pb2.PayMethod(balance=trade_pb2.BalanceTool())
CARD = trade_pb2.PayMethod(card=trade_pb2.CardTool(card_token="tok_visa"))
WALLET = trade_pb2.PayMethod(wallet=trade_pb2.WalletTool(wallet_token="tok_wallet"))


_REPAIRS = (trade_pb2.RELATION_KIND_DUPLICATE_OF, trade_pb2.RELATION_KIND_REPAIR_OF)


def eur(amount_minor: int) -> Money:
    """An amount in euro cents."""
    return Money(currency_code="EUR", amount_minor=amount_minor)


def purchase(**changes: Any) -> pb.CreateTradeRequest:
    """A purchase of 10.00 EUR, not paid yet."""
    fields: dict[str, Any] = {
        "request_id": fresh(),
        "trade_type": trade_pb2.TRADE_TYPE_PURCHASE,
        "buyer_id": BUYER,
        "payee_id": MERCHANT,
        "scene": "checkout",
        "amount": eur(1000),
    }
    return pb.CreateTradeRequest(**(fields | changes))


class Running(NamedTuple):
    """The service, a stub that calls it, the pay_core it calls, and the bus."""

    service: Service
    stub: Any
    pay_core: ScriptedPay
    bus: Bus
    bench: Bench

    async def create(self, **changes: Any) -> trade_pb2.Trade:
        """A new order."""
        trade: trade_pb2.Trade = (await self.stub.CreateTrade(purchase(**changes))).trade
        return trade

    async def get(self, trade_id: str) -> trade_pb2.Trade:
        """The whole trade."""
        trade: trade_pb2.Trade = (await self.stub.GetTrade(pb.GetTradeRequest(trade_id=trade_id))).trade
        return trade

    async def pay(self, trade_id: str, *methods: trade_pb2.PayMethod, **changes: Any) -> trade_pb2.Trade:
        """Begins to pay."""
        request = pb.PayTradeRequest(request_id=fresh(), trade_id=trade_id, pay_methods=methods, **changes)
        trade: trade_pb2.Trade = (await self.stub.PayTrade(request)).trade
        return trade

    async def close(self, trade_id: str) -> trade_pb2.Trade:
        """Closes a trade."""
        request = pb.CloseTradeRequest(request_id=fresh(), trade_id=trade_id)
        trade: trade_pb2.Trade = (await self.stub.CloseTrade(request)).trade
        return trade

    async def finished(self, attempt_id: str, biz_id: str, failure_reason: str = "") -> payment_pb2.Payment:
        """Ends a payment that is under way, and announces it."""
        await self.pay_core.taken(attempt_id)
        payment = self.pay_core.finish(attempt_id, failure_reason)
        await self.publish(payment, biz_id)
        return payment

    async def returned(self, trade: trade_pb2.Trade) -> trade_pb2.Trade:
        """The refund that gives back what a trade did not take, once it is done."""

        async def repairs() -> list[str]:
            relations = (await self.get(trade.trade_id)).relations
            return [relation.child_trade_id for relation in relations if relation.kind in _REPAIRS]

        async def has_repair() -> bool:
            return bool(await repairs())

        await until(has_repair)
        (repair,) = await repairs()
        return (await self.until(repair, trade_pb2.TRADE_STATE_PAID))[-1]

    async def until(self, trade_id: str, state: int) -> list[trade_pb2.Trade]:
        """Watches a trade until it is in ``state`` (a trade_pb2.TradeState); all it was seen as."""
        seen = []
        async for response in self.stub.WatchTrade(pb.WatchTradeRequest(trade_id=trade_id), timeout=20):
            seen.append(response.trade)
            if response.trade.state == state:
                return seen
        raise AssertionError(f"the watch ended at {seen}")

    async def publish(self, payment: payment_pb2.Payment, biz_id: str) -> None:
        """Announces a payment as pay_core does: under the business id of the order."""
        now_ms = SystemClock().now_ms()
        context = BusinessContext(biz_id=biz_id)
        message_id = new_id("msg", SLOT, now_ms)
        state = payment_pb2.PaymentState.Name(payment.state).removeprefix("PAYMENT_STATE_")
        subject = f"{context.mode}.pay.payment_{state.lower()}"
        body = PaymentEvent(payment=payment).SerializeToString()
        assert await self.bus.publish([Message(message_id, subject, to_headers(context, message_id), body)]) == [None]
