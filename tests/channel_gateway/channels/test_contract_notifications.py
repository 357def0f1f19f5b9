"""The part of the contract suite about notifications: what they say, whose word is taken, and what nonsense becomes."""

from __future__ import annotations

import contextlib
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
    forged = bench.rig.sealed(notice.body)
    with pytest.raises(NotificationInvalid):
        bench.live.read_notification(forged.body, forged.headers, time.time())


async def test_both_keys_of_a_rotation_are_taken_and_no_other(bench: Bench) -> None:
    order, _ = await bench.charge(Does.NOTIFY)
    notice, received = await bench.notified(bench.live, order)
    for key in ("old", "new"):
        again = bench.rig.sealed(notice.body, key=key)
        assert bench.live.read_notification(again.body, again.headers, time.time()) == received
    unknown = bench.rig.sealed(notice.body, key="unknown")
    with pytest.raises(SignatureInvalid):
        bench.live.read_notification(unknown.body, unknown.headers, time.time())


async def test_what_is_not_signed_rightly_and_lately_is_refused(bench: Bench) -> None:
    order, _ = await bench.charge(Does.NOTIFY)
    notice, _ = await bench.notified(bench.live, order)
    tolerance_s = bench.rig.settings().notification_tolerance_s
    forged = dict(bench.rig.forged(notice))
    forged["too old"] = bench.rig.sealed(notice.body, age_s=tolerance_s + 5)
    forged["too new"] = bench.rig.sealed(notice.body, age_s=-tolerance_s - 5)
    taken = []
    for name, false in forged.items():
        with contextlib.suppress(SignatureInvalid):
            bench.live.read_notification(false.body, false.headers, time.time())
            taken.append(name)
    assert taken == []


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"[1]", b"\xff", b"[" * 60_000, b'{"id": 1e999, "id": NaN}'])
async def test_a_signed_notification_that_makes_no_sense_is_invalid(bench: Bench, body: bytes) -> None:
    notice = bench.rig.sealed(body)
    with pytest.raises((NotificationInvalid, SignatureInvalid) if bench.rig.signs_bodies else NotificationInvalid):
        bench.live.read_notification(notice.body, notice.headers, time.time())
