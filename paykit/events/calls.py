"""Durable calls: outbox rows whose destination is another service's RPC, made until the callee has answered."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog

from paykit import context as business
from paykit.clock import Clock
from paykit.context import BusinessContext
from paykit.errors import DeadlineExceeded, MeshError, ResourceExhausted, Unavailable
from paykit.events import metrics
from paykit.events.backoff import delay_s, is_definite, is_outage, is_worth_a_line
from paykit.events.dead_letters import OpenDeadLetter, stored_context
from paykit.events.outbox import OutboxShard
from paykit.settings import RelaySettings
from paykit.store.store import Store
from paykit.store.system import DeadLetter, Outbox

Invoke = Callable[[str, bytes, BusinessContext], Awaitable[Any]]
OnReply = Callable[[BusinessContext, Outbox, Any], Awaitable[None]]
OnRefused = Callable[[BusinessContext, Outbox, MeshError], Awaitable[None]]

_CALLER_LENGTH_MAX = 64
_PROBE_AFTER = 10  # failures in a row, after which a callee is taken to be away
_PROBE_DELAY_MAX_S = 5.0
_TICKET_AFTER = 20  # failures of one call that neither refuse it nor pass by themselves

_log = structlog.get_logger(__name__)


class DurableCall(msgspec.Struct, frozen=True):
    """What becomes of the answers to calls of ``method``.

    ``on_reply(context, row, response)`` and ``on_refused(context, row, error)`` run before the row is acknowledged and
    must bear being run again; they normally run a command. Without ``on_refused`` a refusal becomes a dead letter.
    A refusal speaks of one attempt: an earlier one, whose answer was lost, may have been carried out. A hook that
    undoes something asks the callee first.
    """

    method: str
    on_reply: OnReply | None = None
    on_refused: OnRefused | None = None


class Item:
    """An outbox row on its way, how often it was tried here, and how often it failed as nothing should."""

    __slots__ = ("attempt", "has_ticket", "home", "mishaps", "row")

    def __init__(self, home: OutboxShard, row: Outbox) -> None:
        self.home = home
        self.row = row
        self.attempt = 0
        self.mishaps = 0
        self.has_ticket = False


class CallLane:
    """All calls of one method: many at once, bounded, so that a slow callee keeps only its own calls waiting."""

    def __init__(
        self,
        call: DurableCall,
        invoke: Invoke,
        store: Store,
        clock: Clock,
        settings: RelaySettings,
        done: Callable[[Item], None],
    ) -> None:
        self._call = call
        self._invoke = invoke
        self._store = store
        self._clock = clock
        self._settings = settings
        self._done = done
        self._ready: deque[Item] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._waiting: dict[Item, asyncio.TimerHandle] = {}
        self._failures = 0  # in a row, of the kind that says the callee is away or full
        self._probes = 0  # since it was last there
        self._probe: asyncio.TimerHandle | None = None
        self._stopping = False
        self._caller = f"reply:{call.method}"[:_CALLER_LENGTH_MAX]
        self._outcome = {
            outcome: metrics.calls_done.labels(call.method, outcome) for outcome in ("replied", "refused", "retried")
        }

    def __len__(self) -> int:
        return len(self._ready) + len(self._running) + len(self._waiting)

    def add(self, item: Item) -> bool:
        """Takes a call, unless too many are here already."""
        if len(self) >= self._settings.max_queue:
            return False
        self._ready.append(item)
        self._pump()
        return True

    async def drain(self) -> None:
        """Until what is ready has been tried; calls that wait for another attempt are not waited for."""
        while self._running or (self._ready and self._probe is None):
            await asyncio.wait(list(self._running), return_when=asyncio.FIRST_COMPLETED)

    async def stop(self) -> None:
        """Drops all calls; their rows are still in the outbox."""
        self._stopping = True
        self._ready.clear()
        if self._probe is not None:
            self._probe.cancel()
        for handle in self._waiting.values():
            handle.cancel()
        self._waiting.clear()
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _pump(self) -> None:
        is_away = self._failures >= _PROBE_AFTER
        limit = 1 if is_away else self._settings.max_in_flight
        while self._ready and len(self._running) < limit and self._probe is None:
            task = asyncio.create_task(self._run(self._ready.popleft()))
            self._running.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._pump()

    async def _run(self, item: Item) -> None:
        item.attempt += 1
        row = item.row
        try:
            stored = business.unpack(row.context)
            with business.use(msgspec.structs.replace(stored, caller=self._caller, deadline_ms=None)) as context:
                await self.deliver(context, row)
        except Exception as error:
            if not is_outage(error):
                await self._count_mishap(item, error)
            self._retry(item, error)
            return
        self._failures = self._probes = 0
        self._done(item)

    async def _count_mishap(self, item: Item, error: Exception) -> None:
        """A bug, here or at the callee, does not pass by itself: somebody is told, and the call is still made again,
        for it may have been carried out."""
        item.mishaps += 1
        if item.mishaps < _TICKET_AFTER or item.has_ticket:
            return
        row = item.row
        shadow = item.home.mode == "shadow"
        context = stored_context(row.context, biz_id=row.biz_id, shadow=shadow, caller=self._caller)
        try:
            await self._give_up(context, row, error)
        except Exception as failure:  # asked for again with the next mishap
            _log.warning("call_ticket_not_opened", message_id=row.id, error_type=type(failure).__name__)
        else:
            item.has_ticket = True

    async def deliver(self, context: BusinessContext, row: Outbox) -> None:
        """One attempt, to its end: replied, refused, or a ticket. Raises where it must be tried again."""
        call = self._call
        try:
            timeout_s = self._settings.call_timeout_s
            bounded = msgspec.structs.replace(context, deadline_ms=self._clock.now_ms() + int(timeout_s * 1000))
            try:
                async with asyncio.timeout(timeout_s):
                    response = await self._invoke(call.method, row.body, bounded)
            except MeshError as error:
                if not is_definite(error):
                    raise
                self._outcome["refused"].inc()
                if call.on_refused is None:
                    await self._give_up(context, row, error)
                else:
                    await call.on_refused(context, row, error)
            else:
                self._outcome["replied"].inc()
                if call.on_reply is not None:
                    await call.on_reply(context, row, response)
        except MeshError as error:
            # What became of the call is known; it is the answer that could not be taken.
            if not is_definite(error):
                raise
            await self._give_up(context, row, error)

    async def replay(self, ticket: DeadLetter) -> None:
        """Makes the call of a dead letter once more; raises what the callee or its hook says."""
        row = Outbox(
            id=ticket.message_id,
            slot=ticket.slot,
            kind="call",
            destination=ticket.destination,
            biz_id=ticket.biz_id,
            context=ticket.context,
            body=ticket.body,
            created_at_ms=ticket.created_at_ms,
            due_at_ms=ticket.created_at_ms,
            attempt_count=0,
            acked_at_ms=None,
        )
        timeout_s = self._settings.call_timeout_s
        context = msgspec.structs.replace(business.unpack(ticket.context), caller=self._caller, deadline_ms=None)
        with business.use(context):
            bounded = msgspec.structs.replace(context, deadline_ms=self._clock.now_ms() + int(timeout_s * 1000))
            async with asyncio.timeout(timeout_s):
                response = await self._invoke(self._call.method, row.body, bounded)
            if self._call.on_reply is not None:
                await self._call.on_reply(context, row, response)

    async def _give_up(self, context: BusinessContext, row: Outbox, error: Exception) -> None:
        ticket = OpenDeadLetter(
            context,
            row.slot,
            consumer=self._call.method,
            destination=row.destination,
            message_id=row.id,
            body=row.body,
            error=error,
        )
        await self._store.run(ticket)
        metrics.dead_lettered.labels(self._call.method, context.mode).inc()
        _log.error("call_dead_lettered", method=self._call.method, message_id=row.id, error_type=type(error).__name__)

    def _retry(self, item: Item, error: Exception) -> None:
        if self._stopping:
            return
        self._outcome["retried"].inc()
        settings = self._settings
        retry_after_ms = error.retry_after_ms if isinstance(error, MeshError) else None
        wait_s = delay_s(item.attempt, settings.retry_delay_s, settings.retry_delay_max_s, retry_after_ms)
        if self._failures < _PROBE_AFTER and is_worth_a_line(item.attempt):
            _log.warning(
                "call_failed",
                method=self._call.method,
                message_id=item.row.id,
                attempt=item.attempt,
                retry_s=round(wait_s, 3),
                error_type=type(error).__name__,
                exc_info=None if isinstance(error, (MeshError, TimeoutError)) else error,
            )
        loop = asyncio.get_running_loop()
        self._waiting[item] = loop.call_later(wait_s, self._again, item)
        if not isinstance(error, (Unavailable, ResourceExhausted, DeadlineExceeded, TimeoutError)):
            return
        self._failures += 1
        if self._failures >= _PROBE_AFTER and self._probe is None:
            # One call at a time asks whether the callee is back; thousands asking would keep it down.
            self._probes += 1
            pause_s = delay_s(self._probes, settings.retry_delay_s, min(_PROBE_DELAY_MAX_S, settings.retry_delay_max_s))
            if is_worth_a_line(self._probes):
                _log.error("callee_away", method=self._call.method, probes=self._probes, waiting=len(self))
            self._probe = loop.call_later(pause_s, self._probe_now)

    def _probe_now(self) -> None:
        self._probe = None
        self._pump()

    def _again(self, item: Item) -> None:
        del self._waiting[item]
        self._ready.append(item)
        self._pump()
