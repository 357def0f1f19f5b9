"""The rows of a service in memory, and commands carried out on them as the executor does: for tests of decisions."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

from paykit.store.batch import Batch, LoadedSoFar
from paykit.store.command import Command
from paykit.store.row import Row
from paykit.store.system import CommandRecord, Outbox
from paykit.store.transaction import MAX_ROUNDS

R = TypeVar("R")

_OUTBOX_GRACE_MS = 5_000


class Carried(NamedTuple):
    """What a command came to: its result, None where it was recorded before, and the messages that left."""

    result: Any
    outbox: list[Outbox]


class MemoryRows:
    """All rows but the outbox."""

    def __init__(self) -> None:
        self.rows: dict[type[Row], dict[str, Row]] = {}

    def all(self, row_type: type[Any]) -> list[Any]:
        """All rows of a table, in the order they were made."""
        return list(self.rows.get(row_type, {}).values())

    def is_recorded(self, command: Command[Any]) -> bool:
        """Whether it has been carried out before."""
        return bool(command.origin.key) and command.origin.key in self.rows.get(CommandRecord, {})

    def load(self, now_ms: int, *commands: Command[Any]) -> Batch:
        """A batch with all that the commands read, in as many rounds as the executor gives them."""
        batch, rounds = Batch(now_ms, _OUTBOX_GRACE_MS), 1
        reads = LoadedSoFar(batch)
        while missing := batch.missing({each for command in commands for each in command.reads(reads)}):
            rounds += 1
            for (row_type, column), values in missing.items():
                found = [row for row in self.all(row_type) if getattr(row, column) in values]
                batch.table(row_type).add_loaded(column, values, found)
        assert rounds <= MAX_ROUNDS, f"{commands[0].name} would still be naming rows when the executor gives up"
        return batch

    def keep(self, batch: Batch) -> None:
        """Commits what was decided: ids and unique keys are new, and what is changed is as it was loaded."""
        for row_type, rows in batch.inserts():
            if row_type is Outbox:
                continue
            stored = self.rows.setdefault(row_type, {})
            for row in rows:
                assert row.id not in stored
                self._check_unique(row)
                stored[row.id] = row
        for row_type, changes in batch.updates():
            for before, after in changes:
                assert self.rows[row_type][before.id] is before
                self.rows[row_type][after.id] = after

    def _check_unique(self, row: Row) -> None:
        for name in type(row).__unique__:
            value = getattr(row, name)
            if name != "id" and value is not None:
                assert not any(getattr(known, name) == value for known in self.all(type(row))), row

    def carry_out(self, command: Command[R], now_ms: int) -> Carried:
        """Carries out one command, alone in its batch."""
        if self.is_recorded(command):
            return Carried(None, [])
        batch = self.load(now_ms, command)
        result = batch.decide(command)
        self.keep(batch)
        return Carried(result, batch.outbox)
