"""The bus without a server: one process, one SQLite file, the same contract as JetStream.

Appends, failures and positions of all consumers that come while one commit runs are written by the next. A consumer
that keeps up is handed messages from memory after their commit; one that fell behind reads pages from the file.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import structlog

from paykit.context import MODES
from paykit.errors import ResourceExhausted, Unavailable
from paykit.events import metrics
from paykit.events.bus import GiveUp, Handler
from paykit.events.dispatch import Dispatcher
from paykit.events.embedded_consumer import EmbeddedConsumer
from paykit.events.embedded_log import Changes, Entry, Log, Repeat
from paykit.events.message import Message, Subscription

T = TypeVar("T")

_COMMIT_MAX = 1000  # messages of one commit
_WAITING_MAX = 50_000  # messages waiting for theirs
_DUPLICATE_WINDOW_S = 120
_DUPLICATE_IDS_MAX = 100_000
_POSITIONS_INTERVAL_S = 0.05
_PRUNE_INTERVAL_S = 10.0
_PRUNE_COUNT = 5000

_log = structlog.get_logger(__name__)


class EmbeddedBus:
    """A bus in this process. ``folder`` is its own; only one process may have it open."""

    def __init__(
        self,
        folder: Path,
        *,
        max_age_s: float = 72 * 3600,
        max_messages: int = 200_000,
        stop_grace_s: float = 10.0,
    ) -> None:
        self._file = Log(folder)
        self._max_age_s = max_age_s
        self._max_messages = max_messages
        self._stop_grace_s = stop_grace_s
        self._thread: ThreadPoolExecutor | None = None
        self._writer: asyncio.Task[None] | None = None
        self._pruner: asyncio.Task[None] | None = None
        self._consumers: dict[str, EmbeddedConsumer] = {}
        self._waiting: list[tuple[Message, asyncio.Future[None]]] = []
        self._stopping = False
        self._work = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._ids: OrderedDict[str, float] = OrderedDict()  # what a second copy is recognised by
        self._last_seq = 0
        self._published = {mode: metrics.published.labels(mode) for mode in MODES}
        self._failed = {mode: metrics.publish_failed.labels(mode) for mode in MODES}

    async def start(self) -> None:
        """Opens the file; ConfigurationError naming it where another process has it or it cannot be written."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedded-bus")
        try:
            self._last_seq = await self._in_thread(self._file.open, int(time.time() * 1000))
        except BaseException:
            self._thread.shutdown(wait=False)
            self._thread = None
            raise
        since_ms = int((time.time() - _DUPLICATE_WINDOW_S) * 1000)
        for message_id in await self._in_thread(self._file.recent_ids, since_ms, _DUPLICATE_IDS_MAX):
            self._ids[message_id] = time.monotonic()
        self._stopping = False
        self._writer = asyncio.create_task(self._write_until_stopped(), name="embedded-bus-writer")
        self._pruner = asyncio.create_task(self._prune_forever(), name="embedded-bus-pruner")

    async def stop(self) -> None:
        """Lets handlers finish for a bounded time, writes what they did, and closes the file."""
        if self._thread is None or self._writer is None or self._pruner is None or self._stopping:
            return
        await asyncio.gather(*(consumer.stop(self._stop_grace_s) for consumer in self._consumers.values()))
        self._stopping = True
        if self._alarm is not None:
            self._alarm.cancel()
        self._work.set()
        self._pruner.cancel()
        await asyncio.gather(self._writer, self._pruner, return_exceptions=True)
        await self._in_thread(self._file.close)
        self._thread.shutdown(wait=True)
        self._thread = None

    async def kept_since_ms(self, mode: str) -> int:
        """See ``Bus``: the time the file was made."""
        if self._thread is None or self._stopping:
            raise Unavailable("the message bus is stopped")
        return self._file.begun_at_ms

    async def publish(self, messages: Sequence[Message]) -> list[Exception | None]:
        """One outcome each, when the commit that holds them is done. A copy within two minutes is taken once."""
        if self._thread is None or self._stopping:
            return [Unavailable("the message bus is stopped") for _ in messages]
        if len(self._waiting) + len(messages) > _WAITING_MAX:
            return [ResourceExhausted("too many messages wait for the bus", retry_after_ms=200) for _ in messages]
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in messages]
        self._waiting.extend(zip(messages, futures, strict=True))
        self._work.set()
        results = await asyncio.gather(*futures, return_exceptions=True)
        outcomes: list[Exception | None] = []
        for message, result in zip(messages, results, strict=True):
            outcome = result if isinstance(result, Exception) else None
            (self._published if outcome is None else self._failed)[message.subject.partition(".")[0]].inc()
            outcomes.append(outcome)
        return outcomes

    async def subscribe(self, subscription: Subscription, handler: Handler, give_up: GiveUp | None = None) -> None:
        """Subscribers of one consumer share its messages."""
        dispatcher = Dispatcher(subscription, handler, give_up, self.publish)
        key = f"{subscription.mode}.{subscription.consumer}"
        consumer = self._consumers.get(key)
        if consumer is None:
            floor, repeats = await self._in_thread(self._file.open_consumer, key)
            fresh = EmbeddedConsumer(key, floor, self._last_seq, repeats, self._read, self._wake_soon)
            consumer = self._consumers.setdefault(key, fresh)
        consumer.add(dispatcher)

    async def _read(self, after: int, count: int) -> list[Entry]:
        return await self._in_thread(self._file.read, after, count)

    def _wake_soon(self) -> None:
        """What consumers took may be written a little later: after a crash it comes again, and their inbox knows it."""
        if self._alarm is None and not self._stopping:
            self._alarm = asyncio.get_running_loop().call_later(_POSITIONS_INTERVAL_S, self._wake_now)

    def _wake_now(self) -> None:
        self._alarm = None
        self._work.set()

    async def _write_until_stopped(self) -> None:
        """Never cancelled: a commit under way is seen to its end, and a last one holds what stopping left."""
        while not self._stopping:
            await self._work.wait()
            self._work.clear()
            await self._commit()
            if self._waiting:
                self._work.set()
        await self._commit()
        while self._waiting:
            await self._commit()

    async def _commit(self) -> None:
        """Writes what has gathered, in one transaction, and hands the new messages to the consumers."""
        taken, self._waiting = self._waiting[:_COMMIT_MAX], self._waiting[_COMMIT_MAX:]
        entries: list[Entry] = []
        new: dict[str, None] = {}
        for message, _ in taken:
            if message.id not in self._ids and message.id not in new:
                new[message.id] = None
                entries.append(Entry(self._last_seq + len(entries) + 1, message))
        repeats: list[Repeat] = []
        done: list[tuple[str, int]] = []
        floors: dict[str, int] = {}
        for key, consumer in self._consumers.items():
            floor = consumer.collect(repeats, done)
            if floor is not None:
                floors[key] = floor
        if not (entries or repeats or done or floors):
            self._settle(taken, None)
            return
        try:
            changes = Changes(entries, repeats, done, floors)
            await self._in_thread(self._file.write, changes, time.time_ns() // 1_000_000)
        except Exception as error:
            _log.error("bus_commit_failed", error_type=type(error).__name__, messages=len(entries), exc_info=error)
            for consumer in self._consumers.values():
                consumer.restore()
            self._settle(taken, Unavailable("the message bus could not write"))
            return
        self._last_seq += len(entries)
        self._remember(new)
        self._settle(taken, None)
        for consumer in self._consumers.values():
            consumer.offer(entries)

    @staticmethod
    def _settle(taken: list[tuple[Message, asyncio.Future[None]]], error: Exception | None) -> None:
        for _, future in taken:
            if future.done():  # its publisher was cancelled
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    def _remember(self, ids: dict[str, None]) -> None:
        now_s = time.monotonic()
        for message_id in ids:
            self._ids[message_id] = now_s
        while self._ids and (
            len(self._ids) > _DUPLICATE_IDS_MAX or next(iter(self._ids.values())) < now_s - _DUPLICATE_WINDOW_S
        ):
            self._ids.popitem(last=False)

    async def _prune_forever(self) -> None:
        while True:
            await asyncio.sleep(_PRUNE_INTERVAL_S)
            before_ms = int((time.time() - self._max_age_s) * 1000)
            try:
                while await self._in_thread(self._file.prune, before_ms, self._max_messages, _PRUNE_COUNT):
                    pass
            except Exception as error:
                _log.error("bus_prune_failed", error_type=type(error).__name__, exc_info=error)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        assert self._thread is not None, "the bus is not started"
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
