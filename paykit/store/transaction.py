"""One transaction of the executor, but for its commit: load, decide, write."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import structlog
from sqlalchemy import Connection, Dialect, literal, select

from paykit.errors import MeshError
from paykit.store.batch import Batch, LoadedSoFar, NotLoaded
from paykit.store.command import Command
from paykit.store.replay import first_result
from paykit.store.row import Key, Row
from paykit.store.statements import insert_rows, load, update_rows
from paykit.store.system import CommandRecord, ShardEpoch

log = structlog.get_logger()

MAX_ROUNDS = 6  # of reading; the last one must name nothing new
_RECORD = CommandRecord


class StaleEpoch(Exception):
    """The shard has moved on to another epoch of the shard map."""


class Waiting:
    """A command in a lane. A preview is decided like any other, and leaves nothing behind."""

    __slots__ = ("command", "future", "is_preview", "record_id", "since_s")

    def __init__(
        self, command: Command[Any], future: asyncio.Future[Any], since_s: float, is_preview: bool = False
    ) -> None:
        self.command = command
        self.future = future
        self.since_s = since_s
        self.is_preview = is_preview
        # Of the record that says it was carried out before; a preview is decided all the same.
        self.record_id = "" if is_preview else command.origin.key

    def resolve(self, result: Any) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # a caller that went away must not make the loop complain


class Outcome:
    """What became of each command of a batch."""

    __slots__ = ("deferred", "done", "refused")

    def __init__(self) -> None:
        self.done: list[tuple[Waiting, Any]] = []
        self.refused: list[tuple[Waiting, Exception]] = []
        self.deferred: list[Waiting] = []


def prepare_batch(connection: Connection, batch: Batch, waiting: list[Waiting], epoch: int, locks: bool) -> Outcome:
    """Loads, decides and writes one batch; everything but the commit."""
    _check_epoch(connection, epoch, locks)
    _load_rows(connection, batch, [w.command for w in waiting], locks)
    # After the rows are locked: of two processes with the same request the second waits for the first one's rows, and
    # must then see its record before it decides on what the first one did. Without common rows they meet at the insert.
    _load(connection, batch, {Key(_RECORD, "id", w.record_id) for w in waiting if w.record_id}, False)
    outcome = _decide(batch, waiting)
    for row_type, rows in batch.inserts():
        insert_rows(connection, row_type, rows)
    for row_type, changes in batch.updates():
        update_rows(connection, row_type, changes)
    return outcome


@lru_cache(maxsize=16)
def _epoch_query(dialect: Dialect, locks: bool) -> str:
    # Locked for sharing: who moves the shard to another epoch waits for the batches under way.
    table = ShardEpoch.__table__
    statement = select(table.c.epoch).where(table.c.id == literal("epoch", literal_execute=True))
    locking = statement.with_for_update(read=True) if locks else statement
    return str(locking.compile(dialect=dialect, compile_kwargs={"render_postcompile": True}))


def _check_epoch(connection: Connection, epoch: int, locks: bool) -> None:
    found = connection.exec_driver_sql(_epoch_query(connection.dialect, locks)).scalar_one()
    if found != epoch:
        raise StaleEpoch(f"the shard is at epoch {found} of the shard map, this process at {epoch}")


def _load(connection: Connection, batch: Batch, keys: set[Key], lock: bool) -> bool:
    missing = batch.missing(keys)
    for (row_type, column), values in missing.items():
        rows: list[Row] = load(connection, row_type, column, values, lock)
        batch.table(row_type).add_loaded(column, values, rows)
    return bool(missing)


def _load_rows(connection: Connection, batch: Batch, commands: Sequence[Command[Any]], locks: bool) -> None:
    """Loads what the commands read, round by round, until they name nothing new."""
    loaded = LoadedSoFar(batch)
    for _ in range(MAX_ROUNDS):
        keys: set[Key] = set()
        for command in commands:
            keys.update(command.reads(loaded))
        if not _load(connection, batch, keys, locks):
            return
    raise AssertionError(f"still naming new rows after {MAX_ROUNDS} rounds: {sorted({c.name for c in commands})}")


def _decide(batch: Batch, waiting: list[Waiting]) -> Outcome:
    outcome = Outcome()
    for item in waiting:
        command = item.command
        try:
            outcome.done.append((item, _decide_one(batch, item)))
        except NotLoaded as error:
            # An earlier command of this batch changed where the rows lead: with fresh rows in the next one.
            if batch.is_changed:
                outcome.deferred.append(item)
            else:
                bug = AssertionError(f"{command.name} decides on rows that it does not read: {error}")
                outcome.refused.append((item, bug))
        except MeshError as error:
            outcome.refused.append((item, error))
        except Exception as error:  # a bug in one decision is that command's own failure
            log.exception("decision_failed", command=command.name)
            outcome.refused.append((item, error))
    return outcome


def _decide_one(batch: Batch, item: Waiting) -> Any:
    if item.is_preview:
        return batch.preview(item.command)
    recorded = batch.get(_RECORD, item.record_id) if item.record_id else None
    return batch.decide(item.command) if recorded is None else first_result(item.command, recorded)
