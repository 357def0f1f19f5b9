"""ChannelService over gRPC: field checks, idempotency, Get, List and the Batch forms."""

from __future__ import annotations

import time
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from paykit.context import mint, to_metadata, to_proto
from paykit.ids import new_id
from paymesh.channel.v1 import channel_service_pb2
from paymesh.common.v1 import money_pb2
from tests.channel_gateway.gateway import SLOT, Gateway


def an_id(prefix: str, slot: int = SLOT) -> str:
    return new_id(prefix, slot, int(time.time() * 1000))


def metadata() -> list[tuple[str, str]]:
    return to_metadata(mint(SLOT, int(time.time() * 1000)))


def status_of(error: Any) -> status_pb2.Status:
    status = error if isinstance(error, status_pb2.Status) else rpc_status.from_call(error)
    assert status is not None
    return status


def reason_of(error: grpc.aio.AioRpcError | status_pb2.Status) -> str:
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status_of(error).details)
    return str(info.reason)


def fields_of(error: grpc.aio.AioRpcError) -> set[str]:
    wrong = error_details_pb2.BadRequest()
    assert any(detail.Unpack(wrong) for detail in status_of(error).details)
    return {violation.field for violation in wrong.field_violations}


async def refused(gateway: Gateway, request: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await gateway.submit(request)
    return error.value


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"request_id": ""}, "request_id"),
        ({"request_id": "x" * 65}, "request_id"),
        ({"request_id": "a\nb"}, "request_id"),
        ({"kind": 0}, "kind"),
        ({"kind": 99}, "kind"),
        ({"channel": ""}, "channel"),
        ({"channel": "a b"}, "channel"),
        ({"amount": money_pb2.Money()}, "amount"),
        ({"amount": money_pb2.Money(currency_code="EUR", amount_minor=0)}, "amount.amount_minor"),
        ({"amount": money_pb2.Money(currency_code="EUR", amount_minor=-1)}, "amount.amount_minor"),
        ({"amount": money_pb2.Money(currency_code="ZZZ", amount_minor=1)}, "amount.currency_code"),
        ({"instruction_id": ""}, "instruction_id"),
        ({"instruction_id": an_id("pay")}, "instruction_id"),
        ({"payment_id": "pay_x"}, "payment_id"),
        ({"payment_id": an_id("pay", SLOT + 1)}, "payment_id"),
        ({"token": ""}, "token"),
        ({"token": "x" * 65}, "token"),
        ({"token": "4111 1111"}, "token"),
        ({"original_channel_order_id": an_id("chn")}, "original_channel_order_id"),
        ({"kind": 2, "token": ""}, "original_channel_order_id"),
        ({"kind": 4, "token": ""}, "token"),
        ({"kind": 4, "original_channel_order_id": an_id("chn")}, "original_channel_order_id"),
        ({"kind": 5, "token": ""}, "original_channel_order_id"),
        ({"kind": 5, "original_channel_order_id": an_id("chn")}, "token"),
        ({"kind": 6, "token": ""}, "original_channel_order_id"),
        ({"kind": 6, "original_channel_order_id": an_id("chn")}, "token"),
        ({"kind": 2, "original_channel_order_id": an_id("chn")}, "token"),
        (
            {"kind": 2, "token": "", "original_channel_order_id": an_id("chn", SLOT + 1)},
            "original_channel_order_id",
        ),
    ],
)
async def test_a_wrong_field_is_named_and_nothing_is_written(
    gateway: Gateway, changes: dict[str, Any], field: str
) -> None:
    request = gateway.request(**{name: value for name, value in changes.items() if name != "kind"})
    request.kind = changes.get("kind", request.kind)
    error = await refused(gateway, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert fields_of(error) == {field}
    if field not in ("payment_id", "instruction_id"):
        listing = channel_service_pb2.ListChannelOrdersRequest(payment_id=request.payment_id)
        assert not (await gateway.stub.ListChannelOrders(listing, metadata=metadata())).channel_orders


async def test_a_call_without_a_context_is_refused(gateway: Gateway) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await gateway.stub.SubmitChannelOrder(gateway.request())
    assert reason_of(error.value) == "CONTEXT_MISSING"


async def test_an_unconfigured_channel_is_refused(gateway: Gateway) -> None:
    error = await refused(gateway, gateway.request(channel="no_such"))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "CHANNEL_UNKNOWN")


async def test_a_refund_of_what_was_never_charged_is_refused(gateway: Gateway) -> None:
    declined = await gateway.submit(gateway.request("CHARGE", "tok_declined"))
    await gateway.event(declined.channel_order_id, "live.channel.order_failed")
    for original in (an_id("chn"), declined.channel_order_id):
        error = await refused(gateway, gateway.request("REFUND", "", original_channel_order_id=original))
        assert reason_of(error) == "ORIGINAL_NOT_REFUNDABLE"


async def test_a_refund_in_another_currency_is_refused(gateway: Gateway) -> None:
    charge = await gateway.submit(gateway.request())
    await gateway.event(charge.channel_order_id, "live.channel.order_succeeded")
    amount = money_pb2.Money(currency_code="USD", amount_minor=1)
    request = gateway.request("REFUND", "", original_channel_order_id=charge.channel_order_id, amount=amount)
    assert reason_of(await refused(gateway, request)) == "ORIGINAL_NOT_REFUNDABLE"


async def test_a_request_id_used_for_another_body_is_refused(gateway: Gateway) -> None:
    request = gateway.request()
    await gateway.submit(request)
    request.amount.amount_minor += 1
    error = await refused(gateway, request)
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


