"""The calls that a business service makes, and what it can read of what came of them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from meshctl.scenarios.methods import CURRENCY, in_days, money
from meshctl.timeline import commands
from pay_core.chart import POINTS_UNIT
from paykit.context import BusinessContext, mint, use
from paykit.errors import MeshError
from paykit.ids import SLOT_COUNT, slot_of
from paykit.rpc.channels import Channels
from paymesh.channel.v1 import channel_order_pb2, channel_service_pb2, channel_service_pb2_grpc
from paymesh.ops.v1 import ops_service_pb2, ops_service_pb2_grpc
from paymesh.pay.v1 import (
    ledger_service_pb2,
    ledger_service_pb2_grpc,
    pay_service_pb2,
    pay_service_pb2_grpc,
    payment_pb2,
)
from paymesh.trade.v1 import trade_pb2, trade_service_pb2, trade_service_pb2_grpc

CALL_TIMEOUT_S = 10.0
FINISH_TIMEOUT_S = 60.0  # of a payment whose provider keeps silent at first

USER = payment_pb2.ACCOUNT_KIND_USER
MERCHANT = payment_pb2.ACCOUNT_KIND_MERCHANT
POINTS = payment_pb2.ACCOUNT_KIND_POINTS

_UNDER_WAY = (trade_pb2.TRADE_STATE_PAYING, trade_pb2.TRADE_STATE_SETTLING)


class ScenarioFailed(Exception):
    """Something did not come out as it must; the message says what, and what it was instead."""


class Calls:
    """The calls of one business service, for users that nobody else has; ``biz_ids`` are those of its orders."""

    def __init__(self, channels: Channels) -> None:
        self.trades = trade_service_pb2_grpc.TradeServiceStub(channels.get("trade_core"))
        self.payments = pay_service_pb2_grpc.PayServiceStub(channels.get("pay_core"))
        self.ledger = ledger_service_pb2_grpc.LedgerServiceStub(channels.get("pay_core"))
        self.benefits = ledger_service_pb2_grpc.BenefitServiceStub(channels.get("pay_core"))
        self.gateway = channel_service_pb2_grpc.ChannelServiceStub(channels.get("channel_gateway"))
        self.operations = ops_service_pb2_grpc.OpsServiceStub(channels.get("channel_gateway"))
        self.biz_ids: list[str] = []
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
        parts: Sequence[trade_pb2.TradePart] = (),
        merges: Sequence[str] = (),
        scene: str = "demo",
    ) -> trade_pb2.Trade:
        """A new trade, as the call that made it answered. ``merges``: ids of the trades that it pays."""
        request = trade_service_pb2.CreateTradeRequest(
            request_id=_request_id(),
            trade_type=trade_pb2.TradeType.ValueType(trade_type),
            buyer_id=buyer_id,
            payee_id=payee_id,
            scene=scene,
            amount=money(amount_minor),
            pay_methods=pay_methods,
            parts=parts,
            merged_trade_ids=merges,
        )
        trade = (await self.trades.CreateTrade(request, timeout=CALL_TIMEOUT_S)).trade
        self.biz_ids.append(trade.biz_id)
        return trade

    async def pay(self, trade_id: str, *pay_methods: trade_pb2.PayMethod, is_partial: bool = False) -> trade_pb2.Trade:
        """Another try to pay a trade, or a part of it, as the call answered."""
        request = trade_service_pb2.PayTradeRequest(
            request_id=_request_id(), trade_id=trade_id, pay_methods=pay_methods, is_partial=is_partial
        )
        return (await self.trades.PayTrade(request, timeout=CALL_TIMEOUT_S)).trade

    async def refund(self, trade_id: str, amount_minor: int | None = None) -> trade_pb2.Trade:
        """A refund that has ended; of all that is left where no amount is given."""
        request = trade_service_pb2.RefundTradeRequest(request_id=_request_id(), trade_id=trade_id, reason="demo")
        if amount_minor is not None:
            request.amount.CopyFrom(money(amount_minor))
        response = await self.trades.RefundTrade(request, timeout=CALL_TIMEOUT_S)
        return await self.finished(response.refund.trade_id)

    async def capture(self, trade_id: str, amount_minor: int | None = None) -> trade_pb2.Trade:
        """Takes held money, all of it where no amount is given; the whole trade when that has ended."""
        request = trade_service_pb2.CaptureTradeRequest(request_id=_request_id(), trade_id=trade_id)
        if amount_minor is not None:
            request.amount.CopyFrom(money(amount_minor))
        await self.trades.CaptureTrade(request, timeout=CALL_TIMEOUT_S)
        return await self.finished(trade_id)

    async def void(self, trade_id: str) -> trade_pb2.Trade:
        """Lets held money go; the whole trade when that has ended."""
        request = trade_service_pb2.VoidTradeRequest(request_id=_request_id(), trade_id=trade_id, reason="demo")
        await self.trades.VoidTrade(request, timeout=CALL_TIMEOUT_S)
        return await self.finished(trade_id)

    async def close(self, trade_id: str) -> trade_pb2.Trade:
        """Closes an unpaid trade, as the call answered."""
        request = trade_service_pb2.CloseTradeRequest(request_id=_request_id(), trade_id=trade_id)
        return (await self.trades.CloseTrade(request, timeout=CALL_TIMEOUT_S)).trade

    async def reprice(self, trade_id: str, amount_minor: int) -> trade_pb2.Trade:
        """Changes what an unpaid trade costs, as the call answered."""
        request = trade_service_pb2.RepriceTradeRequest(
            request_id=_request_id(), trade_id=trade_id, amount=money(amount_minor), reason="demo"
        )
        return (await self.trades.RepriceTrade(request, timeout=CALL_TIMEOUT_S)).trade

    async def issue_coupon(self, owner_id: str, amount_minor: int, merchant_id: str = "") -> str:
        """A coupon that a merchant bears, or the platform where none is named; its id."""
        funder = ledger_service_pb2.COUPON_FUNDER_MERCHANT if merchant_id else ledger_service_pb2.COUPON_FUNDER_PLATFORM
        request = ledger_service_pb2.IssueCouponRequest(
            request_id=_request_id(),
            owner_id=owner_id,
            face_value=money(amount_minor),
            funder=funder,
            merchant_id=merchant_id,
            campaign="demo",
            expire_time=in_days(30),
        )
        with self._operation(owner_id):
            return (await self.benefits.IssueCoupon(request, timeout=CALL_TIMEOUT_S)).coupon.coupon_id

    async def grant_points(self, owner_id: str, point_count: int) -> None:
        """Points for a user, each worth a cent by the rules of the package."""
        request = ledger_service_pb2.GrantPointsRequest(
            request_id=_request_id(), owner_id=owner_id, point_count=point_count, reason="demo"
        )
        with self._operation(owner_id):
            await self.benefits.GrantPoints(request, timeout=CALL_TIMEOUT_S)

    def _operation(self, owner_id: str) -> AbstractContextManager[BusinessContext]:
        """A business operation of its own: what other services ask of pay_core is always a part of one."""
        return use(mint(slot_of(owner_id), time.time_ns() // 1_000_000))

    async def resolve(self, case_id: str, resolution: payment_pb2.CaseResolution.ValueType) -> payment_pb2.Case:
        """Decides a case, as a person does."""
        request = pay_service_pb2.ResolveCaseRequest(
            request_id=_request_id(), case_id=case_id, resolution=resolution, reason="demo"
        )
        return (await self.payments.ResolveCase(request, timeout=CALL_TIMEOUT_S)).case  # a keyword

    async def finished(self, trade_id: str) -> trade_pb2.Trade:
        """Follows a trade until no payment of it is under way; the whole trade then."""
        request = trade_service_pb2.WatchTradeRequest(trade_id=trade_id)
        try:
            async for update in self.trades.WatchTrade(request, timeout=FINISH_TIMEOUT_S):
                if update.trade.state not in _UNDER_WAY:
                    return await self.trade(trade_id)
        except MeshError as error:
            raise ScenarioFailed(f"trade {trade_id} cannot be followed: {error.code} {error.message}") from error
        raise ScenarioFailed(f"trade {trade_id} is still being paid after {FINISH_TIMEOUT_S:g} s")

    async def trade(self, trade_id: str) -> trade_pb2.Trade:
        """A trade with all its parts, as it is now."""
        request = trade_service_pb2.GetTradeRequest(trade_id=trade_id)
        return (await self.trades.GetTrade(request, timeout=CALL_TIMEOUT_S)).trade

    # What came of it

    async def payment_of(self, trade: trade_pb2.Trade) -> payment_pb2.Payment:
        """The payment of the attempt that paid a trade."""
        effective = [item for item in trade.attempts if item.state == trade_pb2.ATTEMPT_STATE_EFFECTIVE]
        self.require(len(effective) == 1, f"{trade.trade_id} was paid by {len(effective)} attempts")
        return await self.payment(effective[0].payment_id)

    async def payment(self, payment_id: str) -> payment_pb2.Payment:
        """A payment with its instructions."""
        request = pay_service_pb2.GetPaymentRequest(payment_id=payment_id)
        return (await self.payments.GetPayment(request, timeout=CALL_TIMEOUT_S)).payment

    async def order_tree(self, trade_id: str) -> trade_service_pb2.GetTradeTreeResponse:
        """The whole order that a trade belongs to."""
        request = trade_service_pb2.GetTradeTreeRequest(id=trade_id)
        return await self.trades.GetTradeTree(request, timeout=CALL_TIMEOUT_S)

    async def channel_orders_of(self, trade: trade_pb2.Trade) -> list[channel_order_pb2.ChannelOrder]:
        """What providers were asked to do for a trade that was paid."""
        return await self.channel_orders((await self.payment_of(trade)).payment_id)

    async def channel_orders(self, payment_id: str) -> list[channel_order_pb2.ChannelOrder]:
        """What providers were asked to do for a payment."""
        request = channel_service_pb2.ListChannelOrdersRequest(payment_id=payment_id)
        return list((await self.gateway.ListChannelOrders(request, timeout=CALL_TIMEOUT_S)).channel_orders)

    async def gateway_history(self, trade: trade_pb2.Trade, entity: str) -> list[tuple[str, str]]:
        """(command, state) of what channel_gateway did with records of an entity for a trade, oldest first."""
        request = ops_service_pb2.GetTimelineRequest(id=trade.biz_id)
        return commands((await self.operations.GetTimeline(request, timeout=CALL_TIMEOUT_S)).entries, entity)

    async def balance(self, owner_id: str, kind: int = USER) -> int:
        """An owner's balance in minor units; zero where there is no account yet."""
        request = ledger_service_pb2.ListAccountsRequest(owner_id=owner_id)
        accounts = (await self.ledger.ListAccounts(request, timeout=CALL_TIMEOUT_S)).accounts
        found = (a for a in accounts if a.kind == kind and a.balance.currency_code in (CURRENCY, POINTS_UNIT))
        return next((account.balance.amount_minor for account in found), 0)

    def require(self, holds: bool, otherwise: str) -> None:
        """ScenarioFailed saying ``otherwise``, unless it holds."""
        if not holds:
            raise ScenarioFailed(otherwise)


def _request_id() -> str:
    return f"demo-r{secrets.token_hex(8)}"  # all of digits by chance, it could be a card number
