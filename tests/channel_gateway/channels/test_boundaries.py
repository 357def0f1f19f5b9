"""What no kind of channel may be led to do by a provider, a network or an environment, whatever it is asked for."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import datetime
import gzip
import logging
import re
import ssl
import time
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from structlog.testing import capture_logs

from channel_gateway import channels as package
from channel_gateway.channel_order import ChannelOrderKind, ResultStatus
from channel_gateway.channels.base import NotificationInvalid, StatementNotReady, StatementUnreadable
from channel_gateway.signature import SignatureInvalid
from channel_gateway.tables import ChannelOrder
from tests.channel_gateway.channels.bench import Bench, opened
from tests.channel_gateway.channels.liar import Liar
from tests.channel_gateway.channels.rig import TIMEOUT_S, Answer, Does, Rig
from tests.channel_gateway.channels.trap import Trap
from tests.paykit.rpc.certificates import LOOPBACK, Authority

R = ResultStatus
K = ChannelOrderKind
FOLLOWING = {K.REFUND, K.CAPTURE, K.VOID}
DAY = datetime.date(2026, 3, 14)
PRIVATE = "ann-4711-private"  # a part of what a provider answers that is nobody's business
_ADDRESS = re.compile(r"https?://[A-Za-z0-9]")
LOGGED_MAX = 300  # characters of one value in a line


def orders(bench: Bench) -> list[ChannelOrder]:
    """One of each kind that the channel does."""
    token = bench.rig.token(Does.SUCCEED)
    return [
        bench.order(
            kind=kind.value,
            token="" if kind in FOLLOWING else token,
            original_channel_order_id=bench.order().id if kind in FOLLOWING else "",
            original_provider_reference="pi_original1" if kind in FOLLOWING else "",
        )
        for kind in sorted(bench.live.operations)
    ]


def stating(rig: Rig, url: str) -> contextlib.AbstractAsyncContextManager[Bench]:
    """The rig's channels, with statements where it has any, and quick to ask for a page again."""
    return opened(rig, base_url=url, resend_delay_s=0.001, **rig.statements)


async def statement(bench: Bench) -> bytes:
    """The statement of a day, where the channel has any."""
    if bench.live.statement_format is None:
        raise StatementUnreadable("it has none")
    return b"".join([piece async for piece in bench.live.statement(DAY)])


async def ask_everything(bench: Bench) -> dict[str, ResultStatus]:
    """What each operation, and a query of each kind, comes to."""
    found = {}
    for order in orders(bench):
        found[order.kind] = (await bench.perform(order)).status
        found[f"QUERY {order.kind}"] = (await bench.live.query(order)).status
    return found


def test_no_address_stands_in_a_channels_code() -> None:
    folder = Path(package.__file__).parent
    found = {}
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text())
        texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in texts]
        found[path.name] = [node.value for node in constants if _ADDRESS.search(str(node.value))]
    assert len(found) > 5
    assert {name: addresses for name, addresses in found.items() if addresses} == {}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_call_is_led_elsewhere(rig: Rig, liar: Liar, status: int) -> None:
    async with Trap() as trap, stating(rig, liar.url) as bench:
        liar.answer = Answer(status=status, headers={"Location": f"{trap.url}/v1/charges"}, body=b"")
        assert set((await ask_everything(bench)).values()) == {R.UNKNOWN}
        with pytest.raises((StatementUnreadable, StatementNotReady)):
            await statement(bench)
        assert trap.connections == 0


