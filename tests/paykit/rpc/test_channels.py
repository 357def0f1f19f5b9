"""What a call to another service carries, and what becomes of its failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from paykit.clock import ManualClock, SystemClock
from paykit.context import BusinessContext, current, use
from paykit.errors import ConfigurationError, DeadlineExceeded, NotFound, Unavailable
from paykit.rpc.calling import timeout_for
from paykit.rpc.channels import Channels
from paykit.rpc.server import Server
from paykit.store.guard import transaction_open
from paymesh.pay.v1 import pay_service_pb2, pay_service_pb2_grpc
from paymesh.trade.v1 import trade_service_pb2, trade_service_pb2_grpc
from tests.paykit.rpc.conftest import Mesh
from tests.paykit.rpc.servicers import TRANSFER, Pay, answer

NOBODY = "127.0.0.1:1"


@pytest.fixture
def stub(mesh: Mesh) -> Any:
    return pay_service_pb2_grpc.PayServiceStub(mesh.channels.get("pay_core"))


async def test_the_current_context_goes_with_every_call(mesh: Mesh, stub: Any, context: BusinessContext) -> None:
    shadow = msgspec.structs.replace(context, shadow=True, biz_code="m/PURCHASE//", criticality=1)
    with use(shadow):
        response = await stub.Transfer(pay_service_pb2.TransferRequest(source_id="s"))
    assert response.payment.source_id == "s"
    (seen,) = mesh.pay.contexts
    assert msgspec.structs.replace(seen, caller="", deadline_ms=None) == shadow


async def test_the_context_and_the_deadline_go_on_over_two_hops(
    mesh: Mesh, stub: Any, context: BusinessContext
) -> None:
    async def go_on(request: Any) -> Any:
        mesh.pay.transfer = answer
        return await stub.Transfer(request)

    mesh.pay.transfer = go_on
    deadline_ms = SystemClock().now_ms() + 4_000
    with use(msgspec.structs.replace(context, deadline_ms=deadline_ms)):
        await stub.Transfer(pay_service_pb2.TransferRequest())
    first, second = mesh.pay.contexts
    assert first.biz_id == second.biz_id == context.biz_id
    assert first.deadline_ms is not None
    assert second.deadline_ms is not None
    assert second.deadline_ms < first.deadline_ms < deadline_ms


async def test_a_call_has_a_deadline_even_where_nobody_set_one(mesh: Mesh, stub: Any, context: BusinessContext) -> None:
    with use(context):
        await stub.Transfer(pay_service_pb2.TransferRequest())
    (seen,) = mesh.pay.contexts
    assert seen.deadline_ms is not None
    assert 3_000 < seen.deadline_ms - SystemClock().now_ms() <= 5_000 * 1.04


def test_a_timeout_never_goes_beyond_the_contexts_deadline(context: BusinessContext) -> None:
    clock = ManualClock()
    near = msgspec.structs.replace(context, deadline_ms=clock.now_ms() + 1_000)
    assert timeout_for(context, 7.0, clock) == 7.0
    assert timeout_for(near, 0.2, clock) == 0.2
    assert 0.8 < timeout_for(near, 7.0, clock) < 1.0
    clock.advance(1_000)
    with pytest.raises(DeadlineExceeded):
        timeout_for(near, None, clock)


async def test_a_service_on_a_clock_of_its_own_reckons_its_deadlines_by_it(
    mesh: Mesh, context: BusinessContext
) -> None:
    clock = ManualClock()
    channels = Channels({"pay_core": mesh.address}, clock=clock)
    bounded = msgspec.structs.replace(context, deadline_ms=clock.now_ms() + 5_000)
    with use(bounded):
        await pay_service_pb2_grpc.PayServiceStub(channels.get("pay_core")).Transfer(pay_service_pb2.TransferRequest())
    await channels.batch("pay_core", TRANSFER)(pay_service_pb2.TransferRequest(), bounded)
    clock.advance(5_000)
    with pytest.raises(DeadlineExceeded):
        await channels.batch("pay_core", TRANSFER)(pay_service_pb2.TransferRequest(), bounded)
    await channels.close(grace_s=1)


async def test_an_error_of_the_callee_is_raised_as_itself(mesh: Mesh, stub: Any, context: BusinessContext) -> None:
    async def gone(_request: Any) -> Any:
        raise NotFound("no account", reason="ACCOUNT_NOT_FOUND", metadata={"id": "acc_1"})

    mesh.pay.transfer = gone
    with use(context), pytest.raises(NotFound) as caught:
        await stub.Transfer(pay_service_pb2.TransferRequest())
    assert (caught.value.reason, caught.value.metadata) == ("ACCOUNT_NOT_FOUND", {"id": "acc_1"})


async def test_a_call_inside_a_transaction_is_a_bug_and_does_not_leave(
    mesh: Mesh, stub: Any, context: BusinessContext
) -> None:
    with use(context), transaction_open(), pytest.raises(AssertionError, match="transaction"):
        await stub.Transfer(pay_service_pb2.TransferRequest())
    assert mesh.pay.contexts == []


async def test_a_stream_carries_the_context_and_raises_mesh_errors(mesh: Mesh, context: BusinessContext) -> None:
    async def one_then_gone(_request: Any) -> AsyncIterator[Any]:
        yield trade_service_pb2.WatchTradeResponse()
        raise NotFound("gone", reason="TRADE_GONE")

    mesh.trade.watch = one_then_gone
    stub = trade_service_pb2_grpc.TradeServiceStub(mesh.channels.get("pay_core"))
    with use(context):
        responses: Any = stub.WatchTrade(trade_service_pb2.WatchTradeRequest())
    assert (await anext(responses)) == trade_service_pb2.WatchTradeResponse()
    with pytest.raises(NotFound, match="gone"):
        await anext(responses)
    (seen,) = mesh.trade.contexts
    assert seen is not None
    assert seen.biz_id == context.biz_id


async def test_leaving_a_stream_early_cancels_it_at_the_server(mesh: Mesh, context: BusinessContext) -> None:
    ended = asyncio.Event()

    async def for_ever(_request: Any) -> AsyncIterator[Any]:
        try:
            yield trade_service_pb2.WatchTradeResponse()
            await asyncio.Event().wait()
        finally:
            ended.set()

    mesh.trade.watch = for_ever
    stub = trade_service_pb2_grpc.TradeServiceStub(mesh.channels.get("pay_core"))
    with use(context):
        responses: Any = stub.WatchTrade(trade_service_pb2.WatchTradeRequest())
    await anext(responses)
    await responses.aclose()
    await asyncio.wait_for(ended.wait(), 5)


async def test_a_server_that_is_not_there_is_unavailable(context: BusinessContext) -> None:
    channels = Channels({"pay_core": NOBODY})
    with use(context), pytest.raises(Unavailable, match=NOBODY):
        await pay_service_pb2_grpc.PayServiceStub(channels.get("pay_core")).Transfer(pay_service_pb2.TransferRequest())
    await channels.close(grace_s=0)


async def test_waiting_for_a_service_ends_when_it_answers_or_with_its_address(mesh: Mesh) -> None:
    await mesh.channels.wait_ready("pay_core", timeout_s=5)
    channels = Channels({"recon": NOBODY})
    with pytest.raises(Unavailable, match=f"recon cannot be reached at {NOBODY}"):
        await channels.wait_ready("recon", timeout_s=0.2)
    await channels.close(grace_s=0)


async def test_a_service_without_an_address_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match=r"addresses\.recon"):
        Channels({}).get("recon")


async def test_a_channel_and_a_batch_caller_are_made_once(mesh: Mesh) -> None:
    method = "/paymesh.pay.v1.PayService/Transfer"
    assert mesh.channels.get("pay_core") is mesh.channels.get("pay_core")
    assert mesh.channels.batch("pay_core", method) is mesh.channels.batch("pay_core", method)


async def test_closing_a_channel_is_unavailable_to_a_call_in_flight_and_no_cancellation(
    mesh: Mesh, stub: Any, context: BusinessContext
) -> None:
    async def for_ever(_request: Any) -> Any:
        await asyncio.Event().wait()

    async def call() -> Any:
        with use(context):
            assert current() is context
            return await stub.Transfer(pay_service_pb2.TransferRequest())

    mesh.pay.transfer = for_ever
    calling = asyncio.create_task(call())
    await mesh.pay.entered.wait()
    await mesh.channels.close(grace_s=0)
    with pytest.raises(Unavailable, match="closed"):
        await calling


async def test_cancelling_the_caller_cancels_the_call(mesh: Mesh, stub: Any, context: BusinessContext) -> None:
    ended = asyncio.Event()

    async def for_ever(_request: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    mesh.pay.transfer = for_ever
    with use(context):
        calling = asyncio.create_task(stub.Transfer(pay_service_pb2.TransferRequest()))
    await mesh.pay.entered.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await asyncio.wait_for(ended.wait(), 5)


async def test_calls_are_spread_over_all_addresses_and_go_on_when_one_server_stops(context: BusinessContext) -> None:
    servers, servicers = [Server("127.0.0.1:0") for _ in range(2)], [Pay() for _ in range(2)]  # type: ignore[abstract]
    for server, pay in zip(servers, servicers, strict=True):
        server.add(pay_service_pb2_grpc.add_PayServiceServicer_to_server, pay)
    ports = [await server.start() for server in servers]
    channels = Channels({"pay_core": "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)})
    stub = pay_service_pb2_grpc.PayServiceStub(channels.get("pay_core"))
    with use(context):
        # One connection may come up later than the other: until both take calls.
        for _ in range(500):
            await stub.Transfer(pay_service_pb2.TransferRequest())
            if all(pay.contexts for pay in servicers):
                break
        assert all(pay.contexts for pay in servicers)
        await servers[0].stop(grace_s=1)
        for _ in range(20):
            await stub.Transfer(pay_service_pb2.TransferRequest())
    await channels.close(grace_s=1)
    await servers[1].stop(grace_s=1)
