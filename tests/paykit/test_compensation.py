"""What every service does alike with the repairs that it is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from paykit import compensation
from paykit.compensation import COMPENSATION, CompensationState, Desk, Outcome
from paykit.context import BusinessContext
from paykit.errors import InvalidArgument
from paykit.events.bus import Rejected
from paykit.ids import new_id
from paykit.store.command import Command, Origin
from paymesh.event.v1 import compensation_pb2
from paymesh.recon.v1 import repair_pb2
from trade_core.compensation import TakeCompensation
from trade_core.tables import Compensation

NOW_MS = 1_700_000_000_000
DESK = Desk("trade_core", Compensation, "trade.compensation_done")
CONTEXT = BusinessContext(biz_id=new_id("biz", 7, NOW_MS), caller="event:compensations")


def taken(body: bytes) -> Command[Any] | None:
    """The command for an event."""

    def to_command(origin: Origin, request: compensation.Compensation) -> Command[Any]:
        return TakeCompensation(origin, request)

    consumer = compensation.consumer(DESK, to_command)
    assert consumer.subjects == ("recon.compensation_requested",)
    return consumer.to_command(CONTEXT, "msg-1", compensation.REQUESTED, body)


def event(**changes: Any) -> bytes:
    """A request that is right, but for ``changes``."""
    fields: dict[str, Any] = {
        "repair_id": new_id("rpr", 7, NOW_MS),
        "break_id": new_id("brk", 7, NOW_MS),
        "kind": repair_pb2.REPAIR_KIND_COMPLETE,
        "service": "trade_core",
    }
    request = compensation.Compensation(**(fields | changes))
    return compensation_pb2.CompensationRequestedEvent(compensation=request).SerializeToString()


def test_outcomes_have_the_names_of_the_protocol_and_states_are_all_reached() -> None:
    names = {name.removeprefix("REPAIR_OUTCOME_") for name in repair_pb2.RepairOutcome.keys()}  # noqa: SIM118
    assert names - {"UNSPECIFIED"} == {outcome.value for outcome in Outcome}
    after = {state for states in COMPENSATION.transitions.values() for state in states}
    assert after | {COMPENSATION.initial} == set(CompensationState)
    assert COMPENSATION.terminal == {"ENDED"}


def test_a_request_is_taken_by_the_service_that_it_names_and_by_no_other() -> None:
    command = taken(event())
    assert isinstance(command, TakeCompensation)
    assert command.slot == 7
    assert taken(event(service="pay_core")) is None


@pytest.mark.parametrize(
    "changes", [{"repair_id": "rpr_x"}, {"repair_id": new_id("brk", 7, NOW_MS)}, {"break_id": ""}, {"kind": 0}]
)
def test_a_request_that_names_nothing_is_refused_by_field(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        taken(event(**changes))
    assert {violation.field for violation in refused.value.violations} == set(changes)


def test_what_cannot_be_read_is_rejected_at_once() -> None:
    with pytest.raises(Rejected):
        taken(b"\xff\xff")
