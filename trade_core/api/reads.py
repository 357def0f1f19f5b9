"""The part of TradeService that changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

from paymesh.trade.v1 import trade_service_pb2 as pb
from trade_core import requests, wire
from trade_core.api.base import ServicerContext
from trade_core.api.orders import OrdersApi
from trade_core.trade import OVER

_OVER = frozenset(wire.TRADE_STATE[state.value] for state in OVER)


class ReadApi(OrdersApi):
    """What OrdersApi shows, and WatchTrade."""

    async def WatchTrade(
        self, request: pb.WatchTradeRequest, context: ServicerContext
    ) -> AsyncIterator[pb.WatchTradeResponse]:
        trade_id = requests.check_trade_id(request.trade_id)
        business = await self._business_of(trade_id)
        until_s = self._now_s() + self._patience_s(business, self._settings.watch_max_s)
        with self._notifier.watch(business.biz_id) as watcher:
            trade = wire.trade(await self._reads.with_attempts(trade_id, business.shadow))
            yield pb.WatchTradeResponse(trade=trade)
            while trade.state not in _OVER and (left_s := until_s - self._now_s()) > 0:
                later = await self._later(watcher, trade, min(left_s, self._settings.watch_reread_s), business.shadow)
                if later is not None:
                    trade = later
                    yield pb.WatchTradeResponse(trade=trade)
