"""Timers: rows whose due time has passed. Every wait of the platform has one, so no message has to be relied on."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, cast

import msgspec
import structlog
from sqlalchemy import select

from paykit import context as business
from paykit.clock import Clock
from paykit.context import MODES
from paykit.errors import MeshError, NotFound
from paykit.events import metrics
from paykit.events.backoff import delay_s, is_definite, is_outage
from paykit.events.dead_letters import OpenDeadLetter, stored_context
from paykit.ids import slot_in
from paykit.settings import TimerSettings
from paykit.store.row import RowT
from paykit.store.store import Store
from paykit.store.system import DeadLetter

TICKET_PREFIX = "timer:"
_NAME_LENGTH_MAX = 64
_HELD_MAX = 5000  # rows of one timer and shard that are firing or wait after a failure
_RETRY_FIRST_S = 1.0
_RETRY_MAX_S = 60.0
_FIRE_TIMEOUT_S = 30.0
_REFUSALS_BEFORE_TICKET = 3  # a row read just before it changed may be refused once
_MISHAPS_BEFORE_TICKET = 20  # of errors that neither refuse it nor pass by themselves

_log = structlog.get_logger(__name__)


class Timer(msgspec.Struct, Generic[RowT], frozen=True):
    """Rows of ``row_type`` whose ``column`` (Unix ms) has passed are given to ``fire``.

    ``fire(row)`` is a coroutine, run under the context the row stores, that runs a command which moves or clears the
    due time. Every process of a service has the timer: the row's own state makes it happen once. ``limit`` rows of a
    shard are taken at a time; None takes it from the settings. Where all waits of the rows are long, ``interval_s``
    spares the shards looks that would find nothing: it holds where it is longer than the settings'.
    """

    name: str
    row_type: type[RowT]
    fire: Callable[[RowT], Awaitable[None]]
    limit: int | None = None
    column: str = "due_at_ms"
    interval_s: float = 0.0


class Failing(msgspec.Struct):
    """A row whose firing failed, and is put off. Times are Unix milliseconds."""

    attempts: int = 0
    mishaps: int = 0  # those of them that were no outage
    refusals: int = 0  # those of them that were definite
    not_before_ms: int = 0
    has_ticket: bool = False


class TimerRunner:
    """Runs the timers of one service over all shards, live and shadow; a shard that is away stops only its own."""

    def __init__(self, store: Store, clock: Clock, timers: Iterable[Timer[Any]], settings: TimerSettings) -> None:
        self._store = store
        self._clock = clock
        self._timers = {timer.name: timer for timer in timers}
        self._settings = settings
        self._loops: list[TimerLoop] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to fire. The store must be open."""
        self._loops = [
            TimerLoop(self._store, self._clock, timer, mode, shard, self._settings)
            for timer in self._timers.values()
            for mode in MODES
            for shard in self._store.shards(mode)
        ]
        self._tasks = [asyncio.create_task(loop.run_forever(), name=f"timer-{loop.name}") for loop in self._loops]

    async def replay(self, ticket: DeadLetter) -> None:
        """Fires the row of a dead letter (consumer "timer:<name>") as it now is; raises what ``fire`` says."""
        timer = self._timers.get(ticket.consumer.removeprefix(TICKET_PREFIX))
        if timer is None:
            raise NotFound(f"this service has no {ticket.consumer}")
        context = business.unpack(ticket.context)
        table = timer.row_type.__table__
        statement = select(table).where(table.c.id == ticket.message_id)
        rows = await self._store.fetch(
            timer.row_type, statement, slot=slot_in(ticket.message_id), shadow=context.shadow
        )
        if not rows:
            raise NotFound(f"there is no {ticket.destination} {ticket.message_id}")
        if getattr(rows[0], timer.column) is None:
            return  # it waits no more: something else carried it on
        async with asyncio.timeout(_FIRE_TIMEOUT_S):
            with business.use(context):
                await timer.fire(rows[0])

    async def stop(self, grace_s: float = 10.0) -> None:
        """Fires no more, and lets what fires finish within ``grace_s``; the rest is due again after a restart."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(loop.stop(grace_s) for loop in self._loops))


class TimerLoop:
    """One timer on one shard."""

    def __init__(
        self, store: Store, clock: Clock, timer: Timer[Any], mode: str, shard: str, settings: TimerSettings
    ) -> None:
        self.name = timer.name
        self.mode = mode
        self.shard = shard
        self._store = store
        self._clock = clock
        self._timer = timer
        self._settings = settings
        self._limit = timer.limit or settings.limit
        self._interval_s = max(timer.interval_s, settings.interval_s)
        self._column = timer.row_type.__table__.c[timer.column]
        self._consumer = f"{TICKET_PREFIX}{timer.name}"
        self._caller = self._consumer[:_NAME_LENGTH_MAX]
        self._waiting: deque[Any] = deque()  # rows found and not yet firing
        self._held: set[str] = set()  # ids of those that wait or fire
        self._finished: set[str] = set()  # since the last look began
        self._failing: dict[str, Failing] = {}
        self._workers: set[asyncio.Task[None]] = set()
        # Held rows are found again by the next look: it pays to have most of a page done before, and not to run dry.
        self._few = min(settings.max_concurrent, self._limit // 2)
        self._has_few = asyncio.Event()
        self._outcome = {outcome: metrics.timers_fired.labels(timer.name, outcome) for outcome in ("fired", "failed")}

    async def run_forever(self) -> None:
        """Looks, fires, waits; a shard that is away is tried again at the next look."""
        while True:
            try:
                more = await self.look()
            except Exception as error:
                where = {"mode": self.mode, "shard": self.shard}
                _log.warning("timer_cannot_look", timer=self.name, **where, error_type=type(error).__name__)
                more = False
            # Jittered, so that the processes of a service do not all fire the same rows at the same moment.
            wait_s = self._interval_s * random.uniform(0.75, 1.0)
            if more:
                # A full page: the rest is due now, as soon as most of what fires has moved its due times.
                await self._until_few(wait_s)
            else:
                # Rows that keep failing are found each time: many of them make looking dear, and there is no hurry.
                await asyncio.sleep(wait_s * (1 + len(self._failing) / self._limit))

    async def _until_few(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._has_few.wait()

    async def look(self) -> bool:
        """Starts to fire what is due; whether there is more than fits one page."""
        now_ms = self._clock.now_ms()
        self._finished.clear()
        forget_ms = now_ms - int(1000 * _RETRY_MAX_S)
        self._failing = {id_: row for id_, row in self._failing.items() if row.not_before_ms > forget_ms}
        # Rows that are held are found again each time: a page must have room for others behind them.
        limit = self._limit + min(_HELD_MAX, len(self._held) + len(self._failing))
        due = select(self._column.table).where(self._column <= now_ms).order_by(self._column).limit(limit)
        rows = await self._store.fetch_shard(self._timer.row_type, due, self.mode, self.shard)
        started = 0
        for row in rows:
            # What finished while the rows were being read may have been read as it was before.
            if row.id in self._held or row.id in self._finished:
                continue
            failing = self._failing.get(row.id)
            if failing is not None and failing.not_before_ms > now_ms:
                continue
            if len(self._held) >= _HELD_MAX:
                break
            self._held.add(row.id)
            self._waiting.append(row)
            started += 1
        self._start_workers()
        return started >= self._limit

    def _start_workers(self) -> None:
        """Workers rather than a task a row: by the thousand, tasks that wait for their turn are what costs."""
        if len(self._held) > self._few:
            self._has_few.clear()
        for _ in range(min(len(self._waiting), self._settings.max_concurrent - len(self._workers))):
            self._workers.add(asyncio.create_task(self._work(), name=f"timer-{self.name}-worker"))

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._take(self._waiting.popleft())
        finally:
            # At once, not when the task is done: a look in between would count on it.
            self._workers.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _take(self, row: Any) -> None:
        try:
            await self._fire(row)
        finally:
            self._held.discard(row.id)
            self._finished.add(row.id)
            if len(self._held) <= self._few:
                self._has_few.set()

    async def _fire(self, row: Any) -> None:
        try:
            async with asyncio.timeout(_FIRE_TIMEOUT_S):
                stored = business.unpack(row.context)
                with business.use(msgspec.structs.replace(stored, caller=self._caller, deadline_ms=None)):
                    await self._timer.fire(row)
        except Exception as error:
            self._outcome["failed"].inc()
            await self._put_off(row, error)
        else:
            self._failing.pop(row.id, None)
            self._outcome["fired"].inc()

    async def _put_off(self, row: Any, error: Exception) -> None:
        """Later, and later each time; with a ticket where waiting alone will not help."""
        failing = self._failing.setdefault(row.id, Failing())
        failing.mishaps += not is_outage(error)
        failing.refusals += is_definite(error)
        failing.attempts += 1
        wait_s = delay_s(failing.attempts, _RETRY_FIRST_S, _RETRY_MAX_S)
        failing.not_before_ms = self._clock.now_ms() + int(wait_s * 1000)
        _log.warning(
            "timer_failed",
            timer=self.name,
            mode=self.mode,
            row_id=row.id,
            failures=failing.attempts,
            retry_s=round(wait_s, 3),
            error_type=type(error).__name__,
            exc_info=None if isinstance(error, (MeshError, TimeoutError)) else error,
        )
        is_hopeless = failing.refusals >= _REFUSALS_BEFORE_TICKET or failing.mishaps >= _MISHAPS_BEFORE_TICKET
        if is_hopeless and not failing.has_ticket:
            await self._open_ticket(row, failing, error)

    async def _open_ticket(self, row: Any, failing: Failing, error: Exception) -> None:
        biz_id = getattr(row, "biz_id", "")
        context = stored_context(row.context, biz_id=biz_id, shadow=self.mode == "shadow", caller=self._caller)
        ticket = OpenDeadLetter(
            context,
            row.slot,
            consumer=self._consumer,
            destination=self._timer.row_type.__entity__,
            message_id=row.id,
            body=b"",
            error=error,
        )
        try:
            await self._store.run(ticket)
        except Exception as failure:  # asked for again with the next failure
            _log.warning("timer_ticket_not_opened", row_id=row.id, error_type=type(failure).__name__)
            return
        failing.has_ticket = True
        metrics.dead_lettered.labels(self._consumer, self.mode).inc()
        _log.error("timer_dead_lettered", timer=self.name, row_id=row.id, error_type=type(error).__name__)

    async def stop(self, grace_s: float) -> None:
        """Drops what waits, lets what fires finish for a bounded time, then cancels it."""
        self._waiting.clear()
        tasks = list(self._workers)
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=grace_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
