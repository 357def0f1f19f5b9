"""channel_gateway's rows in memory, and its commands carried out one by one, as their batches would."""

from __future__ import annotations

from typing import TypeVar, cast

from channel_gateway.tables import ChannelDoubt, ChannelOrder
from paykit.store.command import Command
from paykit.store.row import Row
from paykit.store.system import Outbox
from tests.channel_gateway.orders import NOW_MS
from tests.paykit.store.memory import MemoryRows

R = TypeVar("R")


class Desk(MemoryRows):
    """All rows, and the messages that left."""

    def __init__(self, *rows: Row) -> None:
        super().__init__()
        self.now_ms = NOW_MS
        self.messages: list[Outbox] = []
        for row in rows:
            self.rows.setdefault(type(row), {})[row.id] = row

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
        """Carries out one command; what was recorded before is answered with None."""
        carried = self.carry_out(command, self.now_ms)
        self.messages += carried.outbox
        return cast(R, carried.result)
