"""Stripe behind the running gateway: submitted by RPC, carried by a lane, told by webhooks, stated by RPC."""

from __future__ import annotations

import asyncio
import datetime
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import grpc
import msgspec
import pytest

from channel_gateway.statements import STREAMS_MAX
from paykit.context import mint, to_metadata
from paykit.rpc.errors import from_rpc_error
from paykit.settings import ShardSettings
from paymesh.channel.v1 import channel_order_pb2, channel_service_pb2
from tests.channel_gateway.channels.stripe_rig import (
    LIVE_KEY,
    LIVE_SECRET,
    OLD_SECRET,
    TEST_KEY,
    TEST_SECRET,
)
from tests.channel_gateway.channels.stripe_server import Merchant, StripeServer
from tests.channel_gateway.channels.stripe_webhooks import sign
from tests.channel_gateway.gateway import SLOT, Gateway

CHANNEL = "stripe_card"
DAY_S = 86_400
SUCCEEDED = channel_order_pb2.CHANNEL_ORDER_STATE_SUCCEEDED
FAILED = channel_order_pb2.CHANNEL_ORDER_STATE_FAILED


class Stripe:
    """The server, its two accounts, and a gateway with a channel to it."""

    def __init__(self, server: StripeServer, live: Merchant, test: Merchant, gateway: Gateway, url: str) -> None:
        self.server = server
        self.live = live
        self.test = test
        self.gateway = gateway
        self.url = url  # of the webhook endpoint

    async def submit(self, kind: str, token: str, *, shadow: bool = False, **changes: Any) -> Any:
        request = self.gateway.request(kind, token, channel=CHANNEL, **changes)
        return await self.gateway.submit(request, shadow=shadow)

    async def succeeded(self, order: Any, mode: str = "live") -> Any:
        event = await self.gateway.event(order.channel_order_id, f"{mode}.channel.order_succeeded")
        return event.channel_order

    async def failed(self, order: Any) -> Any:
        event = await self.gateway.event(order.channel_order_id, "live.channel.order_failed")
        return event.channel_order

    async def notify(self, body: bytes, *secrets: str) -> int:
        """The HTTP status that a webhook is answered with."""
        headers = {"Stripe-Signature": sign(body, secrets, int(time.time()))}
        async with aiohttp.ClientSession() as session, session.post(self.url, data=body, headers=headers) as answer:
            return answer.status

    def made(self, order: Any) -> dict[str, Any]:
        """The one payment intent of an order."""
        intents = self.live.book.objects["payment_intents"].values()
        found = [said for said in intents if said["metadata"].get("channel_order_id") == order.channel_order_id]
        assert len(found) == 1
        intent: dict[str, Any] = found[0]
        return intent


@pytest.fixture(scope="module")
async def stripe(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stripe]:
    folder = tmp_path_factory.mktemp("stripe_gateway")
    shards = {
        "s0": ShardSettings(
            live=f"sqlite+aiosqlite:///{folder}/live.db", shadow=f"sqlite+aiosqlite:///{folder}/shadow.db"
        )
    }
    gateway = Gateway(folder, shards)
    url = gateway.notification_url.rpartition("/")[0] + f"/{CHANNEL}"
    server = await StripeServer().start()
    live = server.add(LIVE_KEY, True, url, [OLD_SECRET, LIVE_SECRET])  # the secret is being rolled
    test = server.add(TEST_KEY, False, url, [TEST_SECRET])
    gateway.channels[CHANNEL] = {
        "kind": "stripe",
        "base_url": server.url,
        "api_key": {"value": LIVE_KEY},
        "notification_keys": {"new": {"value": LIVE_SECRET}},
        "shadow": {
            "base_url": server.url,
            "api_key": {"value": TEST_KEY},
            "notification_keys": {"test": {"value": TEST_SECRET}},
        },
        "timeout_s": 2.0,
        "query_ladder_s": [0.3, 0.5, 1, 2],
        "resend_delay_s": 0.1,
    }
    await gateway.start()
    yield Stripe(server, live, test, gateway, url)
    await gateway.stop()
    await server.stop()


async def test_a_charge_is_done_once_and_named_by_its_intent(stripe: Stripe) -> None:
    order = await stripe.submit("CHARGE", "pm_card_visa")
    done = await stripe.succeeded(order)
    assert done.provider_reference == stripe.made(order)["id"]


