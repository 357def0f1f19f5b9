"""What a scenario works with: the calls a business service makes, and expectations about what came of them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from meshctl.timeline import commands
from paykit.errors import MeshError
from paykit.ids import SLOT_COUNT, slot_of
from paykit.money import format_minor
from paykit.rpc.channels import Channels
from paymesh.channel.v1 import channel_order_pb2, channel_service_pb2, channel_service_pb2_grpc
from paymesh.common.v1.money_pb2 import Money
from paymesh.ops.v1 import ops_service_pb2, ops_service_pb2_grpc
from paymesh.pay.v1 import (
    ledger_service_pb2,
    ledger_service_pb2_grpc,
    pay_service_pb2,
    pay_service_pb2_grpc,
    payment_pb2,
)
from paymesh.trade.v1 import trade_pb2, trade_service_pb2, trade_service_pb2_grpc

CURRENCY = "EUR"
CALL_TIMEOUT_S = 10.0
FINISH_TIMEOUT_S = 60.0  # of a payment whose provider keeps silent at first
ARRIVE_TIMEOUT_S = 20.0  # of money on its way to another slot, and of late notifications
POLL_INTERVAL_S = 0.05

USER = payment_pb2.ACCOUNT_KIND_USER
MERCHANT = payment_pb2.ACCOUNT_KIND_MERCHANT

_TRADE_STATE: Any = trade_pb2.TradeState  # the stubs show the classes, not the wrappers that have Name


class ScenarioFailed(Exception):
    """Something did not come out as it must; the message says what, and what it was instead."""


class Scenario(NamedTuple):
    """``run(desk)`` makes orders and raises ScenarioFailed where one does not end as it must."""

    name: str  # for tests and options: letters, digits and underscores
    title: str
    run: Callable[[Desk], Awaitable[None]]


class Desk:
    """One scenario's place of work: users that nobody else has, its orders, and what has been shown to hold."""

    def __init__(self, channels: Channels) -> None:
        self.trades = trade_service_pb2_grpc.TradeServiceStub(channels.get("trade_core"))
        self.payments = pay_service_pb2_grpc.PayServiceStub(channels.get("pay_core"))
        self.ledger = ledger_service_pb2_grpc.LedgerServiceStub(channels.get("pay_core"))
        self.gateway = channel_service_pb2_grpc.ChannelServiceStub(channels.get("channel_gateway"))
        self.operations = ops_service_pb2_grpc.OpsServiceStub(channels.get("channel_gateway"))
        self.biz_ids: list[str] = []
        self.held: list[str] = []
        self._run = secrets.token_hex(3)

    # Names

    def name(self, text: str) -> str:
        """A user or merchant of this scenario alone."""
        return f"{text}.{self._run}"

    def name_beside(self, other: str, text: str) -> str:
        """As ``name``, on the slot of ``other``."""
        return self._name_where(text, lambda slot: slot == slot_of(other))

    def name_far_from(self, other: str, text: str) -> str:
        """As ``name``, half of all slots away from ``other``: on another shard, wherever there are two or more."""
        return self._name_where(text, lambda slot: (slot < SLOT_COUNT // 2) != (slot_of(other) < SLOT_COUNT // 2))

    def _name_where(self, text: str, fits: Callable[[int], bool]) -> str:
        candidates = (f"{text}.{self._run}.{number}" for number in range(50 * SLOT_COUNT))
        return next(candidate for candidate in candidates if fits(slot_of(candidate)))

    # What a business service does

    async def order(
        self,
        trade_type: int,
        buyer_id: str,
        amount_minor: int,
        *pay_methods: trade_pb2.PayMethod,
        payee_id: str = "",
    ) -> trade_pb2.Trade:
        """A new trade, as the call that made it answered."""
        request = trade_service_pb2.CreateTradeRequest(
            request_id=_request_id(),
            trade_type=trade_pb2.TradeType.ValueType(trade_type),
            buyer_id=buyer_id,
            payee_id=payee_id,
            scene="demo",
            amount=money(amount_minor),
            pay_methods=pay_methods,
        )
        trade = (await self.trades.CreateTrade(request, timeout=CALL_TIMEOUT_S)).trade
        self.biz_ids.append(trade.biz_id)
        return trade

    async def pay(self, trade_id: str, *pay_methods: trade_pb2.PayMethod) -> trade_pb2.Trade:
        """Another try to pay a trade, as the call answered."""
        request = trade_service_pb2.PayTradeRequest(
            request_id=_request_id(), trade_id=trade_id, pay_methods=pay_methods
        )
        return (await self.trades.PayTrade(request, timeout=CALL_TIMEOUT_S)).trade

    async def refund(self, trade_id: str, amount_minor: int | None = None) -> trade_pb2.Trade:
        """A refund that has ended; of all that is left where no amount is given."""
        request = trade_service_pb2.RefundTradeRequest(request_id=_request_id(), trade_id=trade_id, reason="demo")
        if amount_minor is not None:
            request.amount.CopyFrom(money(amount_minor))
        response = await self.trades.RefundTrade(request, timeout=CALL_TIMEOUT_S)
        return await self.finished(response.refund.trade_id)

    async def finished(self, trade_id: str) -> trade_pb2.Trade:
        """Follows a trade until no payment of it is under way; the whole trade then."""
        request = trade_service_pb2.WatchTradeRequest(trade_id=trade_id)
        try:
            async for update in self.trades.WatchTrade(request, timeout=FINISH_TIMEOUT_S):
                if update.trade.state != trade_pb2.TRADE_STATE_PAYING:
                    return await self.trade(trade_id)
        except MeshError as error:
            raise ScenarioFailed(f"trade {trade_id} cannot be followed: {error.code} {error.message}") from error
        raise ScenarioFailed(f"trade {trade_id} is still being paid after {FINISH_TIMEOUT_S:g} s")

    async def trade(self, trade_id: str) -> trade_pb2.Trade:
        """A trade with all its parts, as it is now."""
        request = trade_service_pb2.GetTradeRequest(trade_id=trade_id)
        return (await self.trades.GetTrade(request, timeout=CALL_TIMEOUT_S)).trade

    async def top_up(self, user_id: str, amount_minor: int) -> trade_pb2.Trade:
        """Brings money to a user's balance by a card that works."""
        made = await self.order(trade_pb2.TRADE_TYPE_TOP_UP, user_id, amount_minor, card())
        trade = await self.finished(made.trade_id)
        self.expect_state(trade, "PAID")
        await self.expect_balance(user_id, amount_minor)
        return trade

    # What came of it

    async def payment_of(self, trade: trade_pb2.Trade) -> payment_pb2.Payment:
        """The payment of the attempt that paid a trade."""
        effective = [item for item in trade.attempts if item.state == trade_pb2.ATTEMPT_STATE_EFFECTIVE]
        self.require(len(effective) == 1, f"{trade.trade_id} was paid by {len(effective)} attempts")
        request = pay_service_pb2.GetPaymentRequest(payment_id=effective[0].payment_id)
        return (await self.payments.GetPayment(request, timeout=CALL_TIMEOUT_S)).payment

    async def channel_orders_of(self, trade: trade_pb2.Trade) -> list[channel_order_pb2.ChannelOrder]:
        """What providers were asked to do for a trade that was paid."""
        payment = await self.payment_of(trade)
        request = channel_service_pb2.ListChannelOrdersRequest(payment_id=payment.payment_id)
        return list((await self.gateway.ListChannelOrders(request, timeout=CALL_TIMEOUT_S)).channel_orders)

    async def gateway_history(self, trade: trade_pb2.Trade, entity: str) -> list[tuple[str, str]]:
        """(command, state) of what channel_gateway did with records of an entity for a trade, oldest first."""
        request = ops_service_pb2.GetTimelineRequest(id=trade.biz_id)
        return commands((await self.operations.GetTimeline(request, timeout=CALL_TIMEOUT_S)).entries, entity)

    async def balance(self, owner_id: str, kind: int = USER) -> int:
        """An owner's balance in minor units; zero where there is no account yet."""
        request = ledger_service_pb2.ListAccountsRequest(owner_id=owner_id)
        accounts = (await self.ledger.ListAccounts(request, timeout=CALL_TIMEOUT_S)).accounts
        found = (a for a in accounts if a.kind == kind and a.balance.currency_code == CURRENCY)
        return next((account.balance.amount_minor for account in found), 0)

    # Expectations

    def require(self, holds: bool, otherwise: str) -> None:
        """ScenarioFailed saying ``otherwise``, unless it holds."""
        if not holds:
            raise ScenarioFailed(otherwise)

    def expect_state(self, trade: trade_pb2.Trade, state: str) -> None:
        """The state of a trade, without its prefix."""
        actual = _TRADE_STATE.Name(trade.state).removeprefix("TRADE_STATE_")
        self.require(actual == state, f"trade {trade.trade_id} is {actual} {trade.reason}, not {state}")
        self.held.append(f"trade {trade.trade_id[-6:]} is {state}")

    async def expect_balance(self, owner_id: str, amount_minor: int, kind: int = USER) -> None:
        """A balance to the cent. Money for another slot may be on its way for a moment after the trade is paid."""
        await self._expect_soon(lambda: self.balance(owner_id, kind), amount_minor, f"the balance of {owner_id}")
        self.held.append(f"{owner_id} has {format_minor(amount_minor, CURRENCY)}")

    async def expect_history(self, trade: trade_pb2.Trade, entity: str, wanted: list[tuple[str, str]]) -> None:
        """That channel_gateway's history of a trade is exactly ``wanted``, as soon as the last of it has come."""
        what = f"the history of {entity} of {trade.trade_id}"
        await self._expect_soon(lambda: self.gateway_history(trade, entity), wanted, what)
        self.held.append(f"{entity.replace('_', ' ')}: {' → '.join(state for _, state in wanted) or 'none'}")

    async def expect_channel_moves(self, trade: trade_pb2.Trade, *wanted: tuple[str, int]) -> None:
        """That providers moved exactly ``wanted`` for a trade, each once: ("CHARGE", 1000), …"""
        orders = await self.channel_orders_of(trade)
        undone = [o.channel_order_id for o in orders if o.state != channel_order_pb2.CHANNEL_ORDER_STATE_SUCCEEDED]
        self.require(not undone, f"channel orders did not succeed: {undone}")
        kinds: Any = channel_order_pb2.ChannelOrderKind
        moved = [(kinds.Name(o.kind).removeprefix("CHANNEL_ORDER_KIND_"), o.amount.amount_minor) for o in orders]
        self.require(sorted(moved) == sorted(wanted), f"providers moved {moved} for {trade.trade_id}, not {wanted}")
        for kind, amount_minor in wanted:
            self.held.append(f"{kind} of {format_minor(amount_minor, CURRENCY)}, once")

    async def _expect_soon(self, look: Callable[[], Awaitable[Any]], wanted: Any, what: str) -> None:
        actual = await look()
        try:
            async with asyncio.timeout(ARRIVE_TIMEOUT_S):
                while actual != wanted:
                    await asyncio.sleep(POLL_INTERVAL_S)
                    actual = await look()
        except TimeoutError:
            raise ScenarioFailed(f"{what} is {actual}, not {wanted}") from None


def money(amount_minor: int) -> Money:
    """An amount in the scenarios' currency."""
    return Money(currency_code=CURRENCY, amount_minor=amount_minor)


def card(token: str = "tok_ok", amount_minor: int | None = None) -> trade_pb2.PayMethod:
    """Pays by card; the sandbox provider behaves as the token says."""
    return _method(trade_pb2.PayMethod(card=trade_pb2.CardTool(card_token=token)), amount_minor)


def bank(token: str = "tok_ok") -> trade_pb2.PayMethod:
    """Pays out to a bank account."""
    return trade_pb2.PayMethod(bank=trade_pb2.BankTool(bank_token=token))


def from_balance(amount_minor: int | None = None) -> trade_pb2.PayMethod:
    """Pays from the buyer's balance."""
    return _method(trade_pb2.PayMethod(balance=trade_pb2.BalanceTool()), amount_minor)


def _method(method: trade_pb2.PayMethod, amount_minor: int | None) -> trade_pb2.PayMethod:
    if amount_minor is not None:
        method.amount.CopyFrom(money(amount_minor))
    return method


def _request_id() -> str:
    return f"demo-{secrets.token_hex(8)}"
