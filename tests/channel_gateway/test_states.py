"""ChannelStateService on a running gateway: force a channel, see it, lift it, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import select

from channel_gateway import app
from channel_gateway.settings import ChannelGatewaySettings
from paykit.clock import SystemClock
from paykit.context import mint, to_metadata
from paykit.events.embedded import EmbeddedBus
from paykit.rpc.credentials import channel_credentials
from paykit.rpc.errors import from_rpc_error
from paykit.settings import CommonSettings, ShardSettings
from paykit.store.system import CommandRecord
from paymesh.channel.v1 import channel_state_service_pb2 as pb
from paymesh.channel.v1 import channel_state_service_pb2_grpc
from tests.channel_gateway.gateway import SLOT, WAIT_S, Gateway, channel_settings
from tests.channel_gateway.provider import CHANNEL, WALLET
from tests.paykit.rpc.certificates import LOOPBACK, Authority
from tests.schema import make_schema

SUCCEEDED = "live.channel.order_succeeded"
OPEN, CLOSED, NONE = 1, 2, 3


class States:
    """The service's stub, and what tests ask it."""

    def __init__(self, gateway: Gateway) -> None:
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{gateway.service.port}")
        self.stub: Any = channel_state_service_pb2_grpc.ChannelStateServiceStub(self.channel)

    async def force(self, mode: int, *, shadow: bool = False, **changes: Any) -> Any:
        fields: dict[str, Any] = {"request_id": f"r-{time.time_ns()}", "channel": CHANNEL, "mode": mode}
        request = pb.SetChannelOverrideRequest(**fields | {"reason": "their maintenance"} | changes)
        if mode in (OPEN, CLOSED) and not request.HasField("expire_time"):
            request.expire_time.FromSeconds(int(time.time()) + 600)
        metadata = to_metadata(mint(SLOT, int(time.time() * 1000), shadow=shadow))
        return (await self.stub.SetChannelOverride(request, metadata=metadata, timeout=WAIT_S)).override

    async def list(self, *, shadow: bool = False, **request: Any) -> Any:
        metadata = to_metadata(mint(SLOT, int(time.time() * 1000), shadow=shadow))
        return await self.stub.ListChannelStates(
            pb.ListChannelStatesRequest(**request), metadata=metadata, timeout=WAIT_S
        )

    async def of(self, channel: str, merchant: str = "", *, shadow: bool = False) -> Any:
        states = (await self.list(channel=channel, shadow=shadow)).states
        return next((state for state in states if state.merchant == merchant), None)


@pytest.fixture(scope="module")
async def states(gateway: Gateway) -> AsyncIterator[States]:
    states = States(gateway)
    yield states
    await states.channel.close()


def reason_of(error: grpc.aio.AioRpcError) -> str:
    return from_rpc_error(error).reason


async def test_a_channel_forced_open_keeps_orders_and_sends_them_when_it_is_lifted(
    gateway: Gateway, states: States
) -> None:
    forced = await states.force(OPEN)
    assert (forced.channel, forced.merchant, forced.mode, forced.version) == (CHANNEL, "", OPEN, 1)
    assert (forced.caller, forced.reason) == ("insecure", "their maintenance")
    order = await gateway.submit(gateway.request("CHARGE", "tok_ok"))
    state = await states.of(CHANNEL)
    assert (state.override, state.queued_count, state.in_flight_count) == (forced, 1, 0)
    assert (await states.of(CHANNEL, "-")).queued_count == 1
    assert (await states.of(CHANNEL, shadow=True)).override.mode == 0
    assert order.channel_order_id not in await gateway.book()
    lifted = await states.force(NONE)
    assert (lifted.override_id, lifted.version) == (forced.override_id, 2)
    await gateway.event(order.channel_order_id, SUCCEEDED)
    state = await states.of(CHANNEL)
    assert (state.override.mode, state.queued_count) == (0, 0)


async def test_one_merchant_can_be_forced_while_others_go(gateway: Gateway, states: States) -> None:
    await states.force(OPEN, merchant="rogue")

    async def submit(merchant: str) -> Any:
        context = mint(SLOT, int(time.time() * 1000))
        metadata = [*to_metadata(context), ("x-biz-code", f"{merchant}/PURCHASE/checkout/card")]
        response = await gateway.stub.SubmitChannelOrder(
            gateway.request("CHARGE", "tok_ok"), metadata=metadata, timeout=WAIT_S
        )
        return response.channel_order

    held, free = await submit("rogue"), await submit("honest")
    await gateway.event(free.channel_order_id, SUCCEEDED)
    state = await states.of(CHANNEL, "rogue")
    assert (state.queued_count, state.override.mode, state.override.merchant) == (1, OPEN, "rogue")
    assert state.queue_max < (await states.of(CHANNEL)).queue_max
    await states.force(NONE, merchant="rogue")
    await gateway.event(held.channel_order_id, SUCCEEDED)


async def test_shadow_has_overrides_of_its_own(states: States) -> None:
    await states.force(CLOSED, shadow=True)
    assert (await states.of(CHANNEL, shadow=True)).override.mode == CLOSED
    assert (await states.of(CHANNEL)).override.mode == 0
    await states.force(NONE, shadow=True)


