"""A running pay_core on each backend, called over gRPC as another service would call it; and its shards alone."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pay_core.app import build
from pay_core.settings import PayCoreSettings
from paykit import context as business_context
from paykit.clock import ManualClock, SystemClock
from paykit.context import BusinessContext
from paykit.events.bus import open_bus
from paykit.ids import slot_of
from paykit.rpc.channels import Channels
from paykit.service import Service
from paykit.settings import BusSettings, CommonSettings, ExecutorSettings, ShardSettings, TimerSettings
from paykit.store.store import Store
from paymesh.pay.v1 import ledger_service_pb2_grpc, pay_service_pb2_grpc
from tests.conftest import MakeShards
from tests.pay_core.ledger_desk import NOON_MS
from tests.schema import make_schema

Shards = Mapping[str, ShardSettings]
OpenStore = Callable[[], Awaitable[Store]]


class Running(NamedTuple):
    """The service, stubs that call it, and the bus between it and others."""

    service: Service
    pay: Any
    ledger: Any
    transit: Any
    benefit: Any


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def running(make_shards: MakeShards, tmp_path: Path) -> AsyncIterator[Running]:
    shards = make_shards(2, ("live",))
    await make_schema("pay_core", shards)
    address = f"127.0.0.1:{free_port()}"
    common = CommonSettings(
        bus=BusSettings(path=tmp_path / "bus"),
        addresses={"pay_core": address, "channel_gateway": f"127.0.0.1:{free_port()}"},
    )
    settings = PayCoreSettings(listen=address, shards=shards, timers=TimerSettings(interval_s=0.1), drain_grace_s=2)
    bus = open_bus(common.bus)
    await bus.start()
    service = build(settings, common, bus, SystemClock())
    await service.start()
    channels = Channels(common.addresses)
    channel = channels.get("pay_core")
    try:
        yield Running(
            service,
            pay_service_pb2_grpc.PayServiceStub(channel),
            ledger_service_pb2_grpc.LedgerServiceStub(channel),
            ledger_service_pb2_grpc.TransitServiceStub(channel),
            ledger_service_pb2_grpc.BenefitServiceStub(channel),
        )
    finally:
        await channels.close()
        await service.stop()
        await bus.stop()


@pytest.fixture
async def context() -> AsyncIterator[BusinessContext]:
    """The context of a business that another service began; the calls of the test are made under it."""
    with business_context.use(business_context.mint(slot_of("ann"), SystemClock().now_ms())) as minted:
        yield minted


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON_MS)


@pytest.fixture
async def shards(make_shards: MakeShards) -> Shards:
    made = make_shards(2, ("live",))
    await make_schema("pay_core", made)
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
