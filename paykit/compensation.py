"""Compensations: what reconciliation asks a service to put right, each carried out once, by the service's own commands.

The same repair comes as an event, as a call, or as both, twice, late or in any order: the row of its id is what makes
it one. What takes several steps leaves its row due, and a timer goes on with it. The end of it is told by an event, and
by whoever asks.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, ClassVar, NamedTuple, TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from msgspec.structs import replace
from sqlalchemy import select

from paykit.context import BusinessContext, current, pack
from paykit.errors import NotFound, PermissionDenied
from paykit.events.bus import Rejected
from paykit.events.consumers import Consumer
from paykit.ids import slot_in
from paykit.rpc.admission import INSECURE
from paykit.rpc.checks import Fields
from paykit.state_machine import StateMachine
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Blob, Code, Id, Key, Millis, Row, Small, Title, key
from paykit.store.store import Store
from paymesh.event.v1 import compensation_pb2
from paymesh.ops.v1 import compensation_service_pb2, compensation_service_pb2_grpc
from paymesh.recon.v1 import repair_pb2

CONSUMER = "compensations"
REQUESTED = "recon.compensation_requested"

ASKS_MAX = 8  # the last question comes some four minutes after the first

_FIRST_PAUSE_MS = 2_000  # doubles
_PAUSE_MAX_MS = 300_000
_METHOD = "Compensate"
_DETAIL_MAX = 255  # characters of the column
_PREFIX = "REPAIR_OUTCOME_"


class CompensationState(StrEnum):
    """How far one is."""

    ACCEPTED = "ACCEPTED"  # to be begun
    WAITING = "WAITING"  # begun: ``effect_id`` names what is waited for
    ENDED = "ENDED"


class Outcome(StrEnum):
    """What became of one. The names are those of recon's proto."""

    DONE = "DONE"
    NOTHING_TO_DO = "NOTHING_TO_DO"
    REFUSED = "REFUSED"


COMPENSATION = StateMachine(
    "compensation",
    CompensationState,
    CompensationState.ACCEPTED,
    {
        CompensationState.ACCEPTED: frozenset({CompensationState.WAITING, CompensationState.ENDED}),
        CompensationState.WAITING: frozenset({CompensationState.ENDED}),
        CompensationState.ENDED: frozenset(),
    },
)


class CompensationRow(Row, frozen=True, kw_only=True):
    """One repair as a service carries it out ("cmp_…"); every service that does so maps a table of these columns."""

    biz_id: Id
    repair_id: Id  # unique
    break_id: Id
    kind: Code  # a RepairKind
    state: Code  # a CompensationState
    outcome: Code  # an Outcome; empty until it has ENDED
    detail: Title  # what was done, or why nothing was
    effect_id: Id  # what it made; empty where nothing
    request: Blob  # paymesh.ops.v1.Compensation
    due_at_ms: Millis | None  # when it is gone on with
    ask_count: Small  # how often somebody was asked for it
    context: Blob
    created_at_ms: Millis
    finished_at_ms: Millis | None


CompensationT = TypeVar("CompensationT", bound=CompensationRow)


class Desk(NamedTuple):
    """Where a service carries compensations out: its name, its table, and the event that tells of the end."""

    service: str
    row_type: type[CompensationRow]
    subject: str  # "pay.compensation_done"


Compensation = compensation_service_pb2.Compensation
ToCommand = Callable[[Origin, Compensation], Command[Any]]


def kind_name(request: Compensation) -> str:
    """The kind of a repair: "ADJUST"."""
    return repair_pb2.RepairKind.Name(request.kind).removeprefix("REPAIR_KIND_")


def request_of(row: CompensationRow) -> Compensation:
    """What was asked for."""
    return Compensation.FromString(row.request)


def accept(work: Work, desk: Desk, request: Compensation) -> CompensationRow:
    """A new row, due at once. Only where none has the repair's id: it must have been read."""
    assert work.get(desk.row_type, request.repair_id, "repair_id") is None
    kind = kind_name(request)
    row = desk.row_type(
        id=work.new_id("cmp"),
        slot=slot_in(request.repair_id),
        biz_id=work.context.biz_id,
        repair_id=request.repair_id,
        break_id=request.break_id,
        kind=kind,
        state=COMPENSATION.initial.value,
        outcome="",
        detail="",
        effect_id="",
        request=request.SerializeToString(deterministic=True),
        due_at_ms=work.now_ms,
        ask_count=0,
        context=pack(work.context),
        created_at_ms=work.now_ms,
        finished_at_ms=None,
    )
    return work.insert(row, parent_id=request.repair_id, note=kind)


