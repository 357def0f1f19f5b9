"""Buses and stores for the tests of messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, insert
from sqlalchemy.ext.asyncio import create_async_engine

from meshctl.servers import NatsServer
from paykit.clock import SystemClock
from paykit.events.bus import Bus
from paykit.events.calls import DurableCall, Invoke
from paykit.events.relay import Relay
from paykit.settings import ExecutorSettings, RelaySettings, ShardSettings
from paykit.store import system
from paykit.store.store import Store
from paykit.store.system import ShardEpoch
from tests.conftest import MakeShards
from tests.paykit.events.backends import Backend, EmbeddedBackend, JetStreamBackend
from tests.paykit.events.relaying import SETTINGS, StartRelay
from tests.paykit.events.waits import metadata as wait_metadata

OpenStore = Callable[[], Awaitable[Store]]


@pytest.fixture
async def jetstream(own_nats_server: NatsServer) -> AsyncIterator[JetStreamBackend]:
    """JetStream on a server of the test's own."""
    backend = JetStreamBackend(own_nats_server)
    yield backend
    await backend.clean_up()


@pytest.fixture(params=["embedded", pytest.param("jetstream", marks=pytest.mark.nats)])
async def buses(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    """Runs the test once on each bus."""
    made: Backend
    if request.param == "embedded":
        made = EmbeddedBackend(tmp_path / "bus")
    else:
        made = JetStreamBackend(request.getfixturevalue("own_nats_server"))
    yield made
    await made.clean_up()


@pytest.fixture
async def embedded_bus(tmp_path: Path) -> AsyncIterator[Bus]:
    """A started embedded bus."""
    backend = EmbeddedBackend(tmp_path / "bus")
    yield await backend.open()
    await backend.clean_up()


async def _make_schema(url: str, identity: dict[str, Any], *metadata: MetaData) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        for part in metadata:
            await connection.run_sync(part.create_all)
        await connection.execute(insert(ShardEpoch.__table__), identity)
    await engine.dispose()


@pytest.fixture
async def open_store(make_shards: MakeShards) -> AsyncIterator[OpenStore]:
    """Opens a store over the same two shards each time, live and shadow: as the processes of a service do."""
    shards: dict[str, ShardSettings] = make_shards(2)
    for name, shard in shards.items():
        for mode, url in (("live", shard.live), ("shadow", shard.shadow)):
            assert url is not None
            identity = {"id": "epoch", "slot": 0, "version": 1, "epoch": 1, "service": "waiter", "shard": name}
            await _make_schema(url, {**identity, "mode": mode}, system.metadata, wait_metadata)
    opened: list[Store] = []

    async def open_() -> Store:
        store = Store("waiter", shards, 1, SystemClock(), ExecutorSettings())
        await store.start()
        opened.append(store)
        return store

    yield open_
    for store in opened:
        await store.stop()


@pytest.fixture
async def store(open_store: OpenStore) -> Store:
    """A store of two shards, live and shadow, with the tables of tests/paykit/events/waits.py."""
    return await open_store()


@pytest.fixture
async def start_relay(embedded_bus: Bus) -> AsyncIterator[StartRelay]:
    """Starts relays over the embedded bus; they stop with the test."""
    started: list[Relay] = []

    def start(store: Store, invoke: Invoke, *calls: DurableCall, settings: RelaySettings = SETTINGS) -> Relay:
        relay = Relay(store, embedded_bus, calls, invoke, SystemClock(), settings)
        relay.start()
        started.append(relay)
        return relay

    yield start
    for relay in started:
        await relay.stop(1.0)