async def test_no_proxy_of_the_environment_is_used(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Trap() as trap:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, trap.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with opened(rig) as bench:
            order, result = await bench.charge(Does.SUCCEED)
            assert result.status is R.SUCCEEDED
            assert (await bench.live.query(order)).status is R.SUCCEEDED
        assert trap.connections == 0


async def test_a_certificate_that_nobody_vouches_for_ends_it_before_anything_is_sent(rig: Rig, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("provider", "provider", [LOOPBACK])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(files.cert_file, files.key_file)
    async with Trap("AFTER_REQUEST", tls) as trap:
        trusting = ssl.create_default_context(cafile=str(authority.ca_file))
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(trap.url, ssl=trusting)
        assert trap.received.startswith(b"GET /")
        trap.received = b""
        async with opened(rig, base_url=trap.url) as bench:
            for order in orders(bench):
                assert (await bench.perform(order)).status is R.NOT_SENT
                assert (await bench.live.query(order)).status is R.UNKNOWN
        assert trap.received == b""


@pytest.mark.parametrize("closes", ["AT_ONCE", "AFTER_REQUEST"])
async def test_a_connection_that_breaks_leaves_the_outcome_open_and_is_not_made_again(rig: Rig, closes: str) -> None:
    async with Trap(closes) as trap, opened(rig, base_url=trap.url) as bench:
        for number, order in enumerate(orders(bench), start=1):
            assert (await bench.perform(order)).status is R.UNKNOWN
            assert trap.connections == number
        for order in orders(bench):
            assert (await bench.live.query(order)).status is R.UNKNOWN


async def test_a_provider_that_says_nothing_is_given_up_in_time(rig: Rig) -> None:
    async with Trap() as trap, opened(rig, base_url=trap.url, timeout_s=TIMEOUT_S) as bench:
        asked = [ask(order) for order in orders(bench) for ask in (bench.perform, bench.live.query)]
        async with asyncio.timeout(TIMEOUT_S + 1):
            assert {result.status for result in await asyncio.gather(*asked)} == {R.UNKNOWN}


async def test_an_answer_without_an_end_is_given_up_at_a_bound_by_each_operation(rig: Rig, liar: Liar) -> None:
    async with opened(rig, base_url=liar.url) as bench:
        for order in orders(bench):
            for ask in (bench.perform, bench.live.query):
                liar.answer, liar.endless, liar.sent_bytes = rig.truth(order, "CHARGE"), True, 0
                try:
                    assert (await ask(order)).status is R.UNKNOWN
                finally:
                    liar.endless = False
                assert liar.sent_bytes < 64_000_000


async def test_a_compressed_answer_is_not_unpacked(rig: Rig, liar: Liar) -> None:
    async with opened(rig, base_url=liar.url) as bench:
        order = bench.order(token=rig.token(Does.SUCCEED))
        true = rig.truth(order, "CHARGE")
        headers = {**true.headers, "Content-Encoding": "gzip"}
        liar.answer = msgspec.structs.replace(true, headers=headers, body=gzip.compress(true.body + b" " * 1_000))
        assert (await bench.live.charge(order)).status is R.UNKNOWN
        assert liar.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("depth", [200, 7_000])
async def test_an_answer_may_be_deep_where_nobody_looks_without_anything_being_raised(
    rig: Rig, liar: Liar, depth: int
) -> None:
    async with opened(rig, base_url=liar.url) as bench:
        order = bench.order(token=rig.token(Does.SUCCEED))
        for asks, ask in (("CHARGE", bench.live.charge), ("QUERY", bench.live.query)):
            true = rig.truth(order, asks)
            body = b'{"zz":' + b"[" * depth + b"]" * depth + b"," + true.body[1:]
            liar.answer = msgspec.structs.replace(true, body=body)
            assert (await ask(order)).status in (R.UNKNOWN, R.SUCCEEDED)


async def test_a_cookie_is_not_kept(rig: Rig, liar: Liar) -> None:
    # By name: jars keep nothing of hosts without one.
    async with opened(rig, base_url=liar.url.replace("127.0.0.1", "localhost")) as bench:
        order = bench.order(token=rig.token(Does.SUCCEED))
        true = rig.truth(order, "CHARGE")
        liar.answer = msgspec.structs.replace(true, headers={**true.headers, "Set-Cookie": "session=1; Path=/"})
        for _ in range(2):
            assert (await bench.live.charge(order)).status is R.SUCCEEDED
        assert "Cookie" not in liar.headers


def _secrets(rig: Rig) -> list[str]:
    settings = rig.settings()
    accounts = [settings, *([settings.shadow] if settings.shadow is not None else [])]
    keys = [account.api_key for account in accounts]
    return [secret.read() for secret in (*keys, *(key for one in accounts for key in one.notification_keys.values()))]


async def test_nothing_private_reaches_any_logger_or_stream_whatever_is_answered(
    rig: Rig, liar: Liar, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """All loggers there are, at their most talkative; what is printed; and warnings, which fail the test."""
    caplog.set_level(logging.DEBUG)
    for name in ("stripe", "aiohttp", "asyncio", "urllib3"):
        caplog.set_level(logging.DEBUG, logger=name)
    bodies = [
        msgspec.json.encode({"error": {"type": "card_error", "code": PRIVATE, "message": PRIVATE}, "status": PRIVATE}),
        msgspec.json.encode({"holder": PRIVATE}),
        f"<h1>{PRIVATE}</h1>".encode(),
        PRIVATE.encode() * 1_000,
    ]
    headers = {"Content-Type": "application/json", "Stripe-Notice": PRIVATE, "Request-Id": PRIVATE + "!"}
    with capture_logs() as lines:
        async with stating(rig, liar.url) as bench:
            for status in (200, 400, 401, 402, 404, 409, 429, 500):
                for body in bodies:
                    liar.answer = Answer(status=status, headers=headers, body=body)
                    await ask_everything(bench)
                    with contextlib.suppress(StatementUnreadable, StatementNotReady):
                        await statement(bench)
            for signed in (rig.sign(PRIVATE.encode()), rig.sign(PRIVATE.encode(), key="unknown")):
                with pytest.raises((SignatureInvalid, NotificationInvalid)) as caught:
                    bench.live.read_notification(PRIVATE.encode(), signed, time.time())
                lines.append({"event": "refused", "error": str(caught.value)})
    streams = capfd.readouterr()
    written = [repr(lines), caplog.text, streams.out, streams.err]
    assert lines
    private = [PRIVATE, rig.token(Does.SUCCEED), *_secrets(rig)]
    assert [secret for secret in private for text in written if secret in text] == []
    assert max(len(str(value)) for line in lines for value in line.values()) < LOGGED_MAX


def test_settings_never_show_their_secrets(rig: Rig) -> None:
    settings: Any = rig.settings()
    shown = repr(settings) + str(settings) + repr(settings.model_dump()) + settings.model_dump_json()
    assert [secret for secret in _secrets(rig) if secret in shown] == []