async def test_states_come_by_channel_and_merchant_in_pages(states: States) -> None:
    for merchant in ("alpha", "beta"):
        await states.force(CLOSED, merchant=merchant, channel=WALLET)
    first = await states.list(channel=WALLET, page_size=2)
    second = await states.list(channel=WALLET, page_size=2, page_token=first.next_page_token)
    found = [(state.channel, state.merchant) for page in (first, second) for state in page.states]
    assert found == [(WALLET, ""), (WALLET, "alpha"), (WALLET, "beta")]
    assert second.next_page_token == ""
    every = (await states.list(page_size=200)).states
    assert {state.channel for state in every if not state.merchant} == {CHANNEL, WALLET}
    whole = next(state for state in every if state.channel == WALLET and not state.merchant)
    assert (whole.breaker_state, whole.success_ppm, whole.in_flight_max) == (1, 1_000_000, 128)
    assert abs(whole.breaker_since_time.seconds - time.time()) < 600
    for merchant in ("alpha", "beta"):
        await states.force(NONE, merchant=merchant, channel=WALLET)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"mode": 0}, "mode"),
        ({"mode": 99}, "mode"),
        ({"reason": ""}, "reason"),
        ({"merchant": "not a name"}, "merchant"),
        ({"channel": ""}, "channel"),
        ({"request_id": ""}, "request_id"),
        ({"expire_time": {"seconds": 1}}, "expire_time"),
        ({"expire_time": {"seconds": -5}}, "expire_time"),
        ({"mode": NONE, "expire_time": {"seconds": 4_000_000_000}}, "expire_time"),
    ],
)
async def test_wrong_fields_are_named(states: States, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await states.force(**({"mode": OPEN} | changes))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in (refused.value.details() or "")


async def test_what_is_forced_needs_an_end_and_a_channel_that_is_there(states: States) -> None:
    fields: dict[str, Any] = {"request_id": "r", "channel": CHANNEL, "mode": OPEN, "reason": "so"}
    request = pb.SetChannelOverrideRequest(**fields)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await states.stub.SetChannelOverride(request, timeout=WAIT_S)
    assert refused.value.details() == "expire_time: required"
    for call in (states.force(OPEN, channel="nobody"), states.list(channel="nobody")):
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await call
        assert reason_of(unknown.value) == "CHANNEL_UNKNOWN"
    with pytest.raises(grpc.aio.AioRpcError) as nothing:
        await states.force(NONE, merchant="nobody")
    assert reason_of(nothing.value) == "NOT_OVERRIDDEN"


async def test_metrics_show_what_the_call_shows(gateway: Gateway, states: States) -> None:
    def value(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(f"paymesh_{name}", {"mode": "live", "channel": CHANNEL} | labels)

    order = await gateway.submit(gateway.request("CHARGE", "tok_ok"))
    await gateway.event(order.channel_order_id, SUCCEEDED)
    await states.force(OPEN)  # everything is shown anew with what people set
    assert value("channel_breaker_state", state="FORCED_OPEN") == 1
    assert value("channel_breaker_state", state="CLOSED") == 0
    assert value("channel_calls_in_flight") == 0
    assert value("channel_success_ratio") == 1
    await states.force(NONE)
    assert value("channel_breaker_state", state="FORCED_OPEN") == 0
    assert value("channel_breaker_state", state="HALF_OPEN") == 1


async def test_an_override_outlives_the_process(tmp_path: Path, make_shards: Any) -> None:
    gateway = await Gateway(tmp_path, make_shards(2)).start()
    states = States(gateway)
    try:
        await states.force(OPEN)
        order = await gateway.submit(gateway.request("CHARGE", "tok_ok"))
        await states.channel.close()
        await gateway.stop_service()
        await gateway.start_service()
        states = States(gateway)
        assert (await states.of(CHANNEL)).override.mode == OPEN
        await asyncio.sleep(0)  # what it sends before it knows would be under way by now
        assert order.channel_order_id not in await gateway.book()
        await states.force(NONE)
        await gateway.event(order.channel_order_id, SUCCEEDED)
    finally:
        await states.channel.close()
        await gateway.stop()


async def test_who_forced_a_channel_is_known_by_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    shards = {"s0": ShardSettings(live=f"sqlite+aiosqlite:///{tmp_path}/live.db")}
    await make_schema(app.NAME, shards)
    settings = ChannelGatewaySettings.model_validate(
        {
            "listen": "127.0.0.1:0",
            "shards": shards,
            "notification_listen": "127.0.0.1:0",
            "channels": {CHANNEL: channel_settings("http://127.0.0.1:1", shadow=None)},
        }
    )
    bus = EmbeddedBus(tmp_path / "bus")
    await bus.start()
    common = CommonSettings(tls=authority.issue("gateway", "channel_gateway", [LOOPBACK]))
    service = app.build(settings, common, bus, SystemClock())
    await service.start()
    credentials = channel_credentials(authority.issue("ann", "ann", []))
    try:
        async with grpc.aio.secure_channel(f"127.0.0.1:{service.port}", credentials) as channel:
            stub: Any = channel_state_service_pb2_grpc.ChannelStateServiceStub(channel)
            fields: dict[str, Any] = {"request_id": "r-1", "channel": CHANNEL, "mode": OPEN, "reason": "so"}
            request = pb.SetChannelOverrideRequest(**fields)
            request.expire_time.FromSeconds(int(time.time()) + 600)
            first = (await stub.SetChannelOverride(request, timeout=WAIT_S)).override
            again = (await stub.SetChannelOverride(request, timeout=WAIT_S)).override
        assert (first.caller, again) == ("ann", first)
        statement = select(CommandRecord.__table__).where(CommandRecord.__table__.c.name == "SetOverride")
        (record,) = await service.store.fetch(CommandRecord, statement, slot=0, shadow=False)
        assert (record.caller, record.request_id, record.trigger) == ("ann", "r-1", "rpc")
    finally:
        await service.stop()
        await bus.stop()
