"""What is the embedded bus's own: one process, a bounded file."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from pathlib import Path

import pytest

from paykit.errors import ConfigurationError, Unavailable
from paykit.events.bus import open_bus
from paykit.events.embedded import EmbeddedBus
from paykit.events.embedded_log import FILE_NAME, Changes, Entry, Log
from paykit.events.message import Delivery, Subscription
from paykit.settings import BusSettings
from tests.paykit.events.backends import EmbeddedBackend
from tests.paykit.events.test_bus_contract import Taker, message, publish, subscription


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    backend = EmbeddedBackend(tmp_path)
    await publish(await backend.open(), message(1))
    with pytest.raises(ConfigurationError, match=FILE_NAME):
        await EmbeddedBus(tmp_path).start()
    await backend.clean_up()


async def test_a_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(ConfigurationError, match="taken"):
        await EmbeddedBus(tmp_path / "taken").start()


def test_the_settings_must_name_a_folder() -> None:
    with pytest.raises(ConfigurationError, match=r"bus\.path"):
        open_bus(BusSettings(kind="embedded"))


async def test_a_commit_that_fails_is_reported_and_the_next_succeeds(tmp_path: Path) -> None:
    backend = EmbeddedBackend(tmp_path)
    bus = await backend.open()
    taker = Taker()
    await bus.subscribe(subscription(), taker)
    unwritable = message(1).__class__("m-1", "live.pay.a", {}, "not bytes")  # type: ignore[arg-type]
    (outcome,) = await bus.publish([unwritable])
    assert isinstance(outcome, Unavailable)
    await publish(bus, message(1), message(2))
    await taker.has(2)
    assert taker.ids == {"m-1": 1, "m-2": 1}
    await backend.clean_up()


def test_the_log_keeps_the_newest_and_no_orphans(tmp_path: Path) -> None:
    log = Log(tmp_path)
    assert log.open(0) == 0
    log.write(Changes([Entry(n, message(n)) for n in range(1, 101)], [], [], {}), created_at_ms=1_000)
    log.write(Changes([Entry(n, message(n)) for n in range(101, 151)], [], [], {}), created_at_ms=9_000)
    assert log.prune(before_ms=0, keep=130, count=15) == 15
    assert log.prune(before_ms=0, keep=130, count=15) == 5
    assert log.prune(before_ms=0, keep=130, count=15) == 0
    assert log.prune(before_ms=5_000, keep=130, count=1000) == 80
    assert [entry.seq for entry in log.read(0, 1000)] == list(range(101, 151))
    log.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        assert connection.execute("SELECT seq FROM last").fetchone() == (150,)
    connection.close()


async def test_a_consumer_that_fell_behind_the_retained_log_goes_on_with_new_messages(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.open(0)
    log.write(Changes([Entry(n, message(n)) for n in range(1, 51)], [], [], {}), created_at_ms=1_000)
    log.prune(before_ms=2_000, keep=0, count=1000)
    log.close()
    backend = EmbeddedBackend(tmp_path)
    bus = await backend.open()
    taker = Taker()
    await bus.subscribe(subscription(), taker)
    await publish(bus, message(77))
    await taker.has(1)
    assert taker.ids == {"m-77": 1}
    await backend.clean_up()


async def test_a_crash_loses_nothing_that_was_reported_taken(tmp_path: Path) -> None:
    backend = EmbeddedBackend(tmp_path / "running")
    bus = await backend.open()
    taken, begun = Taker(), Taker()

    async def handle(delivery: Delivery) -> None:
        number = int(delivery.message.id[2:])
        await begun(delivery)
        if number % 3 == 0:
            raise Unavailable("not yet")
        if number % 3 == 1:
            await asyncio.Event().wait()
        await taken(delivery)

    slow = Subscription(consumer="taker", mode="live", subjects=("pay.>",), backoff_s=30.0)
    await bus.subscribe(slow, handle)
    await publish(bus, *(message(n) for n in range(150)))
    await begun.has(150)
    await publish(bus, message(1004))  # its commit holds what became of the others
    shutil.copytree(tmp_path / "running", tmp_path / "crashed")  # what a kill at this moment would leave
    await backend.clean_up()

    after = EmbeddedBackend(tmp_path / "crashed")
    taker = Taker()
    patient = Subscription(consumer="taker", mode="live", subjects=("pay.>",))
    await (await after.open()).subscribe(patient, taker)
    not_done = {f"m-{n}" for n in range(150) if n % 3 == 1}
    async with asyncio.timeout(10):
        for id_ in not_done:
            await taker.has_id(id_)
    waiting = sqlite3.connect(tmp_path / "running" / FILE_NAME)
    assert waiting.execute("SELECT count(*), max(attempt) FROM repeat").fetchone() == (50, 1)
    waiting.close()
    assert set(taker.ids.values()) == {1}
    await after.clean_up()
