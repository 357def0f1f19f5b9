"""A small service of one table, to test messages with: waits that have a due time and are ended once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue
from msgspec.structs import replace
from sqlalchemy import MetaData, select

from paykit import context as business
from paykit.context import BusinessContext
from paykit.errors import NotFound
from paykit.ids import new_id
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Blob, Id, Key, Millis, Name, Row, Small, key, mapped
from paykit.store.store import Store
from paykit.store.system import Outbox

metadata = MetaData()

METHOD = "/test.v1.Callee/Do"


@mapped(metadata, "wait", index=[("due_at_ms",)])
class Wait(Row, frozen=True, kw_only=True):
    """Something that is waited for."""

    owner_id: Name
    biz_id: Id
    ended_by: Name
    times_ended: Small
    due_at_ms: Millis | None
    context: Blob


def new_context(slot: int, *, shadow: bool = False) -> BusinessContext:
    """A context as the edge mints it."""
    return business.mint(slot, 1_700_000_000_000, shadow=shadow, caller="tester", request_id="r")


def new_wait_id(slot: int) -> str:
    """The id of a wait that is yet to be made."""
    return new_id("wai", slot, 1_700_000_000_000)


class BeginWait(Command[None]):
    """Makes a wait, and sends what it is told to."""

    def __init__(
        self,
        wait_id: str,
        slot: int,
        context: BusinessContext,
        *,
        due_at_ms: int | None = None,
        events: tuple[tuple[str, Message], ...] = (),
        calls: tuple[tuple[str, Message], ...] = (),
    ) -> None:
        super().__init__(slot, Origin.timer(context))
        self._wait_id, self._due_at_ms, self._events, self._calls = wait_id, due_at_ms, events, calls

    def decide(self, work: Work) -> None:
        context = work.context
        work.insert(
            Wait(
                id=self._wait_id,
                slot=self.slot,
                owner_id="owner",
                biz_id=context.biz_id,
                ended_by="",
                times_ended=0,
                due_at_ms=self._due_at_ms,
                context=business.pack(context),
            )
        )
        for subject, message in self._events:
            work.publish(subject, message)
        for method, message in self._calls:
            work.call(method, message)


class EndWait(Command[None]):
    """Ends a wait, and counts how often."""

    def __init__(self, slot: int, origin: Origin, wait_id: str) -> None:
        super().__init__(slot, origin)
        self.wait_id = wait_id

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Wait, self.wait_id)

    def decide(self, work: Work) -> None:
        wait = work.get(Wait, self.wait_id)
        if wait is None:
            raise NotFound(f"there is no wait {self.wait_id}")
        caller = work.context.caller
        work.update(replace(wait, times_ended=wait.times_ended + 1, ended_by=caller, due_at_ms=None))


async def until(probe: Callable[[], Awaitable[bool]], timeout_s: float = 15.0) -> None:
    """Asks a database again and again: nobody tells when a row has changed."""
    for _ in range(int(timeout_s / 0.02)):
        if await probe():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never came about")


def text(value: str) -> StringValue:
    """A message body."""
    return StringValue(value=value)


async def waits(store: Store, *, shadow: bool = False) -> list[Wait]:
    """All waits, by id."""
    return await store.fetch_everywhere(Wait, select(Wait.__table__).order_by(Wait.__table__.c.id), shadow=shadow)


async def outbox(store: Store, *, shadow: bool = False) -> list[Outbox]:
    """All outbox rows."""
    return await store.fetch_everywhere(Outbox, select(Outbox.__table__), shadow=shadow)
