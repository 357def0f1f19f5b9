"""What the sandbox channel alone does; what every channel does is in the contract suite."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from channel_gateway.channel_order import ResultStatus
from channel_gateway.channels.base import StatementNotReady, StatementUnreadable
from channel_gateway.sandbox.client import script
from tests.channel_gateway.channels.bench import Bench, opened
from tests.channel_gateway.channels.liar import Liar
from tests.channel_gateway.channels.rig import Inbox
from tests.channel_gateway.channels.sandbox_rig import SandboxRig
from tests.channel_gateway.provider import ADMIN_KEY


@pytest.mark.parametrize(("code", "reason"), [("no_funds", "NO_FUNDS"), ("No-Funds", "PROVIDER_DECLINED")])
async def test_a_failure_code_is_the_reason_and_one_of_strange_form_a_plain_one(
    liar: Liar, tmp_path_factory: pytest.TempPathFactory, code: str, reason: str
) -> None:
    rig = SandboxRig(tmp_path_factory.mktemp("sandbox"), Inbox())
    async with opened(rig, base_url=liar.url) as bench:
        order = bench.order()
        truth = rig.truth(order, "CHARGE")
        said = msgspec.json.decode(truth.body) | {"status": "failed", "failure_code": code}
        liar.answer = msgspec.structs.replace(truth, body=msgspec.json.encode(said))
        assert (await bench.live.charge(order)).failure_reason == reason


@pytest.fixture(scope="module")
async def own(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Bench, str]]:
    """Channels to a provider of this module, which hand over statements; and its address."""
    inbox = await Inbox().start()
    rig = SandboxRig(tmp_path_factory.mktemp("sandbox"), inbox)
    await rig.start()
    async with opened(rig, statement_format="csv") as bench:
        yield bench, str(rig.settings().base_url)
    await rig.stop()
    await inbox.stop()


@pytest.mark.parametrize("name", ["truncated", "cut_off", "huge", "wrong_type", "redirect", "garbage"])
async def test_an_answer_that_cannot_be_read_is_unknown_and_found_by_query(own: tuple[Bench, str], name: str) -> None:
    bench, _ = own
    order = bench.order(token=f"tok_{name}")
    assert (await bench.live.charge(order)).status is ResultStatus.UNKNOWN
    assert (await bench.live.query(order)).status is ResultStatus.SUCCEEDED


@pytest.mark.parametrize("name", ["truncated", "cut_off", "huge", "wrong_type", "redirect", "garbage"])
async def test_a_query_that_is_answered_so_leaves_it_unknown(own: tuple[Bench, str], name: str) -> None:
    bench, _ = own
    order = bench.order(token=f"tok_ok__query_{name}")
    assert (await bench.live.charge(order)).status is ResultStatus.SUCCEEDED
    statuses = [(await bench.live.query(order)).status for _ in range(3)]
    assert statuses == [ResultStatus.UNKNOWN, ResultStatus.UNKNOWN, ResultStatus.SUCCEEDED]


async def test_in_maintenance_nothing_is_sent_and_a_query_tells_nothing(own: tuple[Bench, str]) -> None:
    bench, url = own
    order = bench.order(token="tok_ok")
    await script(url, ADMIN_KEY, "windows", {"windows": [{"operations": ["charge", "query"]}]})
    assert (await bench.live.charge(order)).status is ResultStatus.NOT_SENT
    assert (await bench.live.query(order)).status is ResultStatus.UNKNOWN
    await script(url, ADMIN_KEY, "windows", {"windows": []})
    assert (await bench.live.query(order)).status is ResultStatus.NOT_FOUND


async def test_a_statement_is_handed_over_as_it_comes(own: tuple[Bench, str]) -> None:
    bench, _ = own
    order = bench.order(token="tok_ok", amount_minor=98_765)
    assert (await bench.live.charge(order)).status is ResultStatus.SUCCEEDED
    assert bench.live.statement_format == "csv"
    today = datetime.datetime.now(datetime.UTC).date()
    text = b"".join([piece async for piece in bench.live.statement(today)]).decode()
    assert [row for row in text.splitlines() if order.id in row and "987.65" in row]
    with pytest.raises(StatementNotReady):
        await anext(bench.live.statement(today + datetime.timedelta(days=5)))


async def test_a_statement_that_is_refused_is_unreadable(own: tuple[Bench, str], tmp_path: Path) -> None:
    _, url = own
    rig = SandboxRig(tmp_path, Inbox())
    async with opened(rig, base_url=url, statement_format="csv", api_key={"value": "wrong"}) as stranger:
        with pytest.raises(StatementUnreadable):
            await anext(stranger.live.statement(datetime.datetime.now(datetime.UTC).date()))
