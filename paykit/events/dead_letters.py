"""Tickets for messages that could not be taken, and how they are closed."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from paykit import context as business
from paykit.context import BusinessContext
from paykit.errors import FailedPrecondition, NotFound
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key
from paykit.store.system import DeadLetter

OPEN = "OPEN"
REPLAYED = "REPLAYED"

_ERROR_LENGTH_MAX = 255
_ID_LENGTH_MAX = 32


class OpenDeadLetter(Command[None]):
    """Opens the ticket of a message; once for each consumer and message, however often it is given up."""

    def __init__(
        self,
        context: BusinessContext,
        slot: int,
        *,
        consumer: str,
        destination: str,
        message_id: str,
        body: bytes,
        error: Exception,
    ) -> None:
        super().__init__(slot, Origin.event(context, f"dead:{consumer}", message_id))
        self._consumer = consumer
        self._destination = destination
        self._message_id = message_id[:_ID_LENGTH_MAX]  # a foreign message may have any id
        self._body = body
        self._error = f"{type(error).__name__}: {error}"[:_ERROR_LENGTH_MAX]

    def decide(self, work: Work) -> None:
        work.insert(
            DeadLetter(
                id=work.new_id("ded"),
                slot=self.slot,
                consumer=self._consumer,
                destination=self._destination,
                message_id=self._message_id,
                biz_id=work.context.biz_id,
                context=business.pack(work.context),
                body=self._body,
                state=OPEN,
                error=self._error,
                created_at_ms=work.now_ms,
            ),
            note=self._error,
        )


class MarkReplayed(Command[DeadLetter]):
    """Closes a ticket whose message was taken after all."""

    result_type = DeadLetter

    def __init__(self, slot: int, origin: Origin, dead_letter_id: str) -> None:
        super().__init__(slot, origin)
        self._dead_letter_id = dead_letter_id

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(DeadLetter, self._dead_letter_id)

    def decide(self, work: Work) -> DeadLetter:
        ticket = work.get(DeadLetter, self._dead_letter_id)
        if ticket is None:
            raise NotFound(f"there is no dead letter {self._dead_letter_id}")
        if ticket.state != OPEN:
            raise FailedPrecondition(f"dead letter {ticket.id} is {ticket.state}", subject=ticket.id)
        after = replace(ticket, state=REPLAYED)
        work.update(after)
        return replace(after, version=ticket.version + 1)
