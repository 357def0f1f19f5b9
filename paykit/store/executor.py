"""The batch executor of one shard: the one place where transactions are run and committed.

Commands wait in lanes. A lane takes whatever came while its batch before was running (up to ``max_batch``), loads the
rows with one locking SELECT per table, runs every decision one after another over the same rows, writes with one
statement per table and commits once. A slot always uses the same lane, so two batches of one process never touch the
same rows and never deadlock with each other; other processes are met by row locks and compare-and-set.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy import Executable, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection

from paykit.clock import Clock
from paykit.errors import Aborted, DeadlineExceeded, MeshError, ResourceExhausted, Unavailable
from paykit.settings import ExecutorSettings
from paykit.store import metrics
from paykit.store.batch import Batch
from paykit.store.command import Command, Previewed
from paykit.store.engines import ShardEngines, is_connection_loss, is_contention, read_errors
from paykit.store.guard import transaction_open
from paykit.store.statements import StaleRow
from paykit.store.system import CommandRecord, Outbox
from paykit.store.transaction import StaleEpoch, Waiting, prepare_batch

log = structlog.get_logger()

OnCommit = Callable[[str, str, list[Outbox]], None]


class Lane:
    """A queue of commands and the task that runs them in batches, one after another, on a connection of its own."""

    def __init__(self, shard: ShardExecutor, number: int) -> None:
        self.shard = shard
        self.number = number
        self.queue: deque[Waiting] = deque()
        self._wake = asyncio.Event()
        self._connection: AsyncConnection | None = None
        self._stopping = False
        self._task = asyncio.create_task(self._run(), name=f"lane {shard.label} {number}")

    def add(self, waiting: Waiting) -> None:
        self.queue.append(waiting)
        self._wake.set()

    async def stop(self) -> None:
        """Runs what waits, then ends."""
        self._stopping = True
        self._wake.set()
        await self._task
        await self._close()

    async def _run(self) -> None:
        while True:
            if not self.queue:
                if self._stopping:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = self._take()
            if not batch:
                continue
            try:
                await self._execute(batch)
            except Exception as error:  # a bug here must not end the lane, nor leave anybody waiting
                log.exception("lane_failed", shard=self.shard.label)
                for waiting in batch:
                    waiting.fail(error)

    def _take(self) -> list[Waiting]:
        settings, queue = self.shard.settings, self.queue
        now_s, now_ms = self.shard.loop_time(), self.shard.clock.now_ms()
        batch: list[Waiting] = []
        while queue and len(batch) < settings.max_batch:
            waiting = queue.popleft()
            deadline_ms = waiting.command.origin.context.deadline_ms
            if waiting.future.cancelled():
                continue
            if deadline_ms is not None and deadline_ms <= now_ms:
                waiting.fail(DeadlineExceeded("the deadline passed before the work began"))
            elif now_s - waiting.since_s > settings.max_wait_s:
                waiting.fail(self.shard.overloaded())
            else:
                batch.append(waiting)
        return batch

    async def _execute(self, batch: list[Waiting]) -> None:
        """Runs a batch whole, again on contention; command by command where it fails for any other cause."""
        shard = self.shard
        started_s = shard.loop_time()
        error = await self._attempt(batch, shard.settings.max_retries)
        if error is not None and len(batch) > 1 and not isinstance(error, Unavailable):
            metrics.SPLITS.labels(shard.label).inc()
            log.warning("batch_split", shard=shard.label, size=len(batch), error=repr(error.__cause__ or error))
            for waiting in batch:
                alone = await self._attempt([waiting], retries=1)
                if alone is not None:
                    waiting.fail(alone)
        elif error is not None:
            for waiting in batch:
                waiting.fail(error)
        shard.note_batch(len(batch), shard.loop_time() - started_s)

    async def _attempt(self, batch: list[Waiting], retries: int) -> Exception | None:
        """Tries a batch until it commits or tries or time are used up; the error then, everybody still waiting."""
        shard = self.shard
        until_s = shard.loop_time() + shard.settings.max_wait_s
        last: Exception | None = None
        for attempt in range(retries + 1):
            if attempt and shard.loop_time() > until_s:
                break  # a row that stays locked must not keep the lane's other slots waiting
            if attempt:
                # Jittered: two processes that met once must not meet in step again.
                delay_s = min(0.5, shard.settings.retry_delay_s * 2 ** (attempt - 1))
                await asyncio.sleep(delay_s * (0.5 + random.random()))
            try:
                await self._transact(batch)
                return None
            except StaleRow as error:
                last = self._again("stale_row", error)
            except StaleEpoch as error:
                await self._rollback()
                return _caused(Unavailable(str(error), reason="SHARD_MAP_STALE", retry_after_ms=1000), error)
            except PoolTimeout as error:
                last = self._again("pool_timeout", error)
            except (DBAPIError, OSError) as error:
                if isinstance(error, DBAPIError) and is_contention(error):
                    last = self._again("contention", error)
                elif isinstance(error, OSError) or is_connection_loss(error):
                    last = self._again("connection", error)
                    await self._close()
                else:
                    await self._rollback()
                    return error
            except Exception as error:
                await self._rollback()
                return error
            await self._rollback()
        assert last is not None
        if isinstance(last, StaleRow) or (isinstance(last, DBAPIError) and is_contention(last)):
            return _caused(Aborted("lost too many races on the same rows", retry_after_ms=50), last)
        return _caused(Unavailable("the shard cannot be reached now", retry_after_ms=1000), last)

    def _again(self, cause: str, error: Exception) -> Exception:
        metrics.RETRIES.labels(self.shard.label, cause).inc()
        log.debug("batch_again", shard=self.shard.label, cause=cause, error=str(error)[:200])
        return error

    async def _transact(self, waiting: list[Waiting]) -> None:
        timeout_s = self.shard.settings.statement_timeout_s
        batch = self.shard.new_batch()
        with transaction_open():
            async with asyncio.timeout(timeout_s):  # TimeoutError is an OSError: as if the connection were lost
                connection = await self._connect()
                outcome = await connection.run_sync(prepare_batch, batch, waiting, self.shard.epoch, self.shard.locks)
            if batch.is_changed:
                try:
                    async with asyncio.timeout(timeout_s):
                        await connection.commit()
                except (DBAPIError, OSError) as error:
                    if isinstance(error, DBAPIError) and not is_connection_loss(error):
                        raise
                    await self._close()
                    if not await self._is_committed(batch):
                        raise
            else:
                await self._rollback()
        if batch.outbox:
            self.shard.committed(batch.outbox)
        for item, result in outcome.done:
            metrics.COMMANDS.labels(item.command.name, "previewed" if item.is_preview else "ok").inc()
            item.resolve(result)
        for item, refusal in outcome.refused:
            metrics.COMMANDS.labels(item.command.name, "refused").inc()
            item.fail(refusal)
        for item in reversed(outcome.deferred):
            self.queue.appendleft(item)

    async def _is_committed(self, batch: Batch) -> bool:
        """Settles a commit whose answer was lost by reading a record it wrote; Unavailable where that fails too.

        The read locks: while the server still works on the old transaction it waits, instead of seeing nothing.
        """
        record = next((row for kind, rows in batch.inserts() if kind is CommandRecord for row in rows), None)
        if record is None:
            return False  # folds only: to do them again is right either way
        table = CommandRecord.__table__
        # By the commit's own id too: a twin of the request may have been carried out by another process meanwhile.
        mine = (table.c.id == record.id) & (table.c.commit_id == batch.commit_id)
        statement = select(table.c.id).where(mine).with_for_update()
        for attempt in range(self.shard.settings.max_retries + 1):
            await asyncio.sleep(min(1.0, 0.05 * 2**attempt))
            try:
                async with asyncio.timeout(self.shard.settings.statement_timeout_s):
                    connection = await self._connect()
                    found = (await connection.execute(statement)).first()
                    await connection.rollback()
            except (SQLAlchemyError, OSError) as error:
                log.warning("commit_settlement_again", shard=self.shard.label, error=str(error)[:200])
                await self._close()
                continue
            metrics.SETTLED.labels(self.shard.label, "committed" if found else "rolled_back").inc()
            return found is not None
        raise Unavailable("the outcome is not known yet; send the same request again", reason="OUTCOME_UNKNOWN")

    async def _connect(self) -> AsyncConnection:
        if self._connection is None or self._connection.closed or self._connection.invalidated:
            self._connection = await self.shard.engines.writer.connect()
        return self._connection

    async def _rollback(self) -> None:
        if self._connection is None:
            return
        try:
            async with asyncio.timeout(self.shard.settings.statement_timeout_s):
                await self._connection.rollback()
        except (SQLAlchemyError, OSError):
            await self._close()

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            await connection.close()
        except (SQLAlchemyError, OSError):
            log.debug("connection_close_failed", shard=self.shard.label)


def _caused(error: MeshError, cause: Exception) -> MeshError:
    error.__cause__ = cause
    return error


class ShardExecutor:
    """All lanes of one shard on one side, their bound and their measures."""

    def __init__(
        self,
        mode: str,
        name: str,
        engines: ShardEngines,
        epoch: int,
        clock: Clock,
        settings: ExecutorSettings,
        on_commit: OnCommit,
        outbox_grace_ms: int,
    ) -> None:
        self.mode, self.name, self.label = mode, name, f"{mode}/{name}"
        self.engines, self.epoch, self.clock, self.settings = engines, epoch, clock, settings
        self.locks = not engines.is_sqlite  # SQLite has one writer at a time: BEGIN IMMEDIATE is the lock
        self.loop_time = asyncio.get_running_loop().time
        self._on_commit = on_commit
        self._outbox_grace_ms = outbox_grace_ms
        self._batch_seconds = 0.01
        self._lanes = [Lane(self, number) for number in range(1 if engines.is_sqlite else settings.lanes)]
        self._accepting = True

    def submit(self, command: Command[Any]) -> asyncio.Future[Any]:
        """Queues a command, or raises. One whose future is cancelled before it was begun is left out; later it is
        carried out all the same."""
        return self._queue(command, is_preview=False)

    async def preview(self, command: Command[Any]) -> Previewed[Any]:
        """Queues a command to be decided like any other, but to no effect."""
        previewed: Previewed[Any] = await self._queue(command, is_preview=True)
        return previewed

    def _queue(self, command: Command[Any], is_preview: bool) -> asyncio.Future[Any]:
        if not self._accepting:
            raise Unavailable("the service is stopping", reason="STOPPING", retry_after_ms=500)
        lane = self._lanes[command.slot % len(self._lanes)]
        # What was accepted before (events, timers) is finished before new requests are let in.
        bound = self.settings.max_queue if command.origin.trigger == "rpc" else 2 * self.settings.max_queue
        if len(lane.queue) >= bound or self._wait_s(lane) > self.settings.max_wait_s:
            metrics.COMMANDS.labels(command.name, "overloaded").inc()
            raise self.overloaded()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        lane.add(Waiting(command, future, self.loop_time(), is_preview))
        return future

    async def housekeep(self, statement: Executable, parameters: Any = None) -> int:
        """One bulk statement in a transaction of its own; the number of rows it matched."""
        with read_errors():
            async with asyncio.timeout(self.settings.statement_timeout_s):
                async with self.engines.reader.connect() as connection:  # it commits each statement by itself
                    return int((await connection.execute(statement, parameters)).rowcount)

    def new_batch(self) -> Batch:
        return Batch(self.clock.now_ms(), self._outbox_grace_ms)

    def committed(self, rows: list[Outbox]) -> None:
        self._on_commit(self.mode, self.name, rows)

    def overloaded(self) -> ResourceExhausted:
        retry_after_ms = min(5000, 50 + int(1000 * max(self._wait_s(lane) for lane in self._lanes)))
        return ResourceExhausted("too many commands are waiting", retry_after_ms=retry_after_ms)

    def _wait_s(self, lane: Lane) -> float:
        """How long what is queued now will take: whole batches, as long as they took lately."""
        return self._batch_seconds * (len(lane.queue) // self.settings.max_batch)

    def note_batch(self, size: int, seconds: float) -> None:
        self._batch_seconds = 0.9 * self._batch_seconds + 0.1 * seconds
        metrics.BATCH_SIZE.labels(self.label).observe(size)
        metrics.BATCH_SECONDS.labels(self.label).observe(seconds)
        metrics.WAITING.labels(self.label).set(sum(len(lane.queue) for lane in self._lanes))

    async def stop(self) -> None:
        """Takes no new commands, carries out those that wait, closes the connections."""
        self._accepting = False
        await asyncio.gather(*(lane.stop() for lane in self._lanes))
        await self.engines.dispose()
