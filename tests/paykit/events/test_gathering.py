"""Commands that wait for others about the same thing: merged, bounded, acknowledged only when committed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Self

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from msgspec.structs import replace

from paykit.context import BusinessContext
from paykit.errors import FailedPrecondition, Unavailable
from paykit.events.consumers import Consumer, ConsumerRunner
from paykit.events.gathering import Gather, Gatherer
from paykit.events.message import Message, to_headers
from paykit.ids import new_id
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key
from paykit.store.store import Store
from tests.paykit.events.backends import Backend
from tests.paykit.events.conftest import OpenStore
from tests.paykit.events.test_bus_contract import publish
from tests.paykit.events.waits import BeginWait, Wait, new_context, new_wait_id, text, until

SLOT = 5


class Enders(Command[None]):
    """A wait is ended by some; merged, by all of them."""

    def __init__(self, context: BusinessContext, wait_id: str, names: frozenset[str], whole: int = 100) -> None:
        super().__init__(SLOT, Origin.fold(context))
        self.wait_id, self.names, self.whole = wait_id, names, whole

    @property
    def merge_key(self) -> str:
        return self.wait_id

    @property
    def is_whole(self) -> bool:
        return len(self.names) >= self.whole

    def merged(self, other: Self) -> Enders:
        return Enders(self.origin.context, self.wait_id, self.names | other.names, self.whole)

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Wait, self.wait_id)

    def decide(self, work: Work) -> None:
        wait = work.get(Wait, self.wait_id)
        if "bad" in self.names:
            raise FailedPrecondition("one of them is bad")
        assert wait is not None
        names = frozenset(wait.ended_by.split()) | self.names
        ended_by = " ".join(sorted(names))
        if ended_by != wait.ended_by:
            work.update(replace(wait, ended_by=ended_by, times_ended=wait.times_ended + 1), audit=False)


class Ran:
    """Stands for the store: notes what was run, and fails as it is told to."""

    def __init__(self, *errors: Exception) -> None:
        self.names: list[frozenset[str]] = []
        self._errors = list(errors)

    def __call__(self, command: Any) -> asyncio.Future[None]:
        self.names.append(command.names)
        ended = asyncio.get_running_loop().create_future()
        if self._errors:
            ended.set_exception(self._errors.pop(0))
        elif "bad" in command.names:
            ended.set_exception(FailedPrecondition("bad"))
        else:
            ended.set_result(None)
        return ended


def enders(wait_id: str, *names: str, whole: int = 100, shadow: bool = False) -> Enders:
    """A command of one message."""
    return Enders(new_context(SLOT, shadow=shadow), wait_id, frozenset(names), whole)


async def all_of(gatherer: Gatherer, *commands: Enders) -> list[BaseException | None]:
    """What becomes of each, where all come at once."""
    return await asyncio.gather(*(gatherer.run(command) for command in commands), return_exceptions=True)


async def test_what_comes_within_the_time_is_carried_out_as_one() -> None:
    ran = Ran()
    one, other = new_wait_id(SLOT), new_wait_id(SLOT)
    gatherer = Gatherer(ran, Gather(0.05, 100))
    assert await all_of(gatherer, enders(one, "a"), enders(other, "c"), enders(one, "b")) == [None] * 3
    assert ran.names == [{"a", "b"}, {"c"}]


async def test_live_and_shadow_never_share_a_command() -> None:
    ran, wait_id = Ran(), new_wait_id(SLOT)
    await all_of(Gatherer(ran, Gather(0.02, 100)), enders(wait_id, "a"), enders(wait_id, "b", shadow=True))
    assert sorted(map(sorted, ran.names)) == [["a"], ["b"]]


async def test_what_is_whole_does_not_wait() -> None:
    ran, wait_id = Ran(), new_wait_id(SLOT)
    gatherer = Gatherer(ran, Gather(3600, 100))
    async with asyncio.timeout(20):
        await all_of(gatherer, enders(wait_id, "a", whole=2), enders(wait_id, "b", whole=2))
    assert ran.names == [{"a", "b"}]


async def test_what_is_whole_waits_for_others_that_are_to_be_carried_out_at_the_same_time() -> None:
    ran, one, other = Ran(), new_wait_id(SLOT), new_wait_id(SLOT)
    gatherer = Gatherer(ran, Gather(3600, 100, pause_s=0.05))
    first = asyncio.create_task(gatherer.run(enders(one, "a", whole=1)))
    await asyncio.sleep(0)
    assert ran.names == []
    async with asyncio.timeout(20):
        await asyncio.gather(first, gatherer.run(enders(other, "b", whole=1)))
    assert ran.names == [{"a"}, {"b"}]
    waiting = asyncio.create_task(gatherer.run(enders(one, "c", whole=1)))
    await asyncio.sleep(0)
    gatherer.drain()
    await waiting
    assert ran.names[-1] == {"c"}


async def test_no_more_than_the_bound_is_held_and_the_oldest_goes_first() -> None:
    ran = Ran()
    gatherer = Gatherer(ran, Gather(3600, 2))
    waiting = [asyncio.create_task(gatherer.run(enders(new_wait_id(SLOT), name))) for name in "abc"]
    async with asyncio.timeout(20):
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert ran.names == [{"a"}]
    gatherer.drain()
    await asyncio.gather(*waiting)
    assert ran.names == [{"a"}, {"b"}, {"c"}]


async def test_once_drained_nothing_is_held() -> None:
    ran = Ran()
    gatherer = Gatherer(ran, Gather(3600, 100))
    gatherer.drain()
    async with asyncio.timeout(20):
        await gatherer.run(enders(new_wait_id(SLOT), "a"))
    assert ran.names == [{"a"}]


async def test_one_that_cannot_be_carried_out_takes_no_other_with_it() -> None:
    ran, wait_id = Ran(), new_wait_id(SLOT)
    outcomes = await all_of(Gatherer(ran, Gather(0.02, 100)), enders(wait_id, "a"), enders(wait_id, "bad"))
    assert outcomes[0] is None
    assert isinstance(outcomes[1], FailedPrecondition)
    assert ran.names == [{"a", "bad"}, {"a"}, {"bad"}]


async def test_what_the_store_does_not_even_queue_has_failed() -> None:
    def refuse(command: Any) -> asyncio.Future[None]:
        raise Unavailable("the service is stopping")

    gatherer, wait_id = Gatherer(refuse, Gather(0.02, 100)), new_wait_id(SLOT)
    outcomes = await all_of(gatherer, enders(wait_id, "a"), enders(wait_id, "b"))
    assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]
    assert gatherer.is_empty


async def test_an_outage_is_told_to_all_without_trying_each() -> None:
    ran, wait_id = Ran(Unavailable("away")), new_wait_id(SLOT)
    outcomes = await all_of(Gatherer(ran, Gather(0.02, 100)), enders(wait_id, "a"), enders(wait_id, "b"))
    assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]
    assert len(ran.names) == 1


def told(wait_id: str, name: str) -> Message:
    """A message that ends a wait."""
    context, id_ = new_context(SLOT), new_id("msg", SLOT, 1_700_000_000_000)
    return Message(id_, "live.test.ended", to_headers(context, id_), text(f"{wait_id} {name}").SerializeToString())


def to_command(context: BusinessContext, message_id: str, subject: str, body: bytes) -> Enders:
    """What a message asks for."""
    wait_id, _, name = StringValue.FromString(body).value.partition(" ")
    return Enders(context, wait_id, frozenset([name]))


async def wait_of(store: Store, wait_id: str) -> Wait:
    """A wait as stored."""
    found = await store.get(Wait, wait_id, slot=SLOT, shadow=False)
    assert found is not None
    return found


async def ended_by(store: Store, wait_id: str, names: str) -> Wait:
    """The wait, once ``names`` have ended it."""

    async def is_ended() -> bool:
        return (await wait_of(store, wait_id)).ended_by == names

    await until(is_ended)
    return await wait_of(store, wait_id)


@pytest.mark.parametrize("hold_s", [0.3])
async def test_messages_of_a_bus_are_written_together_and_taken_once(
    buses: Backend, open_store: OpenStore, hold_s: float
) -> None:
    store, bus = await open_store(), await buses.open()
    wait_id = new_wait_id(SLOT)
    await store.run(BeginWait(wait_id, SLOT, new_context(SLOT)))
    consumer = Consumer("enders", ("test.ended",), to_command, gather=Gather(hold_s, 100))
    await ConsumerRunner(store, bus, [consumer]).start()
    await publish(bus, *(told(wait_id, name) for name in "abc"))
    wait = await ended_by(store, wait_id, "a b c")
    assert wait.times_ended == 1


async def test_what_was_held_when_the_process_died_is_delivered_again(buses: Backend, open_store: OpenStore) -> None:
    store, bus = await open_store(), await buses.open()
    wait_id = new_wait_id(SLOT)
    await store.run(BeginWait(wait_id, SLOT, new_context(SLOT)))
    held = asyncio.Event()

    def noting(context: BusinessContext, message_id: str, subject: str, body: bytes) -> Enders:
        held.set()
        return to_command(context, message_id, subject, body)

    runner = ConsumerRunner(store, bus, [Consumer("enders", ("test.ended",), noting, gather=Gather(3600, 100))])
    await runner.start()
    await publish(bus, told(wait_id, "a"))
    async with asyncio.timeout(20):
        await held.wait()
    await buses.close(bus)
    assert (await wait_of(store, wait_id)).ended_by == ""
    again = await buses.open()
    await ConsumerRunner(
        store, again, [Consumer("enders", ("test.ended",), to_command, gather=Gather(0.05, 100))]
    ).start()
    await ended_by(store, wait_id, "a")
