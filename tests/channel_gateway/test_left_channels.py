"""Two channels for cards at a real provider: another one after a definite failure, and what comes of it later."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from channel_gateway.sandbox.client import read_book
from paykit.context import mint, to_metadata
from paykit.rpc.errors import from_rpc_error
from paykit.settings import ShardSettings
from paymesh.channel.v1 import channel_order_pb2, channel_service_pb2, doubt_pb2, doubt_service_pb2, route_pb2
from paymesh.common.v1 import money_pb2
from tests.channel_gateway.gateway import CHANNEL_B, SLOT, WAIT_S, Gateway
from tests.channel_gateway.provider import ADMIN_KEY, CHANNEL

MODES = ("live", "shadow")


@pytest.fixture(scope="module")
async def cards(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """A gateway with two channels for cards, which is certain of an absence soon."""
    folder = tmp_path_factory.mktemp("cards")
    urls = {mode: f"sqlite+aiosqlite:///{folder}/{mode}.db" for mode in MODES}
    gateway = Gateway(folder, {"s0": ShardSettings(**urls)}, not_found_certain_after_s=16.5).add_second_card()
    await gateway.start()
    yield gateway
    await gateway.stop()


@pytest.fixture(autouse=True)
async def _no_faults(cards: Gateway) -> AsyncIterator[None]:
    yield
    assert await cards.provider.faults() == 200


def routed(gateway: Gateway, *reasons: str, **changes: Any) -> Any:
    """A charge that may go from the first card channel to the second."""
    candidates = [route_pb2.RouteCandidate(channel=CHANNEL), route_pb2.RouteCandidate(channel=CHANNEL_B)]
    fields: dict[str, Any] = {"channel": "", "candidates": candidates, "channels_max": 2, "switch_on": reasons}
    return gateway.request(**(fields | changes))


async def look(gateway: Gateway, order_id: str) -> Any:
    """The order with the channels it has left."""
    request = channel_service_pb2.GetChannelOrderRequest(channel_order_id=order_id)
    return await gateway.stub.GetChannelOrder(request, metadata=metadata(), timeout=WAIT_S)


def metadata() -> Any:
    return to_metadata(mint(SLOT, int(time.time() * 1000)))


async def doubts_of(gateway: Gateway, order_id: str) -> list[Any]:
    request = doubt_service_pb2.ListDoubtsRequest(channel_order_id=order_id)
    return list((await gateway.doubts.ListDoubts(request, metadata=metadata(), timeout=WAIT_S)).doubts)


async def booked(gateway: Gateway, order_id: str) -> list[tuple[str, str]]:
    """(account, status) of what the provider has under the order's id."""
    return sorted(
        [(entry.account, entry.status) async for entry in read_book(gateway.process.url, ADMIN_KEY)
         if entry.reference == order_id]
    )  # fmt: skip


async def test_what_could_not_be_sent_is_carried_by_another_channel(cards: Gateway) -> None:
    assert await cards.provider.faults({"behaviour": "maintenance", "account": CHANNEL}) == 200
    order = await cards.submit(routed(cards, "PROVIDER_UNREACHABLE"))
    assert (order.channel, order.attempt_no) == (CHANNEL, 1)
    event = await cards.event(order.channel_order_id, "live.channel.order_succeeded")
    assert (event.channel_order.channel, event.channel_order.attempt_no) == (CHANNEL_B, 2)
    found = await look(cards, order.channel_order_id)
    (attempt,) = found.attempts
    assert (attempt.channel, attempt.failure_reason, attempt.attempt_no) == (CHANNEL, "PROVIDER_UNREACHABLE", 1)
    assert await booked(cards, order.channel_order_id) == [(CHANNEL_B, "succeeded")]


async def test_an_unknown_outcome_never_leaves_its_channel(cards: Gateway) -> None:
    assert await cards.provider.faults({"behaviour": "timeout_charged", "account": CHANNEL}) == 200
    reasons = ("PROVIDER_UNREACHABLE", "CARD_DECLINED", "PROVIDER_NOT_FOUND")
    order = await cards.submit(routed(cards, *reasons))
    event = await cards.event(order.channel_order_id, "live.channel.order_succeeded")
    assert (event.channel_order.channel, event.channel_order.attempt_no) == (CHANNEL, 1)
    assert await booked(cards, order.channel_order_id) == [(CHANNEL, "succeeded")]


async def test_a_decline_for_a_reason_that_is_not_named_is_final(cards: Gateway) -> None:
    order = await cards.submit(routed(cards, "PROVIDER_UNREACHABLE", token="tok_declined"))
    event = await cards.event(order.channel_order_id, "live.channel.order_failed")
    assert (event.channel_order.channel, event.channel_order.failure_reason) == (CHANNEL, "CARD_DECLINED")


