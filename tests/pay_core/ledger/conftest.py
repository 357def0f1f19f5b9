"""The ledger on real shards, with a clock that the test moves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import pytest

from paykit.clock import ManualClock
from paykit.settings import ExecutorSettings, ShardSettings
from paykit.store.migrate import migrate
from paykit.store.store import Store
from tests.conftest import MakeShards
from tests.pay_core.ledger.desk import NOON_MS

Shards = Mapping[str, ShardSettings]
OpenStore = Callable[[], Awaitable[Store]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON_MS)


@pytest.fixture
async def shards(make_shards: MakeShards) -> Shards:
    made = make_shards(2, ("live",))
    await migrate("pay_core", made, 1)
    return made


@pytest.fixture
async def open_store(shards: Shards, clock: ManualClock) -> AsyncIterator[OpenStore]:
    """Opens another store, as another process would, on the same shards."""
    stores: list[Store] = []

    async def open_one() -> Store:
        # Two stores take turns on one hot row: neither must be given up for waiting.
        store = Store("pay_core", shards, 1, clock, ExecutorSettings(max_wait_s=60, max_retries=50))
        await store.start()
        stores.append(store)
        return store

    yield open_one
    for store in stores:
        await store.stop()


@pytest.fixture
async def store(open_store: OpenStore) -> Store:
    return await open_store()
