"""Consumers: messages become commands on a real store, each once, with a ticket for what cannot be taken."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import StringValue
from sqlalchemy import select

from paykit import context as business
from paykit.context import BusinessContext
from paykit.errors import FailedPrecondition, NotFound
from paykit.events import consumers
from paykit.events.bus import Bus
from paykit.events.consumers import Consumer, ConsumerRunner
from paykit.events.message import MESSAGE_ID, Message, Subscription, to_headers
from paykit.ids import new_id
from paykit.store.command import Command, Origin
from paykit.store.store import Store
from paykit.store.system import CommandRecord, DeadLetter
from tests.paykit.events.backends import EmbeddedBackend, JetStreamBackend
from tests.paykit.events.test_bus_contract import Taker, publish
from tests.paykit.events.waits import BeginWait, EndWait, Wait, new_context, new_wait_id, text, until, waits

NAME = "endings"


def end_wait(context: BusinessContext, message_id: str, subject: str, body: bytes) -> Command[Any] | None:
    """The body names the wait to end; "nothing" asks for nothing."""
    assert business.current() == context
    wait_id = StringValue.FromString(body).value
    if wait_id == "nothing":
        return None
    return EndWait(5, Origin.event(context, NAME, message_id), wait_id)


CONSUMER = Consumer(NAME, ("test.ended",), end_wait, max_deliveries=2)


def ended(body: bytes, *, shadow: bool = False, subject_mode: str = "", message_id: str = "") -> Message:
    context = new_context(5, shadow=shadow)
    id_ = message_id or new_id("msg", 5, 1_700_000_000_000)
    return Message(id_, f"{subject_mode or context.mode}.test.ended", to_headers(context, id_), body)


def naming(wait_id: str) -> bytes:
    return text(wait_id).SerializeToString()


async def begin(store: Store, *, shadow: bool = False) -> str:
    wait_id = new_wait_id(5)
    await store.run(BeginWait(wait_id, 5, new_context(5, shadow=shadow)))
    return wait_id


async def tickets(store: Store, *, shadow: bool = False) -> list[DeadLetter]:
    return await store.fetch_everywhere(DeadLetter, select(DeadLetter.__table__), shadow=shadow)


async def has_tickets(store: Store, count: int, *, shadow: bool = False) -> list[DeadLetter]:
    async def has() -> bool:
        return len(await tickets(store, shadow=shadow)) >= count

    await until(has)
    return await tickets(store, shadow=shadow)


async def has_ended(store: Store, count: int, *, shadow: bool = False) -> list[Wait]:
    async def has() -> bool:
        return sum(wait.times_ended for wait in await waits(store, shadow=shadow)) >= count

    await until(has)
    return await waits(store, shadow=shadow)


@pytest.fixture
async def runner(store: Store, embedded_bus: Bus) -> ConsumerRunner:
    runner = ConsumerRunner(store, embedded_bus, [CONSUMER])
    await runner.start()
    return runner


async def test_runs_the_command_of_a_message_with_its_context(
    store: Store, embedded_bus: Bus, runner: ConsumerRunner
) -> None:
    message = ended(naming(await begin(store)))
    await publish(embedded_bus, message)
    (wait,) = await has_ended(store, 1)
    assert wait.ended_by == f"event:{NAME}"
    records = await store.fetch_everywhere(CommandRecord, select(CommandRecord.__table__), shadow=False)
    (record,) = [record for record in records if record.trigger == "event"]
    assert (record.request_id, record.biz_id) == (message.id, message.headers["x-biz-id"])


async def test_a_message_that_comes_again_takes_effect_once(
    store: Store, embedded_bus: Bus, runner: ConsumerRunner, tmp_path: Path
) -> None:
    other = EmbeddedBackend(tmp_path / "other")  # which does not know what the first has carried
    other_bus = await other.open()
    await ConsumerRunner(store, other_bus, [CONSUMER]).start()
    first, second = await begin(store), await begin(store)
    message = ended(naming(first))
    await publish(embedded_bus, message)
    await has_ended(store, 1)
    await publish(other_bus, message)
    await publish(other_bus, ended(naming(second)))
    await has_ended(store, 2)
    await other.clean_up()  # all that it delivered is done with
    assert {wait.id: wait.times_ended for wait in await waits(store)} == {first: 1, second: 1}


async def test_takes_a_message_that_asks_for_nothing(store: Store, embedded_bus: Bus, runner: ConsumerRunner) -> None:
    wait_id = await begin(store)
    await publish(embedded_bus, ended(naming("nothing")), ended(naming(wait_id)))
    await has_ended(store, 1)
    assert await tickets(store) == []


async def test_keeps_shadow_on_its_side(store: Store, embedded_bus: Bus, runner: ConsumerRunner) -> None:
    live_id, shadow_id = await begin(store), await begin(store, shadow=True)
    await publish(embedded_bus, ended(naming(shadow_id), shadow=True))
    await has_ended(store, 1, shadow=True)
    assert [wait.times_ended for wait in await waits(store)] == [0]
    await publish(embedded_bus, ended(naming(live_id)))
    await has_ended(store, 1)


async def test_a_message_that_keeps_failing_gets_a_ticket_that_can_be_replayed(
    store: Store, embedded_bus: Bus, runner: ConsumerRunner
) -> None:
    dead = Taker()
    watch = Subscription(consumer="watch", mode="live", subjects=("dead.>",))
    await embedded_bus.subscribe(watch, dead)
    wait_id = new_wait_id(5)  # which nobody has begun
    message = ended(naming(wait_id))
    await publish(embedded_bus, message)
    (ticket,) = await has_tickets(store, 1)
    assert (ticket.consumer, ticket.destination, ticket.state) == (NAME, "test.ended", "OPEN")
    assert (ticket.message_id, ticket.biz_id) == (message.id, message.headers["x-biz-id"])
    assert ticket.error.startswith("NotFound")
    await dead.has(1)
    assert dead.seen[0].message.subject == f"live.dead.waiter.{NAME}"

    with pytest.raises(NotFound):
        await runner.replay(ticket)
    await store.run(BeginWait(wait_id, 5, new_context(5)))
    await runner.replay(ticket)
    await runner.replay(ticket)
    (wait,) = await waits(store)
    assert wait.times_ended == 1


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Message("no-context", "live.test.ended", {MESSAGE_ID: "no-context"}, naming("w")), "no business context"),
        (ended(naming("w"), shadow=True, subject_mode="live"), "shadow message came on a live subject"),
        (ended(b"\xff\xff not protobuf"), DecodeError.__name__),
    ],
    ids=["without context", "of the other mode", "unreadable"],
)
async def test_gives_up_at_once_what_can_never_be_taken(
    store: Store, embedded_bus: Bus, runner: ConsumerRunner, message: Message, reason: str
) -> None:
    await publish(embedded_bus, message)
    (ticket,) = await has_tickets(store, 1)
    assert reason in ticket.error
    assert await tickets(store, shadow=True) == []
    if not ticket.biz_id:
        with pytest.raises(FailedPrecondition):
            await runner.replay(ticket)


async def test_a_message_without_an_id_is_given_up(store: Store, embedded_bus: Bus, runner: ConsumerRunner) -> None:
    await publish(embedded_bus, Message("", "live.test.ended", to_headers(new_context(5), ""), naming("w")))
    (ticket,) = await has_tickets(store, 1)
    assert "no id" in ticket.error


async def test_a_replay_for_an_unknown_consumer_is_refused(
    store: Store, embedded_bus: Bus, runner: ConsumerRunner
) -> None:
    await publish(embedded_bus, ended(b"\xff\xff not protobuf"))
    (ticket,) = await has_tickets(store, 1)
    stranger = ConsumerRunner(store, embedded_bus, [])
    with pytest.raises(NotFound):
        await stranger.replay(ticket)


async def test_takes_many_messages_at_once(store: Store, embedded_bus: Bus, runner: ConsumerRunner) -> None:
    ids = [await begin(store) for _ in range(20)]
    await asyncio.gather(*(publish(embedded_bus, ended(naming(wait_id))) for wait_id in ids))
    assert {wait.times_ended for wait in await has_ended(store, 20)} == {1}


@pytest.mark.nats
async def test_an_event_that_comes_again_in_another_bundle_takes_effect_once(
    store: Store, jetstream: JetStreamBackend
) -> None:
    bus = await jetstream.open()
    await ConsumerRunner(store, bus, [CONSUMER]).start()
    ids = [await begin(store) for _ in range(4)]
    first, second, third, last = (ended(naming(wait_id)) for wait_id in ids)
    await publish(bus, first, second)
    await publish(bus, second, third)  # as an outbox does whose first publish failed half-way
    await has_ended(store, 3)
    await publish(bus, last)
    await has_ended(store, 4)
    await jetstream.close(bus)  # all that it delivered is done with
    assert {wait.id: wait.times_ended for wait in await waits(store)} == dict.fromkeys(ids, 1)


async def test_a_command_that_hangs_fails_alone(
    store: Store, embedded_bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, other = await begin(store), await begin(store)
    submit, hung = store.submit, list[asyncio.Future[Any]]()

    def hang_once(command: Command[Any]) -> asyncio.Future[Any]:
        assert isinstance(command, EndWait)
        if command.wait_id == hanging and not hung:
            hung.append(asyncio.get_running_loop().create_future())
            return hung[0]
        return submit(command)

    monkeypatch.setattr(consumers, "_HANDLE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(store, "submit", hang_once)
    await ConsumerRunner(store, embedded_bus, [CONSUMER]).start()
    await publish(embedded_bus, ended(naming(hanging)), ended(naming(other)))
    assert {wait.id: wait.times_ended for wait in await has_ended(store, 2)} == {hanging: 1, other: 1}
    assert hung[0].cancelled()  # so that the store need not begin it any more
    assert await tickets(store) == []
