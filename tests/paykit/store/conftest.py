"""A store of the purse service, on each backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol

import pytest

from paykit.clock import SystemClock
from paykit.settings import ExecutorSettings, ShardSettings
from paykit.store import migrate
from paykit.store.engines import ShardEngines
from paykit.store.store import Store
from tests.conftest import MakeShards
from tests.paykit.store.purse import metadata

Shards = Mapping[str, ShardSettings]


class OpenStore(Protocol):
    """Opens another store, as another process would, on the same shards."""

    def __call__(self, settings: ExecutorSettings | None = None, *, epoch: int = 1) -> Awaitable[Store]: ...


async def prepare(shards: Shards) -> None:
    """The schema of the purse service on every shard."""
    for name, shard in shards.items():
        for mode, url in (("live", shard.live), ("shadow", shard.shadow)):
            if url is None:
                continue
            engines = ShardEngines(url, ExecutorSettings())
            async with engines.writer.connect() as connection:
                await connection.run_sync(migrate.upgrade, "paykit.store")
                await connection.run_sync(metadata.create_all)
                await connection.run_sync(migrate.set_epoch, "purse", name, mode, 1)
                await connection.commit()
            await engines.dispose()


@pytest.fixture
async def shards(make_shards: MakeShards) -> Shards:
    made = make_shards(2, ("live", "shadow"))
    await prepare(made)
    return made


@pytest.fixture
async def open_store(shards: Shards) -> AsyncIterator[OpenStore]:
    stores: list[Store] = []

    async def open_one(settings: ExecutorSettings | None = None, *, epoch: int = 1) -> Store:
        store = Store("purse", shards, epoch, SystemClock(), settings or ExecutorSettings())
        await store.start()
        stores.append(store)
        return store

    yield open_one
    for store in stores:
        await store.stop()


@pytest.fixture
async def store(open_store: Callable[..., Awaitable[Store]]) -> Store:
    return await open_store()
