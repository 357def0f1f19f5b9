"""The part of the contract suite about notifications: what they say, whose word is taken, and what nonsense becomes."""

from __future__ import annotations

import time

import pytest

from channel_gateway.channel_order import ResultStatus
from channel_gateway.channels.base import NotificationInvalid
from channel_gateway.signature import SignatureInvalid
from tests.channel_gateway.channels.bench import Bench
from tests.channel_gateway.channels.rig import Does, Feature

R = ResultStatus


async def test_a_notification_is_read_as_the_reply_would_be(bench: Bench) -> None:
    order, reply = await bench.charge(Does.NOTIFY)
    assert reply.status is R.PENDING
    _, received = await bench.notified(bench.live, order)
    result = received.result
    assert (result.status, result.amount_minor, result.currency) == (R.SUCCEEDED, order.amount_minor, order.currency)
    assert result.provider_reference == (reply.provider_reference or result.provider_reference)
    assert (await bench.live.query(order)) == result


async def test_a_notification_that_comes_twice_has_one_id(bench: Bench) -> None:
    bench.needs(Feature.NOTIFIED_TWICE)
    order, _ = await bench.charge(Does.NOTIFY_TWICE)
    _, first = await bench.notified(bench.live, order)
    _, second = await bench.notified(bench.live, order)
    assert first == second
    assert first.notification_id


async def test_a_wrong_amount_in_a_notification_is_told_as_it_is(bench: Bench) -> None:
    bench.needs(Feature.WRONG_AMOUNT)
    order, _ = await bench.charge(Does.NOTIFY_WRONG_AMOUNT)
    _, received = await bench.notified(bench.live, order)
    assert received.result.amount_minor == order.amount_minor + 1


async def test_a_notification_of_the_other_mode_is_refused(bench: Bench) -> None:
    order = bench.order(token=bench.rig.token(Does.NOTIFY))
    await bench.shadow.charge(order)
    notice, received = await bench.notified(bench.shadow, order)
    assert received.result.status is R.SUCCEEDED
    with pytest.raises(SignatureInvalid):
        bench.live.read_notification(notice.body, notice.headers, time.time())


async def test_a_notification_that_speaks_of_the_other_mode_is_invalid_though_signed(bench: Bench) -> None:
    bench.needs(Feature.LIVEMODE)
    order = bench.order(token=bench.rig.token(Does.NOTIFY))
    await bench.shadow.charge(order)
    notice, _ = await bench.notified(bench.shadow, order)
    with pytest.raises(NotificationInvalid):
        bench.live.read_notification(notice.body, bench.rig.sign(notice.body), time.time())


async def test_both_keys_of_a_rotation_are_taken_and_no_other(bench: Bench) -> None:
    order, _ = await bench.charge(Does.NOTIFY)
    notice, received = await bench.notified(bench.live, order)
    for key in ("old", "new"):
        headers = bench.rig.sign(notice.body, key=key)
        assert bench.live.read_notification(notice.body, headers, time.time()) == received
    with pytest.raises(SignatureInvalid):
        bench.live.read_notification(notice.body, bench.rig.sign(notice.body, key="unknown"), time.time())


async def test_what_is_not_signed_rightly_and_lately_is_refused(bench: Bench) -> None:
    order, _ = await bench.charge(Does.NOTIFY)
    notice, _ = await bench.notified(bench.live, order)
    tolerance_s = bench.rig.settings().notification_tolerance_s
    late = bench.rig.sign(notice.body, age_s=tolerance_s + 5)
    early = bench.rig.sign(notice.body, age_s=-tolerance_s - 5)
    for body, headers in (
        (notice.body + b" ", notice.headers),
        (notice.body[:-1], notice.headers),
        (notice.body, {}),
        (notice.body, dict.fromkeys(bench.rig.sign(b""), "")),
        (notice.body, dict.fromkeys(bench.rig.sign(b""), "\xff,;=\u00e9")),
        (notice.body, late),
        (notice.body, early),
    ):
        with pytest.raises(SignatureInvalid):
            bench.live.read_notification(body, headers, time.time())


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"[1]", b"\xff", b"[" * 60_000, b'{"id": 1e999, "id": NaN}'])
async def test_a_signed_notification_that_makes_no_sense_is_invalid(bench: Bench, body: bytes) -> None:
    with pytest.raises(NotificationInvalid):
        bench.live.read_notification(body, bench.rig.sign(body), time.time())
