"""The relay: outbox rows of a real store, on both databases, delivered at least once and acknowledged."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from sqlalchemy import select, update

from paykit import context as business
from paykit.clock import SystemClock
from paykit.context import BusinessContext
from paykit.errors import Aborted, FailedPrecondition, FieldViolation, InvalidArgument, MeshError, Unavailable
from paykit.events.bus import Bus
from paykit.events.calls import DurableCall, Invoke
from paykit.events.dead_letters import MarkReplayed
from paykit.events.message import Subscription
from paykit.events.relay import Relay
from paykit.ids import slot_in
from paykit.settings import RelaySettings
from paykit.store.command import Origin
from paykit.store.guard import assert_outside_transaction
from paykit.store.store import Store
from paykit.store.system import DeadLetter, Outbox
from tests.paykit.events.conftest import OpenStore
from tests.paykit.events.test_bus_contract import Taker
from tests.paykit.events.waits import METHOD, BeginWait, EndWait, new_context, new_wait_id, outbox, text, until, waits

SETTINGS = RelaySettings(
    sweep_interval_s=0.05, sweep_age_s=0.2, retry_delay_s=0.01, retry_delay_max_s=0.05, call_timeout_s=1.0
)

StartRelay = Callable[..., Relay]


class Callee:
    """The other end of durable calls: remembers what it was asked, and answers as it is told."""

    def __init__(self, answer: Callable[[str], Awaitable[str]] | None = None) -> None:
        self.asked: list[str] = []
        self.contexts: list[BusinessContext] = []
        self._answer = answer
        self._changed = asyncio.Event()

    async def __call__(self, method: str, body: bytes, context: BusinessContext) -> StringValue:
        assert_outside_transaction()
        assert business.current().biz_id == context.biz_id
        value = StringValue.FromString(body).value
        self.asked.append(value)
        self.contexts.append(context)
        self._changed.set()
        return text(await self._answer(value) if self._answer is not None else f"{value} done")

    async def was_asked(self, count: int) -> None:
        async with asyncio.timeout(15):
            while len(self.asked) < count:
                self._changed.clear()
                await self._changed.wait()


def fails(times: int, error: MeshError) -> Callable[[str], Awaitable[str]]:
    """An answer that is ``error`` the first times each value is asked."""
    asked = Counter[str]()

    async def answer(value: str) -> str:
        asked[value] += 1
        if asked[value] <= times:
            raise error
        return value

    return answer


@pytest.fixture
async def start_relay(embedded_bus: Bus) -> AsyncIterator[StartRelay]:
    started: list[Relay] = []

    def start(store: Store, invoke: Invoke, *calls: DurableCall, settings: RelaySettings = SETTINGS) -> Relay:
        relay = Relay(store, embedded_bus, calls, invoke, SystemClock(), settings)
        relay.start()
        started.append(relay)
        return relay

    yield start
    for relay in started:
        await relay.stop(1.0)


async def begin(store: Store, slot: int = 5, *, wait_id: str = "", shadow: bool = False, **sent: Any) -> None:
    await store.run(BeginWait(wait_id or new_wait_id(slot), slot, new_context(slot, shadow=shadow), **sent))


async def is_acknowledged(store: Store, *, shadow: bool = False) -> list[Outbox]:
    """All outbox rows, once every one is acknowledged."""

    async def all_are() -> bool:
        rows = await outbox(store, shadow=shadow)
        return bool(rows) and all(row.acked_at_ms is not None for row in rows)

    await until(all_are)
    return await outbox(store, shadow=shadow)


async def make_due(store: Store) -> None:
    """As if the grace had passed that fresh rows are left to the process that wrote them."""
    for shard in store.shards("live"):
        await store.housekeep("live", shard, update(Outbox.__table__).values(due_at_ms=0))


async def tickets(store: Store) -> list[DeadLetter]:
    return await store.fetch_everywhere(DeadLetter, select(DeadLetter.__table__), shadow=False)


async def test_publishes_the_events_of_a_commit_with_their_context(
    store: Store, start_relay: StartRelay, embedded_bus: Bus
) -> None:
    taker, shadow_taker = Taker(), Taker()
    await embedded_bus.subscribe(Subscription(consumer="c", mode="live", subjects=("test.>",)), taker)
    await embedded_bus.subscribe(Subscription(consumer="c", mode="shadow", subjects=("test.>",)), shadow_taker)
    start_relay(store, Callee())
    await begin(store, 5, events=(("test.begun", text("a")), ("test.begun", text("b"))))
    await begin(store, 900, shadow=True, events=(("test.begun", text("c")),))
    await asyncio.gather(taker.has(2), shadow_taker.has(1))
    rows = {row.id: row for row in await is_acknowledged(store)}
    assert set(rows) == set(taker.ids)
    for delivery in taker.seen:
        row = rows[delivery.message.id]
        assert delivery.message.subject == "live.test.begun"
        assert delivery.message.body == row.body
        assert delivery.message.headers["x-biz-id"] == row.biz_id
    (shadow_row,) = await is_acknowledged(store, shadow=True)
    assert shadow_taker.ids == {shadow_row.id: 1}


async def test_makes_a_call_and_gives_its_reply_to_the_hook(store: Store, start_relay: StartRelay) -> None:
    callee, wait_id = Callee(), new_wait_id(5)
    replies: list[tuple[str, str]] = []

    async def on_reply(context: BusinessContext, row: Outbox, response: StringValue) -> None:
        replies.append((response.value, context.biz_id))
        await store.run(EndWait(slot_in(row.id), Origin.event(context, "reply", row.id), wait_id))

    start_relay(store, callee, DurableCall(METHOD, on_reply=on_reply))
    await begin(store, wait_id=wait_id, calls=((METHOD, text("ask")),))
    await is_acknowledged(store)
    (wait,) = await waits(store)
    assert wait.times_ended == 1
    assert wait.ended_by == f"reply:{METHOD}"
    assert replies == [("ask done", wait.biz_id)]
    assert callee.contexts[0].deadline_ms is not None


@pytest.mark.parametrize("error", [Unavailable("away", retry_after_ms=1), Aborted("lost"), MeshError("who knows")])
async def test_tries_again_until_the_callee_answers(store: Store, start_relay: StartRelay, error: MeshError) -> None:
    callee = Callee(fails(15, error))
    start_relay(store, callee)
    await begin(store, calls=((METHOD, text("ask")),))
    await is_acknowledged(store)
    assert callee.asked == ["ask"] * 16
    assert await tickets(store) == []


async def test_a_refusal_goes_to_its_hook(store: Store, start_relay: StartRelay) -> None:
    refused: list[str] = []

    async def on_refused(context: BusinessContext, row: Outbox, error: MeshError) -> None:
        refused.append(error.message)

    start_relay(store, Callee(fails(9, FailedPrecondition("no"))), DurableCall(METHOD, on_refused=on_refused))
    await begin(store, calls=((METHOD, text("ask")),))
    await is_acknowledged(store)
    assert refused == ["no"]
    assert await tickets(store) == []


async def test_a_refusal_without_a_hook_becomes_a_ticket_that_can_be_replayed(
    store: Store, start_relay: StartRelay
) -> None:
    callee = Callee(fails(1, InvalidArgument([FieldViolation("amount", "is negative")])))
    relay = start_relay(store, callee)
    await begin(store, calls=((METHOD, text("ask")),))
    (row,) = await is_acknowledged(store)
    (ticket,) = await tickets(store)
    assert (ticket.state, ticket.consumer, ticket.message_id) == ("OPEN", METHOD, row.id)
    assert (ticket.biz_id, ticket.body) == (row.biz_id, row.body)
    assert "amount" in ticket.error

    await relay.replay(ticket)
    assert callee.asked == ["ask", "ask"]
    origin = Origin.timer(new_context(ticket.slot))
    closed = await store.run(MarkReplayed(ticket.slot, origin, ticket.id))
    assert (closed,) == tuple(await tickets(store))
    assert closed.state == "REPLAYED"
    with pytest.raises(FailedPrecondition):
        await store.run(MarkReplayed(ticket.slot, origin, ticket.id))


async def test_a_reply_that_cannot_be_taken_becomes_a_ticket(store: Store, start_relay: StartRelay) -> None:
    async def on_reply(context: BusinessContext, row: Outbox, response: StringValue) -> None:
        raise FailedPrecondition("the wait is over")

    start_relay(store, Callee(), DurableCall(METHOD, on_reply=on_reply))
    await begin(store, calls=((METHOD, text("ask")),))
    await is_acknowledged(store)
    assert ["the wait is over" in ticket.error for ticket in await tickets(store)] == [True]


async def test_a_reply_whose_hook_fails_for_now_is_asked_for_again(store: Store, start_relay: StartRelay) -> None:
    replies: list[str] = []

    async def on_reply(context: BusinessContext, row: Outbox, response: StringValue) -> None:
        replies.append(response.value)
        if len(replies) < 3:
            raise Unavailable("the shard is away")

    callee = Callee()
    start_relay(store, callee, DurableCall(METHOD, on_reply=on_reply))
    await begin(store, calls=((METHOD, text("ask")),))
    await is_acknowledged(store)
    assert len(replies) == len(callee.asked) == 3


async def test_a_slow_callee_does_not_hold_up_another(store: Store, start_relay: StartRelay) -> None:
    release = asyncio.Event()
    slow_running, quick = Counter[str](), Callee()

    async def invoke(method: str, body: bytes, context: BusinessContext) -> StringValue:
        if method != "/slow":
            return await quick(method, body, context)
        slow_running["now"] += 1
        slow_running["most"] = max(slow_running["most"], slow_running["now"])
        await release.wait()
        slow_running["now"] -= 1
        return text("at last")

    start_relay(store, invoke, settings=SETTINGS.model_copy(update={"max_in_flight": 3, "call_timeout_s": 30.0}))
    await begin(store, calls=tuple(("/slow", text(str(n))) for n in range(10)))
    await begin(store, calls=tuple((METHOD, text(str(n))) for n in range(10)))
    await quick.was_asked(10)
    assert slow_running == {"now": 3, "most": 3}
    release.set()
    await is_acknowledged(store)
    assert slow_running == {"now": 0, "most": 3}


async def test_a_hanging_callee_is_given_up_on_and_asked_again(store: Store, start_relay: StartRelay) -> None:
    async def answer(value: str) -> str:
        if len(callee.asked) == 1:
            await asyncio.Event().wait()
        return value

    callee = Callee(answer)
    start_relay(store, callee, settings=SETTINGS.model_copy(update={"call_timeout_s": 0.05}))
    await begin(store, calls=((METHOD, text("ask")),))
    await is_acknowledged(store)
    assert callee.asked == ["ask", "ask"]


async def test_asks_a_callee_that_is_away_one_call_at_a_time(store: Store, start_relay: StartRelay) -> None:
    running = Counter[str]()
    back = asyncio.Event()

    async def answer(value: str) -> str:
        running["now"] += 1
        await asyncio.sleep(0)
        if len(callee.asked) > 60:
            running["most"] = max(running["most"], running["now"])
        running["now"] -= 1
        if not back.is_set():
            raise Unavailable("away")
        return value

    callee = Callee(answer)
    start_relay(store, callee)
    await begin(store, calls=tuple((METHOD, text(str(n))) for n in range(50)))
    await callee.was_asked(65)
    assert running["most"] == 1
    back.set()
    await is_acknowledged(store)
    assert len(set(callee.asked)) == 50


async def test_sweeps_up_what_a_crash_left(open_store: OpenStore, start_relay: StartRelay) -> None:
    crashed = await open_store()
    for slot in (1, 400, 1000):
        await begin(crashed, slot, calls=((METHOD, text(str(slot))),), events=(("test.begun", text("e")),))
    store = await open_store()
    await make_due(store)
    callee = Callee()
    start_relay(store, callee)
    rows = await is_acknowledged(store)
    assert len(rows) == 6
    assert sorted(callee.asked) == ["1", "1000", "400"]
    assert {row.attempt_count for row in rows} == {1}


async def test_does_not_sweep_what_is_on_its_way(store: Store, start_relay: StartRelay) -> None:
    release = asyncio.Event()

    async def answer(value: str) -> str:
        await release.wait()
        return value

    callee = Callee(answer)
    start_relay(store, callee, settings=SETTINGS.model_copy(update={"call_timeout_s": 30.0}))
    await begin(store, calls=((METHOD, text("ask")),))
    await make_due(store)

    async def was_swept_thrice() -> bool:
        return (await outbox(store))[0].attempt_count >= 3

    await until(was_swept_thrice)
    release.set()
    await is_acknowledged(store)
    assert callee.asked == ["ask"]


async def test_what_does_not_fit_in_memory_is_swept_up_later(store: Store, start_relay: StartRelay) -> None:
    callee = Callee()
    settings = SETTINGS.model_copy(update={"max_queue": 4, "sweep_limit": 3})
    relay = start_relay(store, callee, settings=settings)
    await begin(store, calls=tuple((METHOD, text(str(n))) for n in range(30)))
    assert relay.pending() <= 4
    await make_due(store)
    await is_acknowledged(store)
    assert Counter(callee.asked) == Counter(str(n) for n in range(30))


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


async def test_drains_what_is_under_way_and_acknowledges_it(store: Store, start_relay: StartRelay) -> None:
    release = asyncio.Event()

    async def answer(value: str) -> str:
        await release.wait()
        return value

    callee = Callee(answer)
    relay = start_relay(store, callee, settings=SETTINGS.model_copy(update={"call_timeout_s": 30.0}))
    await begin(store, calls=tuple((METHOD, text(str(n))) for n in range(5)))
    await callee.was_asked(5)
    draining = asyncio.create_task(relay.drain(10.0))
    await asyncio.sleep(0)
    await begin(store, calls=((METHOD, text("too late")),))
    assert not draining.done()
    release.set()
    assert await draining
    assert relay.is_idle()
    acked = Counter(row.acked_at_ms is not None for row in await outbox(store))
    assert acked == {True: 5, False: 1}
    assert "too late" not in callee.asked


async def test_leaves_what_it_cannot_drain_in_the_outbox(store: Store, start_relay: StartRelay) -> None:
    async def answer(value: str) -> str:
        await asyncio.Event().wait()
        return value

    callee = Callee(answer)
    relay = start_relay(store, callee, settings=SETTINGS.model_copy(update={"call_timeout_s": 30.0}))
    await begin(store, calls=((METHOD, text("ask")),))
    await callee.was_asked(1)
    assert not await relay.drain(0.05)
    await relay.stop(0.05)
    assert [row.acked_at_ms for row in await outbox(store)] == [None]


async def test_publishes_when_the_bus_is_back(
    store: Store, embedded_bus: Bus, start_relay: StartRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = [True]
    publish = embedded_bus.publish

    async def flaky(messages: Any) -> list[Exception | None]:
        if away[0]:
            tried.set()
            return [Unavailable("the bus is away")] * len(messages)
        return await publish(messages)

    tried = asyncio.Event()
    monkeypatch.setattr(embedded_bus, "publish", flaky)
    taker = Taker()
    await embedded_bus.subscribe(Subscription(consumer="c", mode="live", subjects=("test.>",)), taker)
    start_relay(store, Callee())
    await begin(store, events=tuple(("test.begun", text(str(n))) for n in range(700)))
    await tried.wait()
    assert {row.acked_at_ms for row in await outbox(store)} == {None}
    away[0] = False
    await taker.has(700)
    await is_acknowledged(store)
    assert set(taker.ids.values()) == {1}


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
