"""Many calls in one message: gathered without waiting, answered one by one."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import msgspec
import pytest

from paykit.clock import SystemClock
from paykit.context import SHADOW, BusinessContext, mint, to_proto, use
from paykit.errors import (
    Aborted,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    MeshError,
    ResourceExhausted,
    Unavailable,
)
from paykit.ids import is_id
from paykit.rpc.batching import BatchCaller
from paykit.rpc.channels import Channels
from paykit.rpc.errors import from_status
from paykit.rpc.methods import batch_form_of
from paykit.store.guard import transaction_open
from paymesh.common.v1 import context_pb2
from paymesh.pay.v1 import pay_service_pb2, pay_service_pb2_grpc
from paymesh.trade.v1 import trade_service_pb2, trade_service_pb2_grpc
from tests.paykit.rpc.conftest import Mesh
from tests.paykit.rpc.servicers import TRANSFER, answer


def request(source_id: str = "s") -> pay_service_pb2.TransferRequest:
    return pay_service_pb2.TransferRequest(source_id=source_id)


def contexts(count: int) -> list[BusinessContext]:
    return [mint(i, 1_700_000_000_000, request_id=f"r-{i}") for i in range(count)]


@pytest.mark.parametrize(
    ("method", "batch"),
    [
        (TRANSFER, "/paymesh.pay.v1.PayService/BatchTransfer"),
        ("/paymesh.pay.v1.PayService/GetPayment", "/paymesh.pay.v1.PayService/BatchGetPayments"),
        ("/paymesh.trade.v1.TradeService/CreateTrade", "/paymesh.trade.v1.TradeService/BatchCreateTrades"),
    ],
)
def test_the_batch_form_is_found_by_its_items(method: str, batch: str) -> None:
    assert batch_form_of(method).path == batch


@pytest.mark.parametrize("method", ["/paymesh.pay.v1.PayService/ListPayments", "/no.Such/Method"])
def test_a_method_without_a_batch_form_is_refused(method: str) -> None:
    with pytest.raises(LookupError, match=method):
        batch_form_of(method)


async def test_calls_made_together_go_in_one_message_each_under_its_own_context(mesh: Mesh) -> None:
    caller = mesh.channels.batch("pay_core", TRANSFER)
    each = contexts(50)
    answers = await asyncio.gather(*(caller(request(str(i)), context) for i, context in enumerate(each)))
    assert mesh.pay.batches == [50]
    assert [a.payment.source_id for a in answers] == [str(i) for i in range(50)]
    assert [a.payment.biz_id for a in answers] == [context.biz_id for context in each]
    assert [seen.request_id for seen in mesh.pay.contexts] == [context.request_id for context in each]
    assert {seen.caller for seen in mesh.pay.contexts} == {"insecure"}
    assert all(seen.deadline_ms is not None for seen in mesh.pay.contexts)


async def test_a_lone_call_goes_at_once(mesh: Mesh, context: BusinessContext) -> None:
    answered = await mesh.channels.batch("pay_core", TRANSFER)(request("lone"), context)
    assert (answered.payment.source_id, mesh.pay.batches) == ("lone", [1])


async def test_no_message_has_more_than_max_items_nor_are_more_than_in_flight_sent(
    mesh: Mesh, context: BusinessContext
) -> None:
    caller = BatchCaller(mesh.bare, TRANSFER, max_items=10, in_flight=2)
    release = asyncio.Event()

    async def held(item: Any) -> Any:
        await release.wait()
        return await answer(item)

    mesh.pay.transfer = held
    calls = [asyncio.create_task(caller(request(), context)) for _ in range(35)]
    while len(mesh.pay.contexts) < 20:
        await mesh.pay.entered.wait()
        mesh.pay.entered.clear()
    assert mesh.pay.batches == [10, 10]
    release.set()
    await asyncio.gather(*calls)
    assert mesh.pay.batches == [10, 10, 10, 5]


async def test_an_item_that_fails_fails_alone(mesh: Mesh, context: BusinessContext) -> None:
    async def odd_ones_fail(item: Any) -> Any:
        if item.source_id == "state":
            raise FailedPrecondition("paid", reason="ILLEGAL_STATE", subject="trd_1")
        if item.source_id == "bug":
            raise RuntimeError("SELECT secret")
        return await answer(item)

    mesh.pay.transfer = odd_ones_fail
    caller = mesh.channels.batch("pay_core", TRANSFER)
    outcomes: list[Any] = await asyncio.gather(
        *(caller(request(name), context) for name in ("a", "state", "bug", "b")), return_exceptions=True
    )
    assert [outcomes[0].payment.source_id, outcomes[3].payment.source_id] == ["a", "b"]
    assert isinstance(outcomes[1], FailedPrecondition)
    assert (outcomes[1].reason, outcomes[1].subject) == ("ILLEGAL_STATE", "trd_1")
    assert isinstance(outcomes[2], MeshError)
    assert outcomes[2].code == "INTERNAL"
    assert "SELECT" not in str(outcomes[2])
    assert mesh.pay.batches == [4]


async def test_bytes_of_a_durable_call_are_taken_and_bad_ones_fail_alone(mesh: Mesh, context: BusinessContext) -> None:
    caller = mesh.channels.batch("pay_core", TRANSFER)
    calls = [caller(request("bytes").SerializeToString(), context), caller(b"\xff\xff", context)]
    good, bad = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(good, pay_service_pb2.TransferResponse)
    assert good.payment.source_id == "bytes"
    assert isinstance(bad, InvalidArgument)
    assert mesh.pay.batches == [1]


async def test_waiting_is_bounded(mesh: Mesh, context: BusinessContext) -> None:
    caller = BatchCaller(mesh.bare, TRANSFER, max_items=1, in_flight=1, max_waiting=2)
    calls = [asyncio.create_task(caller(request(), context)) for _ in range(3)]
    outcomes: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, ResourceExhausted)]
    assert len(refused) == 1
    assert refused[0].retry_after_ms


async def test_a_cancelled_call_leaves_the_others_alone(mesh: Mesh, context: BusinessContext) -> None:
    caller = mesh.channels.batch("pay_core", TRANSFER)
    release = asyncio.Event()

    async def held(item: Any) -> Any:
        await release.wait()
        return await answer(item)

    mesh.pay.transfer = held
    leaving = asyncio.create_task(caller(request("leaving"), context))
    staying = asyncio.create_task(caller(request("staying"), context))
    await mesh.pay.entered.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    release.set()
    assert (await staying).payment.source_id == "staying"


async def test_a_call_cancelled_before_it_is_sent_is_not_sent(mesh: Mesh, context: BusinessContext) -> None:
    caller = BatchCaller(mesh.bare, TRANSFER, in_flight=1)
    release = asyncio.Event()

    async def held(item: Any) -> Any:
        await release.wait()
        return await answer(item)

    mesh.pay.transfer = held
    first = asyncio.create_task(caller(request("first"), context))
    await mesh.pay.entered.wait()
    waiting = asyncio.create_task(caller(request("waiting"), context))
    last = asyncio.create_task(caller(request("last"), context))
    await asyncio.sleep(0)
    waiting.cancel()
    release.set()
    await asyncio.gather(first, last)
    assert mesh.pay.batches == [1, 1]


async def test_a_call_gives_up_at_its_own_timeout(mesh: Mesh, context: BusinessContext) -> None:
    release = asyncio.Event()

    async def slow_one(item: Any) -> Any:
        await release.wait()
        return await answer(item)

    mesh.pay.transfer = slow_one
    caller = mesh.channels.batch("pay_core", TRANSFER)
    patient = asyncio.create_task(caller(request("patient"), context, timeout_s=5))
    with pytest.raises(DeadlineExceeded):
        await caller(request("hasty"), context, timeout_s=0.1)
    release.set()
    assert (await patient).payment.source_id == "patient"


async def test_the_contexts_deadline_bounds_the_call(mesh: Mesh, context: BusinessContext) -> None:
    caller = mesh.channels.batch("pay_core", TRANSFER)
    with pytest.raises(DeadlineExceeded):
        await caller(request(), msgspec.structs.replace(context, deadline_ms=SystemClock().now_ms()))
    assert mesh.pay.batches == []


async def test_a_lost_server_is_unavailable_to_every_item(context: BusinessContext) -> None:
    channels = Channels({"pay_core": "127.0.0.1:1"})
    caller = channels.batch("pay_core", TRANSFER)
    outcomes = await asyncio.gather(*(caller(request(), context) for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
    await channels.close(grace_s=0)


async def test_closing_leaves_nobody_waiting(mesh: Mesh, context: BusinessContext) -> None:
    async def for_ever(_item: Any) -> Any:
        await asyncio.Event().wait()

    mesh.pay.transfer = for_ever
    caller = BatchCaller(mesh.bare, TRANSFER, max_items=1, in_flight=1)
    calls = [asyncio.create_task(caller(request(), context)) for _ in range(3)]
    await mesh.pay.entered.wait()
    await caller.close(grace_s=0.05)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
    with pytest.raises(Unavailable):
        await caller(request(), context)


async def test_closing_lets_what_is_under_way_end(mesh: Mesh, context: BusinessContext) -> None:
    caller = BatchCaller(mesh.bare, TRANSFER, max_items=2, in_flight=1)
    calls = [asyncio.create_task(caller(request(str(i)), context)) for i in range(6)]
    await mesh.pay.entered.wait()
    await caller.close(grace_s=10)
    assert [(await call).payment.source_id for call in calls] == [str(i) for i in range(6)]


async def test_a_call_inside_a_transaction_is_a_bug(mesh: Mesh, context: BusinessContext) -> None:
    with transaction_open(), pytest.raises(AssertionError, match="transaction"):
        await mesh.channels.batch("pay_core", TRANSFER)(request(), context)


async def test_an_internal_batch_takes_contexts_from_the_call_or_the_items_and_refuses_items_without(
    mesh: Mesh, context: BusinessContext
) -> None:
    own = contexts(1)[0]
    message = pay_service_pb2.BatchTransferRequest()
    message.items.add(request=request("own"), context=to_proto(own))
    message.items.add(request=request("none"))
    stub = pay_service_pb2_grpc.PayServiceStub(mesh.bare)
    response = await stub.BatchTransfer(message)
    assert response.results[0].response.payment.biz_id == own.biz_id
    refusal = from_status(response.results[1].status)
    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "CONTEXT_MISSING")
    with use(context):
        response = await pay_service_pb2_grpc.PayServiceStub(mesh.channels.get("pay_core")).BatchTransfer(message)
    assert [r.response.payment.biz_id for r in response.results] == [own.biz_id, context.biz_id]


async def test_each_item_of_an_edge_batch_gets_a_context_of_its_own_and_the_calls_shadow_flag(mesh: Mesh) -> None:
    message = trade_service_pb2.BatchCreateTradesRequest()
    for name in ("one", "two"):
        message.items.add(request=trade_service_pb2.CreateTradeRequest(request_id=name))
    message.items.add(
        request=trade_service_pb2.CreateTradeRequest(request_id="three"), context=to_proto(contexts(1)[0])
    )
    stub = trade_service_pb2_grpc.TradeServiceStub(mesh.bare)
    response = await stub.BatchCreateTrades(message, metadata=[(SHADOW, "1")])
    minted = [result.response.trade.biz_id for result in response.results]
    assert len(set(minted)) == 3
    assert all(is_id(biz_id, "biz") for biz_id in minted)
    assert [seen.shadow for seen in mesh.trade.contexts if seen] == [True, True, True]
    assert [seen.request_id for seen in mesh.trade.contexts if seen] == ["one", "two", "r-0"]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (context_pb2.BusinessContext(biz_id="pay_nonsense"), "context.biz_id"),
        (context_pb2.BusinessContext(biz_id=contexts(1)[0].biz_id, request_id="a\nb"), "context.request_id"),
        (context_pb2.BusinessContext(biz_id=contexts(1)[0].biz_id, biz_code="é"), "context.biz_code"),
    ],
)
async def test_a_malformed_context_of_an_item_is_that_items_error(
    mesh: Mesh, bad: context_pb2.BusinessContext, field: str
) -> None:
    message = pay_service_pb2.BatchTransferRequest()
    message.items.add(request=request(), context=bad)
    response = await pay_service_pb2_grpc.PayServiceStub(mesh.bare).BatchTransfer(message)
    error = from_status(response.results[0].status)
    assert isinstance(error, InvalidArgument)
    assert error.violations[0].field == field


async def test_more_than_200_items_are_refused_whole(mesh: Mesh, context: BusinessContext) -> None:
    message = pay_service_pb2.BatchTransferRequest()
    for _ in range(201):
        message.items.add(request=request(), context=to_proto(context))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pay_service_pb2_grpc.PayServiceStub(mesh.bare).BatchTransfer(message)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert mesh.pay.contexts == []


async def test_a_transient_error_of_an_item_keeps_its_retry_delay(mesh: Mesh, context: BusinessContext) -> None:
    async def contended(_item: Any) -> Any:
        raise Aborted("lost races", retry_after_ms=30)

    mesh.pay.transfer = contended
    with pytest.raises(Aborted) as caught:
        await mesh.channels.batch("pay_core", TRANSFER)(request(), context)
    assert caught.value.retry_after_ms == 30
