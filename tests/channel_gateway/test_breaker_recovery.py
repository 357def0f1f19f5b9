"""A provider that goes away and comes back: few calls go to it meanwhile, and no order is lost or failed."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import REGISTRY

from paykit.settings import ShardSettings
from paymesh.channel.v1 import channel_state_service_pb2 as pb
from paymesh.channel.v1 import channel_state_service_pb2_grpc
from tests.channel_gateway.gateway import WAIT_S, Gateway
from tests.channel_gateway.provider import CHANNEL

ORDERS = 12
BREAKER = {"window_calls": 10, "calls_min": 4, "open_s": 0.5, "open_max_s": 1, "probes_max": 1, "probes_good": 2}
CLOSED, OPEN = pb.BREAKER_STATE_CLOSED, pb.BREAKER_STATE_OPEN


def unsent() -> float:
    """How many calls did not reach the provider, in this process."""
    labels = {"mode": "live", "channel": CHANNEL, "operation": "CHARGE", "status": "NOT_SENT"}
    return REGISTRY.get_sample_value("paymesh_channel_calls_total", labels) or 0


async def until(stub: Any, state: int) -> Any:
    """The state of the channel once its breaker is in ``state``."""
    for _ in range(400):  # nothing announces it
        (found,) = (await stub.ListChannelStates(pb.ListChannelStatesRequest(page_size=1), timeout=WAIT_S)).states
        if found.breaker_state == state:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"the breaker never came to {state}")


async def test_a_provider_that_is_gone_is_left_alone_and_gets_every_order_once_it_is_back(tmp_path: Path) -> None:
    shard = ShardSettings(live=f"sqlite+aiosqlite:///{tmp_path}/live.db")
    gateway = await Gateway(tmp_path, {"s0": shard}, shadow=None, limits={"breaker": BREAKER}).start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.service.port}") as channel:
            stub: Any = channel_state_service_pb2_grpc.ChannelStateServiceStub(channel)
            before, began_s = unsent(), time.monotonic()
            await gateway.process.end(signal.SIGKILL)
            orders = [await gateway.submit(gateway.request("CHARGE", "tok_ok")) for _ in range(ORDERS)]
            state = await until(stub, OPEN)
            assert state.breaker_retry_time.ToNanoseconds() > state.breaker_since_time.ToNanoseconds()
            assert time.time() - state.breaker_since_time.ToNanoseconds() / 1e9 < 30
            assert state.success_ppm < 500_000
            await gateway.process.start()
            for order in orders:
                await gateway.event(order.channel_order_id, "live.channel.order_succeeded")
            assert (await until(stub, CLOSED)).queued_count == 0
            assert sorted(await gateway.book()) == sorted(order.channel_order_id for order in orders)
            # Those that were under way when it opened, and one probe a pause; without a breaker all go again and again.
            pauses = (time.monotonic() - began_s) / BREAKER["open_s"]
            assert unsent() - before <= ORDERS + pauses + 1
    finally:
        await gateway.stop()
