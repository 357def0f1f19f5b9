"""What is JetStream's own: addresses, stores that vanish, bounds."""

from __future__ import annotations

import asyncio
import shutil
import socket

import nats
import pytest

from paykit.errors import ConfigurationError
from paykit.events.bus import Bus
from paykit.events.jetstream import JetStreamBus, redact
from paykit.events.message import Message
from tests.paykit.events.backends import JetStreamBackend
from tests.paykit.events.test_bus_contract import Taker, message, publish, subscription

pytestmark = pytest.mark.nats


async def publish_when_back(bus: Bus, message_: Message) -> None:
    """Publishes as an outbox would: again and again until it is taken."""
    for _ in range(200):
        if await bus.publish([message_]) == [None]:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the bus did not come back")


async def test_an_unreachable_server_is_named_without_its_credentials() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        port = taken.getsockname()[1]
        bus = JetStreamBus(f"nats://user:secret@127.0.0.1:{port}", start_timeout_s=0.3)
        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}") as caught:
            await bus.start()
    assert "secret" not in str(caught.value)


def test_redacts_every_server_of_a_list() -> None:
    assert redact("nats://a:b@one:1,nats://token@two:2") == "nats://one:1,nats://two:2"


async def test_streams_are_bounded_and_made_once(jetstream: JetStreamBackend) -> None:
    await jetstream.open()
    await jetstream.open()
    client = await nats.connect(jetstream.server.url)
    for stream in ("LIVE", "SHADOW"):
        config = (await client.jetstream().stream_info(stream)).config
        assert config.subjects == [f"{stream.lower()}.>"]
        assert config.max_bytes is not None
        assert config.max_bytes > 0
        assert config.max_age
    await client.close()


async def test_makes_deleted_streams_again(jetstream: JetStreamBackend) -> None:
    bus = await jetstream.open()
    taker = Taker()
    await bus.subscribe(subscription("pay.*", "ledger.*"), taker)
    await publish(bus, message(1))
    await taker.has(1)
    await jetstream.delete_streams()
    await publish_when_back(bus, message(100))
    await publish(bus, *(message(n) for n in range(101, 300)), message(300, "live.ledger.a"))
    async with asyncio.timeout(20):
        for number in range(100, 301):
            await taker.has_id(f"m-{number}")


async def test_makes_a_deleted_consumer_again(jetstream: JetStreamBackend) -> None:
    bus = await jetstream.open()
    taker = Taker()
    await bus.subscribe(subscription("pay.*"), taker)
    await publish(bus, message(1))
    await taker.has(1)
    client = await nats.connect(jetstream.server.url)
    await client.jetstream().delete_consumer("LIVE", "taker--pay-any")
    await client.close()
    await publish(bus, message(2))
    async with asyncio.timeout(20):
        await taker.has_id("m-2")


async def test_goes_on_when_the_server_was_killed_and_kept_its_store(jetstream: JetStreamBackend) -> None:
    bus = await jetstream.open()
    taker = Taker()
    await bus.subscribe(subscription(), taker)
    await publish(bus, message(1))
    await taker.has(1)
    jetstream.server.kill()
    jetstream.server.start()
    await publish_when_back(bus, message(2))
    async with asyncio.timeout(20):
        await taker.has_id("m-2")


async def test_goes_on_when_the_store_is_removed_under_the_running_server(jetstream: JetStreamBackend) -> None:
    bus = await jetstream.open()
    taker = Taker()
    await bus.subscribe(subscription(), taker)
    await publish(bus, *(message(n) for n in range(50)))
    await taker.has(50)
    shutil.rmtree(jetstream.server.directory / "store")
    await bus.publish([message(n) for n in range(50, 100)])  # taken or refused: either is reported
    jetstream.server.kill()
    jetstream.server.start()
    await publish_when_back(bus, message(1000))
    async with asyncio.timeout(20):
        await taker.has_id("m-1000")