def end(
    work: Work, desk: Desk, row: CompensationRow, outcome: Outcome, detail: str, effect_id: str = ""
) -> CompensationRow:
    """The row with its outcome, told by an event. ``detail`` is for people."""
    assert effect_id or outcome is not Outcome.DONE
    ended = COMPENSATION.move(
        row,
        CompensationState.ENDED,
        outcome=outcome.value,
        detail=detail[:_DETAIL_MAX],
        effect_id=effect_id,
        due_at_ms=None,
        finished_at_ms=work.now_ms,
    )
    row = work.update(ended, parent_id=row.repair_id, note=f"{outcome} {detail}"[:_DETAIL_MAX])
    work.publish(desk.subject, compensation_pb2.CompensationDoneEvent(result=result_of(desk, row)))
    return row


def ask_later(work: Work, desk: Desk, row: CompensationRow, detail: str) -> None:
    """Nothing came of a question: it is asked again later, later each time, and so many times in all."""
    if row.ask_count + 1 >= ASKS_MAX:
        end(work, desk, row, Outcome.REFUSED, f"no answer after {ASKS_MAX} questions: {detail}")
    else:
        work.update(postponed(row, work.now_ms), audit=False)


def end_or_ask_later(work: Work, desk: Desk, row: CompensationRow, outcome: Outcome | None, detail: str) -> None:
    """Ends a repair that changed nothing; ``outcome`` is None where it may be asked again."""
    if outcome is None:
        ask_later(work, desk, row, detail)
    else:
        end(work, desk, row, outcome, detail)


def result_of(desk: Desk, row: CompensationRow) -> compensation_service_pb2.CompensationResult:
    """As the API and the event show it."""
    ms = row.finished_at_ms
    return compensation_service_pb2.CompensationResult(
        repair_id=row.repair_id,
        service=desk.service,
        kind=repair_pb2.RepairKind.Value(f"REPAIR_KIND_{row.kind}"),
        outcome=repair_pb2.RepairOutcome.Value(_PREFIX + (row.outcome or "UNSPECIFIED")),
        detail=row.detail,
        effect_id=row.effect_id,
        finish_time=None if ms is None else Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000),
    )


class Take(Command[CompensationRow]):
    """Takes a repair, for a timer to carry it out. The same one again changes nothing.

    A service derives from it: ``result_type`` and ``desk`` are its own, ``kinds`` what it does.
    """

    desk: ClassVar[Desk]
    kinds: ClassVar[frozenset[str]]

    def __init__(self, origin: Origin, request: Compensation) -> None:
        super().__init__(slot_in(request.repair_id), origin)
        self.request = request

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(self.desk.row_type, self.request.repair_id, "repair_id")

    def decide(self, work: Work) -> CompensationRow:
        known = work.get(self.desk.row_type, self.request.repair_id, "repair_id")
        if known is not None:
            return known
        row = accept(work, self.desk, self.request)
        if row.kind in self.kinds:
            return row
        return end(work, self.desk, row, Outcome.REFUSED, f"{self.desk.service} does no {row.kind}")


class Step(Command[None]):
    """The base of what goes on with a repair: it does nothing where another process has gone on with it meanwhile."""

    desk: ClassVar[Desk]

    def __init__(self, origin: Origin, row: CompensationRow) -> None:
        super().__init__(row.slot, origin)
        self.compensation_id, self.state = row.id, row.state

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(self.desk.row_type, self.compensation_id)

    def decide(self, work: Work) -> None:
        row = work.get(self.desk.row_type, self.compensation_id)
        assert row is not None, "compensations are never removed"
        if row.state == self.state != CompensationState.ENDED:
            self.go_on(work, row)

    @abc.abstractmethod
    def go_on(self, work: Work, row: CompensationRow) -> None:
        """Does what comes next with one that is under way."""


