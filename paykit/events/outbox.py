"""The outbox rows of one shard as a relay sees them: held here, acknowledged in bulk, swept up, pruned."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from sqlalchemy import Select, Update, bindparam, delete, select, update

from paykit.clock import Clock
from paykit.settings import RelaySettings
from paykit.store.row import Row
from paykit.store.store import Store
from paykit.store.system import Outbox

_CHUNK = 500  # ids of one bulk statement
_FLUSH_AT = 500  # acknowledgements that are written without waiting for more

_table = Outbox.__table__
_acknowledge = (
    update(_table).where(_table.c.id.in_(bindparam("ids", expanding=True))).values(acked_at_ms=bindparam("acked_at_ms"))
)
_claim = (
    update(_table)
    .where(_table.c.id.in_(bindparam("ids", expanding=True)))
    .values(due_at_ms=bindparam("until_ms"), attempt_count=_table.c.attempt_count + 1)
)
_put_off = (
    update(_table).where(_table.c.id.in_(bindparam("ids", expanding=True))).values(due_at_ms=bindparam("until_ms"))
)
_reopen = update(_table).where(_table.c.id.in_(bindparam("ids", expanding=True))).values(acked_at_ms=None)
_delete = delete(_table).where(_table.c.id.in_(bindparam("ids", expanding=True)))


class OutboxKey(Row, frozen=True, kw_only=True):
    """An outbox row without what makes it heavy."""

    __columns__ = ("id", "slot", "version")


class OutboxShard:
    """One shard of one mode. Acknowledging and sweeping exclude each other, so that no row is offered after its end."""

    def __init__(self, store: Store, clock: Clock, settings: RelaySettings, mode: str, shard: str) -> None:
        self.mode = mode
        self.shard = shard
        self.held: set[str] = set()  # offered to this relay and not yet acknowledged in the database
        self._store = store
        self._clock = clock
        self._settings = settings
        self.acked = asyncio.Event()  # something waits for ``flush``
        self.acked_many = asyncio.Event()  # so much that it should not wait for more
        self._acked_events: list[tuple[str, int]] = []  # (id, when it was acknowledged)
        self._answered_calls: list[str] = []
        self._lock = asyncio.Lock()

    def ack(self, row: Outbox) -> None:
        """The bus or the callee has it. Written by the next ``flush``."""
        if row.kind == "event":
            self._acked_events.append((row.id, self._clock.now_ms()))
        else:
            self._answered_calls.append(row.id)
        self.acked.set()
        if len(self._acked_events) + len(self._answered_calls) >= _FLUSH_AT:
            self.acked_many.set()

    def release(self, row_id: str) -> None:
        """Not done here: left to the sweeper, of this process or another."""
        self.held.discard(row_id)

    async def flush(self) -> None:
        """Writes all acknowledgements that wait; what could not be written waits on.

        Events are kept for a while, for the bus may lose what it took. A callee has a call durably: its row goes.
        """
        async with self._lock:
            while self._answered_calls:
                ids = sorted(self._answered_calls[:_CHUNK])  # one order for all writers: none waits in a ring
                await self._store.housekeep(self.mode, self.shard, _delete, {"ids": ids})
                del self._answered_calls[: len(ids)]
                self.held.difference_update(ids)
            while self._acked_events:
                chunk = self._acked_events[:_CHUNK]
                ids = sorted(row_id for row_id, _ in chunk)
                # Not when it is written, which may be long after: what the bus took and then lost must look older
                # than what it holds now.
                parameters = {"ids": ids, "acked_at_ms": min(acked_at_ms for _, acked_at_ms in chunk)}
                await self._store.housekeep(self.mode, self.shard, _acknowledge, parameters)
                del self._acked_events[: len(ids)]
                self.held.difference_update(ids)

    async def sweep(self, offer: Callable[[Outbox], bool]) -> None:
        """Offers all rows whose time has come, page by page.

        Every row read is put off, so that none hides those behind it: what is taken, or held already, by
        ``sweep_age_s``, so that other processes leave it alone as long as this one lives; what is refused by
        ``sweep_interval_s``. A destination that refused is not looked at again in this sweep: its lane is full.
        """
        limit = self._settings.sweep_limit
        is_full, refusing = True, set[str]()
        while is_full:
            async with self._lock:
                rows = await self._store.fetch_shard(Outbox, self._due(limit, refusing), self.mode, self.shard)
                mine = {row.id for row in rows if row.id in self.held or offer(row)}
                await self._write_due(_claim, mine, self._settings.sweep_age_s)
                refused = {row.id: row.destination for row in rows if row.id not in mine}
                await self._write_due(_put_off, refused, self._settings.sweep_interval_s)
            refusing.update(refused.values())
            is_full = len(rows) == limit

    async def _write_due(self, statement: Update, row_ids: Collection[str], wait_s: float) -> None:
        ids, until_ms = sorted(row_ids), self._clock.now_ms() + int(wait_s * 1000)
        for start in range(0, len(ids), _CHUNK):
            parameters = {"ids": ids[start : start + _CHUNK], "until_ms": until_ms}
            await self._store.housekeep(self.mode, self.shard, statement, parameters)

    def _due(self, limit: int, refusing: Collection[str]) -> Select[tuple[object, ...]]:
        is_due = (_table.c.acked_at_ms.is_(None)) & (_table.c.due_at_ms <= self._clock.now_ms())
        if refusing:
            is_due &= _table.c.destination.not_in(sorted(refusing))
        return select(_table).where(is_due).order_by(_table.c.due_at_ms).limit(limit)

    async def reopen(self, kept_since_ms: int) -> int:
        """Lets a chunk of the events wait again that the bus acknowledged before ``kept_since_ms``: it has lost them.
        How many."""
        columns = (_table.c.id, _table.c.slot, _table.c.version)
        lost = (_table.c.kind == "event") & (_table.c.acked_at_ms < kept_since_ms)
        rows = await self._store.fetch_shard(
            OutboxKey, select(*columns).where(lost).limit(_CHUNK), self.mode, self.shard
        )
        if rows:
            await self._store.housekeep(self.mode, self.shard, _reopen, {"ids": sorted(row.id for row in rows)})
        return len(rows)

    async def prune(self) -> int:
        """Deletes a chunk of the rows acknowledged longer than ``ack_grace_s`` ago; how many."""
        before_ms = self._clock.now_ms() - int(self._settings.ack_grace_s * 1000)
        columns = (_table.c.id, _table.c.slot, _table.c.version)
        old = select(*columns).where(_table.c.acked_at_ms <= before_ms).order_by(_table.c.acked_at_ms).limit(_CHUNK)
        rows = await self._store.fetch_shard(OutboxKey, old, self.mode, self.shard)
        if rows:
            await self._store.housekeep(self.mode, self.shard, _delete, {"ids": sorted(row.id for row in rows)})
        return len(rows)

    async def is_empty(self) -> bool:
        """Whether no row of this shard waits for its delivery, here or anywhere."""
        columns = (_table.c.id, _table.c.slot, _table.c.version)
        first = select(*columns).where(_table.c.acked_at_ms.is_(None)).limit(1)
        return not await self._store.fetch_shard(OutboxKey, first, self.mode, self.shard)