async def test_two_concurrent_successes_cannot_both_stand(cards: Gateway) -> None:
    """The first channel declines, the second charges; then the first has charged too. One is stray, and known as it."""
    assert await cards.provider.faults({"behaviour": "declined_then_charged", "account": CHANNEL}) == 200
    order = await cards.submit(routed(cards, "CARD_DECLINED"))
    order_id = order.channel_order_id
    settled = (await cards.event(order_id, "live.channel.order_succeeded")).channel_order
    assert settled.channel == CHANNEL_B
    resolved = await cards.event(order_id, "live.channel.mismatch_resolved")
    doubt = resolved.doubt
    assert (doubt.state, doubt.type) == (doubt_pb2.DOUBT_STATE_CONFIRMED, doubt_pb2.DOUBT_TYPE_DUPLICATE)
    assert (doubt.channel, doubt.attempt_no, doubt.amount.amount_minor) == (CHANNEL, 1, 1_000)
    assert doubt.provider_reference
    assert doubt.provider_reference != settled.provider_reference
    assert await cards.get(order_id) == settled
    found = await cards.event(order_id, "live.channel.mismatch_found")
    assert (found.doubt_id, found.channel) == (doubt.doubt_id, CHANNEL)
    assert await doubts_of(cards, order_id) == [doubt]


async def test_a_late_success_after_everything_else_is_handled_is_found(cards: Gateway) -> None:
    order = await cards.submit(cards.request("CHARGE", "tok_declined_then_charged"))
    order_id = order.channel_order_id
    failed = (await cards.event(order_id, "live.channel.order_failed")).channel_order
    doubt = (await cards.event(order_id, "live.channel.mismatch_resolved")).doubt
    assert (doubt.state, doubt.type) == (doubt_pb2.DOUBT_STATE_CONFIRMED, doubt_pb2.DOUBT_TYPE_LATE)
    assert (doubt.channel, doubt.amount.amount_minor) == (CHANNEL, 1_000)
    assert await cards.get(order_id) == failed


async def test_a_success_that_is_taken_back_is_denied(cards: Gateway) -> None:
    order = await cards.submit(cards.request("CHARGE", "tok_charged_then_denied"))
    order_id = order.channel_order_id
    done = (await cards.event(order_id, "live.channel.order_succeeded")).channel_order
    doubt = (await cards.event(order_id, "live.channel.mismatch_resolved")).doubt
    assert (doubt.state, doubt.type) == (doubt_pb2.DOUBT_STATE_CONFIRMED, doubt_pb2.DOUBT_TYPE_DENIED)
    assert await cards.get(order_id) == done


@pytest.mark.parametrize("token", ["tok_notify_success_after_failed", "tok_notify_failed_after_success"])
async def test_a_lying_notification_changes_no_money_and_is_dismissed(cards: Gateway, token: str) -> None:
    order = await cards.submit(cards.request("CHARGE", token))
    order_id = order.channel_order_id
    outcome = "failed" if token.endswith("failed") else "succeeded"
    settled = (await cards.event(order_id, f"live.channel.order_{outcome}")).channel_order
    doubt = (await cards.event(order_id, "live.channel.mismatch_resolved")).doubt
    assert doubt.state == doubt_pb2.DOUBT_STATE_DISMISSED
    assert await cards.get(order_id) == settled


async def test_a_channel_that_does_not_carry_it_is_left_out_and_the_preview_says_why(cards: Gateway) -> None:
    request = channel_service_pb2.PreviewRouteRequest(
        kind=channel_order_pb2.CHANNEL_ORDER_KIND_CHARGE,
        amount=money_pb2.Money(currency_code="EUR", amount_minor=1_000),
        candidates=[
            route_pb2.RouteCandidate(channel="nowhere"),
            route_pb2.RouteCandidate(channel=CHANNEL, cost_fixed_minor=30),
            route_pb2.RouteCandidate(channel=CHANNEL_B, cost_rate_ppm=15_500),
        ],
        strategy=route_pb2.ROUTE_STRATEGY_LOWEST_COST,
    )
    answer = await cards.stub.PreviewRoute(request, metadata=metadata(), timeout=WAIT_S)
    assert answer.channel == CHANNEL_B
    assert [(one.channel, one.is_in, one.reason, one.cost_minor) for one in answer.candidates] == [
        (CHANNEL_B, True, "", 16), (CHANNEL, True, "", 30), ("nowhere", False, "CHANNEL_UNKNOWN", 0),
    ]  # fmt: skip


async def test_in_shadow_a_channel_without_a_shadow_account_is_left_out(cards: Gateway) -> None:
    candidates = [route_pb2.RouteCandidate(channel=CHANNEL_B), route_pb2.RouteCandidate(channel=CHANNEL)]
    order = await cards.submit(routed(cards, candidates=candidates), shadow=True)
    assert order.channel == CHANNEL


async def test_where_no_channel_carries_it_the_order_is_refused_with_the_reason_of_each(cards: Gateway) -> None:
    candidates = [route_pb2.RouteCandidate(channel=CHANNEL_B), route_pb2.RouteCandidate(channel="nowhere")]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cards.submit(routed(cards, candidates=candidates), shadow=True)
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "NO_CHANNEL")
    assert error.metadata == {CHANNEL_B: "SHADOW_UNAVAILABLE", "nowhere": "CHANNEL_UNKNOWN"}


async def test_the_same_request_again_finds_its_order_wherever_it_has_gone(cards: Gateway) -> None:
    assert await cards.provider.faults({"behaviour": "maintenance", "account": CHANNEL}) == 200
    request = routed(cards, "PROVIDER_UNREACHABLE")
    order = await cards.submit(request)
    await cards.event(order.channel_order_id, "live.channel.order_succeeded")
    request.request_id = "another"  # a twin from elsewhere: it is decided anew
    again = await cards.submit(request)
    assert (again.channel_order_id, again.channel) == (order.channel_order_id, CHANNEL_B)
