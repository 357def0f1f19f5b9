"""Timers: rows of a real store whose due time has passed are fired, once while in flight, in their context."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import asdict
from sqlalchemy import func, insert, select

from paykit import context as business
from paykit.clock import ManualClock, SystemClock
from paykit.errors import FailedPrecondition, NotFound, Unavailable
from paykit.events.timers import Timer, TimerRunner
from paykit.settings import TimerSettings
from paykit.store.command import Origin
from paykit.store.store import Store
from paykit.store.system import CommandRecord
from tests.paykit.events.relaying import tickets
from tests.paykit.events.waits import BeginWait, EndWait, Wait, new_context, new_wait_id, until, waits

SETTINGS = TimerSettings(interval_s=0.02, limit=10, max_concurrent=4)

StartTimers = Callable[..., TimerRunner]


@pytest.fixture
async def start_timers(store: Store) -> AsyncIterator[StartTimers]:
    started: list[TimerRunner] = []

    def start(
        fire: Callable[[Wait], Awaitable[None]],
        clock: SystemClock | ManualClock | None = None,
        settings: TimerSettings = SETTINGS,
    ) -> TimerRunner:
        runner = TimerRunner(store, clock or SystemClock(), [Timer("overdue", Wait, fire)], settings)
        runner.start()
        started.append(runner)
        return runner

    yield start
    for runner in started:
        await runner.stop(0.1)


async def begin(store: Store, due_at_ms: int | None, *, slot: int = 5, shadow: bool = False) -> str:
    wait_id = new_wait_id(slot)
    await store.run(BeginWait(wait_id, slot, new_context(slot, shadow=shadow), due_at_ms=due_at_ms))
    return wait_id


def ending(store: Store) -> Callable[[Wait], Awaitable[None]]:
    async def fire(wait: Wait) -> None:
        await store.run(EndWait(wait.slot, Origin.timer(business.current()), wait.id))

    return fire


async def all_have_ended(store: Store, *, shadow: bool = False) -> list[Wait]:
    async def have() -> bool:
        return all(wait.times_ended for wait in await waits(store, shadow=shadow))

    await until(have)
    return await waits(store, shadow=shadow)


async def test_fires_what_is_due_on_every_shard_and_side(store: Store, start_timers: StartTimers) -> None:
    for slot in (1, 1000):
        await begin(store, 1, slot=slot)
        await begin(store, 1, slot=slot, shadow=True)
    start_timers(ending(store))
    for shadow in (False, True):
        for wait in await all_have_ended(store, shadow=shadow):
            assert (wait.times_ended, wait.ended_by) == (1, "timer:overdue")


async def test_a_timer_of_long_waits_looks_less_often(store: Store) -> None:
    await begin(store, 1)
    fired = Counter[str]()

    def counting(name: str) -> Callable[[Wait], Awaitable[None]]:
        async def fire(wait: Wait) -> None:
            fired[name] += 1  # and leaves it due: each look fires it

        return fire

    timers = [Timer("often", Wait, counting("often")), Timer("rare", Wait, counting("rare"), interval_s=600.0)]
    runner = TimerRunner(store, SystemClock(), timers, SETTINGS)
    runner.start()

    async def has_fired_often() -> bool:
        return fired["often"] >= 5 and "rare" in fired

    await until(has_fired_often)
    await runner.stop(0.1)
    assert fired["rare"] == 1


async def test_fires_under_the_context_of_the_row(store: Store, start_timers: StartTimers) -> None:
    await begin(store, 1)
    contexts = []

    async def fire(wait: Wait) -> None:
        contexts.append(business.current())
        await ending(store)(wait)

    start_timers(fire)
    (wait,) = await all_have_ended(store)
    assert (contexts[0].biz_id, contexts[0].caller, contexts[0].deadline_ms) == (wait.biz_id, "timer:overdue", None)


async def test_does_not_fire_before_the_time(store: Store, start_timers: StartTimers) -> None:
    clock = ManualClock(1_000)
    later, now = await begin(store, 2_000), await begin(store, 1_000)
    await begin(store, None)
    fired: list[str] = []

    async def fire(wait: Wait) -> None:
        fired.append(wait.id)
        await ending(store)(wait)

    start_timers(fire, clock)

    async def has_fired() -> bool:
        return now in fired

    await until(has_fired)
    assert fired == [now]
    clock.advance(1_000)

    async def both_have_fired() -> bool:
        return len(fired) >= 2

    await until(both_have_fired)
    assert fired == [now, later]


async def test_does_not_fire_a_row_again_while_it_is_in_flight(store: Store, start_timers: StartTimers) -> None:
    wait_id, release = await begin(store, 1), asyncio.Event()
    fired: Counter[str] = Counter()

    async def fire(wait: Wait) -> None:
        fired[wait.id] += 1
        if wait.id == wait_id:
            await release.wait()
        await ending(store)(wait)

    start_timers(fire)
    for _ in range(3):  # each of these is found by a look of its own
        other = await begin(store, 1)

        async def other_has_fired(other: str = other) -> bool:
            return fired[other] > 0

        await until(other_has_fired)
    assert fired[wait_id] == 1
    release.set()
    await all_have_ended(store)
    assert set(fired.values()) == {1}


async def test_a_row_that_fails_waits_and_does_not_hold_up_the_others(store: Store, start_timers: StartTimers) -> None:
    clock = ManualClock(1_000_000)
    bad = {await begin(store, 1) for _ in range(25)}  # more than a page, and first in order
    good = [await begin(store, 2) for _ in range(25)]
    fired: Counter[str] = Counter()
    healed = asyncio.Event()

    async def fire(wait: Wait) -> None:
        fired[wait.id] += 1
        if wait.id in bad and not healed.is_set():
            raise Unavailable("the callee is away")
        await ending(store)(wait)

    start_timers(fire, clock)

    async def good_have_fired() -> bool:
        return all(fired[id_] for id_ in good)

    await until(good_have_fired)
    assert {fired[id_] for id_ in bad} == {1}
    healed.set()
    clock.advance(2_000)
    assert {wait.times_ended for wait in await all_have_ended(store)} == {1}


async def test_fires_no_more_at_once_than_it_may(store: Store, start_timers: StartTimers) -> None:
    running = Counter[str]()
    for _ in range(30):
        await begin(store, 1)

    async def fire(wait: Wait) -> None:
        running["now"] += 1
        running["most"] = max(running["most"], running["now"])
        await ending(store)(wait)
        running["now"] -= 1

    start_timers(fire)
    await all_have_ended(store)
    assert running["most"] == SETTINGS.max_concurrent


async def test_fires_thousands_in_few_transactions_while_other_work_is_served(
    store: Store, start_timers: StartTimers
) -> None:
    due = 5_000
    rows = [
        Wait(
            id=new_wait_id(5),
            slot=5,
            owner_id="owner",
            biz_id=context.biz_id,
            ended_by="",
            times_ended=0,
            due_at_ms=1,
            context=business.pack(context),
        )
        for context in (new_context(5) for _ in range(due))
    ]
    await store.housekeep("live", store.map.shard_of(5), insert(Wait.__table__), [asdict(row) for row in rows])
    in_shadow = await begin(store, 1, shadow=True)
    fired: list[str] = []

    async def fire(wait: Wait) -> None:
        await ending(store)(wait)
        fired.append(wait.id)

    # Only a sweep that goes on at once after a full page comes to the end in time.
    start_timers(fire, settings=TimerSettings(interval_s=600.0))
    served_after = []

    async def all_have_fired() -> bool:
        before = len(fired)
        await begin(store, None)  # on the same slot as what is due: it waits in the same queue
        served_after.append(len(fired) - before)
        return len(fired) >= due + 1

    await until(all_have_fired)
    assert sorted(fired) == sorted([in_shadow, *(row.id for row in rows)])
    assert fired.index(in_shadow) < 1_000
    assert max(served_after) <= 3 * TimerSettings().max_concurrent
    assert len([after for after in served_after if after]) > 1
    records = CommandRecord.__table__.c
    commits = select(func.count(records.commit_id.distinct())).where(records.name == "EndWait")
    ((count,),) = await store.aggregate("live", store.map.shard_of(5), commits)
    assert count < due / 40


async def test_drops_what_waits_for_its_turn_when_it_stops(store: Store, start_timers: StartTimers) -> None:
    for _ in range(10):
        await begin(store, 1)
    release = asyncio.Event()
    fired: list[str] = []

    async def fire(wait: Wait) -> None:
        fired.append(wait.id)
        await release.wait()
        await ending(store)(wait)

    runner = start_timers(fire)
    await has_fired(fired, SETTINGS.max_concurrent)
    stopping = asyncio.create_task(runner.stop(10.0))
    await asyncio.sleep(0)
    release.set()
    await stopping
    assert len(fired) == SETTINGS.max_concurrent
    assert sorted(wait.times_ended for wait in await waits(store)) == [0] * 6 + [1] * 4


async def test_stops_after_letting_what_fires_finish(store: Store, start_timers: StartTimers) -> None:
    await begin(store, 1)
    begun, release = asyncio.Event(), asyncio.Event()

    async def fire(wait: Wait) -> None:
        begun.set()
        await release.wait()
        await ending(store)(wait)

    runner = start_timers(fire)
    async with asyncio.timeout(10):
        await begun.wait()
    stopping = asyncio.create_task(runner.stop(10.0))
    await asyncio.sleep(0)
    assert not stopping.done()
    release.set()
    await stopping
    assert [wait.times_ended for wait in await waits(store)] == [1]


@pytest.mark.parametrize("how", ["away", "hanging"])
async def test_one_shard_away_does_not_stop_the_timers_of_the_others(
    store: Store, start_timers: StartTimers, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    await begin(store, 1, slot=5)
    other = await begin(store, 1, slot=1000)
    away, fetch_shard = store.map.shard_of(5), store.fetch_shard
    assert store.map.shard_of(1000) != away
    fired: list[str] = []

    async def half_dead(row_type: Any, statement: Any, mode: str, shard: str) -> Any:
        if shard == away:
            if how == "hanging":
                await asyncio.Event().wait()
            raise Unavailable("the shard is away")
        return await fetch_shard(row_type, statement, mode, shard)

    async def fire(wait: Wait) -> None:
        fired.append(wait.id)
        await ending(store)(wait)

    monkeypatch.setattr(store, "fetch_shard", half_dead)
    start_timers(fire)

    async def other_has_fired() -> bool:
        return bool(fired)

    await until(other_has_fired)
    assert fired == [other]


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails fires again at once. The bound stays: what did not fail for as long is forgotten, and a machine that
    halts for a second would make it forget what is counted here."""
    monkeypatch.setattr("paykit.events.timers._RETRY_FIRST_S", 0.01)


