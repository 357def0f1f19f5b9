"""Carries a payment's chain of instructions as far as it can go, in one decision.

Every instruction is persisted in its state; any of them can be the last before a crash, and the next result, timer or
durable call goes on from there. What succeeds in one decision is booked in one journal.

A FORWARD instruction is awaited before the next is begun. REVERSE ones, which undo, do not wait for each other: each is
tried again with growing pauses, and in the end is a case.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pay_core import ledger, phases
from pay_core.case import CASE, CASE_OPENED, OWNERS, CaseType, case_key
from pay_core.convert import case_proto, payment_proto, submitted_event
from pay_core.payment import (
    ACCEPTED,
    CHANNEL,
    ESCROW,
    INSTRUCTION,
    PAYMENT,
    SKIPPED,
    UNDERPAID,
    Action,
    Direction,
    InstructionState,
    Operation,
    PaymentState,
    Plan,
    SettlementMode,
    Step,
    did,
    plan_of,
    stored,
    to_balance,
)
from pay_core.phases import Phase
from pay_core.refunds import falls_back, settle_original
from pay_core.rules.model import ReversalFallback
from pay_core.tables import Instruction, Payment, PaymentCase
from pay_core.terms import Terms
from pay_core.tools import TOOLS
from pay_core.tools.base import Outcome
from pay_core.usage import give_usage_back
from paykit.errors import FailedPrecondition
from paykit.store.command import Work
from paymesh.event.v1 import events_pb2

PAYMENT_SUCCEEDED = "pay.payment_succeeded"
PAYMENT_FAILED = "pay.payment_failed"
PAYMENT_AUTHORIZED = "pay.payment_authorized"
PAYMENT_VOIDED = "pay.payment_voided"
PAYMENT_SUBMITTED = "pay.payment_submitted"

EVENTS = {
    PaymentState.SUCCEEDED: PAYMENT_SUCCEEDED,
    PaymentState.FAILED: PAYMENT_FAILED,
    PaymentState.AUTHORIZED: PAYMENT_AUTHORIZED,
    PaymentState.VOIDED: PAYMENT_VOIDED,
}

_OPEN_STATES = (InstructionState.INIT, InstructionState.PROCESSING)
_ASK_COUNT_MAX = 30


class PaymentView(msgspec.Struct, frozen=True, array_like=True):
    """A payment with its chain, by seq."""

    payment: Payment
    chain: list[Instruction]


class Orchestration:
    """One payment, its chain and the journal of this decision."""

    def __init__(self, work: Work, payment: Payment, chain: list[Instruction], terms: Terms) -> None:
        self.work = work
        self.payment = payment
        self.chain = sorted(chain, key=lambda ins: ins.seq)
        self._terms = terms
        self._plan = plan_of(payment)
        self._draft = ledger.Draft(payment.slot, payment.currency)
        self._failure_reason = payment.failure_reason
        self._submitted: list[Instruction] = []  # that left for a channel in this decision

    @classmethod
    def start(cls, work: Work, payment: Payment, steps: list[Step], terms: Terms) -> Orchestration:
        """A new payment, its chain persisted."""
        work.insert(payment, parent_id=payment.source_id or payment.original_payment_id or "", note=payment.operation)
        run = cls(work, payment, [], terms)
        run._append(steps, Direction.FORWARD)
        return run

    def begin_phase(self, phase: Phase, *, capturing_minor: int = 0, void_reason: str = "") -> None:
        """Adds a capture or a void to an AUTHORIZED payment."""
        seq = len(self.chain) + 1
        self._plan = Plan(phase.shares, self._plan.usages, seq, capturing_minor, void_reason)
        self._failure_reason = ""
        note = f"capture {capturing_minor}" if capturing_minor else f"void {void_reason}"
        changes = {"due_at_ms": None, "failure_reason": "", "plan": stored(self._plan)}
        self.payment = self.work.update(
            PAYMENT.move(self.payment, PaymentState.PROCESSING, **changes), parent_id=self.payment.source_id, note=note
        )
        self._append(phase.forward, Direction.FORWARD)
        self._append(phase.reverse, Direction.REVERSE)

    def settle(self, instruction_id: str, outcome: Outcome) -> bool:
        """Takes the outcome of a PROCESSING instruction; False where it was taken before.

        FailedPrecondition (CONTRADICTORY_RESULT) where the opposite was taken before: that is for a person.
        """
        index = next(i for i, ins in enumerate(self.chain) if ins.id == instruction_id)
        instruction = self.chain[index]
        state = InstructionState.FAILED if outcome.failure_reason else InstructionState.SUCCEEDED
        if instruction.state == state:
            return False
        if INSTRUCTION.is_terminal(instruction.state) or instruction.state == InstructionState.INIT:
            raise FailedPrecondition(
                f"instruction {instruction_id} is {instruction.state}, and now said to be {state}",
                reason="CONTRADICTORY_RESULT",
                subject=instruction_id,
            )
        # The channel that did it, before anything is booked: of several the gateway has chosen.
        told = {"channel_order_id": outcome.channel_order_id, "channel": outcome.channel}
        if state == InstructionState.FAILED:
            self._move(index, state, failure_reason=outcome.failure_reason, **told)
            self._failed(index)
            return True
        moved_minor = outcome.settled_minor if outcome.settled_minor != instruction.amount_minor else 0
        self._move(index, state, moved_minor=moved_minor, **told)
        instruction = self.chain[index]
        TOOLS[instruction.tool].book(self.work, instruction, self._draft)
        if moved_minor > instruction.amount_minor:
            self._open_case(instruction, CaseType.OVERPAYMENT, moved_minor - instruction.amount_minor, "OVERPAID")
        elif moved_minor:
            self._fail(UNDERPAID)
        return True

    def add(self, step: Step, direction: Direction) -> None:
        """Appends a step that a person has decided on."""
        self._append([step], direction)

    def accept(self, instruction_id: str) -> None:
        """A person has given up a RELEASE that failed: nobody waits for it any more."""
        index = next(i for i, ins in enumerate(self.chain) if ins.id == instruction_id)
        accepted = msgspec.structs.replace(self.chain[index], failure_reason=ACCEPTED)
        self.chain[index] = self.work.update(accepted, parent_id=self.payment.id, note=ACCEPTED)

    def advance(self, *, was_asked: bool = False) -> PaymentView:
        """Carries out instruction after instruction until one must be awaited or none is left, and writes it down.

        ``was_asked``: a result was asked for and is still open; the next question comes later.
        """
        index = 0
        while index < len(self.chain):
            if self.chain[index].state == InstructionState.INIT:
                self._begin(index)
            instruction = self.chain[index]
            if instruction.direction == Direction.FORWARD and instruction.state in _OPEN_STATES:
                break
            index += 1
        if self._draft.postings:
            ledger.post(self.work, self._draft, self.payment.id, self.payment.accounting_date)
        if any(ins.state in _OPEN_STATES for ins in self.chain) or self._has_open_end():
            self._wait(was_asked)
        else:
            self._conclude()
        if self._submitted:
            self.work.publish(PAYMENT_SUBMITTED, submitted_event(self.payment.id, self._submitted, self.work.now_ms))
        return PaymentView(self.payment, self.chain)

    # Instructions

    def _append(self, steps: list[Step], direction: Direction) -> None:
        for step in steps:
            instruction = Instruction(
                id=self.work.new_id("ins"),
                slot=self.payment.slot,
                payment_id=self.payment.id,
                seq=len(self.chain) + 1,
                direction=direction.value,
                action=step.action.value,
                tool=step.tool,
                state=INSTRUCTION.initial.value,
                currency=self.payment.currency,
                amount_minor=step.amount_minor,
                owner_id=step.owner_id,
                account_kind=step.account_kind,
                channel=step.channel,
                token=step.token,
                channel_order_id=None,
                original_channel_order_id=step.original_channel_order_id,
                reverses_id=step.reverses_id,
                refunded_minor=0,
                failure_reason="",
                reserve_id=step.reserve_id,
                reference=step.reference,
                instrument=step.instrument,
                unit_count=step.unit_count,
                attempt_no=step.attempt_no,
                not_before_ms=step.not_before_ms,
                route=step.route,
            )
            if direction == Direction.REVERSE and step.attempt_no == 1:
                self._count_given_back(step)
            note = f"{step.action} {step.channel or step.owner_id} {step.amount_minor} {self.payment.currency}"
            self.chain.append(self.work.insert(instruction, parent_id=self.payment.id, note=note))

    def _count_given_back(self, step: Step) -> None:
        """Counts on a COLLECT of this payment what is given back of it: a later refund gives back the rest only."""
        index = next((i for i, ins in enumerate(self.chain) if ins.id == step.reverses_id), None)
        if index is None:
            return
        ins = self.chain[index]
        counted = msgspec.structs.replace(
            ins,
            refunded_minor=ins.refunded_minor + step.amount_minor,
            refunded_unit_count=ins.refunded_unit_count + step.unit_count,
        )
        self.chain[index] = self.work.update(counted, audit=False)

    def _begin(self, index: int) -> None:
        instruction = self.chain[index]
        if instruction.not_before_ms is not None and instruction.not_before_ms > self.work.now_ms:
            return
        begun = TOOLS[instruction.tool].begin(self.work, instruction, self._draft)
        self._move(index, begun.state, failure_reason=begun.failure_reason, **begun.changes)
        if begun.state == InstructionState.FAILED:
            self._failed(index)
        elif instruction.tool == CHANNEL:
            self._submitted.append(instruction)

    def _move(self, index: int, state: InstructionState, **changes: Any) -> None:
        changes = {name: value for name, value in changes.items() if value}
        moved = INSTRUCTION.move(self.chain[index], state, **changes)
        self.chain[index] = self.work.update(moved, parent_id=self.payment.id, note=moved.failure_reason)

    # Failure

    def _failed(self, index: int) -> None:
        """An instruction has FAILED: it is replaced, or the phase is undone."""
        instruction = self.chain[index]
        if instruction.direction == Direction.REVERSE:
            self._try_again(instruction)
        elif falls_back(self.work, self._terms.rules, self.payment, self.chain, instruction):
            step = to_balance(self.payment.payer_id, instruction.amount_minor, reverses_id=instruction.reverses_id)
            self._append([step], Direction.FORWARD)
        else:
            self._fail(instruction.failure_reason)

    def _fail(self, reason: str) -> None:
        self._failure_reason = reason
        for index, instruction in enumerate(self.chain):
            # Also what gives the rest up behind a capture: what is kept now is another amount.
            if instruction.state == InstructionState.INIT:
                self._move(index, InstructionState.FAILED, failure_reason=SKIPPED)
        self._append(phases.reversal(self.chain, self._plan.phase_seq), Direction.REVERSE)

    def _try_again(self, instruction: Instruction) -> None:
        policy = self._terms.rules.reversal
        if instruction.attempt_no < policy.attempts_max:
            pause_s = min(policy.first_pause_s * 2 ** (instruction.attempt_no - 1), policy.max_pause_s)
            not_before_ms = self.work.now_ms + 1000 * pause_s
            self._append([phases.copy_of(instruction, instruction.attempt_no + 1, not_before_ms)], Direction.REVERSE)
        elif instruction.action == Action.RELEASE:
            self._open_case(instruction, CaseType.RELEASE_FAILED, instruction.amount_minor, instruction.failure_reason)
        elif policy.fallback == ReversalFallback.BALANCE:
            self._append([self.instead(instruction)], Direction.REVERSE)
        else:
            self._open_case(instruction, CaseType.REVERSAL_FAILED, instruction.amount_minor, instruction.failure_reason)

    def instead(self, instruction: Instruction, tool: str = "") -> Step:
        """The step that puts the money of a failed REVERSE elsewhere: to the payer's balance, or to ``tool``."""
        amount_minor, reverses_id, attempt_no = (
            instruction.amount_minor,
            instruction.reverses_id,
            instruction.attempt_no + 1,
        )
        if tool:
            return Step(Action.DISBURSE, tool, amount_minor, reverses_id=reverses_id, attempt_no=attempt_no)
        return to_balance(self.payment.payer_id, amount_minor, reverses_id=reverses_id, attempt_no=attempt_no)

    def _has_open_end(self) -> bool:
        """Whether a REVERSE instruction has FAILED for good and a person has not decided yet."""
        return any(
            ins.state == InstructionState.FAILED
            and ins.direction == Direction.REVERSE
            and ins.failure_reason not in (ACCEPTED, SKIPPED)
            and not any(_replaces(later, ins) for later in self.chain[ins.seq :])
            for ins in self.chain
        )

    def _open_case(self, instruction: Instruction, case_type: CaseType, amount_minor: int, evidence: str) -> None:
        case = PaymentCase(
            id=self.work.new_id("cas"),
            slot=self.payment.slot,
            case_key=case_key(instruction.id, case_type),
            biz_id=self.payment.biz_id,
            type=case_type.value,
            state=CASE.initial.value,
            payment_id=self.payment.id,
            instruction_id=instruction.id,
            currency=self.payment.currency,
            amount_minor=amount_minor,
            owner=OWNERS[case_type],
            evidence=evidence,
            resolution="",
            reason="",
            resolved_by="",
            resolution_payment_id="",
            opened_at_ms=self.work.now_ms,
            resolved_at_ms=None,
        )
        self.work.insert(case, parent_id=self.payment.id, note=f"{case_type} {amount_minor} {evidence}")
        self.work.publish(CASE_OPENED, events_pb2.CaseEvent(case=case_proto(case)))

    # The payment

    def _wait(self, was_asked: bool) -> None:
        ask_count = min(self.payment.ask_count + 1, _ASK_COUNT_MAX) if was_asked else 0
        pause_ms = min(self._terms.result_due_ms * 2**ask_count, self._terms.result_due_max_ms)
        due = [
            ins.not_before_ms
            for ins in self.chain
            if ins.state == InstructionState.INIT and ins.not_before_ms is not None
        ]
        if any(ins.state == InstructionState.PROCESSING and TOOLS[ins.tool].query(ins) for ins in self.chain):
            due.append(self.work.now_ms + pause_ms)
        due_at_ms, reason = min(due) if due else None, self._failure_reason
        waiting = msgspec.structs.replace(self.payment, due_at_ms=due_at_ms, ask_count=ask_count, failure_reason=reason)
        if self._is_lost() and waiting.state == PaymentState.PROCESSING:
            waiting = PAYMENT.move(waiting, PaymentState.REVERSING)
        if waiting != self.payment:
            self.payment = self.work.update(waiting)

    def _is_lost(self) -> bool:
        """Whether it fails: an earlier capture stays, whatever becomes of a later one."""
        return bool(self._failure_reason) and not self.payment.captured_minor

    def _conclude(self) -> None:
        captured_minor = self.payment.captured_minor
        if not self._failure_reason:
            captured_minor += self._plan.capturing_minor
        state = self._final_state(captured_minor)
        is_over = state != PaymentState.AUTHORIZED
        self._plan = Plan(() if is_over else self._plan.shares, self._plan.usages)
        moved = PAYMENT.move(
            self.payment,
            state,
            due_at_ms=None if is_over else self.payment.expires_at_ms,
            ask_count=0,
            failure_reason=plan_of(self.payment).void_reason if state == PaymentState.VOIDED else self._failure_reason,
            captured_minor=captured_minor,
            finished_at_ms=self.work.now_ms if is_over else None,
            plan=stored(self._plan),
        )
        parent_id = moved.source_id or moved.original_payment_id or ""
        self.payment = self.work.update(moved, parent_id=parent_id, note=moved.failure_reason)
        if state in (PaymentState.FAILED, PaymentState.VOIDED):
            give_usage_back(self.work, self.payment, self._plan.usages)
        if self.payment.operation == Operation.REFUND and self.payment.original_payment_id is not None:
            settle_original(self.work, self.payment, self.chain, succeeded=state == PaymentState.SUCCEEDED)
        event = events_pb2.PaymentEvent(payment=payment_proto(self.payment, self.chain))
        self.work.publish(EVENTS[state], event)

    def _final_state(self, captured_minor: int) -> PaymentState:
        """Follows from the chain: what is still kept, what was captured, what was given back."""
        if self._is_lost():
            return PaymentState.FAILED
        if self.payment.settlement_mode == SettlementMode.IMMEDIATE:
            return PaymentState.SUCCEEDED
        if self._is_kept():
            return PaymentState.AUTHORIZED
        return PaymentState.SUCCEEDED if captured_minor else PaymentState.VOIDED

    def _is_kept(self) -> bool:
        """Whether money is still reserved or in escrow."""
        if any(phases.kept_minor(self.chain, ins) for ins in did(self.chain, Action.RESERVE)):
            return True
        escrowed_minor = sum([ins.amount_minor for ins in did(self.chain, Action.DISBURSE) if ins.tool == ESCROW])
        taken = [
            ins
            for ins in self.chain
            if ins.tool == ESCROW and ins.action == Action.COLLECT and ins.state == InstructionState.SUCCEEDED
        ]
        return escrowed_minor > sum([ins.amount_minor for ins in taken])


def _replaces(later: Instruction, failed: Instruction) -> bool:
    return (
        later.direction == Direction.REVERSE
        and later.action == failed.action
        and later.reverses_id == failed.reverses_id
        and later.reserve_id == failed.reserve_id
    )
