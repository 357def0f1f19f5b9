"""The part of TradeService that changes trades."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from paykit.context import BusinessContext, current
from paykit.rpc.batching import serve_batch
from paykit.store.command import Command, Origin
from paymesh.trade.v1 import trade_pb2
from paymesh.trade.v1 import trade_service_pb2 as pb
from trade_core import requests, wire
from trade_core.api.base import ServicerContext
from trade_core.api.reads import ReadApi
from trade_core.commands import CloseTrade, CreateTrade, PayTrade, RepriceTrade
from trade_core.holds import CaptureTrade, VoidTrade
from trade_core.refunds import RefundTrade
from trade_core.trade import PayMethod
from trade_core.types import OUTSIDE_TOOLS
from trade_core.wire import TradeView


class TradeApi(ReadApi):
    """The servicer of TradeService."""

    async def CreateTrade(self, request: pb.CreateTradeRequest, context: ServicerContext) -> pb.CreateTradeResponse:
        new = requests.new_trade(request, self._policy.catalogue)
        business = current()
        if not business.biz_code:
            code = f"{new.payee_id}/{new.trade_type}/{new.scene}/"
            business = msgspec.structs.replace(business, biz_code=code[:128])
        origin = Origin.rpc(business, "CreateTrade", new.buyer_id, request.request_id, request)
        command = CreateTrade(origin, self._policy, new)
        return pb.CreateTradeResponse(trade=await self._run_payment(business, command, new.pay_methods))

    async def BatchCreateTrades(
        self, request: pb.BatchCreateTradesRequest, context: ServicerContext
    ) -> pb.BatchCreateTradesResponse:
        return await serve_batch(request, context, self.CreateTrade, pb.BatchCreateTradesResponse)

    async def PayTrade(self, request: pb.PayTradeRequest, context: ServicerContext) -> pb.PayTradeResponse:
        pay_methods = requests.payment(request)
        business = await self._business_of(request.trade_id)
        origin = Origin.rpc(business, "PayTrade", request.trade_id, request.request_id, request)
        command = PayTrade(origin, self._policy, request.trade_id, pay_methods, request.is_partial)
        if request.is_partial and not _has_outside(pay_methods):
            return pb.PayTradeResponse(trade=await self._run_part_and_wait(business, command))
        return pb.PayTradeResponse(trade=await self._run_payment(business, command, pay_methods))

    async def BatchPayTrades(
        self, request: pb.BatchPayTradesRequest, context: ServicerContext
    ) -> pb.BatchPayTradesResponse:
        return await serve_batch(request, context, self.PayTrade, pb.BatchPayTradesResponse)

    async def RefundTrade(self, request: pb.RefundTradeRequest, context: ServicerContext) -> pb.RefundTradeResponse:
        amount_minor = requests.check_refund(request)
        business = await self._business_of(request.trade_id)
        origin = Origin.rpc(business, "RefundTrade", request.trade_id, request.request_id, request)
        currency = request.amount.currency_code
        command = RefundTrade(origin, self._policy, request.trade_id, currency, amount_minor, request.reason)
        return pb.RefundTradeResponse(refund=wire.trade(await self._run(business, command)))

    async def BatchRefundTrades(
        self, request: pb.BatchRefundTradesRequest, context: ServicerContext
    ) -> pb.BatchRefundTradesResponse:
        return await serve_batch(request, context, self.RefundTrade, pb.BatchRefundTradesResponse)

    async def CloseTrade(self, request: pb.CloseTradeRequest, context: ServicerContext) -> pb.CloseTradeResponse:
        requests.check_ending(request)
        business = await self._business_of(request.trade_id)
        origin = Origin.rpc(business, "CloseTrade", request.trade_id, request.request_id, request)
        view = await self._run(business, CloseTrade(origin, self._policy, request.trade_id, request.reason))
        return pb.CloseTradeResponse(trade=wire.trade(view))

    async def RepriceTrade(self, request: pb.RepriceTradeRequest, context: ServicerContext) -> pb.RepriceTradeResponse:
        amount = requests.check_reprice(request)
        business = await self._business_of(request.trade_id)
        origin = Origin.rpc(business, "RepriceTrade", request.trade_id, request.request_id, request)
        command = RepriceTrade(
            origin, self._policy, request.trade_id, amount.currency_code, amount.amount_minor, request.reason
        )
        return pb.RepriceTradeResponse(trade=wire.trade(await self._run(business, command)))

    async def CaptureTrade(self, request: pb.CaptureTradeRequest, context: ServicerContext) -> pb.CaptureTradeResponse:
        amount_minor = requests.check_capture(request)
        business = await self._business_of(request.trade_id)
        origin = Origin.rpc(business, "CaptureTrade", request.trade_id, request.request_id, request)
        currency, keep_rest = request.amount.currency_code, request.keep_rest
        command = CaptureTrade(origin, self._policy, request.trade_id, currency, amount_minor, keep_rest)
        return pb.CaptureTradeResponse(trade=wire.trade(await self._run(business, command)))

    async def BatchCaptureTrades(
        self, request: pb.BatchCaptureTradesRequest, context: ServicerContext
    ) -> pb.BatchCaptureTradesResponse:
        return await serve_batch(request, context, self.CaptureTrade, pb.BatchCaptureTradesResponse)

    async def VoidTrade(self, request: pb.VoidTradeRequest, context: ServicerContext) -> pb.VoidTradeResponse:
        requests.check_ending(request)
        business = await self._business_of(request.trade_id)
        origin = Origin.rpc(business, "VoidTrade", request.trade_id, request.request_id, request)
        command = VoidTrade(origin, self._policy, request.trade_id, request.reason)
        return pb.VoidTradeResponse(trade=wire.trade(await self._run(business, command)))

    async def BatchVoidTrades(
        self, request: pb.BatchVoidTradesRequest, context: ServicerContext
    ) -> pb.BatchVoidTradesResponse:
        return await serve_batch(request, context, self.VoidTrade, pb.BatchVoidTradesResponse)

    async def _run_payment(
        self, business: BusinessContext, command: Command[TradeView], methods: Sequence[PayMethod]
    ) -> trade_pb2.Trade:
        """Runs a command that may begin a payment; one without tools outside is over so soon that it is waited for."""
        if not methods or _has_outside(methods):
            return wire.trade(await self._run(business, command))
        return await self._run_and_wait(business, command, trade_pb2.TRADE_STATE_PAYING)


def _has_outside(methods: Sequence[PayMethod]) -> bool:
    return any(method.tool in OUTSIDE_TOOLS for method in methods)
