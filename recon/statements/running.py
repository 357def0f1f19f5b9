"""How the parts of an import run: again where the store is busy, many at once but not too many, on a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from paykit.errors import Aborted, ResourceExhausted, Unavailable
from paykit.store.command import Command, R
from paykit.store.store import Store

_ATTEMPTS_MAX = 12
_DELAY_S = 0.1
_DELAY_MAX_S = 5.0
_FINAL_REASONS = ("IMPORT_TAKEN_OVER", "STOPPING")

T = TypeVar("T")


async def run_patiently(store: Store, command: Command[R]) -> R:
    """Runs a command of a long work: what only says "not now" is tried again, a bounded number of times."""
    for attempt in range(1, _ATTEMPTS_MAX + 1):
        try:
            return await store.run(command)
        except (ResourceExhausted, Aborted, Unavailable) as error:
            if attempt == _ATTEMPTS_MAX or error.reason in _FINAL_REASONS:
                raise
        await asyncio.sleep(min(_DELAY_MAX_S, _DELAY_S * 2 ** (attempt - 1)))
    raise AssertionError("unreachable")


class Window:
    """At most so many coroutines at once. The first error ends the block, once the others have ended."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Window:
        return self

    async def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Begins ``work`` as soon as there is a place; raises what an earlier one has raised."""
        try:
            while len(self._running) >= self._limit:
                await self._some(asyncio.FIRST_COMPLETED)
        except BaseException:
            work.close()
            raise
        self._running.add(asyncio.create_task(work))

    async def _some(self, when: str) -> None:
        if self._running:
            done, self._running = await asyncio.wait(self._running, return_when=when)
            for task in done:
                task.result()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                await self._some(asyncio.ALL_COMPLETED)
        finally:
            # Not cancelled: a command that is in a transaction is carried out whoever waits for it, and what comes
            # after the block must find it done.
            await asyncio.gather(*self._running, return_exceptions=True)


class Workshop:
    """A place on threads for what blocks. One call at a time; once it is left, ``stop`` is set and nothing runs."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._busy: asyncio.Future[Any] | None = None

    async def run(self, function: Callable[[], T]) -> T:
        """Runs ``function`` on a thread. Whoever is cancelled meanwhile waits until it has seen ``stop``."""
        self._busy = asyncio.ensure_future(asyncio.to_thread(function))
        try:
            return await asyncio.shield(self._busy)
        except asyncio.CancelledError:
            self.stop.set()
            await asyncio.wait({self._busy})
            if not self._busy.cancelled():
                self._busy.exception()  # of no interest any more
            raise