async def test_a_decline_fails_with_its_reason(stripe: Stripe) -> None:
    order = await stripe.submit("CHARGE", "pm_card_chargeDeclinedInsufficientFunds")
    assert (await stripe.failed(order)).failure_reason == "INSUFFICIENT_FUNDS"


@pytest.mark.parametrize("fault", ["booked_drop", "booked_error", "processing"])
async def test_what_a_reply_leaves_open_is_settled_by_a_webhook_or_a_query(stripe: Stripe, fault: str) -> None:
    order = await stripe.submit("CHARGE", f"pm_card_visa__create_{fault}")
    done = await stripe.succeeded(order)
    assert done.provider_reference == stripe.made(order)["id"]
    assert stripe.made(order)["amount_received"] == 1_000


async def test_an_authorization_is_captured_and_refunded_and_one_is_voided(stripe: Stripe) -> None:
    authorization = await stripe.succeeded(await stripe.submit("AUTHORIZE", "pm_card_visa"))
    related = {"payment_id": authorization.payment_id, "original_channel_order_id": authorization.channel_order_id}
    capture = await stripe.succeeded(await stripe.submit("CAPTURE", "", **related))
    refund = await stripe.submit("REFUND", "", original_channel_order_id=capture.channel_order_id)
    assert (await stripe.succeeded(refund)).provider_reference.startswith("re_")
    voided = await stripe.succeeded(await stripe.submit("AUTHORIZE", "pm_card_visa"))
    related = {"payment_id": voided.payment_id, "original_channel_order_id": voided.channel_order_id}
    await stripe.succeeded(await stripe.submit("VOID", "", **related))
    assert stripe.made(voided)["status"] == "canceled"


async def test_a_payout_is_settled_when_the_bank_has_it(stripe: Stripe) -> None:
    order = await stripe.submit("PAYOUT", "ba_1MtIhL2eZvKYlo2C__payouts_pending")
    pending = await stripe.gateway.until(order.channel_order_id, "PENDING")
    stripe.live.book.settle_payout(stripe.live.book.objects["payouts"][pending.provider_reference], "paid")
    assert (await stripe.succeeded(order)).provider_reference == pending.provider_reference


async def test_shadow_money_moves_in_test_mode_alone(stripe: Stripe) -> None:
    before = len(stripe.live.book.objects["payment_intents"])
    order = await stripe.submit("CHARGE", "pm_card_visa__create_processing", shadow=True)
    done = await stripe.succeeded(order, "shadow")
    assert done.provider_reference in stripe.test.book.objects["payment_intents"]
    assert len(stripe.live.book.objects["payment_intents"]) == before


async def test_webhooks_are_answered_by_what_they_are(stripe: Stripe) -> None:
    order = await stripe.submit("CHARGE", "pm_card_visa")
    await stripe.succeeded(order)
    event: Callable[[str, dict[str, Any]], bytes] = stripe.live.webhooks.event
    body = event("payment_intent.succeeded", stripe.made(order))
    assert await stripe.notify(body, LIVE_SECRET) == 200
    assert await stripe.notify(body, OLD_SECRET, LIVE_SECRET) == 200
    assert await stripe.notify(event("customer.created", {"id": "cus_1", "object": "customer"}), LIVE_SECRET) == 200
    assert await stripe.notify(body, OLD_SECRET) == 401
    assert await stripe.notify(body, TEST_SECRET) == 400  # signed for the test mode, and speaks of the live one
    assert await stripe.notify(b"{}", LIVE_SECRET) == 400


async def test_a_webhook_of_another_amount_changes_nothing_and_is_told(stripe: Stripe) -> None:
    order = await stripe.submit("CHARGE", "pm_card_visa")
    done = await stripe.succeeded(order)
    said = stripe.made(order) | {"amount_received": 9_999}
    assert await stripe.notify(stripe.live.webhooks.event("payment_intent.succeeded", said), LIVE_SECRET) == 200
    await stripe.gateway.event(order.channel_order_id, "live.channel.mismatch_found")
    assert (await stripe.gateway.get(order.channel_order_id)).version >= done.version
    assert (await stripe.gateway.get(order.channel_order_id)).state == done.state


