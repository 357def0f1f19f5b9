"""The contract suite: what every channel does, shown against a real provider. One entry in ``CHANNELS``, one rig here.

A check that a provider cannot show is skipped only where its rig, or its settings, declare that it lacks what is shown.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from channel_gateway.channel_order import ChannelOrderKind, ProviderResult, ResultStatus
from channel_gateway.channels import CHANNELS, ChannelSet
from channel_gateway.channels.base import Channel
from channel_gateway.tables import ChannelOrder
from paykit.errors import FailedPrecondition
from tests.channel_gateway.channels.bench import Bench, opened
from tests.channel_gateway.channels.liar import Liar
from tests.channel_gateway.channels.rig import LIES, TIMEOUT_S, Answer, Does, Feature, Rig
from tests.channel_gateway.channels.rigs import RIGS
from tests.channel_gateway.provider import free_port

R = ResultStatus
K = ChannelOrderKind


def test_every_kind_of_channel_has_a_rig() -> None:
    assert set(CHANNELS) - {rig.kind for rig in RIGS.values()} == set()


def test_what_one_provider_lacks_another_has() -> None:
    assert frozenset.intersection(*(rig.lacks for rig in RIGS.values())) == frozenset()


async def test_a_success_repeats_amount_and_currency_and_names_itself(bench: Bench) -> None:
    order, result = await bench.charge(Does.SUCCEED)
    assert (result.status, result.amount_minor) == (R.SUCCEEDED, order.amount_minor)
    assert result.currency == order.currency
    assert result.provider_reference
    assert await bench.live.query(order) == result


async def test_a_decline_is_definite_and_has_a_reason(bench: Bench) -> None:
    order, result = await bench.charge(Does.DECLINE)
    assert (result.status, result.failure_reason) == (R.FAILED, bench.reason("CARD_DECLINED"))
    assert (await bench.live.query(order)).status is R.FAILED


@pytest.mark.parametrize("does", [Does.BOOK_AND_HANG, Does.BOOK_AND_DROP, Does.BOOK_AND_ERROR])
async def test_a_lost_answer_is_unknown_within_the_timeout_and_found_by_query(
    rig: Rig, bench: Bench, does: Does
) -> None:
    async with opened(rig, timeout_s=TIMEOUT_S) as impatient:
        started_s = time.monotonic()
        order, result = await impatient.charge(does)
        assert result.status is R.UNKNOWN
        assert time.monotonic() - started_s < TIMEOUT_S + 1
    assert (await bench.live.query(order)).status is R.SUCCEEDED


async def test_an_order_that_never_reached_the_book_is_unknown_and_not_found(rig: Rig, bench: Bench) -> None:
    async with opened(rig, timeout_s=TIMEOUT_S) as impatient:
        order, result = await impatient.charge(Does.HANG)
        assert result.status is R.UNKNOWN
    assert (await bench.live.query(order)).status is R.NOT_FOUND


async def test_the_same_order_again_is_the_first_answer(bench: Bench) -> None:
    order, first = await bench.charge(Does.SUCCEED)
    assert await bench.live.charge(order) == first


async def test_what_the_provider_does_not_know_is_not_found(bench: Bench) -> None:
    assert (await bench.live.query(bench.order())).status is R.NOT_FOUND


async def test_a_refund_is_carried_out_and_never_more_of_it(bench: Bench) -> None:
    bench.needs(K.REFUND)
    charge, known = await bench.charge(Does.SUCCEED)
    refund = bench.following(charge, known, "REFUND")
    given = await bench.live.refund(refund)
    assert (given.status, given.amount_minor) == (R.SUCCEEDED, refund.amount_minor)
    assert await bench.live.refund(refund) == given == await bench.live.query(refund)
    beyond = await bench.live.refund(bench.following(charge, known, "REFUND"))
    assert (beyond.status, beyond.failure_reason) == (R.FAILED, bench.reason("REFUND_EXCEEDS_CHARGE"))


async def test_a_payout_is_carried_out(bench: Bench) -> None:
    bench.needs(K.PAYOUT)
    payout = bench.order(kind="PAYOUT", token=bench.rig.token(Does.SUCCEED))
    paid = await bench.live.payout(payout)
    assert (paid.status, paid.amount_minor) == (R.SUCCEEDED, payout.amount_minor)
    assert await bench.live.query(payout) == paid


async def test_an_authorization_is_captured_in_part_and_the_capture_refunded(bench: Bench) -> None:
    bench.needs(K.AUTHORIZE, K.CAPTURE, K.REFUND)
    authorization, known = await bench.authorize()
    capture = bench.following(authorization, known, "CAPTURE", 600)
    taken = await bench.live.capture(capture)
    assert (taken.status, taken.amount_minor) == (R.SUCCEEDED, 600)
    assert await bench.live.capture(capture) == taken == await bench.live.query(capture)
    assert (await bench.live.refund(bench.following(capture, taken, "REFUND", 600))).status is R.SUCCEEDED
    beyond = await bench.live.refund(bench.following(capture, taken, "REFUND", 1))
    assert (beyond.status, beyond.failure_reason) == (R.FAILED, bench.reason("REFUND_EXCEEDS_CHARGE"))


async def test_a_channel_that_captures_once_gives_the_rest_up_and_a_void_of_it_is_no_error(bench: Bench) -> None:
    bench.needs(K.AUTHORIZE, K.CAPTURE, K.VOID)
    assert bench.live.captures_max == 1
    authorization, known = await bench.authorize()
    assert (await bench.live.capture(bench.following(authorization, known, "CAPTURE", 600))).status is R.SUCCEEDED
    again = await bench.live.capture(bench.following(authorization, known, "CAPTURE", 100))
    assert (again.status, again.failure_reason) == (R.FAILED, bench.reason("AUTH_NOT_OPEN"))
    assert (await bench.live.void(bench.following(authorization, known, "VOID", 400))).status is R.SUCCEEDED


async def test_a_channel_that_captures_often_keeps_the_rest(rig: Rig) -> None:
    async with opened(rig, captures_max=3) as bench:
        bench.needs(K.AUTHORIZE, K.CAPTURE, Feature.MANY_CAPTURES)
        authorization, known = await bench.authorize()
        captures = [bench.following(authorization, known, "CAPTURE", 400) for _ in range(3)]
        results = [await bench.live.capture(capture) for capture in captures]
        assert [result.status for result in results] == [R.SUCCEEDED, R.SUCCEEDED, R.FAILED]
        assert results[2].failure_reason == bench.reason("CAPTURE_EXCEEDS_AUTH")


async def test_what_is_voided_is_never_captured(bench: Bench) -> None:
    bench.needs(K.AUTHORIZE, K.CAPTURE, K.VOID)
    authorization, known = await bench.authorize()
    void = bench.following(authorization, known, "VOID")
    first = await bench.live.void(void)
    assert first.status is R.SUCCEEDED
    assert await bench.live.void(void) == first
    capture = await bench.live.capture(bench.following(authorization, known, "CAPTURE"))
    assert (capture.status, capture.failure_reason) == (R.FAILED, bench.reason("AUTH_NOT_OPEN"))


async def test_a_capture_of_an_expired_authorization_is_a_definite_failure(bench: Bench) -> None:
    bench.needs(K.AUTHORIZE, K.CAPTURE, Feature.AUTH_EXPIRY)
    authorization, known = await bench.authorize(capture=Does.AUTH_EXPIRED)
    capture = await bench.live.capture(bench.following(authorization, known, "CAPTURE"))
    assert (capture.status, capture.failure_reason) == (R.FAILED, bench.reason("AUTH_EXPIRED"))


@pytest.mark.parametrize("kind", [K.REFUND, K.CAPTURE, K.VOID])
async def test_a_lost_answer_to_what_follows_is_unknown_and_found_by_query(bench: Bench, kind: K) -> None:
    bench.needs(kind)
    following: dict[str, Any] = {kind.value.lower(): Does.BOOK_AND_DROP}
    if kind is K.REFUND:
        original, known = await bench.charge(Does.SUCCEED, **following)
    else:
        original, known = await bench.authorize(**following)
    order = bench.following(original, known, kind)
    assert (await bench.perform(order)).status is R.UNKNOWN
    assert (await bench.live.query(order)).status is R.SUCCEEDED


async def test_a_refund_of_an_expired_card_is_a_definite_failure(bench: Bench) -> None:
    bench.needs(K.REFUND, Feature.CARD_EXPIRY)
    charge, known = await bench.charge(Does.SUCCEED, refund=Does.CARD_EXPIRED)
    refund = await bench.live.refund(bench.following(charge, known, "REFUND"))
    assert (refund.status, refund.failure_reason) == (R.FAILED, bench.reason("CARD_EXPIRED"))


async def test_another_amount_than_asked_for_is_told_as_it_is(bench: Bench) -> None:
    bench.needs(Feature.OTHER_AMOUNT)
    order, result = await bench.charge(Does.PAY_MORE)
    assert (result.status, result.amount_minor) == (R.SUCCEEDED, order.amount_minor + 500)


async def test_the_shadow_account_is_another_one(bench: Bench) -> None:
    order = bench.order(token=bench.rig.token(Does.SUCCEED))
    assert (await bench.shadow.charge(order)).status is R.SUCCEEDED
    assert (await bench.live.query(order)).status is R.NOT_FOUND


async def test_no_connection_means_not_sent(rig: Rig) -> None:
    async with opened(rig, base_url=f"http://127.0.0.1:{free_port()}") as bench:
        order, result = await bench.charge(Does.SUCCEED)
        assert result.status is R.NOT_SENT
        assert (await bench.live.query(order)).status is R.UNKNOWN


async def test_a_key_that_is_not_accepted_means_not_sent(rig: Rig) -> None:
    async with opened(rig, api_key=rig.wrong_key) as bench:
        order, result = await bench.charge(Does.SUCCEED)
        assert result.status is R.NOT_SENT
        assert (await bench.live.query(order)).status is R.UNKNOWN
    async with opened(rig) as bench:
        assert (await bench.live.query(order)).status is R.NOT_FOUND


async def told(bench: Bench, liar: Liar, order: ChannelOrder, asks: str, answer: Answer) -> ProviderResult:
    """What a channel makes of an answer."""
    liar.answer = answer
    return await (bench.live.query(order) if asks == "QUERY" else bench.live.charge(order))


@pytest.mark.parametrize("asks", ["CHARGE", "QUERY"])
async def test_an_answer_that_cannot_be_trusted_is_unknown(rig: Rig, liar: Liar, asks: str) -> None:
    async with opened(rig, base_url=liar.url) as bench:
        order = bench.order(token=rig.token(Does.SUCCEED))
        true = rig.truth(order, asks)
        assert (await told(bench, liar, order, asks, true)).status is R.SUCCEEDED
        lies = dict(rig.lies(order, asks))
        assert set(lies) >= LIES
        for name, body in {
            "empty": b"",
            "no object": b"[]",
            "no text": b"\xff\xfe",
            "cut off": true.body[:-2],
            "deep": b"[" * 100_000,
            "large": true.body + b" " * 4_000_000,
        }.items():
            lies[name] = msgspec.structs.replace(true, body=body)
        lies["error"] = msgspec.structs.replace(true, status=500)
        lies["missing page"] = Answer(status=404, headers={"Content-Type": "text/html"}, body=b"<h1>not here</h1>")
        lies["redirect"] = msgspec.structs.replace(true, status=302, headers={"Location": f"{liar.url}/elsewhere"})
        statuses = {}
        for name, lie in lies.items():
            before = liar.calls
            statuses[name] = (await told(bench, liar, order, asks, lie)).status
            assert liar.calls == before + 1, f"{name} was asked for again"
        assert {name: status for name, status in statuses.items() if status is not R.UNKNOWN} == {}


async def test_an_answer_without_an_end_is_given_up_at_a_bound(rig: Rig, liar: Liar) -> None:
    async with opened(rig, base_url=liar.url, timeout_s=TIMEOUT_S) as bench:
        order = bench.order(token=rig.token(Does.SUCCEED))
        started_s = time.monotonic()
        liar.endless, liar.sent_bytes = True, 0
        try:
            result = await told(bench, liar, order, "CHARGE", rig.truth(order, "CHARGE"))
        finally:
            liar.endless = False
        assert result.status is R.UNKNOWN
        assert time.monotonic() - started_s < TIMEOUT_S + 1
        assert liar.sent_bytes < 64_000_000


async def test_no_token_body_or_secret_is_logged(rig: Rig, liar: Liar) -> None:
    async with opened(rig, base_url=liar.url) as bench:
        order = bench.order(token=rig.token(Does.SUCCEED))
        with capture_logs() as logs:
            for status in (200, 400, 401, 500):
                await told(bench, liar, order, "CHARGE", Answer(status=status, body=b'{"holder": "ann-4711"}'))
        text = repr(logs)
        assert order.id in text
        secrets = [secret.read() for secret in (rig.settings().api_key, *rig.settings().notification_keys.values())]
        assert [part for part in ("ann-4711", order.token, *secrets) if part in text] == []


def test_an_unknown_channel_and_a_missing_shadow_account_are_refused(rig: Rig) -> None:
    channels = ChannelSet({"bank": rig.settings(shadow=None)})
    with pytest.raises(FailedPrecondition) as unknown:
        channels.get("live", "other")
    with pytest.raises(FailedPrecondition) as missing:
        channels.get("shadow", "bank")
    assert (unknown.value.reason, missing.value.reason) == ("CHANNEL_UNKNOWN", "SHADOW_UNAVAILABLE")


def test_a_channel_says_what_its_settings_declare(rig: Rig) -> None:
    settings = rig.settings(captures_max=2)
    channel: Channel = ChannelSet({"bank": settings}).get("live", "bank")
    assert (channel.name, channel.operations, channel.captures_max) == ("bank", settings.operations, 2)
    assert channel.policy == msgspec.structs.replace(
        settings.policy(), channel="bank", merchant_id=settings.merchant_id
    )
