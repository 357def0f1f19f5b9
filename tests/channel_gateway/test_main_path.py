"""Whatever a provider does, Submit answers at once: nothing but a lane's own calls ever waits for one."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from paykit.context import mint, to_metadata
from paykit.rpc.errors import from_rpc_error
from paykit.settings import ShardSettings
from paymesh.channel.v1 import channel_order_pb2, channel_service_pb2, channel_state_service_pb2_grpc
from paymesh.channel.v1 import channel_state_service_pb2 as pb
from tests.channel_gateway.gateway import SLOT, WAIT_S, Gateway
from tests.channel_gateway.provider import CHANNEL, WALLET, free_port

IN_FLIGHT, QUEUE = 4, 40
TIMEOUT_S = 8.0  # a call to such a provider takes that long
ACCEPTED = channel_order_pb2.CHANNEL_ORDER_STATE_ACCEPTED
LIMITS: dict[str, Any] = {
    "max_in_flight": IN_FLIGHT,
    "max_queue": QUEUE,
    "timeout_s": TIMEOUT_S,
    "connect_timeout_s": TIMEOUT_S,
}


class Silence:
    """A provider that takes connections and requests, and never says a word."""

    def __init__(self) -> None:
        self._writers: list[asyncio.StreamWriter] = []
        self.requests = 0

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        while await reader.read(65_536):
            self.requests += 1

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()


class ClosedDoor:
    """A provider whose machine answers no connection: its backlog is full, and nobody takes any from it."""

    async def start(self) -> str:
        port = free_port()
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen(0)
        self._waiting: list[socket.socket] = []
        for _ in range(64):
            knocking = socket.socket()
            knocking.settimeout(0.05)
            try:
                knocking.connect(("127.0.0.1", port))
            except TimeoutError:
                knocking.close()
                return f"http://127.0.0.1:{port}"
            self._waiting.append(knocking)
        raise AssertionError("the backlog is never full")

    async def stop(self) -> None:
        for knocking in (*self._waiting, self._listener):
            knocking.close()


@pytest.fixture
async def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Gateway]:
    """To a silent provider, or to the one the test names. On SQLite: what a provider does is the same to any store."""
    make: Callable[[], Silence | ClosedDoor] = getattr(request, "param", Silence)
    provider = make()
    shard = ShardSettings(live=f"sqlite+aiosqlite:///{tmp_path}/live.db")
    url = await provider.start()
    gateway = await Gateway(tmp_path, {"s0": shard}, base_url=url, shadow=None, **LIMITS).start()
    yield gateway
    await provider.stop()
    await gateway.stop()


async def state_of(gateway: Gateway, channel: str) -> Any:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.service.port}") as connection:
        stub: Any = channel_state_service_pb2_grpc.ChannelStateServiceStub(connection)
        return (await stub.ListChannelStates(pb.ListChannelStatesRequest(channel=channel), timeout=WAIT_S)).states[0]


@pytest.mark.parametrize("gateway", [Silence, ClosedDoor], indirect=True)
async def test_submit_answers_at_once_though_every_call_to_the_provider_hangs(gateway: Gateway) -> None:
    took_s: list[float] = []
    refused = 0

    async def submit(number: int) -> None:
        nonlocal refused
        metadata = [
            *to_metadata(mint(SLOT, int(time.time() * 1000))),
            ("x-biz-code", f"shop{number % 5}/PURCHASE/checkout/card"),
        ]
        began_s = time.monotonic()
        try:
            answer = await gateway.stub.SubmitChannelOrder(
                gateway.request("CHARGE", "tok_ok"), metadata=metadata, timeout=WAIT_S
            )
        except grpc.aio.AioRpcError as error:
            mesh = from_rpc_error(error)
            assert (mesh.code, mesh.reason) == ("RESOURCE_EXHAUSTED", "CHANNEL_BUSY")
            assert mesh.retry_after_ms
            refused += 1
        else:
            assert answer.channel_order.state == ACCEPTED
        took_s.append(time.monotonic() - began_s)

    for number in range(IN_FLIGHT + QUEUE + 10):
        await submit(number)
    assert refused == 10, "all that fit were taken, and no more"
    assert max(took_s) < TIMEOUT_S / 2
    assert statistics.median(took_s) < 0.1
    state = await state_of(gateway, CHANNEL)
    assert (state.in_flight_count, state.queued_count) == (IN_FLIGHT, QUEUE)


async def test_another_channel_goes_on_at_full_speed(gateway: Gateway) -> None:
    for number in range(IN_FLIGHT + QUEUE):
        metadata = [
            *to_metadata(mint(SLOT, int(time.time() * 1000))),
            ("x-biz-code", f"shop{number % 5}/PURCHASE/checkout/card"),
        ]
        await gateway.stub.SubmitChannelOrder(gateway.request("CHARGE", "tok_ok"), metadata=metadata, timeout=WAIT_S)
    began_s = time.monotonic()
    orders = [await gateway.submit(gateway.request("CHARGE", "tok_ok", channel=WALLET)) for _ in range(5)]
    for order in orders:
        await gateway.event(order.channel_order_id, "live.channel.order_succeeded")
    assert time.monotonic() - began_s < TIMEOUT_S / 2, "nothing of it waited for the other provider"
    assert (await state_of(gateway, CHANNEL)).in_flight_count == IN_FLIGHT


async def test_a_full_batch_is_refused_item_by_item(gateway: Gateway) -> None:
    items = [
        channel_service_pb2.SubmitChannelOrderItem(request=gateway.request("CHARGE", "tok_ok"))
        for _ in range(QUEUE + IN_FLIGHT)
    ]
    answer = await gateway.stub.BatchSubmitChannelOrders(
        channel_service_pb2.BatchSubmitChannelOrdersRequest(items=items),
        metadata=to_metadata(mint(SLOT, int(time.time() * 1000))),
        timeout=WAIT_S,
    )
    share = QUEUE * 3 // 4  # of a merchant, here the one that names none
    codes = [result.status.code for result in answer.results]
    assert set(codes) == {0, grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]}
    assert share <= codes.count(0) <= share + IN_FLIGHT
