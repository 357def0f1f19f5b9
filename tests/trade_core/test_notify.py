"""Watchers hear what they wait for, once, and are bounded."""

from __future__ import annotations

import asyncio

import pytest

from paykit.errors import ResourceExhausted
from tests.trade_core.support import a_trade_row
from trade_core.notify import Notifier
from trade_core.wire import TradeView


async def test_a_watcher_hears_of_a_later_version_even_before_it_waits() -> None:
    notifier, row = Notifier(10), a_trade_row(version=3)
    with notifier.watch(row.biz_id) as watcher:
        notifier.changed(TradeView(row))
        heard = await watcher.newer(row.id, 2, timeout_s=5)
    assert heard is not None
    assert (heard.trade_id, heard.version) == (row.id, 3)


async def test_a_watcher_is_woken_while_it_waits_and_not_by_old_news() -> None:
    notifier, old = Notifier(10), a_trade_row(version=2)
    other = a_trade_row(version=9, biz_id=old.biz_id)
    new = a_trade_row(id=old.id, biz_id=old.biz_id, version=3)
    with notifier.watch(old.biz_id) as watcher:
        waiting = asyncio.create_task(watcher.newer(old.id, 2, timeout_s=5))
        await asyncio.sleep(0)
        for row in (other, old, new, old):
            notifier.changed(TradeView(row))
        heard = await waiting
    assert heard is not None
    assert heard.version == 3


async def test_waiting_ends_where_nothing_is_heard() -> None:
    notifier, row = Notifier(10), a_trade_row()
    with notifier.watch(row.biz_id) as watcher:
        notifier.changed(TradeView(a_trade_row(version=5)))
        notifier.changed(None)
        assert await watcher.newer(row.id, 1, timeout_s=0.01) is None


async def test_watchers_are_bounded_and_forgotten() -> None:
    notifier, row = Notifier(2), a_trade_row()
    with (
        notifier.watch(row.biz_id),
        notifier.watch("other"),
        pytest.raises(ResourceExhausted),
        notifier.watch("third"),
    ):
        pass
    with notifier.watch(row.biz_id) as watcher, notifier.watch(row.biz_id) as second:
        notifier.changed(TradeView(row))
        assert await watcher.newer(row.id, 0, timeout_s=1) == await second.newer(row.id, 0, timeout_s=1) is not None
