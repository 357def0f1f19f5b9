"""Commands: the only way state changes. One command, one slot, one synchronous pure decision.

A command states the rows it reads, in rounds if one row leads to another (``reads``), and decides over them
(``decide``): it yields new and changed rows and outgoing messages through ``Work``, returns its result, or raises a
MeshError, which discards its own changes only. No I/O, no clock, no randomness: ``Work`` passes them in.
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Iterable
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec
from google.protobuf.message import Message

from paykit.context import BusinessContext
from paykit.store.row import Key, Row, RowT

_REQUEST_ID_LENGTH = 64  # of the column
FOLD = "fold"

R = TypeVar("R")
ResultT_co = TypeVar("ResultT_co", covariant=True)


class Change(msgspec.Struct, frozen=True, array_like=True):
    """What a command did to one record, for the audit row and the timeline. States are empty where there is none."""

    id: str
    entity: str
    parent_id: str = ""
    from_state: str = ""
    to_state: str = ""
    note: str = ""


class Origin(msgspec.Struct, frozen=True):
    """What brought a command, and what makes it the same one again.

    ``key`` is the id of its CommandRecord; empty for timers, which are made once by their due time on the row, and for
    folds, which change nothing the second time.
    """

    trigger: str
    key: str
    context: BusinessContext
    request_id: str = ""
    input_hash: bytes = b""

    @classmethod
    def rpc(cls, context: BusinessContext, method: str, owner: str, request_id: str, request: Message) -> Origin:
        """A mutation asked for by an authenticated caller. Scope: (caller, method, owner, request_id)."""
        return cls(
            trigger="rpc",
            key=_digest(context.caller, method, owner, request_id),
            context=context,
            request_id=request_id,
            input_hash=hashlib.blake2b(request.SerializeToString(deterministic=True), digest_size=16).digest(),
        )

    @classmethod
    def event(cls, context: BusinessContext, consumer: str, message_id: str) -> Origin:
        """A message taken by a consumer: one effect, however often it comes."""
        # Kept for people only, and a foreign message may have any id: the digest is what counts.
        kept = message_id[:_REQUEST_ID_LENGTH].encode("ascii", "replace").decode()
        return cls(trigger="event", key=_digest(consumer, message_id), context=context, request_id=kept)

    @classmethod
    def fold(cls, context: BusinessContext) -> Origin:
        """What may be done any number of times, in any order, to the same effect. It needs no inbox record, and leaves
        an audit record only where it did something that is audited."""
        return cls(trigger=FOLD, key="", context=context)

    @classmethod
    def timer(cls, context: BusinessContext) -> Origin:
        """A due time that has passed; the row's own state makes it happen once."""
        return cls(trigger="timer", key="", context=context)


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\x00".join(parts).encode(), digest_size=16).hexdigest()


class Previewed(msgspec.Struct, Generic[R], frozen=True):
    """What a command would answer, and the rows it would leave: each inserted or changed one once, as first written.

    Versions are those that would be stored.
    """

    result: R
    rows: list[Row]


class Rows(Protocol):
    """The rows loaded so far, as earlier commands of the batch left them.

    In ``reads`` a row that is not loaded yet looks as if it were not there; in ``decide`` asking for one is a bug.
    """

    def get(self, row_type: type[RowT], value: str, column: str = "id") -> RowT | None:
        """The row whose ``column`` (the id or a unique key) is ``value``; None where there is none."""
        ...

    def many(self, row_type: type[RowT], column: str, value: str) -> list[RowT]:
        """All rows whose ``column`` (an indexed reference) is ``value``, by id."""
        ...


class Work(Rows, Protocol):
    """What a decision works with."""

    @property
    def now_ms(self) -> int:
        """Unix milliseconds, the same for the whole batch."""
        ...

    @property
    def context(self) -> BusinessContext:
        """The business context of the command."""
        ...

    def adopt(self, biz_id: str) -> None:
        """Goes on under the business id of what it works on: a later call at the edge comes with a fresh one."""
        ...

    def new_id(self, prefix: str, slot: int | None = None) -> str:
        """A new id on the command's slot, or on ``slot``."""
        ...

    def insert(self, row: RowT, *, parent_id: str = "", note: str = "", audit: bool = True) -> RowT:
        """Adds a row and returns it; its version must be 1. ``audit=False`` leaves it out of the audit row."""
        ...

    def update(self, row: RowT, *, parent_id: str = "", note: str = "", audit: bool = True) -> RowT:
        """Replaces the row of the same id, by compare-and-set on the version it was read with.

        Returns the row as stored, its version one higher: go on with that one. The audit row gets a line where the
        state changed or a note is given.
        """
        ...

    def publish(self, subject: str, message: Message) -> None:
        """Sends an event with the commit. ``subject`` is without mode: "pay.payment_succeeded"."""
        ...

    def call(self, method: str, request: Message) -> None:
        """Sends a durable call with the commit: made until the callee has answered."""
        ...


class Command(abc.ABC, Generic[R]):
    """One change on one slot. ``result_type`` is the msgspec type of R where callers need the first result again."""

    result_type: ClassVar[Any] = None

    def __init__(self, slot: int, origin: Origin) -> None:
        self.slot = slot
        self.origin = origin

    @property
    def name(self) -> str:
        """The name in audit rows, metrics and timelines."""
        return type(self).__name__

    def reads(self, rows: Rows) -> Iterable[Key]:
        """The keys it needs, given what is loaded: called again until it names nothing new. May name too many."""
        return ()

    @abc.abstractmethod
    def decide(self, work: Work) -> R:
        """Looks at the rows and makes the change."""
