"""Outbox rows: what sweeping makes of them, and acknowledged ones, kept until the bus is known to keep what it took."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import update

from paykit.clock import ManualClock
from paykit.errors import Unavailable
from paykit.events.bus import Bus
from paykit.events.outbox import OutboxShard
from paykit.store.store import Store
from paykit.store.system import Outbox
from tests.paykit.events.conftest import OpenStore
from tests.paykit.events.relaying import SETTINGS, Callee, StartRelay, begin, is_acknowledged, make_due
from tests.paykit.events.waits import METHOD, outbox, text, until


async def test_deletes_acknowledged_rows_after_their_grace(
    store: Store, start_relay: StartRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paykit.events.relay._PRUNE_INTERVAL_S", 0.02)
    release = asyncio.Event()

    async def answer(value: str) -> str:
        if value == "last":
            await release.wait()
        return value

    settings = SETTINGS.model_copy(update={"ack_grace_s": 0.1, "call_timeout_s": 30.0})
    relay = start_relay(store, Callee(answer), settings=settings)
    await begin(store, calls=tuple((METHOD, text(str(n))) for n in range(20)))
    await begin(store, calls=((METHOD, text("last")),))

    async def one_is_left() -> bool:
        return len(await outbox(store)) == 1

    await until(one_is_left)
    assert not await relay.is_empty()
    release.set()

    async def none_is_left() -> bool:
        return not await outbox(store)

    await until(none_is_left)
    assert await relay.is_empty()


async def test_sends_events_again_that_the_bus_lost_with_its_store(
    store: Store, embedded_bus: Bus, start_relay: StartRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paykit.events.relay._PRUNE_INTERVAL_S", 0.02)
    published: Counter[str] = Counter()
    publish = embedded_bus.publish

    async def counting(messages: Any) -> list[Exception | None]:
        published.update(message.id for message in messages)
        return await publish(messages)

    kept_since_ms = [0]

    async def kept_since(mode: str) -> int:
        return kept_since_ms[0]

    monkeypatch.setattr(embedded_bus, "publish", counting)
    monkeypatch.setattr(embedded_bus, "kept_since_ms", kept_since)
    callee = Callee()
    start_relay(store, callee)
    events = tuple(("test.begun", text(str(n))) for n in range(600))
    await begin(store, events=events, calls=((METHOD, text("once")),))
    rows = await is_acknowledged(store)
    lost = {row.id for row in rows if row.kind == "event"}
    assert published == Counter(dict.fromkeys(lost, 1))
    kept_since_ms[0] = max(row.acked_at_ms or 0 for row in rows)

    async def all_came_again() -> bool:
        return all(published[id_] > 1 for id_ in lost)

    await until(all_came_again)
    assert callee.asked == ["once"]


async def test_keeps_acknowledged_rows_while_nobody_knows_what_the_bus_has_lost(
    store: Store, embedded_bus: Bus, start_relay: StartRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paykit.events.relay._PRUNE_INTERVAL_S", 0.02)
    asked = asyncio.Semaphore(0)
    is_away = [True]

    async def kept_since(mode: str) -> int:
        asked.release()
        if is_away[0]:
            raise Unavailable("the bus is away")
        return 0

    monkeypatch.setattr(embedded_bus, "kept_since_ms", kept_since)
    start_relay(store, Callee(), settings=SETTINGS.model_copy(update={"ack_grace_s": 0.01}))
    await begin(store, events=(("test.begun", text("1")),))
    rows = await is_acknowledged(store)
    for _ in range(20):
        await asked.acquire()
    assert [row.id for row in await outbox(store)] == [row.id for row in rows]
    is_away[0] = False

    async def none_is_left() -> bool:
        return not await outbox(store)

    await until(none_is_left)


async def test_a_call_that_was_answered_leaves_no_row_behind(store: Store, start_relay: StartRelay) -> None:
    start_relay(store, Callee())
    calls = tuple((METHOD, text(str(n))) for n in range(3))
    await begin(store, calls=calls, events=(("test.begun", text("kept")),))

    async def all_calls_are_gone() -> bool:
        return all(row.kind == "event" for row in await outbox(store))

    await until(all_calls_are_gone)
    assert [row.destination for row in await is_acknowledged(store)] == ["test.begun"]


async def test_a_sweep_puts_off_all_it_reads_and_counts_what_is_taken(store: Store) -> None:
    await begin(store, events=tuple((f"test.{taken}", text("e")) for taken in ("taken", "refused", "held")))
    await make_due(store)
    clock = ManualClock(1_000)
    settings = SETTINGS.model_copy(update={"sweep_limit": 2})
    home = OutboxShard(store, clock, settings, "live", store.map.shard_of(5))
    home.held = {row.id for row in await outbox(store) if row.destination == "test.held"}
    offered: list[str] = []

    def offer(row: Outbox) -> bool:
        offered.append(row.destination)
        return row.destination == "test.taken"

    await home.sweep(offer)
    await home.sweep(offer)
    assert sorted(offered) == ["test.refused", "test.taken"]
    taken_ms, refused_ms = 1_000 + int(1000 * SETTINGS.sweep_age_s), 1_000 + int(1000 * SETTINGS.sweep_interval_s)
    rows = {row.destination: (row.due_at_ms, row.attempt_count) for row in await outbox(store)}
    assert rows == {"test.taken": (taken_ms, 1), "test.held": (taken_ms, 1), "test.refused": (refused_ms, 0)}


async def test_events_that_a_dead_bus_keeps_back_do_not_hide_the_calls_behind_them(
    open_store: OpenStore, embedded_bus: Bus, start_relay: StartRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dead(messages: Any) -> list[Exception | None]:
        return [Unavailable("the bus is away")] * len(messages)

    monkeypatch.setattr(embedded_bus, "publish", dead)
    crashed = await open_store()
    await begin(crashed, events=tuple(("test.begun", text(str(n))) for n in range(40)))
    await make_due(crashed)
    await begin(crashed, calls=tuple((METHOD, text(str(n))) for n in range(3)))
    is_call = Outbox.__table__.c.kind == "call"
    await crashed.housekeep(
        "live", crashed.map.shard_of(5), update(Outbox.__table__).where(is_call).values(due_at_ms=1)
    )
    callee = Callee()
    settings = SETTINGS.model_copy(update={"max_queue": 4, "sweep_limit": 3, "sweep_interval_s": 1.0})
    start_relay(await open_store(), callee, settings=settings)
    await callee.was_asked(3)
    rows = await outbox(crashed)
    assert sum(row.attempt_count == 0 for row in rows if row.kind == "event") >= 36


async def test_a_shard_that_hangs_keeps_neither_the_others_nor_the_end_waiting(
    store: Store, start_relay: StartRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paykit.events.relay._FLUSH_TIMEOUT_S", 0.1)
    hanging, housekeep = store.map.shard_of(5), store.housekeep
    assert store.map.shard_of(1000) != hanging
    hangs = asyncio.Event()

    async def half_dead(mode: str, shard: str, statement: Any, parameters: Any = None) -> int:
        if shard == hanging:
            hangs.set()
            await asyncio.Event().wait()
        return await housekeep(mode, shard, statement, parameters)

    monkeypatch.setattr(store, "housekeep", half_dead)
    relay = start_relay(store, Callee())
    await begin(store, 5, calls=((METHOD, text("stays")),))
    async with asyncio.timeout(10):
        await hangs.wait()
    await begin(store, 1000, calls=((METHOD, text("goes")),))

    async def the_other_has_gone() -> bool:
        return [row.slot for row in await outbox(store)] == [5]

    await until(the_other_has_gone)
    async with asyncio.timeout(5):
        await relay.stop(0.1)
    assert relay.pending() == 1