async def has_fired(fired: list[str], times: int) -> None:
    async def has() -> bool:
        return len(fired) >= times

    await until(has)


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize(("error", "before"), [(FailedPrecondition("a conflict"), 3), (ZeroDivisionError(), 4)])
async def test_a_row_that_cannot_be_carried_on_gets_one_ticket_that_can_be_replayed(
    store: Store, start_timers: StartTimers, monkeypatch: pytest.MonkeyPatch, error: Exception, before: int
) -> None:
    monkeypatch.setattr("paykit.events.timers._MISHAPS_BEFORE_TICKET", 4)
    wait_id, fired, healed = await begin(store, 1), list[str](), asyncio.Event()
    seen: list[int] = []

    async def fire(wait: Wait) -> None:
        if not healed.is_set():
            seen.append(len(await tickets(store)))
            fired.append(wait.id)
            raise error
        await ending(store)(wait)

    runner = start_timers(fire)
    await has_fired(fired, 6)
    await runner.stop()
    assert seen[: before + 1] == [0] * before + [1]
    (ticket,) = await tickets(store)
    (wait,) = await waits(store)
    assert (ticket.consumer, ticket.destination, ticket.message_id) == ("timer:overdue", "wait", wait_id)
    assert (ticket.state, ticket.biz_id, ticket.body) == ("OPEN", wait.biz_id, b"")
    with pytest.raises(type(error)):
        await runner.replay(ticket)
    healed.set()
    await runner.replay(ticket)
    await runner.replay(ticket)
    assert [wait.times_ended for wait in await waits(store)] == [1]
    with pytest.raises(NotFound):
        await TimerRunner(store, SystemClock(), [], SETTINGS).replay(ticket)


@pytest.mark.usefixtures("hurry")
async def test_neither_an_outage_nor_a_race_gets_a_ticket(
    store: Store, start_timers: StartTimers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paykit.events.timers._MISHAPS_BEFORE_TICKET", 4)
    await begin(store, 1)
    fired: list[str] = []
    errors: list[Exception] = [Unavailable("away"), TimeoutError(), FailedPrecondition("moved meanwhile")]
    errors += [Unavailable("away")] * 3

    async def fire(wait: Wait) -> None:
        fired.append(wait.id)
        if errors:
            raise errors.pop()
        await ending(store)(wait)

    start_timers(fire)
    await all_have_ended(store)
    assert len(fired) == 7
    assert await tickets(store) == []
