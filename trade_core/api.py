"""TradeService: requests in, commands run, trades out. Fields are checked in ``requests``; nothing is decided here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import msgspec

from paykit.clock import Clock
from paykit.context import BusinessContext, current
from paykit.rpc.batching import serve_batch
from paykit.rpc.checks import Fields, encode_page_token
from paykit.store.command import Command, Origin
from paykit.store.store import Store
from paymesh.trade.v1 import trade_pb2, trade_service_pb2_grpc
from paymesh.trade.v1 import trade_service_pb2 as pb
from trade_core import requests, wire
from trade_core.commands import CloseTrade, CreateTrade, PayTrade, Policy, RefundTrade
from trade_core.notify import Notifier, Watcher
from trade_core.reads import TradeReads
from trade_core.settings import TradeCoreSettings
from trade_core.trade import TRADE, PayMethod
from trade_core.types import Tool
from trade_core.wire import TradeView

ServicerContext = grpc.aio.ServicerContext[Any, Any]

_FIRST_REREAD_S = 0.1  # another process may have taken the result; and a replayed call has missed the news
_TERMINAL = frozenset(wire.TRADE_STATE[state.value] for state in TRADE.terminal)


class TradeApi(trade_service_pb2_grpc.TradeServiceServicer):
    """The servicer of TradeService."""

    def __init__(
        self, store: Store, policy: Policy, notifier: Notifier, settings: TradeCoreSettings, clock: Clock
    ) -> None:
        self._store = store
        self._policy = policy
        self._notifier = notifier
        self._settings = settings
        self._clock = clock
        self._reads = TradeReads(store)

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
        command = PayTrade(origin, self._policy, request.trade_id, pay_methods)
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
        requests.check_close(request)
        business = await self._business_of(request.trade_id)
        origin = Origin.rpc(business, "CloseTrade", request.trade_id, request.request_id, request)
        view = await self._run(business, CloseTrade(origin, request.trade_id, request.reason))
        return pb.CloseTradeResponse(trade=wire.trade(view))

    async def GetTrade(self, request: pb.GetTradeRequest, context: ServicerContext) -> pb.GetTradeResponse:
        trade_id = requests.check_trade_id(request.trade_id)
        return pb.GetTradeResponse(trade=wire.trade(await self._reads.whole(trade_id, current().shadow)))

    async def ListTrades(self, request: pb.ListTradesRequest, context: ServicerContext) -> pb.ListTradesResponse:
        fields = Fields()
        buyer_id = fields.name("buyer_id", request.buyer_id)
        page_size = fields.page_size(request.page_size)
        scope = f"trades/{buyer_id}"
        before_id = fields.page_token(request.page_token, scope, str)
        fields.raise_if_any()
        rows = await self._reads.page(buyer_id, before_id, page_size + 1, current().shadow)
        page = rows[:page_size]
        token = encode_page_token(scope, page[-1].id) if len(rows) > page_size else ""
        return pb.ListTradesResponse(trades=[wire.trade(TradeView(row)) for row in page], next_page_token=token)

    async def WatchTrade(
        self, request: pb.WatchTradeRequest, context: ServicerContext
    ) -> AsyncIterator[pb.WatchTradeResponse]:
        trade_id = requests.check_trade_id(request.trade_id)
        business = await self._business_of(trade_id)
        until_s = self._now_s() + self._patience_s(business, self._settings.watch_max_s)
        with self._notifier.watch(business.biz_id) as watcher:
            trade = wire.trade(await self._reads.with_attempts(trade_id, business.shadow))
            yield pb.WatchTradeResponse(trade=trade)
            while trade.state not in _TERMINAL and (left_s := until_s - self._now_s()) > 0:
                later = await self._later(watcher, trade, min(left_s, self._settings.watch_reread_s), business.shadow)
                if later is not None:
                    trade = later
                    yield pb.WatchTradeResponse(trade=trade)

    async def _business_of(self, trade_id: str) -> BusinessContext:
        """The call's context, as part of the order the trade belongs to: an order keeps one business id for life."""
        context = current()
        biz_id, biz_code = await self._reads.home(context, trade_id)
        return msgspec.structs.replace(context, biz_id=biz_id, biz_code=biz_code)

    async def _run(self, business: BusinessContext, command: Command[TradeView]) -> TradeView:
        view = await self._store.run(command)
        self._reads.remember(view.trade, business.shadow)
        self._notifier.changed(view)
        return view

    async def _run_payment(
        self, business: BusinessContext, command: Command[TradeView], methods: Sequence[PayMethod]
    ) -> trade_pb2.Trade:
        """Runs a command that may begin a payment; one by balance alone is over so soon that its end is waited for."""
        wait_s = self._patience_s(business, self._settings.result_wait_max_s)
        if wait_s <= 0 or not methods or any(method.tool is not Tool.BALANCE for method in methods):
            return wire.trade(await self._run(business, command))
        # Watching begins before the commit: the result may come before run returns.
        with self._notifier.watch(business.biz_id) as watcher:
            trade = wire.trade(await self._run(business, command))
            until_s = self._now_s() + min(wait_s, self._patience_s(business, wait_s))
            reread_s = _FIRST_REREAD_S
            while trade.state == trade_pb2.TRADE_STATE_PAYING and (left_s := until_s - self._now_s()) > 0:
                trade = await self._later(watcher, trade, min(left_s, reread_s), business.shadow) or trade
                reread_s *= 2
        return trade

    async def _later(
        self, watcher: Watcher, trade: trade_pb2.Trade, timeout_s: float, shadow: bool
    ) -> trade_pb2.Trade | None:
        """The trade in a later version, heard of within ``timeout_s`` or read after it; None where there is none."""
        later = await watcher.newer(trade.trade_id, trade.version, timeout_s)
        if later is None:
            row = await self._reads.trade(trade.trade_id, shadow)
            if row.version <= trade.version:
                return None
            later = wire.trade(TradeView(row, attempts=await self._reads.attempts(row.id, shadow)))
        return wire.with_later(trade, later)

    def _patience_s(self, business: BusinessContext, limit_s: float) -> float:
        """How long this call may go on: what is left of its deadline but for a margin, and never beyond ``limit_s``."""
        if business.deadline_ms is None:
            return limit_s
        left_s = (business.deadline_ms - self._clock.now_ms()) / 1000
        return min(limit_s, left_s - self._settings.deadline_margin_s)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()