class EndOrAskLater(Step):
    """Nothing came of a question: the repair ends for a reason, or asks again later, so many times."""

    def __init__(self, origin: Origin, row: CompensationRow, outcome: Outcome | None = None, detail: str = "") -> None:
        """``outcome``: NOTHING_TO_DO or REFUSED where it ends; None where it may be asked again."""
        super().__init__(origin, row)
        assert outcome is not Outcome.DONE
        self.outcome, self.detail = outcome, detail

    def go_on(self, work: Work, row: CompensationRow) -> None:
        end_or_ask_later(work, self.desk, row, self.outcome, self.detail)


def consumer(desk: Desk, to_command: ToCommand) -> Consumer:
    """Takes recon.compensation_requested, where it is for this service."""

    def on_event(context: BusinessContext, message_id: str, subject: str, body: bytes) -> Command[Any] | None:
        try:
            request = compensation_pb2.CompensationRequestedEvent.FromString(body).compensation
        except DecodeError as error:
            raise Rejected(f"{subject} {message_id}: {error}") from error
        if request.service != desk.service:
            return None
        fields = Fields()
        _check(fields, request)
        fields.raise_if_any()
        return to_command(Origin.event(context, CONSUMER, message_id), request)

    return Consumer(CONSUMER, (REQUESTED,), on_event)


def _check(fields: Fields, request: Compensation) -> None:
    fields.id("repair_id", request.repair_id, "rpr")
    fields.id("break_id", request.break_id, "brk")
    fields.enum("kind", request.kind, repair_pb2.RepairKind)


def postponed(row: CompensationT, now_ms: int) -> CompensationT:
    """The row after somebody was asked in vain: gone on with later, later each time."""
    pause_ms = min(_FIRST_PAUSE_MS << min(row.ask_count, 32), _PAUSE_MAX_MS)
    return replace(row, due_at_ms=now_ms + pause_ms, ask_count=row.ask_count + 1)


class CompensationApi(compensation_service_pb2_grpc.CompensationServiceServicer):
    """CompensationService, for a service's own table."""

    def __init__(self, store: Store, desk: Desk, to_command: ToCommand, callers: tuple[str, ...]) -> None:
        """``callers``: shell patterns of the common names that may ask; without TLS nobody has a name."""
        self._store = store
        self._desk = desk
        self._to_command = to_command
        self._callers = callers

    async def Compensate(
        self, request: compensation_service_pb2.CompensateRequest, servicer: Any
    ) -> compensation_service_pb2.CompensateResponse:
        self._assert_allowed()
        fields = Fields()
        fields.request_id(request.request_id)
        _check(fields.under("compensation"), request.compensation)
        if request.compensation.service != self._desk.service:
            fields.fail("compensation.service", f"is not {self._desk.service}")
        fields.raise_if_any()
        repair_id = request.compensation.repair_id
        origin = Origin.rpc(current(), _METHOD, repair_id, request.request_id, request)
        row = await self._store.run(self._to_command(origin, request.compensation))
        # A request that was asked before is answered as it is now, not as it then was.
        row = await self._find(repair_id) or row
        return compensation_service_pb2.CompensateResponse(result=result_of(self._desk, row))

    async def GetCompensation(
        self, request: compensation_service_pb2.GetCompensationRequest, servicer: Any
    ) -> compensation_service_pb2.GetCompensationResponse:
        self._assert_allowed()
        fields = Fields()
        repair_id = fields.id("repair_id", request.repair_id, "rpr")
        fields.raise_if_any()
        row = await self._find(repair_id)
        if row is None:
            raise NotFound(f"{repair_id} was not asked for here", reason="COMPENSATION_NOT_FOUND")
        return compensation_service_pb2.GetCompensationResponse(result=result_of(self._desk, row))

    async def _find(self, repair_id: str) -> CompensationRow | None:
        table = self._desk.row_type.__table__
        statement = select(table).where(table.c.repair_id == repair_id)
        shadow = current().shadow
        rows = await self._store.fetch(self._desk.row_type, statement, slot=slot_in(repair_id), shadow=shadow)
        return rows[0] if rows else None

    def _assert_allowed(self) -> None:
        caller = current().caller
        if caller != INSECURE and not any(fnmatchcase(caller, pattern) for pattern in self._callers):
            raise PermissionDenied("only reconciliation has repairs carried out", reason="NOT_RECONCILIATION")
