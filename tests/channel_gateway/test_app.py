"""The whole service beside the real provider: every way a result can come, or not come."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from sqlalchemy import select

from channel_gateway.channel_order import ChannelOrderKind
from channel_gateway.commands import MarkSending, Submission, SubmitOrder
from channel_gateway.tables import Notification
from paykit.context import mint
from paykit.ids import new_id, slot_in
from paykit.store.command import Origin
from paymesh.channel.v1 import doubt_pb2
from tests.channel_gateway.gateway import SLOT, Gateway
from tests.channel_gateway.orders import POLICY
from tests.channel_gateway.provider import CHANNEL

SUCCEEDED, FAILED, UNKNOWN = "live.channel.order_succeeded", "live.channel.order_failed", "live.channel.order_unknown"


async def notifications(gateway: Gateway, channel_order_id: str) -> list[Notification]:
    table = Notification.__table__
    statement = select(table).where(table.c.channel_order_id == channel_order_id)
    return await gateway.service.store.fetch(Notification, statement, slot=slot_in(channel_order_id), shadow=False)


@pytest.mark.parametrize(
    "token",
    ["tok_ok", "tok_timeout_charged", "tok_drop_charged", "tok_error_charged", "tok_notify_only", "tok_notify_twice",
     "tok_notify_late", "tok_notify_before_reply", "tok_notify_never"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["CHARGE", "PAYOUT"])
async def test_a_success_is_found_however_it_is_told_and_the_provider_did_it_once(
    gateway: Gateway, kind: str, token: str
) -> None:
    accepted = await gateway.submit(gateway.request(kind, token))
    event = (await gateway.event(accepted.channel_order_id, SUCCEEDED)).channel_order
    entry = (await gateway.book())[accepted.channel_order_id]
    assert event.provider_reference == entry.provider_reference
    assert (entry.kind, entry.status, entry.amount_minor, entry.livemode) == (kind.lower(), "succeeded", 1_000, True)
    stored = await gateway.get(accepted.channel_order_id)
    assert stored == event
    assert stored.biz_id == accepted.biz_id


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("tok_declined", "CARD_DECLINED"),
        ("tok_insufficient", "INSUFFICIENT_FUNDS"),
        ("tok_notify_declined", "CARD_DECLINED"),
        ("tok_nothing", "TOKEN_UNKNOWN"),
    ],
)
async def test_a_definite_failure_is_told_with_its_reason(gateway: Gateway, token: str, reason: str) -> None:
    accepted = await gateway.submit(gateway.request("CHARGE", token))
    event = (await gateway.event(accepted.channel_order_id, FAILED)).channel_order
    assert event.failure_reason == reason
    assert (await gateway.get(accepted.channel_order_id)) == event


async def test_an_order_the_provider_never_had_stays_unknown_and_is_announced_when_the_ladder_ends(
    gateway: Gateway,
) -> None:
    accepted = await gateway.submit(gateway.request("CHARGE", "tok_timeout_uncharged"))
    event = (await gateway.event(accepted.channel_order_id, UNKNOWN)).channel_order
    assert event.query_count == 4
    assert (await gateway.until(accepted.channel_order_id, "UNKNOWN")).failure_reason == ""
    assert accepted.channel_order_id not in await gateway.book()


async def test_a_wrong_amount_is_a_mismatch_and_the_query_settles_it(gateway: Gateway) -> None:
    accepted = await gateway.submit(gateway.request("CHARGE", "tok_notify_wrong_amount"))
    mismatch = await gateway.event(accepted.channel_order_id, "live.channel.mismatch_found")
    assert mismatch.evidence == "amount 1001 instead of 1000"
    await gateway.event(accepted.channel_order_id, SUCCEEDED)
    (notification,) = await notifications(gateway, accepted.channel_order_id)
    assert notification.state == "MISMATCHED"


async def test_a_contradicting_notification_changes_nothing_and_is_a_mismatch(gateway: Gateway) -> None:
    accepted = await gateway.submit(gateway.request("CHARGE", "tok_notify_contradict"))
    settled = await gateway.event(accepted.channel_order_id, SUCCEEDED)
    mismatch = await gateway.event(accepted.channel_order_id, "live.channel.mismatch_found")
    assert mismatch.channel_order == settled.channel_order == await gateway.get(accepted.channel_order_id)


async def test_a_notification_that_comes_twice_is_stored_once(gateway: Gateway) -> None:
    accepted = await gateway.submit(gateway.request("CHARGE", "tok_notify_twice"))
    await gateway.event(accepted.channel_order_id, SUCCEEDED)
    assert [n.state for n in await notifications(gateway, accepted.channel_order_id)] == ["APPLIED"]


async def test_a_refund_goes_back_by_the_charge_and_never_beyond_it(gateway: Gateway) -> None:
    charge = await gateway.submit(gateway.request("CHARGE", "tok_ok"))
    await gateway.event(charge.channel_order_id, SUCCEEDED)

    def refund(amount_minor: int) -> Any:
        request = gateway.request("REFUND", "", original_channel_order_id=charge.channel_order_id)
        request.amount.amount_minor = amount_minor
        return request

    first = await gateway.submit(refund(700))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await gateway.submit(refund(301))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    second = await gateway.submit(refund(300))
    for order in (first, second):
        await gateway.event(order.channel_order_id, SUCCEEDED)
    book = await gateway.book()
    assert book[first.channel_order_id].original_reference == charge.channel_order_id
    assert book[first.channel_order_id].amount_minor + book[second.channel_order_id].amount_minor == 1_000


async def test_a_failed_refund_may_be_asked_for_again(gateway: Gateway) -> None:
    charge = await gateway.submit(gateway.request("CHARGE", "tok_ok__refund_declined"))
    await gateway.event(charge.channel_order_id, SUCCEEDED)
    for _ in range(2):
        request = gateway.request("REFUND", "", original_channel_order_id=charge.channel_order_id)
        await gateway.event((await gateway.submit(request)).channel_order_id, FAILED)


async def test_shadow_orders_go_to_the_shadow_account_and_nowhere_else(gateway: Gateway) -> None:
    order = await gateway.submit(gateway.request("CHARGE", "tok_notify_only"), shadow=True)
    await gateway.event(order.channel_order_id, "shadow.channel.order_succeeded")
    entry = (await gateway.book())[order.channel_order_id]
    assert (entry.livemode, entry.account) == (False, f"{CHANNEL}_shadow")
    with pytest.raises(grpc.aio.AioRpcError) as absent:
        await gateway.get(order.channel_order_id)
    assert absent.value.code() is grpc.StatusCode.NOT_FOUND


async def test_the_same_request_is_one_order_at_the_provider(gateway: Gateway) -> None:
    request = gateway.request("CHARGE", "tok_ok")
    orders = await asyncio.gather(*(gateway.submit(request) for _ in range(10)))
    assert len({order.channel_order_id for order in orders}) == 1
    await gateway.event(orders[0].channel_order_id, SUCCEEDED)
    assert (await gateway.submit(request)).channel_order_id == orders[0].channel_order_id


async def test_an_unreachable_provider_gets_the_order_when_it_is_back(tmp_path: Path, make_shards: Any) -> None:
    gateway = await Gateway(tmp_path, make_shards(2)).start()
    try:
        await gateway.process.end(signal.SIGKILL)
        order = await gateway.submit(gateway.request("CHARGE", "tok_ok"))
        await gateway.until(order.channel_order_id, "ACCEPTED")
        await gateway.process.start()
        await gateway.event(order.channel_order_id, SUCCEEDED)
    finally:
        await gateway.stop()


async def test_what_a_stopped_gateway_left_is_carried_on_after_a_restart(tmp_path: Path, make_shards: Any) -> None:
    gateway = await Gateway(tmp_path, make_shards(2), query_ladder_s=[2]).start()
    try:
        late = await gateway.submit(gateway.request("CHARGE", "tok_notify_late"))
        lost = await gateway.submit(gateway.request("CHARGE", "tok_timeout_charged"))
        await gateway.until(late.channel_order_id, "PENDING")
        await gateway.stop_service()
        await gateway.start_service()
        for order in (late, lost):
            await gateway.event(order.channel_order_id, SUCCEEDED)
    finally:
        await gateway.stop()


async def test_absence_is_a_failure_where_the_channel_declares_it(tmp_path: Path, make_shards: Any) -> None:
    """And what is charged after that, without a word, is found when the provider is asked again."""
    declared: dict[str, Any] = {"timeout_s": 0.2, "not_found_certain_after_s": 15.2, "not_found_again_after_s": [1, 5]}
    gateway = await Gateway(tmp_path, make_shards(1), **declared).start()
    try:
        never, late = [
            await gateway.submit(gateway.request("CHARGE", token))
            for token in ("tok_timeout_uncharged", "tok_charged_very_late_silent")
        ]
        for order in (never, late):
            event = (await gateway.event(order.channel_order_id, FAILED)).channel_order
            assert event.failure_reason == "PROVIDER_NOT_FOUND"
            assert event.finish_time.ToMilliseconds() - event.create_time.ToMilliseconds() >= 15_200
        found = (await gateway.event(late.channel_order_id, "live.channel.mismatch_resolved")).doubt
        assert (found.type, found.amount.amount_minor) == (doubt_pb2.DOUBT_TYPE_LATE, 1_000)
        assert found.channel_order_id == late.channel_order_id
    finally:
        await gateway.stop()


async def test_an_order_found_sending_after_a_crash_is_asked_about_and_not_sent_again(gateway: Gateway) -> None:
    """What a process leaves that dies after marking an order and before sending it."""
    now_ms = int(time.time() * 1000)
    context = mint(SLOT, now_ms)
    submission = Submission(
        kind=ChannelOrderKind.CHARGE,
        channel=CHANNEL,
        amount_minor=1_000,
        currency="EUR",
        instruction_id=new_id("ins", SLOT, now_ms),
        payment_id=new_id("pay", SLOT, now_ms),
        token="tok_ok",
        original_channel_order_id="",
    )
    store = gateway.service.store
    order = await store.run(SubmitOrder(Origin.timer(context), submission, frozenset(ChannelOrderKind)))
    policy = msgspec.structs.replace(POLICY, sending_ms=100)
    sending = await store.run(MarkSending(Origin.timer(context), order.id, policy))
    assert sending is not None
    await gateway.event(order.id, UNKNOWN)
    assert (await gateway.get(order.id)).query_count >= 4
    assert order.id not in await gateway.book()
