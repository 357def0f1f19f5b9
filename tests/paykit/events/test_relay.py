"""The relay: outbox rows of a real store, on both databases, delivered at least once and acknowledged."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from paykit.context import BusinessContext
from paykit.errors import Aborted, FailedPrecondition, FieldViolation, InvalidArgument, MeshError, Unavailable
from paykit.events.bus import Bus
from paykit.events.calls import DurableCall
from paykit.events.dead_letters import MarkReplayed
from paykit.events.message import Subscription
from paykit.ids import slot_in
from paykit.store.command import Origin
from paykit.store.store import Store
from paykit.store.system import Outbox
from tests.paykit.events.conftest import OpenStore
from tests.paykit.events.relaying import SETTINGS, Callee, StartRelay, begin, fails, is_acknowledged, make_due, tickets
from tests.paykit.events.test_bus_contract import Taker
from tests.paykit.events.waits import METHOD, EndWait, new_context, new_wait_id, outbox, text, until, waits


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
    committed: list[Outbox] = []
    store.subscribe(lambda mode, shard, rows: committed.extend(rows))
    await begin(store, calls=((METHOD, text("ask")),))
    await is_acknowledged(store)
    (row,) = committed
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
    assert [row.kind for row in rows] == ["event"] * 3
    assert sorted(callee.asked) == ["1", "1000", "400"]
    assert min(row.attempt_count for row in rows) >= 1, "each was swept up, a slow one more than once"


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
    (left,) = await outbox(store)
    assert (StringValue.FromString(left.body).value, left.acked_at_ms) == ("too late", None)
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