async def test_yesterdays_statement_is_streamed_with_our_orders_in_it(stripe: Stripe) -> None:
    stripe.server.clock_s = lambda: time.time() - DAY_S - 3_600
    try:
        orders = [await stripe.submit("CHARGE", "pm_card_visa") for _ in range(3)]
        for order in orders:
            await stripe.succeeded(order)
        day = datetime.datetime.fromtimestamp(stripe.server.now_s(), datetime.UTC).date()
    finally:
        stripe.server.clock_s = time.time
    request = channel_service_pb2.FetchStatementRequest(channel=CHANNEL, date=day.isoformat())
    pieces = [piece async for piece in stripe.gateway.stub.FetchStatement(request, timeout=20)]
    assert {piece.format for piece in pieces} == {"stripe_balance"}
    lines = [msgspec.json.decode(line) for line in b"".join(piece.chunk for piece in pieces).splitlines()]
    assert {order.channel_order_id for order in orders} <= {line["metadata"]["channel_order_id"] for line in lines}
    shadow = to_metadata(mint(SLOT, int(time.time() * 1_000), shadow=True))
    pieces = [piece async for piece in stripe.gateway.stub.FetchStatement(request, metadata=shadow, timeout=20)]
    assert [(piece.format, piece.chunk) for piece in pieces] == [("stripe_balance", b"")]


async def test_a_reader_of_a_statement_that_goes_away_leaves_its_place_to_others(stripe: Stripe) -> None:
    request = channel_service_pb2.FetchStatementRequest(channel=CHANNEL, date="2026-01-31")
    stripe.server.gate = asyncio.Event()
    for _ in range(STREAMS_MAX):
        stripe.server.asked.clear()
        call = stripe.gateway.stub.FetchStatement(request, timeout=20)
        reading = asyncio.ensure_future(call.read())
        await asyncio.wait_for(stripe.server.asked.wait(), 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    stripe.server.gate.set()
    stripe.server.gate = None
    chunks = None
    for _ in range(400):  # a call that was given up ends a moment after its caller has gone
        chunks = await statement_or_none(stripe, request)
        if chunks is not None:
            break
        await asyncio.sleep(0.02)
    assert chunks == [b""]


async def statement_or_none(stripe: Stripe, request: Any) -> list[bytes] | None:
    """The pieces; None where too many are being read."""
    try:
        return [piece.chunk async for piece in stripe.gateway.stub.FetchStatement(request, timeout=10)]
    except grpc.aio.AioRpcError as error:
        if from_rpc_error(error).reason != "STATEMENTS_BUSY":
            raise
        return None


# How orders go, and how often of ten; a hang is left out, for its absence is certain only after a quarter of a minute.
MIX = {
    "pm_card_visa": 3,
    "pm_card_visa__create_booked_drop": 1,
    "pm_card_visa__create_booked_error": 1,
    "pm_card_visa__create_processing": 1,
    "pm_card_visa__create_processing_twice": 1,
    "pm_card_visa__create_requires_action": 1,
    "pm_card_chargeDeclined": 1,
    "pm_card_authenticationRequired": 1,
}


async def test_whatever_goes_wrong_orders_and_stripes_book_agree_and_nobody_is_charged_twice(stripe: Stripe) -> None:
    seeded = random.Random(4711)
    tokens = seeded.choices(list(MIX), list(MIX.values()), k=120)
    book = stripe.live.book.objects
    before = len(book["balance_transactions"])
    submitted = await asyncio.gather(
        *(stripe.submit(seeded.choice(["CHARGE", "AUTHORIZE"]), token) for token in tokens)
    )
    wanted = {order.channel_order_id for order in submitted}
    ended = await stripe.gateway.ended(wanted)
    intents: dict[str, list[dict[str, Any]]] = {order_id: [] for order_id in wanted}
    for intent in book["payment_intents"].values():
        intents.get(intent["metadata"].get("channel_order_id"), []).append(intent)
    charged = 0
    for order_id, order in ended.items():
        [intent] = intents[order_id]
        is_done = intent["status"] in ("succeeded", "requires_capture")
        assert (order.state == SUCCEEDED) is is_done, f"{order_id} is {order.state}, at Stripe {intent['status']}"
        assert order.provider_reference == intent["id"]
        assert is_done or intent["status"] in ("canceled", "requires_payment_method")
        charged += intent["status"] == "succeeded"
    assert len(book["balance_transactions"]) - before == charged
    assert {order.state for order in ended.values()} == {SUCCEEDED, FAILED}
