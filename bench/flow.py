"""A steady flow: a bounded number under way, and how long each one takes from its call to the news of its end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

from bench.children import LoadFailed, cpu_s
from bench.measure import Sample, sample_of
from meshctl.settings import MeshSettings
from paykit.events import bundle

DRAIN_S = 120  # in which all that was accepted must have ended


class Pace(msgspec.Struct, frozen=True):
    """``callers`` calls at once of ``batch`` things each, at most ``under_way`` things accepted and not yet ended.

    The rate is taken over ``seconds``, after ``warm_s`` of the same load.
    """

    callers: int
    batch: int
    under_way: int
    warm_s: float
    seconds: float


class Outcome(msgspec.Struct, frozen=True):
    """``sample`` is of the steady part; ``count`` of all, warming and draining included; ``cpu_s`` the load's own."""

    sample: Sample
    count: int
    cpu_s: float


class Room:
    """Counts what is under way and lets more in, in order, while it stays within a limit."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def enter(self, count: int) -> None:
        """Returns when there is room for ``count`` more, and takes it."""
        if self._waiting or self._free < count:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((count, turn))
            await turn
        else:
            self._free -= count

    def leave(self) -> None:
        """One is no longer under way."""
        self._free += 1
        while self._waiting and self._waiting[0][0] <= self._free:
            count, turn = self._waiting.popleft()
            self._free -= count
            turn.set_result(None)


class Watch:
    """What was accepted, by id, and when each ended. Times are those of the monotonic clock, seconds."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._begun_s: dict[str, float] = {}
        self._ended_early_s: dict[str, float] = {}  # the news may come before the answer to the call
        self.ended: list[tuple[float, float]] = []  # (when, how long after its call)

    def accepted(self, id_: str, begun_s: float) -> None:
        """A call's answer."""
        ended_s = self._ended_early_s.pop(id_, None)
        if ended_s is None:
            self._begun_s[id_] = begun_s
        else:
            self._end(begun_s, ended_s)

    def answered(self, begun_s: float) -> None:
        """A call's answer that is the end at once."""
        self._end(begun_s, time.monotonic())

    def news(self, id_: str) -> None:
        """It has ended."""
        ended_s = time.monotonic()
        begun_s = self._begun_s.pop(id_, None)
        if begun_s is None:
            self._ended_early_s[id_] = ended_s
        else:
            self._end(begun_s, ended_s)

    def _end(self, begun_s: float, ended_s: float) -> None:
        self.ended.append((ended_s, ended_s - begun_s))
        self._room.leave()

    async def all_ended(self) -> None:
        """Returns when nothing is under way; LoadFailed where that takes more than DRAIN_S."""
        until_s = time.monotonic() + DRAIN_S
        while self._begun_s:
            if time.monotonic() > until_s:
                raise LoadFailed(f"{len(self._begun_s)} have not ended, one is {next(iter(self._begun_s))}")
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def heard(settings: MeshSettings, subject: str, hear: Callable[[bytes], None]) -> AsyncIterator[None]:
    """Gives ``hear`` the body of every event of a subject, for the time of the block."""
    assert settings.bus.url is not None

    async def take(message: Msg) -> None:
        headers = message.headers or {}
        if not bundle.is_bundle(headers):
            hear(message.data)
            return
        for event in bundle.unpack(message.subject, headers, message.data):
            hear(event.body)

    nats = Client()
    await nats.connect(servers=[settings.bus.url])
    # Events reach a plain subscription when JetStream takes them in, without a consumer's cost.
    await nats.subscribe(subject, cb=take)
    await nats.flush()
    try:
        yield
    finally:
        await nats.close()


async def flow(send: Callable[[], Awaitable[None]], room: Room, watch: Watch, pace: Pace) -> Outcome:
    """Calls ``send`` (one call of ``pace.batch`` things) at ``pace``, until all that was accepted has ended."""
    from_s = time.monotonic() + pace.warm_s
    until_s = from_s + pace.seconds

    async def caller() -> None:
        while time.monotonic() < until_s:
            await room.enter(pace.batch)
            await send()

    async with asyncio.TaskGroup() as callers:
        for _ in range(pace.callers):
            callers.create_task(caller())
    await watch.all_ended()
    steady = [latency_s for ended_s, latency_s in watch.ended if from_s <= ended_s < until_s]
    return Outcome(sample_of(steady, pace.seconds), len(watch.ended), cpu_s())
