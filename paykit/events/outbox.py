"""The outbox rows of one shard as a relay sees them: held here, acknowledged in bulk, swept up, pruned."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sqlalchemy import Select, bindparam, delete, select, update

from paykit.clock import Clock
from paykit.settings import RelaySettings
from paykit.store.row import Row
from paykit.store.store import Store
from paykit.store.system import Outbox

_CHUNK = 500  # ids of one bulk statement

_table = Outbox.__table__
_acknowledge = (
    update(_table).where(_table.c.id.in_(bindparam("ids", expanding=True))).values(acked_at_ms=bindparam("acked_at_ms"))
)
_claim = (
    update(_table)
    .where(_table.c.id.in_(bindparam("ids", expanding=True)))
    .values(due_at_ms=bindparam("until_ms"), attempt_count=_table.c.attempt_count + 1)
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
        self._acked: list[tuple[str, int]] = []  # (id, when it was acknowledged)
        self._lock = asyncio.Lock()

    def ack(self, row_id: str) -> int:
        """The bus or the callee has it. Written by the next ``flush``; how many wait for it."""
        self._acked.append((row_id, self._clock.now_ms()))
        return len(self._acked)

    def release(self, row_id: str) -> None:
        """Not done here: left to the sweeper, of this process or another."""
        self.held.discard(row_id)

    async def flush(self) -> None:
        """Writes all acknowledgements that wait; what could not be written waits on."""
        async with self._lock:
            while self._acked:
                chunk = self._acked[:_CHUNK]
                ids = sorted(
                    row_id for row_id, _ in chunk
                )  # one order for all writers: none waits for another in a ring
                # Not when it is written, which may be long after: what the bus took and then lost must look older
                # than what it holds now.
                parameters = {"ids": ids, "acked_at_ms": min(acked_at_ms for _, acked_at_ms in chunk)}
                await self._store.housekeep(self.mode, self.shard, _acknowledge, parameters)
                del self._acked[: len(ids)]
                self.held.difference_update(ids)

    async def sweep(self, offer: Callable[[Outbox], bool]) -> bool:
        """Offers rows whose time has come; whether there may be more that would be taken.

        Rows that are taken, or held already, are put off by ``sweep_age_s``, so that other processes leave them alone
        as long as this one lives, and rows that wait for a retry do not hide those behind them.
        """
        limit = self._settings.sweep_limit
        async with self._lock:
            rows = await self._store.fetch_shard(Outbox, self._due(limit), self.mode, self.shard)
            mine = sorted(row.id for row in rows if row.id in self.held or offer(row))
            until_ms = self._clock.now_ms() + int(self._settings.sweep_age_s * 1000)
            for start in range(0, len(mine), _CHUNK):
                parameters = {"ids": mine[start : start + _CHUNK], "until_ms": until_ms}
                await self._store.housekeep(self.mode, self.shard, _claim, parameters)
        return len(rows) == limit and len(mine) == limit

    def _due(self, limit: int) -> Select[tuple[object, ...]]:
        is_due = (_table.c.acked_at_ms.is_(None)) & (_table.c.due_at_ms <= self._clock.now_ms())
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
