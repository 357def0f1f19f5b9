"""What a client of a real server sees: contexts, errors with details, deadlines, streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from structlog.testing import capture_logs

from paykit import errors
from paykit.clock import SystemClock
from paykit.context import SHADOW, BusinessContext, to_metadata
from paykit.ids import is_id, slot_in, slot_of
from paykit.rpc.errors import from_rpc_error
from paykit.rpc.server import Server
from paykit.rpc.serving import REQUESTS
from paymesh.pay.v1 import pay_service_pb2, pay_service_pb2_grpc
from paymesh.trade.v1 import trade_service_pb2, trade_service_pb2_grpc
from tests.paykit.rpc.conftest import Mesh
from tests.paykit.rpc.servicers import TRANSFER
from tests.paykit.rpc.test_errors import ALL


async def failing(error: Exception) -> Any:
    raise error


async def transfer(mesh: Mesh, context: BusinessContext | None, **options: Any) -> Any:
    stub = pay_service_pb2_grpc.PayServiceStub(mesh.bare)
    metadata = to_metadata(context) if context else []
    return await stub.Transfer(pay_service_pb2.TransferRequest(source_id="s"), metadata=metadata, **options)


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.code)
async def test_each_error_reaches_the_client_with_its_details(
    mesh: Mesh, context: BusinessContext, error: errors.MeshError
) -> None:
    mesh.pay.transfer = lambda _request: failing(error)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await transfer(mesh, context)
    assert caught.value.code().name == error.code
    assert caught.value.details() == error.message
    back = from_rpc_error(caught.value)
    assert type(back) is type(error)
    assert (back.reason, back.metadata) == (error.reason, error.metadata)


async def test_the_text_of_an_uncaught_exception_goes_to_the_log_and_not_to_the_client(
    mesh: Mesh, context: BusinessContext
) -> None:
    mesh.pay.transfer = lambda _request: failing(RuntimeError("SELECT pan FROM cards"))
    with capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as caught:
        await transfer(mesh, context)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    trailing = caught.value.trailing_metadata()
    assert "SELECT" not in f"{caught.value.details()} {trailing}"
    incident_id = from_rpc_error(caught.value).metadata["incident_id"]
    (entry,) = [entry for entry in logs if entry["event"] == "rpc_uncaught_exception"]
    assert entry["incident_id"] == incident_id
    assert "SELECT" in str(entry["exc_info"])


async def test_a_message_that_is_no_protobuf_is_an_invalid_argument(mesh: Mesh) -> None:
    send: Any = mesh.bare.unary_unary(TRANSFER)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await send(b"\xff\xff\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert from_rpc_error(caught.value).reason == "MALFORMED_REQUEST"


async def test_an_answer_of_the_wrong_kind_is_internal(mesh: Mesh, context: BusinessContext) -> None:
    async def nothing(_request: Any) -> Any:
        return None

    mesh.pay.transfer = nothing
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await transfer(mesh, context)
    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_an_internal_method_without_a_context_is_refused_and_not_entered(mesh: Mesh) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await transfer(mesh, None)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"])
    failure = error_details_pb2.PreconditionFailure()
    assert any(packed.Is(failure.DESCRIPTOR) and packed.Unpack(failure) for packed in status.details)
    assert failure.violations[0].type == "CONTEXT_MISSING"
    assert mesh.pay.contexts == []


async def test_a_business_id_of_the_wrong_form_counts_as_none(mesh: Mesh, context: BusinessContext) -> None:
    stub = pay_service_pb2_grpc.PayServiceStub(mesh.bare)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Transfer(pay_service_pb2.TransferRequest(), metadata=[("x-biz-id", "pay_" + context.biz_id[4:])])
    assert from_rpc_error(caught.value).reason == "CONTEXT_MISSING"


async def test_a_context_in_the_metadata_is_the_handlers_with_the_caller_from_the_connection(
    mesh: Mesh, context: BusinessContext
) -> None:
    stub = pay_service_pb2_grpc.PayServiceStub(mesh.bare)
    metadata = [*to_metadata(context), ("caller", "trade_core"), ("x-caller", "trade_core")]
    await stub.Transfer(pay_service_pb2.TransferRequest(), metadata=metadata)
    (seen,) = mesh.pay.contexts
    assert (seen.biz_id, seen.request_id, seen.traceparent) == (context.biz_id, "r-1", context.traceparent)
    assert (seen.caller, seen.deadline_ms) == ("insecure", None)


async def test_an_edge_method_mints_a_context_on_the_request_ids_slot(mesh: Mesh) -> None:
    stub = trade_service_pb2_grpc.TradeServiceStub(mesh.bare)
    response = await stub.CreateTrade(trade_service_pb2.CreateTradeRequest(request_id="order-77"))
    (seen,) = mesh.trade.contexts
    assert seen is not None
    assert is_id(response.trade.biz_id, "biz")
    assert slot_in(response.trade.biz_id) == slot_of("order-77")
    assert (seen.request_id, seen.shadow) == ("order-77", False)
    assert seen.traceparent


async def test_a_shadow_call_without_a_business_id_stays_shadow(mesh: Mesh) -> None:
    stub = trade_service_pb2_grpc.TradeServiceStub(mesh.bare)
    metadata = [(SHADOW, "1"), ("x-criticality", "3"), ("x-biz-code", "m/PURCHASE//")]
    await stub.CreateTrade(trade_service_pb2.CreateTradeRequest(request_id="r"), metadata=metadata)
    (seen,) = mesh.trade.contexts
    assert seen is not None
    assert (seen.shadow, seen.criticality, seen.biz_code) == (True, 3, "m/PURCHASE//")


async def test_a_shadow_flag_nobody_understands_is_refused_rather_than_taken_for_live(mesh: Mesh) -> None:
    stub = trade_service_pb2_grpc.TradeServiceStub(mesh.bare)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CreateTrade(trade_service_pb2.CreateTradeRequest(), metadata=[(SHADOW, "true")])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert mesh.trade.contexts == []


async def test_the_deadline_of_the_call_is_the_contexts(mesh: Mesh, context: BusinessContext) -> None:
    await transfer(mesh, context, timeout=30)
    (seen,) = mesh.pay.contexts
    assert seen.deadline_ms is not None
    # gRPC may send an earlier timeout of the connection again where that is up to 3 % longer.
    assert 20_000 < seen.deadline_ms - SystemClock().now_ms() <= 30_000 * 1.04


async def test_a_handler_is_cancelled_when_the_deadline_passes(mesh: Mesh, context: BusinessContext) -> None:
    cancelled = asyncio.Event()

    async def wait_for_ever(_request: Any) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    mesh.pay.transfer = wait_for_ever
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await transfer(mesh, context, timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(cancelled.wait(), 5)


async def test_a_stream_is_served_under_a_minted_context(mesh: Mesh) -> None:
    stub = trade_service_pb2_grpc.TradeServiceStub(mesh.bare)
    got = [r.trade.trade_id async for r in stub.WatchTrade(trade_service_pb2.WatchTradeRequest(trade_id="t"))]
    assert got == ["t", "t", "t"]
    (seen,) = mesh.trade.contexts
    assert seen is not None


async def test_a_stream_that_fails_midway_ends_with_the_error(mesh: Mesh) -> None:
    async def one_then_gone(_request: Any) -> AsyncIterator[Any]:
        yield trade_service_pb2.WatchTradeResponse()
        raise errors.NotFound("gone", reason="TRADE_GONE")

    mesh.trade.watch = one_then_gone
    stub = trade_service_pb2_grpc.TradeServiceStub(mesh.bare)
    responses = stub.WatchTrade(trade_service_pb2.WatchTradeRequest())
    assert await responses.read() == trade_service_pb2.WatchTradeResponse()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await responses.read()
    assert from_rpc_error(caught.value).reason == "TRADE_GONE"


async def test_a_method_the_servicer_does_not_have_is_unimplemented(mesh: Mesh, context: BusinessContext) -> None:
    stub = pay_service_pb2_grpc.PayServiceStub(mesh.bare)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Refund(pay_service_pb2.RefundRequest(), metadata=to_metadata(context))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_method_that_is_not_async_is_refused_when_it_is_added() -> None:
    class Slow(pay_service_pb2_grpc.PayServiceServicer):
        def Transfer(self, request: Any, context: Any) -> Any:
            return pay_service_pb2.TransferResponse()

    server = Server("127.0.0.1:0")
    with pytest.raises(TypeError, match="PayService/Transfer must be async def"):
        server.add(pay_service_pb2_grpc.add_PayServiceServicer_to_server, Slow())  # type: ignore[abstract]


async def test_calls_are_counted_by_method_and_code(mesh: Mesh, context: BusinessContext) -> None:
    counted = REQUESTS.labels(TRANSFER, "NOT_FOUND")
    before = counted._value.get()
    mesh.pay.transfer = lambda _request: failing(errors.NotFound("no"))
    with pytest.raises(grpc.aio.AioRpcError):
        await transfer(mesh, context)
    assert counted._value.get() == before + 1


async def test_a_request_id_that_metadata_cannot_carry_is_not_taken_into_the_context(mesh: Mesh) -> None:
    stub = trade_service_pb2_grpc.TradeServiceStub(mesh.bare)
    await stub.CreateTrade(trade_service_pb2.CreateTradeRequest(request_id="a\nb"), metadata=[("x-request-id", "edge")])
    (seen,) = mesh.trade.contexts
    assert seen is not None
    assert seen.request_id == "edge"
