"""The contract suite: what every channel does, shown against a real provider. One entry in ``CHANNELS``, one here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from channel_gateway.channel_order import ProviderResult, ResultStatus
from channel_gateway.channels import CHANNELS, ChannelSet
from channel_gateway.channels.base import Channel, NotificationInvalid
from channel_gateway.channels.sandbox_settings import SandboxChannelSettings
from channel_gateway.signature import HEADER, SignatureInvalid, sign
from channel_gateway.tables import ChannelOrder
from paykit.errors import FailedPrecondition
from tests.channel_gateway.gateway import channel_settings
from tests.channel_gateway.orders import make_sending
from tests.channel_gateway.provider import CHANNEL, LIVE_SIGNING, ProviderProcess, Receiver, free_port

R = ResultStatus
TIMEOUT_S = 0.6


@pytest.fixture(scope="module")
async def receiver() -> AsyncIterator[Receiver]:
    receiver = await Receiver().start()
    yield receiver
    await receiver.stop()


@pytest.fixture(scope="module")
async def process(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ProviderProcess]:
    folder: Path = tmp_path_factory.mktemp("provider")
    process = await ProviderProcess(folder, receiver.url, settle_ms=30).start()
    yield process
    assert await process.end() == 0


@pytest.fixture(params=sorted(CHANNELS))
async def channels(request: pytest.FixtureRequest, process: ProviderProcess) -> AsyncIterator[ChannelSet]:
    settings = channel_settings(process.url, kind=request.param, timeout_s=TIMEOUT_S)
    channels = ChannelSet({CHANNEL: SandboxChannelSettings.model_validate(settings)})
    await channels.start()
    yield channels
    await channels.stop()


@pytest.fixture
def channel(channels: ChannelSet) -> Channel:
    return channels.get("live", CHANNEL)


async def charged(channel: Channel, token: str) -> tuple[ChannelOrder, ProviderResult]:
    order = make_sending(token=token)
    return order, await channel.charge(order)


async def test_a_success_repeats_amount_and_currency_and_names_itself(channel: Channel) -> None:
    order, result = await charged(channel, "tok_ok")
    assert (result.status, result.amount_minor, result.currency) == (R.SUCCEEDED, order.amount_minor, "EUR")
    assert result.provider_reference
    assert await channel.query(order) == result


async def test_a_decline_is_definite_and_has_a_reason(channel: Channel) -> None:
    _, result = await charged(channel, "tok_declined")
    assert (result.status, result.failure_reason) == (R.FAILED, "CARD_DECLINED")


@pytest.mark.parametrize("token", ["tok_timeout_charged", "tok_drop_charged", "tok_error_charged"])
async def test_a_lost_answer_is_unknown_within_the_timeout_and_found_by_query(channel: Channel, token: str) -> None:
    started_s = time.monotonic()
    order, result = await charged(channel, token)
    assert result.status is R.UNKNOWN
    assert time.monotonic() - started_s < TIMEOUT_S + 1
    assert (await channel.query(order)).status is R.SUCCEEDED


async def test_the_same_order_again_is_the_first_answer(channel: Channel) -> None:
    order, first = await charged(channel, "tok_ok")
    assert await channel.charge(order) == first


async def test_what_the_provider_does_not_know_is_not_found(channel: Channel) -> None:
    assert (await channel.query(make_sending())).status is R.NOT_FOUND


async def test_a_refund_and_a_payout_are_carried_out(channel: Channel) -> None:
    charge, result = await charged(channel, "tok_ok")
    refund = make_sending(
        kind="REFUND",
        token="",
        original_channel_order_id=charge.id,
        original_provider_reference=result.provider_reference,
    )
    assert (await channel.refund(refund)).status is R.SUCCEEDED
    beyond = await channel.refund(make_sending(kind="REFUND", token="", original_channel_order_id=charge.id))
    assert (beyond.status, beyond.failure_reason) == (R.FAILED, "REFUND_EXCEEDS_CHARGE")
    assert (await channel.payout(make_sending(kind="PAYOUT"))).status is R.SUCCEEDED


def following(original: ChannelOrder, known: ProviderResult, kind: str, amount_minor: int = 1_000) -> ChannelOrder:
    """An order that goes back to, or on with, ``original``."""
    return make_sending(
        kind=kind,
        token="",
        amount_minor=amount_minor,
        payment_id=original.payment_id,
        original_channel_order_id=original.id,
        original_provider_reference=known.provider_reference,
    )


async def authorized(channel: Channel, token: str = "tok_ok") -> tuple[ChannelOrder, ProviderResult]:
    order = make_sending(kind="AUTHORIZE", token=token)
    result = await channel.authorize(order)
    assert (result.status, result.amount_minor) == (R.SUCCEEDED, order.amount_minor)
    return order, result


async def test_an_authorization_is_captured_in_part_and_the_capture_refunded(channel: Channel) -> None:
    authorization, known = await authorized(channel)
    capture = following(authorization, known, "CAPTURE", 600)
    taken = await channel.capture(capture)
    assert (taken.status, taken.amount_minor) == (R.SUCCEEDED, 600)
    assert await channel.capture(capture) == taken == await channel.query(capture)
    assert (await channel.refund(following(capture, taken, "REFUND", 600))).status is R.SUCCEEDED
    beyond = await channel.refund(following(capture, taken, "REFUND", 1))
    assert (beyond.status, beyond.failure_reason) == (R.FAILED, "REFUND_EXCEEDS_CHARGE")


async def test_a_channel_that_captures_once_gives_the_rest_up_and_a_void_of_it_is_no_error(channel: Channel) -> None:
    authorization, known = await authorized(channel)
    assert (await channel.capture(following(authorization, known, "CAPTURE", 600))).status is R.SUCCEEDED
    again = await channel.capture(following(authorization, known, "CAPTURE", 100))
    assert (again.status, again.failure_reason) == (R.FAILED, "AUTH_NOT_OPEN")
    assert (await channel.void(following(authorization, known, "VOID", 400))).status is R.SUCCEEDED


async def test_a_channel_that_captures_often_keeps_the_rest(process: ProviderProcess) -> None:
    settings = channel_settings(process.url, captures_max=3, timeout_s=TIMEOUT_S)
    channels = ChannelSet({CHANNEL: SandboxChannelSettings.model_validate(settings)})
    await channels.start()
    try:
        channel = channels.get("live", CHANNEL)
        authorization, known = await authorized(channel)
        results = [await channel.capture(following(authorization, known, "CAPTURE", 400)) for _ in range(3)]
        assert [result.status for result in results] == [R.SUCCEEDED, R.SUCCEEDED, R.FAILED]
        assert results[2].failure_reason == "CAPTURE_EXCEEDS_AUTH"
    finally:
        await channels.stop()


async def test_what_is_voided_is_never_captured(channel: Channel) -> None:
    authorization, known = await authorized(channel)
    void = following(authorization, known, "VOID")
    first = await channel.void(void)
    assert first.status is R.SUCCEEDED
    assert await channel.void(void) == first
    capture = await channel.capture(following(authorization, known, "CAPTURE"))
    assert (capture.status, capture.failure_reason) == (R.FAILED, "AUTH_NOT_OPEN")


async def test_a_capture_of_an_expired_authorization_is_a_definite_failure(channel: Channel) -> None:
    authorization, known = await authorized(channel, "tok_ok__capture_auth_expired")
    capture = await channel.capture(following(authorization, known, "CAPTURE"))
    assert (capture.status, capture.failure_reason) == (R.FAILED, "AUTH_EXPIRED")


@pytest.mark.parametrize("kind", ["capture", "void"])
async def test_a_lost_answer_to_what_follows_is_unknown_and_found_by_query(channel: Channel, kind: str) -> None:
    authorization, known = await authorized(channel, f"tok_ok__{kind}_drop_charged")
    order = following(authorization, known, kind.upper())
    operation = channel.capture if kind == "capture" else channel.void
    assert (await operation(order)).status is R.UNKNOWN
    assert (await channel.query(order)).status is R.SUCCEEDED


async def test_a_refund_of_an_expired_card_is_a_definite_failure(channel: Channel) -> None:
    charge, known = await charged(channel, "tok_ok__refund_expired")
    refund = await channel.refund(following(charge, known, "REFUND"))
    assert (refund.status, refund.failure_reason) == (R.FAILED, "CARD_EXPIRED")


async def test_another_amount_than_asked_for_is_told_as_it_is(channel: Channel) -> None:
    order, result = await charged(channel, "tok_pays_more")
    assert (result.status, result.amount_minor) == (R.SUCCEEDED, order.amount_minor + 500)


async def test_a_notification_is_read_as_the_reply_would_be(channel: Channel, receiver: Receiver) -> None:
    order, reply = await charged(channel, "tok_notify_only")
    assert reply.status is R.PENDING
    header, body = await asyncio.wait_for(receiver.received.get(), 10)
    received = channel.read_notification(body, {HEADER: header}, time.time())
    assert received.channel_order_id == order.id
    assert received.result == msgspec.structs.replace(reply, status=R.SUCCEEDED)


async def test_a_notification_of_the_other_mode_is_refused(
    channels: ChannelSet, process: ProviderProcess, receiver: Receiver
) -> None:
    live, shadow = channels.get("live", CHANNEL), channels.get("shadow", CHANNEL)
    await shadow.charge(make_sending(token="tok_notify_only"))
    header, body = await asyncio.wait_for(receiver.received.get(), 10)
    with pytest.raises(SignatureInvalid):
        live.read_notification(body, {HEADER: header}, time.time())
    forged = sign(LIVE_SIGNING.encode(), "live-1", int(time.time()), body)
    with pytest.raises(NotificationInvalid):
        live.read_notification(body, {HEADER: forged}, time.time())
    assert shadow.read_notification(body, {HEADER: header}, time.time()).result.status is R.SUCCEEDED


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"[1]", b"\xff", b'{"notification_id": "n", "order": {}}'])
async def test_a_signed_notification_that_makes_no_sense_is_invalid(channel: Channel, body: bytes) -> None:
    header = sign(LIVE_SIGNING.encode(), "live-1", int(time.time()), body)
    with pytest.raises(NotificationInvalid):
        channel.read_notification(body, {HEADER: header}, time.time())


async def test_the_shadow_account_is_another_one(channels: ChannelSet, process: ProviderProcess) -> None:
    order = make_sending()
    assert (await channels.get("shadow", CHANNEL).charge(order)).status is R.SUCCEEDED
    assert (await channels.get("live", CHANNEL).query(order)).status is R.NOT_FOUND


async def test_no_connection_means_not_sent() -> None:
    settings = channel_settings(f"http://127.0.0.1:{free_port()}")
    channels = ChannelSet({CHANNEL: SandboxChannelSettings.model_validate(settings)})
    await channels.start()
    try:
        _, result = await charged(channels.get("live", CHANNEL), "tok_ok")
        assert result.status is R.NOT_SENT
        assert (await channels.get("live", CHANNEL).query(make_sending())).status is R.UNKNOWN
    finally:
        await channels.stop()


async def test_a_key_that_is_not_accepted_means_not_sent(process: ProviderProcess) -> None:
    settings = channel_settings(process.url, api_key={"value": "wrong"})
    channels = ChannelSet({CHANNEL: SandboxChannelSettings.model_validate(settings)})
    await channels.start()
    try:
        assert (await charged(channels.get("live", CHANNEL), "tok_ok"))[1].status is R.NOT_SENT
    finally:
        await channels.stop()


_ORDER: dict[str, Any] = {
    "provider_reference": "p1",
    "reference": "",
    "status": "succeeded",
    "failure_code": "",
    "amount_minor": 1_000,
    "currency": "EUR",
    "livemode": True,
}


class Liar:
    """A provider that answers whatever it is told to."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: Mapping[str, str] = {}
        self.body: Any = {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        body = self.body if isinstance(self.body, bytes) else msgspec.json.encode(self.body)
        return web.Response(status=self.status, headers=self.headers, body=body)


@pytest.fixture(scope="module")
async def lying() -> AsyncIterator[tuple[Liar, Channel]]:
    liar, port = Liar(), free_port()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", liar.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    channels = ChannelSet(
        {CHANNEL: SandboxChannelSettings.model_validate(channel_settings(f"http://127.0.0.1:{port}"))}
    )
    await channels.start()
    yield liar, channels.get("live", CHANNEL)
    await channels.stop()
    await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "headers", "changes"),
    [
        (302, {"Location": "http://127.0.0.1:1/"}, {}),
        (500, {}, {}),
        (404, {}, {}),
        (200, {}, {"reference": "another order"}),
        (200, {}, {"livemode": False}),
        (200, {}, {"status": "perhaps"}),
        (200, {}, {"amount_minor": 10.5}),
        (200, {}, {"provider_reference": "x" * 65}),
        (200, {}, {"provider_reference": "<script>"}),
        (200, {}, {"padding": "x" * 20_000}),
    ],
    ids=["redirect", "error", "no code", "other order", "mode", "status", "float", "long", "characters", "large"],
)
async def test_an_answer_that_cannot_be_trusted_is_unknown(
    lying: tuple[Liar, Channel], status: int, headers: dict[str, str], changes: dict[str, Any]
) -> None:
    liar, channel = lying
    order = make_sending()
    liar.status, liar.headers = status, headers
    liar.body = _ORDER | {"reference": order.id} | changes
    assert (await channel.charge(order)).status is R.UNKNOWN
    assert (await channel.query(order)).status is R.UNKNOWN


async def test_a_failure_code_of_strange_form_becomes_a_plain_reason(lying: tuple[Liar, Channel]) -> None:
    liar, channel = lying
    order = make_sending()
    liar.status, liar.headers = 200, {}
    liar.body = _ORDER | {"reference": order.id, "status": "failed", "failure_code": "No-Funds"}
    assert (await channel.charge(order)).failure_reason == "PROVIDER_DECLINED"


def test_an_unknown_channel_and_a_missing_shadow_account_are_refused() -> None:
    settings = channel_settings("http://127.0.0.1:1") | {"shadow": None}
    channels = ChannelSet({CHANNEL: SandboxChannelSettings.model_validate(settings)})
    with pytest.raises(FailedPrecondition) as unknown:
        channels.get("live", "other")
    with pytest.raises(FailedPrecondition) as missing:
        channels.get("shadow", CHANNEL)
    assert (unknown.value.reason, missing.value.reason) == ("CHANNEL_UNKNOWN", "SHADOW_UNAVAILABLE")
