"""Timers: rows whose due time has passed. Every wait of the platform has one, so no message has to be relied on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic

import msgspec
import structlog
from sqlalchemy import select

from paykit import context as business
from paykit.clock import Clock
from paykit.context import MODES
from paykit.errors import MeshError
from paykit.events import metrics
from paykit.events.backoff import delay_s
from paykit.settings import TimerSettings
from paykit.store.row import RowT
from paykit.store.store import Store

_NAME_LENGTH_MAX = 64
_HELD_MAX = 5000  # rows of one timer and mode that are firing or wait after a failure
_RETRY_FIRST_S = 1.0
_RETRY_MAX_S = 60.0
_FIRE_TIMEOUT_S = 30.0

_log = structlog.get_logger(__name__)


class Timer(msgspec.Struct, Generic[RowT], frozen=True):
    """Rows of ``row_type`` whose ``column`` (Unix ms) has passed are given to ``fire``.

    ``fire(row)`` is a coroutine, run under the context the row stores, that runs a command which moves or clears the
    due time. Every process of a service has the timer: the row's own state makes it happen once. ``limit`` rows of a
    shard are taken at a time; None takes it from the settings.
    """

    name: str
    row_type: type[RowT]
    fire: Callable[[RowT], Awaitable[None]]
    limit: int | None = None
    column: str = "due_at_ms"


class TimerRunner:
    """Runs the timers of one service over all shards, live and shadow."""

    def __init__(self, store: Store, clock: Clock, timers: Iterable[Timer[Any]], settings: TimerSettings) -> None:
        self._store = store
        self._loops = [TimerLoop(store, clock, timer, mode, settings) for timer in timers for mode in MODES]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to fire. The store must be open."""
        self._tasks = [
            asyncio.create_task(loop.run_forever(), name=f"timer-{loop.name}")
            for loop in self._loops
            if self._store.shards(loop.mode)
        ]

    async def stop(self, grace_s: float = 10.0) -> None:
        """Fires no more, and lets what fires finish within ``grace_s``; the rest is due again after a restart."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(loop.stop(grace_s) for loop in self._loops))


class TimerLoop:
    """One timer on one side, live or shadow."""

    def __init__(self, store: Store, clock: Clock, timer: Timer[Any], mode: str, settings: TimerSettings) -> None:
        self.name = timer.name
        self.mode = mode
        self._store = store
        self._clock = clock
        self._timer = timer
        self._settings = settings
        self._limit = timer.limit or settings.limit
        self._column = timer.row_type.__table__.c[timer.column]
        self._caller = f"timer:{timer.name}"[:_NAME_LENGTH_MAX]
        self._firing: dict[str, asyncio.Task[None]] = {}
        self._finished: set[str] = set()  # since the last look began
        self._failed: dict[str, tuple[int, int]] = {}  # id: (failures, not before, Unix ms)
        self._slots = asyncio.Semaphore(settings.max_concurrent)
        self._outcome = {outcome: metrics.timers_fired.labels(timer.name, outcome) for outcome in ("fired", "failed")}

    async def run_forever(self) -> None:
        """Looks, fires, waits; a shard that is away is tried again at the next look."""
        while True:
            try:
                more = await self.look()
            except Exception as error:
                _log.warning("timer_cannot_look", timer=self.name, mode=self.mode, error_type=type(error).__name__)
                more = False
            # Jittered, so that the processes of a service do not all fire the same rows at the same moment.
            wait_s = self._settings.interval_s * random.uniform(0.75, 1.0)
            if more:
                # A full page: the rest is due now, as soon as what fires has moved its due times.
                await asyncio.wait(list(self._firing.values()), timeout=wait_s)
            else:
                # Rows that keep failing are found each time: many of them make looking dear, and there is no hurry.
                await asyncio.sleep(wait_s * (1 + len(self._failed) / self._limit))

    async def look(self) -> bool:
        """Starts to fire what is due; whether there is more than fits one page."""
        now_ms = self._clock.now_ms()
        self._finished.clear()
        self._failed = {id_: held for id_, held in self._failed.items() if held[1] > now_ms - 1000 * _RETRY_MAX_S}
        # Rows that are held are found again each time: a page must have room for others behind them.
        limit = self._limit + min(_HELD_MAX, len(self._firing) + len(self._failed))
        due = select(self._column.table).where(self._column <= now_ms).order_by(self._column).limit(limit)
        rows = await self._store.fetch_everywhere(self._timer.row_type, due, shadow=self.mode == "shadow")
        started = 0
        for row in rows:
            # What finished while the rows were being read may have been read as it was before.
            if row.id in self._firing or row.id in self._finished or self._failed.get(row.id, (0, 0))[1] > now_ms:
                continue
            if len(self._firing) >= _HELD_MAX:
                break
            task = asyncio.create_task(self._fire(row))
            self._firing[row.id] = task
            started += 1
        return started >= self._limit

    async def _fire(self, row: Any) -> None:
        try:
            async with self._slots, asyncio.timeout(_FIRE_TIMEOUT_S):
                stored = business.unpack(row.context)
                with business.use(msgspec.structs.replace(stored, caller=self._caller, deadline_ms=None)):
                    await self._timer.fire(row)
        except Exception as error:
            failures = self._failed.get(row.id, (0, 0))[0] + 1
            wait_s = delay_s(failures, _RETRY_FIRST_S, _RETRY_MAX_S)
            self._failed[row.id] = (failures, self._clock.now_ms() + int(wait_s * 1000))
            self._outcome["failed"].inc()
            _log.warning(
                "timer_failed",
                timer=self.name,
                mode=self.mode,
                row_id=row.id,
                failures=failures,
                retry_s=round(wait_s, 3),
                error_type=type(error).__name__,
                exc_info=None if isinstance(error, (MeshError, TimeoutError)) else error,
            )
        else:
            self._failed.pop(row.id, None)
            self._outcome["fired"].inc()
        finally:
            self._firing.pop(row.id, None)
            self._finished.add(row.id)

    async def stop(self, grace_s: float) -> None:
        """Lets what fires finish for a bounded time, then cancels it."""
        tasks = list(self._firing.values())
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=grace_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
