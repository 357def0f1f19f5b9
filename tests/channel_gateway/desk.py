"""channel_gateway's rows in memory, and its commands carried out one by one, as their batches would."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from channel_gateway.tables import ChannelDoubt, ChannelOrder
from paykit.store.batch import Batch, LoadedSoFar
from paykit.store.command import Command
from paykit.store.row import Row
from paykit.store.system import CommandRecord, Outbox
from tests.channel_gateway.orders import NOW_MS

R = TypeVar("R")


class Desk:
    """All rows, and the messages that left."""

    def __init__(self, *rows: Row) -> None:
        self.now_ms = NOW_MS
        self.rows: dict[type[Row], dict[str, Row]] = {}
        self.messages: list[Outbox] = []
        for row in rows:
            self.rows.setdefault(type(row), {})[row.id] = row

    def all(self, row_type: type[Any]) -> list[Any]:
        """All rows of a table, by id."""
        return [row for _, row in sorted(self.rows.get(row_type, {}).items())]

    @property
    def order(self) -> ChannelOrder:
        """The one order."""
        (order,) = self.all(ChannelOrder)
        return cast(ChannelOrder, order)

    @property
    def doubts(self) -> list[ChannelDoubt]:
        """All doubts."""
        return self.all(ChannelDoubt)

    def announced(self, subject: str) -> list[Outbox]:
        """The events of a subject."""
        return [message for message in self.messages if message.destination == subject]

    def run(self, command: Command[R]) -> R:
        """Carries out one command, alone in its batch; what was recorded before is answered with None."""
        batch = Batch(self.now_ms, 5_000)
        if command.origin.key and command.origin.key in self.rows.get(CommandRecord, {}):
            return cast(R, None)
        while missing := batch.missing(set(command.reads(LoadedSoFar(batch)))):
            for (row_type, column), values in missing.items():
                found = [row for row in self.all(row_type) if getattr(row, column) in values]
                batch.table(row_type).add_loaded(column, values, found)
        result: R = batch.decide(command)
        for row_type, rows in batch.inserts():
            for row in rows:
                if isinstance(row, Outbox):
                    self.messages.append(row)
                    continue
                unique = [name for name in row_type.__unique__ if name != "id"]
                for known in self.all(row_type):
                    assert not any(getattr(known, name) == getattr(row, name) for name in unique), row
                assert row.id not in self.rows.setdefault(row_type, {})
                self.rows[row_type][row.id] = row
        for row_type, changes in batch.updates():
            for before, after in changes:
                assert self.rows[row_type][before.id] is before
                self.rows[row_type][after.id] = after
        return result
