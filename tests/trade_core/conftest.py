"""The store of trade_core, and the whole service, on each backend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from paykit.clock import ManualClock, SystemClock
from paykit.events.embedded import EmbeddedBus
from paykit.rpc.channels import Channels
from paykit.rpc.server import Server
from paykit.settings import CommonSettings, ExecutorSettings, TimerSettings
from paykit.store.store import Store
from paymesh.pay.v1.pay_service_pb2_grpc import add_PayServiceServicer_to_server
from paymesh.trade.v1.trade_service_pb2_grpc import TradeServiceStub
from tests.conftest import MakeShards
from tests.schema import make_schema
from tests.trade_core.running import Running
from tests.trade_core.scripted_pay import ScriptedPay
from tests.trade_core.support import NOW_MS, Bench
from trade_core.app import build
from trade_core.settings import TradeCoreSettings


@pytest_asyncio.fixture
async def bench(make_shards: MakeShards) -> AsyncIterator[Bench]:
    """A migrated store of two shards, and its clock."""
    shards = make_shards(2, ("live",))
    await make_schema("trade_core", shards)
    clock = ManualClock(NOW_MS)
    store = Store("trade_core", shards, 1, clock, ExecutorSettings())
    await store.start()
    try:
        yield Bench(store, clock)
    finally:
        await store.stop()


@pytest.fixture
def ask_after_s() -> float:
    """When pay_core is asked about a silent payment: never, in tests that are not about asking."""
    return 3600.0


@pytest_asyncio.fixture
async def running(make_shards: MakeShards, tmp_path: Path, ask_after_s: float) -> AsyncIterator[Running]:
    """trade_core as it runs, with a scripted pay_core at the other end and the embedded bus between."""
    shards = make_shards(2)
    await make_schema("trade_core", shards)
    pay = ScriptedPay()  # type: ignore[abstract]  # nobody here lists payments
    pay_server = Server("127.0.0.1:0")
    pay_server.add(add_PayServiceServicer_to_server, pay)
    pay_port = await pay_server.start()
    bus = EmbeddedBus(tmp_path / "bus")
    await bus.start()
    settings = TradeCoreSettings(
        listen="127.0.0.1:0",
        shards=shards,
        ask_after_s=ask_after_s,
        deadline_margin_s=1.0,  # a database under load may take a good part of it to read what is answered
        timers=TimerSettings(interval_s=0.05),
        drain_grace_s=2.0,
    )
    common = CommonSettings(addresses={"pay_core": f"127.0.0.1:{pay_port}"})
    service = build(settings, common, bus, SystemClock())
    await service.start()
    channels = Channels({"trade_core": f"127.0.0.1:{service.port}"})
    try:
        stub = TradeServiceStub(channels.get("trade_core"))
        yield Running(service, stub, pay, bus, Bench(service.store, ManualClock()))
    finally:
        await channels.close(grace_s=1)
        await bus.stop()
        await service.stop()
        await pay_server.stop(grace_s=1)
