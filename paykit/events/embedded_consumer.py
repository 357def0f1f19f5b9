"""One durable consumer of the embedded bus: where it stands, what it is handling, and what it will try again."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import structlog

from paykit.events.dispatch import Dispatcher
from paykit.events.embedded_log import Entry, Repeat
from paykit.events.message import Delivery

_BUFFER_MAX = 2000  # messages in memory that are not yet being handled
_PAGE = 500
_REPEATS_MAX = 1000  # failed messages waiting; beyond it nothing new is taken, as JetStream's max_ack_pending does
_READ_RETRY_S = 1.0
_FLOOR_LAG_MAX = 1000  # messages

_log = structlog.get_logger(__name__)


class EmbeddedConsumer:
    """Shares the messages of one consumer among its subscribers. ``key`` is its name with mode.

    ``floor``: every message up to there is taken or stands among the repeats, so that after a restart reading goes on
    behind it. ``read(after, count)`` pages through the log; ``wake`` asks for a commit, soon, of what changed here.
    """

    def __init__(
        self,
        key: str,
        floor: int,
        newest: int,
        repeats: Sequence[tuple[Entry, int, float]],
        read: Callable[[int, int], Awaitable[list[Entry]]],
        wake: Callable[[], None],
    ) -> None:
        self._key = key
        self._read = read
        self._wake = wake
        self._dispatchers: list[Dispatcher] = []
        self._running: dict[Dispatcher, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._buffer: deque[tuple[Entry, int]] = deque()  # with the number of attempts that failed
        self._cursor = floor  # the last message seen
        self._newest = newest  # the last message known to be in the log
        self._open: dict[int, None] = {}  # seen, not yet taken nor among the repeats; in ascending order
        self._repeating: set[int] = {entry.seq for entry, _, _ in repeats}
        self._later: list[tuple[float, int, Entry, int]] = [
            (due_at_s, entry.seq, entry, attempt) for entry, attempt, due_at_s in repeats
        ]
        heapq.heapify(self._later)
        self._timer: asyncio.TimerHandle | None = None
        self._loading: asyncio.Task[None] | None = None
        self._new_repeats: dict[int, Repeat] = {}  # to be written
        self._new_done: list[tuple[str, int]] = []
        self._writing: tuple[dict[int, Repeat], list[tuple[str, int]]] = ({}, [])
        self._written_floor = floor
        self._moved = False  # whether a message was taken since the floor was written
        self._stopping = False

    def add(self, dispatcher: Dispatcher) -> None:
        """One more subscriber."""
        self._dispatchers.append(dispatcher)
        self._running[dispatcher] = 0
        self._pump()
        self._load()

    def offer(self, entries: Sequence[Entry]) -> None:
        """New messages, just committed."""
        if self._stopping or not entries:
            return
        self._newest = entries[-1].seq
        caught_up = self._cursor == entries[0].seq - 1 and self._loading is None
        if caught_up and len(self._buffer) < _BUFFER_MAX and len(self._later) < _REPEATS_MAX:
            self._take(entries)
        self._pump()
        self._load()

    def collect(self, repeats: list[Repeat], done: list[tuple[str, int]]) -> int | None:
        """Adds what must be written to ``repeats`` and ``done``; the floor where it moved."""
        self._writing = (self._new_repeats, self._new_done)
        self._new_repeats, self._new_done = {}, []
        repeats.extend(self._writing[0].values())
        done.extend(self._writing[1])
        floor = next(iter(self._open)) - 1 if self._open else self._cursor
        # Where only others' messages went by, an old floor costs a restart some reading, a new one each commit a write.
        if floor == self._written_floor or not (self._moved or floor - self._written_floor >= _FLOOR_LAG_MAX):
            return None
        self._written_floor = floor
        self._moved = False
        return floor

    def restore(self) -> None:
        """The commit failed: what ``collect`` gave is to be written again."""
        self._new_repeats = {**self._writing[0], **self._new_repeats}
        self._new_done = [*self._writing[1], *self._new_done]
        self._written_floor = -1
        self._moved = True

    async def stop(self, grace_s: float) -> None:
        """Takes no more, waits for the handlers at most ``grace_s`` seconds, then cancels them."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        if self._tasks:
            _, late = await asyncio.wait(list(self._tasks), timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _take(self, entries: Sequence[Entry]) -> None:
        subscription = self._dispatchers[0].subscription
        for entry in entries:
            # After a crash a failed message may also stand behind the floor.
            if subscription.matches(entry.message.subject) and entry.seq not in self._repeating:
                self._open[entry.seq] = None
                self._buffer.append((entry, 0))
        self._cursor = entries[-1].seq

    def _load(self) -> None:
        """Reads on from the file, where this consumer is behind and has room."""
        room = len(self._buffer) <= _BUFFER_MAX - _PAGE and len(self._later) < _REPEATS_MAX
        if self._cursor < self._newest and room and self._loading is None and not self._stopping:
            self._loading = asyncio.create_task(self._load_page(), name=f"bus-load-{self._key}")

    async def _load_page(self) -> None:
        newest = self._newest
        try:
            page = await self._read(self._cursor, _PAGE)
        except Exception as error:
            _log.error("bus_read_failed", consumer=self._key, error_type=type(error).__name__, exc_info=error)
            asyncio.get_running_loop().call_later(_READ_RETRY_S, self._load)
            return
        finally:
            self._loading = None
        if page:
            self._take(page)
        if len(page) < _PAGE:
            # What is missing up to here was pruned: it will not come.
            self._cursor = max(self._cursor, newest)
        self._pump()
        self._load()

    def _pump(self) -> None:
        """Starts as many handlers as there is room for."""
        if self._stopping:
            return
        self._due()
        while self._buffer:
            free = [d for d in self._dispatchers if self._running[d] < d.subscription.max_in_flight]
            if not free:
                return
            dispatcher = min(free, key=self._running.__getitem__)
            room = dispatcher.subscription.max_in_flight - self._running[dispatcher]
            count = min(room, dispatcher.chunk_max, len(self._buffer))
            chunk = [self._buffer.popleft() for _ in range(count)]
            self._running[dispatcher] += count
            task = asyncio.create_task(self._handle(dispatcher, chunk))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _due(self) -> None:
        """Moves failed messages whose time has come back to the front, and sets the clock for the next."""
        now_s = time.time()
        while self._later and self._later[0][0] <= now_s:
            _, _, entry, attempt = heapq.heappop(self._later)
            self._buffer.append((entry, attempt))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._later:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, self._later[0][0] - now_s), self._pump)

    async def _handle(self, dispatcher: Dispatcher, chunk: Sequence[tuple[Entry, int]]) -> None:
        try:
            waits_s = await dispatcher.run([Delivery(entry.message, attempts + 1) for entry, attempts in chunk])
        finally:
            self._running[dispatcher] -= len(chunk)
        # A handler that was cancelled leaves its messages open: they come again after the restart.
        for (entry, attempts), again_s in zip(chunk, waits_s, strict=True):
            self._note(entry, attempts + 1, again_s)
        self._moved = True
        self._wake()
        self._pump()
        self._load()

    def _note(self, entry: Entry, attempt: int, again_s: float | None) -> None:
        seq = entry.seq
        if again_s is None:
            if seq in self._repeating:
                self._repeating.discard(seq)
                self._new_repeats.pop(seq, None)
                self._new_done.append((self._key, seq))
        else:
            due_at_s = time.time() + again_s
            self._repeating.add(seq)
            self._new_repeats[seq] = Repeat(self._key, seq, attempt, due_at_s)
            heapq.heappush(self._later, (due_at_s, seq, entry, attempt))
        self._open.pop(seq, None)