async def test_one_instruction_has_one_order_whatever_the_request_id(gateway: Gateway) -> None:
    request = gateway.request()
    first = await gateway.submit(request)
    request.request_id = "another-1"
    assert (await gateway.submit(request)).channel_order_id == first.channel_order_id
    request.request_id = "another-2"
    request.amount.amount_minor += 1
    assert reason_of(await refused(gateway, request)) == "INSTRUCTION_ID_REUSED"


async def test_an_order_is_found_by_its_id_and_by_its_instruction(gateway: Gateway) -> None:
    request = gateway.request()
    order = await gateway.submit(request)
    for by in ({"channel_order_id": order.channel_order_id}, {"instruction_id": request.instruction_id}):
        response = await gateway.stub.GetChannelOrder(
            channel_service_pb2.GetChannelOrderRequest(**by), metadata=metadata()
        )
        assert response.channel_order.channel_order_id == order.channel_order_id


@pytest.mark.parametrize(
    ("by", "code"),
    [
        ({}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"channel_order_id": an_id("ins")}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"instruction_id": "x"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"channel_order_id": an_id("chn")}, grpc.StatusCode.NOT_FOUND),
        ({"instruction_id": an_id("ins")}, grpc.StatusCode.NOT_FOUND),
    ],
)
async def test_a_wrong_or_unknown_id_is_told(gateway: Gateway, by: dict[str, str], code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await gateway.stub.GetChannelOrder(channel_service_pb2.GetChannelOrderRequest(**by), metadata=metadata())
    assert error.value.code() is code


async def test_the_orders_of_a_payment_are_listed_in_pages_oldest_first(gateway: Gateway) -> None:
    payment_id = an_id("pay")
    made = [(await gateway.submit(gateway.request(payment_id=payment_id))).channel_order_id for _ in range(5)]
    pages, token = [], ""
    while True:
        request = channel_service_pb2.ListChannelOrdersRequest(payment_id=payment_id, page_size=2, page_token=token)
        response = await gateway.stub.ListChannelOrders(request, metadata=metadata())
        pages.append([order.channel_order_id for order in response.channel_orders])
        token = response.next_page_token
        if not token:
            break
    assert [len(page) for page in pages] == [2, 2, 1]
    assert sum(pages, []) == sorted(made)  # noqa: RUF017


async def test_a_batch_has_a_status_for_each_item(gateway: Gateway) -> None:
    context = mint(SLOT, int(time.time() * 1000))
    requests = [gateway.request(), gateway.request(token=""), gateway.request()]
    batch = channel_service_pb2.BatchSubmitChannelOrdersRequest(
        items=[
            channel_service_pb2.SubmitChannelOrderItem(context=to_proto(context), request=request)
            for request in requests
        ]
    )
    response = await gateway.stub.BatchSubmitChannelOrders(batch, metadata=to_metadata(context))
    assert [result.status.code for result in response.results] == [0, grpc.StatusCode.INVALID_ARGUMENT.value[0], 0]
    order = response.results[0].response.channel_order
    assert order.biz_id == context.biz_id
    gets = channel_service_pb2.BatchGetChannelOrdersRequest(
        items=[
            channel_service_pb2.GetChannelOrderItem(
                request=channel_service_pb2.GetChannelOrderRequest(channel_order_id=id_)
            )
            for id_ in (order.channel_order_id, an_id("chn"))
        ]
    )
    answers = await gateway.stub.BatchGetChannelOrders(gets, metadata=to_metadata(context))
    assert [result.status.code for result in answers.results] == [0, grpc.StatusCode.NOT_FOUND.value[0]]


async def test_a_full_channel_refuses_before_anything_is_written(tmp_path: Any, make_shards: Any) -> None:
    gateway = await Gateway(tmp_path, make_shards(1), max_in_flight=1, max_queue=1, timeout_s=3.0).start()
    try:
        contexts = [to_proto(mint(SLOT, int(time.time() * 1000))) for _ in range(10)]
        requests = [gateway.request(token="tok_timeout_charged") for _ in contexts]
        batch = channel_service_pb2.BatchSubmitChannelOrdersRequest(
            items=[
                channel_service_pb2.SubmitChannelOrderItem(context=context, request=request)
                for context, request in zip(contexts, requests, strict=True)
            ]
        )
        results = (await gateway.stub.BatchSubmitChannelOrders(batch, metadata=metadata())).results
        busy = [n for n, result in enumerate(results) if result.status.code]
        assert 0 < len(busy) < 10
        for n in busy:
            assert reason_of(results[n].status) == "CHANNEL_BUSY"
            listing = channel_service_pb2.ListChannelOrdersRequest(payment_id=requests[n].payment_id)
            assert not (await gateway.stub.ListChannelOrders(listing, metadata=metadata())).channel_orders
    finally:
        await gateway.stop()


async def test_an_operation_the_channel_does_not_declare_is_refused(tmp_path: Any, make_shards: Any) -> None:
    gateway = await Gateway(tmp_path, make_shards(1), operations=["CHARGE", "REFUND"]).start()
    try:
        error = await refused(gateway, gateway.request("PAYOUT"))
        assert reason_of(error) == "OPERATION_UNSUPPORTED"
    finally:
        await gateway.stop()


async def test_a_shadow_order_is_refused_where_the_channel_has_no_shadow_account(
    tmp_path: Any, make_shards: Any
) -> None:
    gateway = await Gateway(tmp_path, make_shards(1), shadow=None).start()
    try:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await gateway.submit(gateway.request(), shadow=True)
        assert reason_of(error.value) == "SHADOW_UNAVAILABLE"
        assert await gateway.book() == {}
    finally:
        await gateway.stop()
