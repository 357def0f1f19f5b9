"""The relay: empties the outbox of one service. Events go to the bus, durable calls to their callee.

Rows come in memory straight after their commit; a sweeper finds what a crash left, or what did not fit in memory.
Every delivery may happen twice (a crash between delivery and acknowledgement), never not at all: receivers know a
message by its id, callees a call by its request_id.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

import structlog

from paykit.clock import Clock
from paykit.errors import FailedPrecondition
from paykit.events import metrics
from paykit.events.bus import Bus
from paykit.events.calls import CallLane, DurableCall, Invoke, Item
from paykit.events.event_lane import EventLane
from paykit.events.outbox import OutboxShard
from paykit.settings import RelaySettings
from paykit.store.store import Store
from paykit.store.system import DeadLetter, Outbox

_FLUSH_INTERVAL_S = 0.15
_FLUSH_TIMEOUT_S = 5.0  # of the last one, when the relay ends
_PRUNE_INTERVAL_S = 5.0
_DATABASE_RETRY_S = 0.5
_CLOCKS_APART_MS = 1_000  # the bus tells the age of its store by its own clock

_log = structlog.get_logger(__name__)


class Relay:
    """Delivers the outbox rows of all shards of a store. ``invoke(method, body, context)`` makes a call."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        calls: Iterable[DurableCall],
        invoke: Invoke,
        clock: Clock,
        settings: RelaySettings,
    ) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings
        self._invoke = invoke
        self._calls = {call.method: call for call in calls}
        self._bus = bus
        self._events = EventLane(bus, settings, self._ack)
        self._lanes: dict[str, CallLane] = {}
        self._shards: dict[tuple[str, str], OutboxShard] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._accepting = False
        self._pending_gauge = metrics.outbox_pending.labels(store.service)

    def start(self) -> None:
        """Begins to deliver. The store must be open and the bus started."""
        for mode in ("live", "shadow"):
            for shard in self._store.shards(mode):
                self._shards[mode, shard] = OutboxShard(self._store, self._clock, self._settings, mode, shard)
        self._accepting = True
        self._events.start()
        for home in self._shards.values():
            self._tasks.append(asyncio.create_task(self._flush_forever(home), name="relay-flush"))
            self._tasks.append(asyncio.create_task(self._sweep_forever(home), name="relay-sweep"))
            self._tasks.append(asyncio.create_task(self._prune_forever(home), name="relay-prune"))
        self._store.subscribe(self.offer)

    def offer(self, mode: str, shard: str, rows: list[Outbox]) -> None:
        """Takes rows that were just committed. What does not fit is left to the sweeper."""
        if not self._accepting:
            return
        home = self._shards[mode, shard]
        for row in rows:
            self._take(home, row)

    def _take(self, home: OutboxShard, row: Outbox) -> bool:
        if not self._accepting or row.id in home.held:
            return False
        item = Item(home, row)
        taken = self._events.add(item) if row.kind == "event" else self._lane(row.destination).add(item)
        if taken:
            home.held.add(row.id)
        return taken

    def _lane(self, method: str) -> CallLane:
        lane = self._lanes.get(method)
        if lane is None:
            # A call that needs no hooks need not be declared.
            call = self._calls.get(method) or DurableCall(method)
            lane = CallLane(call, self._invoke, self._store, self._clock, self._settings, self._ack)
            self._lanes[method] = lane
        return lane

    def _ack(self, item: Item) -> None:
        item.home.ack(item.row)

    def pending(self) -> int:
        """Rows held here and not yet acknowledged in the database."""
        return sum(len(home.held) for home in self._shards.values())

    def is_idle(self) -> bool:
        """Whether nothing is held here."""
        return self.pending() == 0

    async def is_empty(self) -> bool:
        """Whether no row of any shard waits for its delivery, here or in another process."""
        return all(await asyncio.gather(*(home.is_empty() for home in self._shards.values())))

    async def drain(self, timeout_s: float) -> bool:
        """Takes no more, and waits for what is under way; whether nothing is left. What is left stays in the outbox."""
        self._accepting = False
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(self._events.drain(), *(lane.drain() for lane in self._lanes.values()))
        except TimeoutError:
            _log.warning("relay_drain_timed_out", pending=self.pending(), timeout_s=timeout_s)
        await self._flush_all()
        return self.is_idle()

    async def stop(self, timeout_s: float = 10.0) -> None:
        """Drains, and ends everything."""
        await self.drain(timeout_s)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_FLUSH_TIMEOUT_S)
        await asyncio.gather(self._events.stop(), *(lane.stop() for lane in self._lanes.values()))
        await self._flush_all()

    async def replay(self, ticket: DeadLetter) -> None:
        """Makes the call of a dead letter again and runs its hook; raises what the callee says."""
        if not ticket.destination.startswith("/"):
            raise FailedPrecondition(f"dead letter {ticket.id} is not of a call", subject=ticket.id)
        await self._lane(ticket.destination).replay(ticket)

    async def _flush_all(self) -> None:
        """Writes the acknowledgements that wait. A shard that hangs keeps neither the others from it nor the end."""
        flushes = {asyncio.create_task(self._flush(home)): home for home in self._shards.values()}
        if flushes:
            _, late = await asyncio.wait(flushes, timeout=_FLUSH_TIMEOUT_S)
            for task in late:
                task.cancel()
                self._log_database("outbox_not_acknowledged", flushes[task], TimeoutError())

    async def _flush(self, home: OutboxShard) -> bool:
        try:
            await home.flush()
        except Exception as error:
            self._log_database("outbox_not_acknowledged", home, error)
            return False
        return True

    async def _flush_forever(self, home: OutboxShard) -> None:
        while True:
            await home.acked.wait()
            try:
                async with asyncio.timeout(_FLUSH_INTERVAL_S):
                    await home.acked_many.wait()
            except TimeoutError:
                pass
            home.acked.clear()
            home.acked_many.clear()
            if not await self._flush(home):
                home.acked.set()
                await asyncio.sleep(_DATABASE_RETRY_S)
            self._pending_gauge.set(self.pending())

    async def _sweep_forever(self, home: OutboxShard) -> None:
        interval_s = self._settings.sweep_interval_s
        while True:
            # Jittered, so that the processes of a service do not all look at the same rows at the same moment.
            await asyncio.sleep(interval_s * random.uniform(0.5, 1.0))
            try:
                await home.sweep(lambda row: self._take(home, row))
            except Exception as error:
                self._log_database("outbox_not_swept", home, error)

    async def _prune_forever(self, home: OutboxShard) -> None:
        while True:
            await asyncio.sleep(_PRUNE_INTERVAL_S * random.uniform(0.5, 1.0))
            try:
                kept_since_ms = await self._bus.kept_since_ms(home.mode)
            except Exception as error:
                # Nothing is deleted: nobody knows yet what the bus will have lost when it is back.
                _log.info("outbox_kept", mode=home.mode, shard=home.shard, error_type=type(error).__name__)
                continue
            try:
                await self._reopen(home, kept_since_ms)
                while await home.prune():
                    pass
            except Exception as error:
                self._log_database("outbox_not_pruned", home, error)

    async def _reopen(self, home: OutboxShard, kept_since_ms: int) -> None:
        """Sends again what the bus had, and lost with its store."""
        lost = 0
        while count := await home.reopen(kept_since_ms + _CLOCKS_APART_MS):
            lost += count
        if lost:
            _log.warning("bus_lost_its_store", mode=home.mode, shard=home.shard, sent_again=lost)

    @staticmethod
    def _log_database(event: str, home: OutboxShard, error: BaseException) -> None:
        _log.warning(event, mode=home.mode, shard=home.shard, error_type=type(error).__name__, exc_info=error)
