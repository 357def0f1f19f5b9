"""What tests of the relay work with: a callee, and commits that send messages."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.wrappers_pb2 import StringValue
from sqlalchemy import select, update

from paykit import context as business
from paykit.context import BusinessContext
from paykit.errors import MeshError
from paykit.events.relay import Relay
from paykit.settings import RelaySettings
from paykit.store.guard import assert_outside_transaction
from paykit.store.store import Store
from paykit.store.system import DeadLetter, Outbox
from tests.paykit.events.waits import BeginWait, new_context, new_wait_id, outbox, text, until

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


async def begin(store: Store, slot: int = 5, *, wait_id: str = "", shadow: bool = False, **sent: Any) -> None:
    await store.run(BeginWait(wait_id or new_wait_id(slot), slot, new_context(slot, shadow=shadow), **sent))


async def is_acknowledged(store: Store, *, shadow: bool = False) -> list[Outbox]:
    """The outbox rows that are left once every one is acknowledged: those of events."""

    async def all_are() -> bool:
        return all(row.acked_at_ms is not None for row in await outbox(store, shadow=shadow))

    await until(all_are)
    return await outbox(store, shadow=shadow)


async def make_due(store: Store) -> None:
    """As if the grace had passed that fresh rows are left to the process that wrote them."""
    for shard in store.shards("live"):
        await store.housekeep("live", shard, update(Outbox.__table__).values(due_at_ms=0))


async def tickets(store: Store) -> list[DeadLetter]:
    return await store.fetch_everywhere(DeadLetter, select(DeadLetter.__table__), shadow=False)
