"""The store of trade_core on each backend."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from paykit.clock import ManualClock
from paykit.settings import ExecutorSettings
from paykit.store.migrate import migrate
from paykit.store.store import Store
from tests.conftest import MakeShards
from tests.trade_core.support import NOW_MS, Bench


@pytest_asyncio.fixture
async def bench(make_shards: MakeShards) -> AsyncIterator[Bench]:
    """A migrated store of two shards, and its clock."""
    shards = make_shards(2, ("live",))
    await migrate("trade_core", shards, epoch=1)
    clock = ManualClock(NOW_MS)
    store = Store("trade_core", shards, 1, clock, ExecutorSettings())
    await store.start()
    try:
        yield Bench(store, clock)
    finally:
        await store.stop()
