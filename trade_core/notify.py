"""Tells calls that wait in this process that a trade changed. A convenience: who waits also reads the row at times."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from paykit.errors import ResourceExhausted
from paykit.store.system import Outbox
from paymesh.event.v1.events_pb2 import TradeEvent
from paymesh.trade.v1.trade_pb2 import Trade
from trade_core import wire
from trade_core.steps import SUBJECTS
from trade_core.wire import TradeView


class Watcher:
    """The latest that was heard of each trade of one business order."""

    def __init__(self) -> None:
        self._latest: dict[str, Trade] = {}
        self._heard = asyncio.Event()

    def offer(self, trade: Trade) -> None:
        """Takes a change; an older one than is known is passed over."""
        known = self._latest.get(trade.trade_id)
        if known is None or known.version < trade.version:
            self._latest[trade.trade_id] = trade
            self._heard.set()

    async def newer(self, trade_id: str, version: int, timeout_s: float) -> Trade | None:
        """The trade once it is of a later version than ``version``; None where nothing is heard in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    self._heard.clear()
                    found = self._latest.get(trade_id)
                    if found is not None and found.version > version:
                        return found
                    await self._heard.wait()
        return None


class Notifier:
    """Who in this process waits for changes, by business id."""

    def __init__(self, max_watchers: int) -> None:
        self._max_watchers = max_watchers
        self._count = 0
        self._watchers: dict[str, set[Watcher]] = {}

    @contextlib.contextmanager
    def watch(self, biz_id: str) -> Iterator[Watcher]:
        """A watcher of one business order, from before the change that is waited for until it came."""
        if self._count >= self._max_watchers:
            raise ResourceExhausted("too many calls are waiting for a trade", retry_after_ms=1000)
        watcher = Watcher()
        self._count += 1
        self._watchers.setdefault(biz_id, set()).add(watcher)
        try:
            yield watcher
        finally:
            self._count -= 1
            watchers = self._watchers[biz_id]
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[biz_id]

    def committed(self, mode: str, shard: str, rows: list[Outbox]) -> None:
        """Hears of what the store committed (see paykit.store.store.Store.subscribe)."""
        if not self._watchers:
            return
        for row in rows:
            if row.destination in SUBJECTS and row.biz_id in self._watchers:
                self._offer(row.biz_id, TradeEvent.FromString(row.body).trade)

    def changed(self, view: TradeView | None) -> None:
        """Hears of what a command made of a trade; None where it had been carried out before."""
        if view is not None and view.trade.biz_id in self._watchers:
            self._offer(view.trade.biz_id, wire.trade(view))

    def _offer(self, biz_id: str, trade: Trade) -> None:
        for watcher in self._watchers[biz_id]:
            watcher.offer(trade)
