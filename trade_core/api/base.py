"""What the parts of TradeService share: the order a call belongs to, running its command, waiting for a result."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import msgspec

from paykit.clock import Clock
from paykit.context import BusinessContext, current
from paykit.store.command import Command
from paykit.store.store import Store
from paymesh.trade.v1 import trade_pb2, trade_service_pb2_grpc
from trade_core import wire
from trade_core.notify import Notifier, Watcher
from trade_core.reads import TradeReads
from trade_core.settings import TradeCoreSettings
from trade_core.steps import Policy
from trade_core.tree import TradeTree
from trade_core.wire import TradeView

ServicerContext = grpc.aio.ServicerContext[Any, Any]

_FIRST_REREAD_S = 0.1  # another process may have taken the result; and a replayed call has missed the news


class TradeApiBase(trade_service_pb2_grpc.TradeServiceServicer):
    """The store, what is heard of trades, and how long a call may wait."""

    def __init__(
        self,
        store: Store,
        policy: Policy,
        notifier: Notifier,
        settings: TradeCoreSettings,
        clock: Clock,
        tree: TradeTree,
    ) -> None:
        self._store = store
        self._policy = policy
        self._notifier = notifier
        self._settings = settings
        self._clock = clock
        self._reads = TradeReads(store)
        self._tree = tree

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

    async def _run_and_wait(
        self, business: BusinessContext, command: Command[TradeView], while_state: int
    ) -> trade_pb2.Trade:
        """Runs a command whose result comes at once, and waits for it: as long as the trade is in ``while_state``."""
        wait_s = self._patience_s(business, self._settings.result_wait_max_s)
        if wait_s <= 0:
            return wire.trade(await self._run(business, command))
        # Watching begins before the commit: the result may come before run returns.
        with self._notifier.watch(business.biz_id) as watcher:
            trade = wire.trade(await self._run(business, command))
            return await self._while(watcher, trade, while_state, business, wait_s)

    async def _run_part_and_wait(self, business: BusinessContext, command: Command[TradeView]) -> trade_pb2.Trade:
        """Runs a command that begins to pay a part, and waits for that; the whole as it is then."""
        wait_s = self._patience_s(business, self._settings.result_wait_max_s)
        if wait_s <= 0:
            return wire.trade(await self._run(business, command))
        with self._notifier.watch(business.biz_id) as watcher:
            view = await self._run(business, command)
            (relation,) = view.relations
            part = wire.trade(TradeView(await self._reads.trade(relation.child_trade_id, business.shadow)))
            await self._while(watcher, part, trade_pb2.TRADE_STATE_PAYING, business, wait_s)
        whole = await self._reads.trade(view.trade.id, business.shadow)
        return wire.with_later(wire.trade(view), wire.trade(TradeView(whole)))

    async def _while(
        self, watcher: Watcher, trade: trade_pb2.Trade, state: int, business: BusinessContext, wait_s: float
    ) -> trade_pb2.Trade:
        """The trade once it has left ``state``, or when there is no more time."""
        until_s = self._now_s() + min(wait_s, self._patience_s(business, wait_s))
        reread_s = _FIRST_REREAD_S
        while trade.state == state and (left_s := until_s - self._now_s()) > 0:
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
