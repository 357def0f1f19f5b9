"""Acknowledged outbox rows: kept until the bus is known to keep what it took, sent again where it has lost it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from paykit.errors import Unavailable
from paykit.events.bus import Bus
from paykit.store.store import Store
from tests.paykit.events.relaying import SETTINGS, Callee, StartRelay, begin, is_acknowledged
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
