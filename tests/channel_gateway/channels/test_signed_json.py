"""What a described channel does beside the contract: statements, missing references, parts that are left out."""

from __future__ import annotations

import datetime
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from channel_gateway.channel_order import ResultStatus
from channel_gateway.channels import http_caller
from channel_gateway.channels.base import Channel, StatementNotReady, StatementUnreadable
from channel_gateway.signature import SignatureInvalid
from tests.channel_gateway.channels.bank_rig import BankRig
from tests.channel_gateway.channels.bench import opened
from tests.channel_gateway.channels.liar import Liar
from tests.channel_gateway.channels.rig import Answer, Does, Inbox
from tests.channel_gateway.channels.wallet_rig import WalletRig

R = ResultStatus
YESTERDAY = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=1)
TOMORROW = YESTERDAY + datetime.timedelta(days=2)


@pytest.fixture
async def bank(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BankRig]:
    rig = BankRig(tmp_path_factory.mktemp("bank"), Inbox())
    await rig.start()
    yield rig
    await rig.stop()


async def read(channel: Channel, date: datetime.date) -> bytes:
    return b"".join([piece async for piece in channel.statement(date)])


async def test_a_statement_is_asked_for_by_its_day_and_signed_as_every_call(bank: BankRig) -> None:
    async with opened(bank) as bench:
        order, _ = await bench.charge(Does.SUCCEED)
        assert bench.live.statement_format == "csv"
        assert await read(bench.live, YESTERDAY) == f"reference,amount_minor\n{order.id},1000".encode()
        with pytest.raises(StatementNotReady):
            await read(bench.live, TOMORROW)
    async with opened(bank, api_key=bank.wrong_key) as bench:
        with pytest.raises(StatementUnreadable, match="401"):
            await read(bench.live, YESTERDAY)


async def test_a_statement_that_breaks_off_or_comes_from_elsewhere_is_unreadable(
    bank: BankRig, liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_caller, "STREAM_PATIENCE_S", 0.1)
    async with opened(bank, base_url=liar.url) as bench:
        for answer in (
            Answer(status=500, body=b"x"),
            Answer(status=302, headers={"Location": f"{liar.url}/elsewhere"}, body=b""),
            Answer(headers={"Content-Encoding": "gzip"}, body=b"x"),
            Answer(headers={"Content-Length": "100"}, body=b"x"),
        ):
            liar.answer = answer
            with pytest.raises(StatementUnreadable):
                await read(bench.live, YESTERDAY)


async def test_what_follows_an_original_that_was_never_named_fails_before_it_is_sent(bank: BankRig) -> None:
    async with opened(bank) as bench:
        refund = bench.order(kind="REFUND", token="", original_channel_order_id=bench.order().id)
        result = await bench.live.refund(refund)
        assert (result.status, result.failure_reason) == (R.FAILED, "PROVIDER_REFERENCE_MISSING")
        assert bank.live.book.entries == {}


async def test_an_answer_and_a_notification_repeat_whose_account_it_was(tmp_path: Path) -> None:
    rig = WalletRig(tmp_path, await Inbox().start())
    await rig.start()
    try:
        async with opened(rig) as bench:
            order, reply = await bench.charge(Does.NOTIFY)
            _, received = await bench.notified(bench.live, order)
            assert (reply.merchant, received.result.merchant) == (bench.live.policy.merchant_id,) * 2
            paid = await bench.shadow.charge(bench.order(token=rig.token(Does.SUCCEED)))
            assert paid.merchant == bench.shadow.policy.merchant_id != reply.merchant
    finally:
        await rig.stop()
        await rig.inbox.stop()


async def test_each_kind_may_have_a_query_of_its_own(bank: BankRig) -> None:
    # Of refunds this bank is told to know nothing, which shows whose query was made.
    queries = {"QUERY_REFUND": {"method": "GET", "path": "/v2/orders/refund-{order_id}"}}
    async with opened(bank, calls=bank.table["calls"] | queries) as bench:
        charged, known = await bench.charge(Does.SUCCEED)
        refund = bench.following(charged, known, "REFUND")
        assert (await bench.live.refund(refund)).status is R.SUCCEEDED
        assert (await bench.live.query(charged)).status is R.SUCCEEDED
        assert (await bench.live.query(refund)).status is R.NOT_FOUND


async def test_a_channel_without_notifications_takes_none(bank: BankRig) -> None:
    async with opened(bank, notifications=None) as bench:
        with pytest.raises(SignatureInvalid):
            bench.live.read_notification(b"{}", bank.sign(b"{}"), time.time())


async def test_answers_are_taken_unsigned_only_where_the_provider_does_not_sign(bank: BankRig, liar: Liar) -> None:
    async with (
        opened(bank, base_url=liar.url) as signing,
        opened(bank, base_url=liar.url, answer_signature=None) as not_signing,
    ):
        order = signing.order()
        liar.answer = Answer(body=bank.truth(order, "CHARGE").body)
        assert (await signing.live.charge(order)).status is R.UNKNOWN
        assert (await not_signing.live.charge(order)).status is R.SUCCEEDED
        liar.answer = Answer(status=429, body=b"later")
        assert (await signing.live.charge(order)).status is R.NOT_SENT


async def test_a_currency_without_minor_units_is_written_and_read_whole(bank: BankRig) -> None:
    async with opened(bank) as bench:
        for currency in ("JPY", "BHD"):
            order = bench.order(currency=currency, token=bank.token(Does.SUCCEED))
            result = await bench.live.charge(order)
            assert (result.status, result.amount_minor, result.currency) == (R.SUCCEEDED, 1_000, currency)


def test_a_request_that_is_signed_in_its_body_can_sign_no_statement(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="statement: a GET has no body"):
        WalletRig(tmp_path, Inbox()).settings(statement={"format": "csv", "path": "/{date}"})
