"""Tickets for messages that could not be taken, and how they are closed."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
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
_NAME_LENGTH_MAX = 160
_REQUEST_ID_LENGTH_MAX = 64


class OpenDeadLetter(Command[None]):
    """Opens the ticket of a message; once for each consumer and message, however often it is given up.

    A foreign message may be named in any way: what no column could hold is cut, and what is not ASCII becomes "?".
    """

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
        # The key stands for the whole id, as it came; surrogates, which no encoding takes, are made "?" before.
        origin = Origin.event(context, f"dead:{_encodable(consumer)}", _encodable(message_id))
        super().__init__(slot, replace(origin, request_id=_ascii(message_id, _REQUEST_ID_LENGTH_MAX)))
        self._consumer = _ascii(consumer, _NAME_LENGTH_MAX)
        self._destination = _ascii(destination, _NAME_LENGTH_MAX)
        self._message_id = _ascii(message_id, _ID_LENGTH_MAX)
        self._body = body
        self._error = _encodable(f"{type(error).__name__}: {error}"[:_ERROR_LENGTH_MAX])

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


def stored_context(packed: bytes, *, biz_id: str, shadow: bool, caller: str) -> BusinessContext:
    """The context a row stores, for its ticket; one with the row's ``biz_id`` alone where it cannot be read."""
    try:
        return replace(business.unpack(packed), caller=caller, deadline_ms=None)
    except msgspec.MsgspecError:
        return BusinessContext(biz_id=biz_id, shadow=shadow, caller=caller)


def _ascii(text: str, length_max: int) -> str:
    return text[:length_max].encode("ascii", "replace").decode("ascii")


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


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
