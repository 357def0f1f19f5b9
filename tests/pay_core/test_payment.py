"""State tables of pay_core: all reachable, terminals closed, the same names in Python and in the contract."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest

from pay_core import case, ledger, payment
from paykit.state_machine import StateMachine
from paymesh.event.v1 import events_pb2
from paymesh.pay.v1 import payment_pb2

MACHINES = [
    (payment.PAYMENT, {"SUCCEEDED", "FAILED", "VOIDED"}),
    (payment.INSTRUCTION, {"SUCCEEDED", "FAILED"}),
    (case.CASE, {"RESOLVED"}),
]
ENUMS = [
    (payment.Operation, payment_pb2.Operation, "OPERATION_"),
    (payment.PaymentState, payment_pb2.PaymentState, "PAYMENT_STATE_"),
    (payment.InstructionState, payment_pb2.InstructionState, "INSTRUCTION_STATE_"),
    (payment.Direction, payment_pb2.Direction, "DIRECTION_"),
    (payment.Action, payment_pb2.InstructionAction, "INSTRUCTION_ACTION_"),
    (payment.SettlementMode, payment_pb2.SettlementMode, "SETTLEMENT_MODE_"),
    (payment.Instrument, payment_pb2.Instrument, "INSTRUMENT_"),
    (case.CaseType, payment_pb2.CaseType, "CASE_TYPE_"),
    (case.CaseState, payment_pb2.CaseState, "CASE_STATE_"),
    (case.CaseResolution, payment_pb2.CaseResolution, "CASE_RESOLUTION_"),
    (ledger.AccountKind, payment_pb2.AccountKind, "ACCOUNT_KIND_"),
    (ledger.Leg, events_pb2.BookingLeg, "BOOKING_LEG_"),
]


@pytest.mark.parametrize(("machine", "terminal"), MACHINES)
def test_reaches_every_state_and_leaves_no_terminal_one(machine: StateMachine[Any], terminal: set[str]) -> None:
    reached: set[StrEnum] = set()
    ahead: list[StrEnum] = [machine.initial]
    while ahead:
        state = ahead.pop()
        if state not in reached:
            reached.add(state)
            ahead += machine.transitions[state]
    assert reached == set(machine.transitions)
    assert {state.value for state in machine.terminal} == terminal


@pytest.mark.parametrize(("python", "proto", "prefix"), ENUMS)
def test_has_the_names_of_the_contract(python: type[StrEnum], proto: Any, prefix: str) -> None:
    in_contract = {name.removeprefix(prefix) for name in proto.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
    assert {member.value for member in python} == in_contract
