"""Commands that are held for a moment, so that those about one thing are carried out as one.

Several events of one payment come within a second. A consumer whose commands can be merged writes once for all of
them: each message is acknowledged only when the merged command is committed, so a crash in between delivers them again.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, Self

import msgspec

from paykit.events.backoff import is_outage
from paykit.store.command import Command


class Mergeable(Protocol):
    """A command that may be carried out together with others of the same key, in any order, to the same effect."""

    @property
    def merge_key(self) -> str:
        """What it is about."""
        ...

    @property
    def is_whole(self) -> bool:
        """Whether nothing more is expected: then it does not wait any longer."""
        ...

    def merged(self, other: Self) -> Self:
        """One command that does what both do."""
        ...


class Gather(msgspec.Struct, frozen=True):
    """How long a command waits for others of its key, and how many are held at once; beyond it the oldest go first.

    What is ready waits up to ``pause_s`` more for others that are: they share a transaction.
    """

    hold_s: float
    held_max: int
    pause_s: float = 0.0


class _Held:
    """What has come for one key so far."""

    __slots__ = ("command", "due_s", "parts")

    def __init__(self, command: Any, due_s: float) -> None:
        self.command = command  # all parts as one
        self.due_s = due_s
        self.parts: list[tuple[Any, asyncio.Future[None]]] = []


class Gatherer:
    """Holds the commands of one consumer, on both sides."""

    def __init__(self, carry_out: Callable[[Command[Any]], asyncio.Future[Any]], gather: Gather) -> None:
        self._carry_out = carry_out
        self._gather = gather
        self._held: dict[tuple[str, str], _Held] = {}  # in the order in which they are due
        self._ready: list[_Held] = []  # for the next transaction
        self._count = 0  # commands held
        self._timer: asyncio.TimerHandle | None = None
        self._running: set[_Held] = set()
        self._one_by_one: set[asyncio.Task[None]] = set()
        self._is_draining = False

    async def run(self, command: Any) -> None:
        """Returns when ``command`` is committed, by itself or with others; raises what the store says of it."""
        await self.submit(command)

    def submit(self, command: Any) -> asyncio.Future[None]:
        """As ``run``, for who has many: no task waits for each."""
        loop = asyncio.get_running_loop()
        key = (command.origin.context.mode, command.merge_key)
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = _Held(command, loop.time() + self._gather.hold_s)
        else:
            held.command = held.command.merged(command)
        done: asyncio.Future[None] = loop.create_future()
        held.parts.append((command, done))
        self._count += 1
        if self._is_draining:
            self._release(key)
        elif held.command.is_whole:
            self._make_ready(key)
        if self._count > self._gather.held_max:
            self._release_ready()
        while self._count > self._gather.held_max:
            self._release(next(iter(self._held)))
        if self._timer is None and self._held:
            self._wait()
        return done

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held, nor being carried out."""
        return not (self._held or self._ready or self._running)

    def drain(self) -> None:
        """Carries out what is held, and from now on everything at once."""
        self._is_draining = True
        self._release_ready()
        while self._held:
            self._release(next(iter(self._held)))

    def _make_ready(self, key: tuple[str, str]) -> None:
        if not self._gather.pause_s:
            self._release(key)
            return
        if not self._ready:
            asyncio.get_running_loop().call_later(self._gather.pause_s, self._release_ready)
        self._ready.append(self._held.pop(key))

    def _release_ready(self) -> None:
        ready, self._ready = self._ready, []
        for held in ready:
            self._start(held)

    def _wait(self) -> None:
        first = next(iter(self._held.values()))
        self._timer = asyncio.get_running_loop().call_at(first.due_s, self._release_due)

    def _release_due(self) -> None:
        self._timer = None
        until_s = asyncio.get_running_loop().time() + self._gather.pause_s
        while self._held:
            key, held = next(iter(self._held.items()))
            if held.due_s > until_s:
                self._wait()
                return
            self._release(key)

    def _release(self, key: tuple[str, str]) -> None:
        self._start(self._held.pop(key))

    def _start(self, held: _Held) -> None:
        self._count -= len(held.parts)
        self._running.add(held)
        try:
            under_way = self._carry_out(held.command)
        except Exception as error:
            self._failed(held, error)
        else:
            under_way.add_done_callback(partial(self._ended, held))

    def _ended(self, held: _Held, under_way: asyncio.Future[Any]) -> None:
        if under_way.cancelled():
            self._running.discard(held)
            for _, done in held.parts:
                done.cancel()
            return
        error = under_way.exception()
        if error is not None:
            assert isinstance(error, Exception)
            self._failed(held, error)
            return
        self._running.discard(held)
        for _, done in held.parts:
            if not done.done():
                done.set_result(None)

    def _failed(self, held: _Held, error: Exception) -> None:
        if len(held.parts) > 1 and not is_outage(error):
            # A context of its own: it is carried out for several messages.
            context = contextvars.Context()
            task = asyncio.get_running_loop().create_task(self._each(held), context=context)
            self._one_by_one.add(task)
            task.add_done_callback(self._one_by_one.discard)
            return
        self._running.discard(held)
        for _, done in held.parts:
            _fail(done, error)

    async def _each(self, held: _Held) -> None:
        """One of them cannot be carried out: it must not take the others with it."""
        try:
            for command, done in held.parts:
                try:
                    await self._carry_out(command)
                except Exception as error:
                    _fail(done, error)
                else:
                    if not done.done():
                        done.set_result(None)
        finally:
            self._running.discard(held)
            for _, done in held.parts:
                done.cancel()  # does nothing to those that are done


def _fail(done: asyncio.Future[None], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
