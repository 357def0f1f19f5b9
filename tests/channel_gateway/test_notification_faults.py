"""Notifications that are forged, old, doubled, out of order, contradictory or wrong: none of them moves money."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import select

from channel_gateway.signature import HEADER, sign
from channel_gateway.tables import ChannelDoubt
from paykit.ids import slot_in
from paykit.settings import ShardSettings
from paykit.store.system import CommandRecord
from tests.channel_gateway.gateway import Gateway
from tests.channel_gateway.provider import CHANNEL, LIVE_SIGNING
from tests.channel_gateway.test_notifications import body_for, notify, stored

NEW_SIGNING = "the-key-of-tomorrow"
MERCHANT = CHANNEL  # the provider's name for an account that has no other


async def _gateway(folder: Any, **channel: Any) -> Gateway:
    shards = {
        "s0": ShardSettings(live=f"sqlite+aiosqlite:///{folder}/l.db", shadow=f"sqlite+aiosqlite:///{folder}/s.db")
    }
    return await Gateway(folder, shards, merchant_id=MERCHANT, query_ladder_s=[60], **channel).start()


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """A gateway that nobody asks anything for a minute, in the middle of a rotation of keys."""
    keys = {"live-1": {"value": LIVE_SIGNING}, "live-2": {"value": NEW_SIGNING}}
    gateway = await _gateway(tmp_path_factory.mktemp("faults"), notification_keys=keys)
    yield gateway
    await gateway.stop()


@pytest.fixture
async def order(gateway: Gateway) -> Any:
    """A charge that is PENDING: the provider says nothing of it by itself."""
    submitted = await gateway.submit(gateway.request("CHARGE", "tok_notify_never"))
    return await gateway.until(submitted.channel_order_id, "PENDING")


def said(order: Any, notification_id: str = "", **changes: Any) -> bytes:
    fields = {"provider_reference": order.provider_reference, "merchant": MERCHANT} | changes
    return body_for(order.channel_order_id, notification_id, **fields)


async def states(gateway: Gateway, order: Any) -> list[str]:
    return [row.state for row in sorted(await stored(gateway, order.channel_order_id), key=lambda row: row.id)]


async def doubts(gateway: Gateway, order: Any) -> list[ChannelDoubt]:
    table = ChannelDoubt.__table__
    statement = select(table).where(table.c.channel_order_id == order.channel_order_id).order_by(table.c.id)
    return await gateway.service.store.fetch(
        ChannelDoubt, statement, slot=slot_in(order.channel_order_id), shadow=False
    )


async def test_a_forged_notification_is_refused_and_leaves_no_trace(gateway: Gateway, order: Any) -> None:
    assert await notify(gateway, said(order), signing="a key that nobody has") == 401
    body = said(order)
    header = sign(LIVE_SIGNING.encode(), "live-1", int(time.time()), body)
    async with gateway.session.post(gateway.notification_url, data=body + b" ", headers={HEADER: header}) as answer:
        assert answer.status == 401
    assert await states(gateway, order) == []
    assert await gateway.get(order.channel_order_id) == order


@pytest.mark.parametrize("age_s", [301, -301])
async def test_a_notification_replayed_outside_the_window_is_refused(gateway: Gateway, order: Any, age_s: int) -> None:
    assert await notify(gateway, said(order), age_s=age_s) == 401
    assert await gateway.get(order.channel_order_id) == order


async def test_during_a_rotation_both_keys_are_taken(gateway: Gateway, order: Any) -> None:
    for number, (key_id, key) in enumerate((("live-1", LIVE_SIGNING), ("live-2", NEW_SIGNING))):
        body = said(order, f"rotation-{number}-{order.channel_order_id}", status="pending")
        header = sign(key.encode(), key_id, int(time.time()), body)
        async with gateway.session.post(gateway.notification_url, data=body, headers={HEADER: header}) as answer:
            assert answer.status == 200
    assert await states(gateway, order) == ["REDUNDANT", "REDUNDANT"]


async def test_notifications_out_of_order_end_as_in_order(gateway: Gateway, order: Any) -> None:
    order_id = order.channel_order_id
    assert await notify(gateway, said(order, f"second-{order_id}")) == 200
    assert await notify(gateway, said(order, f"first-{order_id}", status="pending")) == 200
    assert await states(gateway, order) == ["APPLIED", "REDUNDANT"]
    assert (await gateway.until(order_id, "SUCCEEDED")).provider_reference == order.provider_reference


async def test_a_doubled_notification_takes_effect_once(gateway: Gateway, order: Any) -> None:
    order_id = order.channel_order_id
    for notification_id in (f"a-{order_id}", f"a-{order_id}", f"b-{order_id}"):
        assert await notify(gateway, said(order, notification_id)) == 200
    assert await states(gateway, order) == ["APPLIED", "REDUNDANT"]
    told = [event for subject, event in gateway.events if subject.endswith("order_succeeded")]
    assert sum(event.channel_order.channel_order_id == order_id for event in told) <= 1


@pytest.mark.parametrize(
    ("changes", "evidence"),
    [
        ({"amount_minor": 999}, "amount 999 instead of 1000"),
        ({"currency": "USD"}, "currency USD instead of EUR"),
        ({"merchant": "somebody_else"}, f"merchant somebody_else instead of {MERCHANT}"),
    ],
    ids=["amount", "currency", "merchant"],
)
async def test_what_was_not_sent_settles_nothing_and_is_doubted(
    gateway: Gateway, order: Any, changes: dict[str, Any], evidence: str
) -> None:
    order_id = order.channel_order_id
    for number in range(2):
        assert await notify(gateway, said(order, f"{number}-{order_id}", **changes)) == 200
    assert await states(gateway, order) == ["MISMATCHED", "MISMATCHED"]
    assert await gateway.get(order_id) == order
    (doubt,) = await doubts(gateway, order)
    assert (doubt.state, doubt.type, doubt.evidence, doubt.channel) == ("OPEN", "AMOUNT", evidence, CHANNEL)
    mismatch = await gateway.event(order_id, "live.channel.mismatch_found")
    assert (mismatch.evidence, mismatch.doubt_id, mismatch.channel) == (evidence, doubt.id, CHANNEL)


async def test_contradictory_notifications_leave_the_first_and_ask(gateway: Gateway, order: Any) -> None:
    order_id = order.channel_order_id
    assert await notify(gateway, said(order, f"a-{order_id}")) == 200
    settled = await gateway.until(order_id, "SUCCEEDED")
    assert await notify(gateway, said(order, f"b-{order_id}", status="failed", failure_code="reversed")) == 200
    resolved = await gateway.event(order_id, "live.channel.mismatch_resolved")
    assert resolved.doubt.ask_count == 1
    assert await gateway.get(order_id) == settled


async def test_where_the_channel_asks_for_it_a_notification_is_only_believed_once_confirmed(tmp_path: Any) -> None:
    gateway = await _gateway(tmp_path, confirm_notifications=True)
    try:
        quiet = await gateway.submit(gateway.request("CHARGE", "tok_notify_never"))
        # The provider has charged it already, and the next question is due in a minute.
        order = await gateway.until(quiet.channel_order_id, "PENDING")
        lie = said(order, status="failed", failure_code="card_declined")
        assert await notify(gateway, lie) == 200
        assert await states(gateway, order) == ["APPLIED"]
        settled = (await gateway.event(order.channel_order_id, "live.channel.order_succeeded")).channel_order
        assert settled.query_count == 0
        table = CommandRecord.__table__
        records = await gateway.service.store.fetch_everywhere(CommandRecord, select(table), shadow=False)
        moved = f'"{order.channel_order_id}","channel_order","","PENDING","SUCCEEDED"'
        assert [record.name for record in records if moved in record.changes] == ["ApplyResult"]
    finally:
        await gateway.stop()
