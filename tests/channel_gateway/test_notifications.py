"""The notification endpoint: what it answers, and what it keeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from channel_gateway import notifications
from channel_gateway.notifications import BODY_BYTES_MAX
from channel_gateway.signature import HEADER, sign
from channel_gateway.tables import Notification
from paykit.ids import new_id, slot_in
from tests.channel_gateway.gateway import SLOT, Gateway
from tests.channel_gateway.provider import CHANNEL, LIVE_SIGNING


def body_for(channel_order_id: str, notification_id: str = "", **changes: Any) -> bytes:
    order = {
        "provider_reference": f"ref-{channel_order_id}",
        "reference": channel_order_id,
        "status": "succeeded",
        "failure_code": "",
        "amount_minor": 1_000,
        "currency": "EUR",
        "livemode": True,
    } | changes
    return msgspec.json.encode({"notification_id": notification_id or f"n-{channel_order_id}", "order": order})


async def notify(
    gateway: Gateway, body: bytes, *, signing: str = LIVE_SIGNING, age_s: int = 0, channel: str = CHANNEL
) -> int:
    """The HTTP status that a signed notification is answered with."""
    header = sign(signing.encode(), "live-1", int(time.time()) - age_s, body)
    url = gateway.notification_url.replace(CHANNEL, channel)
    async with gateway.session.post(url, data=body, headers={HEADER: header}) as answer:
        return answer.status


async def stored(gateway: Gateway, channel_order_id: str) -> list[Notification]:
    table = Notification.__table__
    statement = select(table).where(table.c.channel_order_id == channel_order_id)
    slot = slot_in(channel_order_id)
    return await gateway.service.store.fetch(Notification, statement, slot=slot, shadow=False)


def unknown_order() -> str:
    return new_id("chn", SLOT, int(time.time() * 1000))


async def test_a_notification_is_stored_before_it_is_acknowledged(gateway: Gateway) -> None:
    order_id = unknown_order()
    body = body_for(order_id)
    assert await notify(gateway, body) == 200
    (row,) = await stored(gateway, order_id)
    assert (row.body, row.channel, row.notification_key) == (body, CHANNEL, f"{CHANNEL}/n-{order_id}")


async def test_a_notification_of_no_order_of_ours_is_an_orphan_and_a_mismatch(gateway: Gateway) -> None:
    order_id = unknown_order()
    assert await notify(gateway, body_for(order_id)) == 200
    assert [row.state for row in await stored(gateway, order_id)] == ["ORPHANED"]
    mismatch = await gateway.event(order_id, "live.channel.mismatch_found")
    assert "does not exist" in mismatch.evidence


async def test_copies_at_once_and_later_are_stored_once_and_all_acknowledged(gateway: Gateway) -> None:
    order_id = unknown_order()
    answers = await asyncio.gather(*(notify(gateway, body_for(order_id)) for _ in range(10)))
    answers.append(await notify(gateway, body_for(order_id)))
    assert set(answers) == {200}
    assert len(await stored(gateway, order_id)) == 1


async def test_what_is_not_signed_rightly_or_lately_is_refused_and_not_stored(gateway: Gateway) -> None:
    order_id = unknown_order()
    assert await notify(gateway, body_for(order_id), signing="wrong") == 401
    assert await notify(gateway, body_for(order_id), age_s=400) == 401
    async with gateway.session.post(gateway.notification_url, data=body_for(order_id)) as unsigned:
        assert unsigned.status == 401
    assert await stored(gateway, order_id) == []


@pytest.mark.parametrize("body", [b"", b"{", body_for("trd_00000000000000000000000000"), body_for("", "n-1")])
async def test_a_signed_body_that_makes_no_sense_is_malformed(gateway: Gateway, body: bytes) -> None:
    assert await notify(gateway, body) == 400


async def test_an_unknown_channel_and_another_method_have_no_place_here(gateway: Gateway) -> None:
    assert await notify(gateway, body_for(unknown_order()), channel="other") == 404
    async with gateway.session.get(gateway.notification_url) as answer:
        assert answer.status == 405


async def test_a_body_beyond_the_bound_is_refused(gateway: Gateway) -> None:
    assert await notify(gateway, b"x" * (BODY_BYTES_MAX + 1)) == 413


async def test_a_full_endpoint_asks_the_provider_to_come_again(tmp_path: Any, make_shards: Any) -> None:
    gateway = await Gateway(tmp_path, make_shards(1), notifications_in_flight_max=1).start()
    try:
        answers = await asyncio.gather(*(notify(gateway, body_for(unknown_order())) for _ in range(20)))
        assert set(answers) == {200, 503}
    finally:
        await gateway.stop()


async def test_a_failed_word_about_a_succeeded_order_is_stored_as_mismatched(gateway: Gateway) -> None:
    order = await gateway.submit(gateway.request("CHARGE", "tok_ok"))
    settled = (await gateway.event(order.channel_order_id, "live.channel.order_succeeded")).channel_order
    body = body_for(order.channel_order_id, status="failed", provider_reference=settled.provider_reference)
    assert await notify(gateway, body) == 200
    assert [row.state for row in await stored(gateway, order.channel_order_id)] == ["MISMATCHED"]
    assert await gateway.get(order.channel_order_id) == settled


async def test_a_body_that_does_not_come_gives_its_place_up(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "BODY_TIMEOUT_S", 0.1)

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with gateway.session.post(gateway.notification_url, data=never()) as answer:
        assert answer.status == 408
