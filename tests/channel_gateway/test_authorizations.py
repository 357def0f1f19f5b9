"""Authorisations, captures and voids, and wallets, through the whole service beside the real provider."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from channel_gateway.sandbox.client import decide_as_customer
from paymesh.channel.v1 import channel_order_pb2
from tests.channel_gateway.gateway import Gateway
from tests.channel_gateway.provider import ADMIN_KEY, WALLET
from tests.channel_gateway.test_api import reason_of

SUCCEEDED, FAILED = "live.channel.order_succeeded", "live.channel.order_failed"


async def authorized(gateway: Gateway, token: str = "tok_ok") -> channel_order_pb2.ChannelOrder:
    order = await gateway.submit(gateway.request("AUTHORIZE", token))
    event = await gateway.event(order.channel_order_id, SUCCEEDED)
    found: channel_order_pb2.ChannelOrder = event.channel_order
    return found


def following(gateway: Gateway, original: Any, kind: str, amount_minor: int = 1_000, **changes: Any) -> Any:
    fields = {"payment_id": original.payment_id} | changes
    request = gateway.request(kind, "", original_channel_order_id=original.channel_order_id, **fields)
    request.amount.amount_minor = amount_minor
    return request


async def done(gateway: Gateway, request: Any, subject: str = SUCCEEDED) -> Any:
    order = await gateway.submit(request)
    return (await gateway.event(order.channel_order_id, subject)).channel_order


async def refused(gateway: Gateway, request: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await gateway.submit(request)
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    return reason_of(error.value)


async def test_money_is_reserved_captured_and_given_back(gateway: Gateway) -> None:
    authorization = await authorized(gateway)
    capture = await done(gateway, following(gateway, authorization, "CAPTURE", 600))
    await done(gateway, following(gateway, authorization, "VOID", 400))
    # A refund is a payment of its own.
    payment_id = gateway.request().payment_id
    assert await refused(gateway, following(gateway, capture, "REFUND", 601, payment_id=payment_id)) == (
        "REFUND_EXCEEDS_CHARGE"
    )
    refund = await done(gateway, following(gateway, capture, "REFUND", 600, payment_id=payment_id))
    book = await gateway.book()
    kinds = [book[order.channel_order_id].kind for order in (authorization, capture, refund)]
    assert kinds == ["authorize", "capture", "refund"]
    assert book[capture.channel_order_id].original_reference == authorization.channel_order_id


async def test_of_many_captures_and_voids_at_once_one_is_taken(gateway: Gateway) -> None:
    authorization = await authorized(gateway)
    requests = [following(gateway, authorization, kind) for kind in ("CAPTURE", "VOID") * 4]
    answers = await asyncio.gather(*(gateway.submit(request) for request in requests), return_exceptions=True)
    taken = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert len(taken) == 1
    event = await gateway.event(taken[0].channel_order_id, SUCCEEDED)
    assert event.channel_order.original_channel_order_id == authorization.channel_order_id
    followers = [e for e in (await gateway.book()).values() if e.original_reference == authorization.channel_order_id]
    assert len(followers) == 1


async def test_an_authorization_of_another_payment_or_none_is_refused(gateway: Gateway) -> None:
    authorization = await authorized(gateway)
    charge = await done(gateway, gateway.request())
    for original, changes in (
        (charge, {}),
        (authorization, {"payment_id": gateway.request().payment_id}),
    ):
        for kind in ("CAPTURE", "VOID"):
            assert await refused(gateway, following(gateway, original, kind, **changes)) == "ORIGINAL_NOT_AUTHORIZED"
    payment_id = gateway.request().payment_id
    reserved = following(gateway, authorization, "REFUND", payment_id=payment_id)
    assert await refused(gateway, reserved) == "ORIGINAL_NOT_REFUNDABLE"


async def test_a_capture_that_comes_too_late_fails_for_good_and_the_reserve_can_be_voided(gateway: Gateway) -> None:
    authorization = await authorized(gateway, "tok_ok__capture_auth_expired")
    failed = await done(gateway, following(gateway, authorization, "CAPTURE"), FAILED)
    assert failed.failure_reason == "AUTH_EXPIRED"
    await done(gateway, following(gateway, authorization, "VOID"))


@pytest.mark.parametrize(
    "behaviour", ["timeout_charged", "drop_charged", "error_charged", "notify_only", "notify_never"]
)
@pytest.mark.parametrize("kind", ["CAPTURE", "VOID"])
async def test_a_success_is_found_however_it_is_told(gateway: Gateway, kind: str, behaviour: str) -> None:
    authorization = await authorized(gateway, f"tok_ok__{kind.lower()}_{behaviour}")
    order = await done(gateway, following(gateway, authorization, kind))
    entry = (await gateway.book())[order.channel_order_id]
    assert (entry.kind, entry.status, entry.provider_reference) == (kind.lower(), "succeeded", order.provider_reference)


async def test_a_channel_captures_as_often_as_it_declares(tmp_path: Any, make_shards: Any) -> None:
    gateway = await Gateway(tmp_path, make_shards(1), captures_max=2).start()
    try:
        authorization = await authorized(gateway)
        for _ in range(2):
            await done(gateway, following(gateway, authorization, "CAPTURE", 300))
        assert await refused(gateway, following(gateway, authorization, "CAPTURE", 300)) == "CAPTURES_EXHAUSTED"
    finally:
        await gateway.stop()


@pytest.mark.parametrize(("decision", "subject"), [("confirm", SUCCEEDED), ("decline", FAILED)])
async def test_a_wallet_waits_until_its_customer_decides(gateway: Gateway, decision: Any, subject: str) -> None:
    order = await gateway.submit(gateway.request("CHARGE", "tok_customer_never", channel=WALLET))
    await decide_as_customer(gateway.process.url, ADMIN_KEY, order.channel_order_id, decision)
    event = (await gateway.event(order.channel_order_id, subject)).channel_order
    assert event.failure_reason == ("" if decision == "confirm" else "CUSTOMER_DECLINED")


@pytest.mark.parametrize(("token", "settled_minor"), [("tok_pays_more", 1_500), ("tok_pays_less", 500), ("tok_ok", 0)])
async def test_a_wallet_settles_with_what_its_customer_paid(gateway: Gateway, token: str, settled_minor: int) -> None:
    charge = await done(gateway, gateway.request("CHARGE", token, channel=WALLET))
    assert (charge.amount.amount_minor, charge.settled_minor) == (1_000, settled_minor)
    assert (await gateway.get(charge.channel_order_id)).settled_minor == settled_minor
    moved_minor = settled_minor or 1_000
    assert (await gateway.book())[charge.channel_order_id].amount_minor == moved_minor
    beyond = following(gateway, charge, "REFUND", moved_minor + 1, channel=WALLET)
    assert await refused(gateway, beyond) == "REFUND_EXCEEDS_CHARGE"
    await done(gateway, following(gateway, charge, "REFUND", moved_minor, channel=WALLET))


async def test_a_card_that_moved_another_amount_is_a_mismatch(gateway: Gateway) -> None:
    order = await gateway.submit(gateway.request("CHARGE", "tok_pays_more"))
    mismatch = await gateway.event(order.channel_order_id, "live.channel.mismatch_found")
    assert mismatch.evidence == "amount 1500 instead of 1000"
    assert mismatch.channel_order.settled_minor == 0
