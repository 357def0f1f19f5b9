"""Carries a payment's chain of instructions as far as it can go, in one decision.

Every instruction is persisted in its state; any of them can be the last before a crash, and the next result, timer or
durable call goes on from there. What succeeds in one decision is booked in one journal.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pay_core import ledger
from pay_core.convert import payment_proto
from pay_core.payment import (
    INSTRUCTION,
    PAYMENT,
    Direction,
    InstructionState,
    Operation,
    PaymentState,
    Step,
    reversal,
)
from pay_core.tables import Instruction, Payment
from pay_core.tools import TOOLS
from paykit.errors import FailedPrecondition
from paykit.store.command import Rows, Work
from paykit.store.row import Key, key
from paymesh.event.v1 import events_pb2

PAYMENT_SUCCEEDED = "pay.payment_succeeded"
PAYMENT_FAILED = "pay.payment_failed"

_FORWARD = Direction.FORWARD


class PaymentView(msgspec.Struct, frozen=True, array_like=True):
    """A payment with its chain, by seq."""

    payment: Payment
    chain: list[Instruction]


def account_keys(slot: int, currency: str, steps: list[Step] | list[Instruction]) -> list[Key]:
    """The accounts on a slot that carrying out ``steps`` may touch."""
    refs = {ref for step in steps for ref in TOOLS[step.tool].accounts(slot, currency, step)}
    refs.add(ledger.internal(slot, ledger.AccountKind.CLEARING, currency))
    return ledger.account_keys(sorted(refs))


def payment_keys(rows: Rows, payment_id: str) -> list[Key]:
    """All that going on with a payment may need: its chain, its accounts, and the payment it refunds."""
    keys = [key(Payment, payment_id), key(Instruction, payment_id, "payment_id")]
    payment = rows.get(Payment, payment_id)
    if payment is None:
        return keys
    if payment.original_payment_id is not None:
        original_id = payment.original_payment_id
        keys += [key(Payment, original_id), key(Instruction, original_id, "payment_id")]
    chain = rows.many(Instruction, "payment_id", payment_id)
    return keys + account_keys(payment.slot, payment.currency, chain)


class Orchestration:
    """One payment, its chain and the journal of this decision."""

    def __init__(self, work: Work, payment: Payment, chain: list[Instruction], result_due_ms: int) -> None:
        self.work = work
        self.payment = payment
        self.chain = sorted(chain, key=lambda ins: ins.seq)
        self._result_due_ms = result_due_ms
        self._draft = ledger.Draft(payment.slot, payment.currency)

    @classmethod
    def start(cls, work: Work, payment: Payment, steps: list[Step], result_due_ms: int) -> Orchestration:
        """A new payment, its chain persisted."""
        work.insert(payment, parent_id=payment.source_id or payment.original_payment_id or "", note=payment.operation)
        run = cls(work, payment, [], result_due_ms)
        run._append(steps, Direction.FORWARD)
        return run

    def settle(self, instruction_id: str, *, failure_reason: str = "", channel_order_id: str | None = None) -> bool:
        """Takes the outcome of a PROCESSING instruction; False where it was taken before.

        FailedPrecondition (CONTRADICTORY_RESULT) where the opposite was taken before: that is for a person.
        """
        index = next(i for i, ins in enumerate(self.chain) if ins.id == instruction_id)
        instruction = self.chain[index]
        outcome = InstructionState.FAILED if failure_reason else InstructionState.SUCCEEDED
        if instruction.state == outcome:
            return False
        if INSTRUCTION.is_terminal(instruction.state):
            raise FailedPrecondition(
                f"instruction {instruction_id} is {instruction.state}, and now said to be {outcome}",
                reason="CONTRADICTORY_RESULT",
                subject=instruction_id,
            )
        if outcome == InstructionState.SUCCEEDED:
            TOOLS[instruction.tool].book(instruction, self._draft)
        self._move(index, outcome, failure_reason=failure_reason, channel_order_id=channel_order_id)
        return True

    def advance(self) -> PaymentView:
        """Carries out instruction after instruction until one must be awaited or none is left, and writes it down."""
        failure_reason = ""
        awaits_channel = False
        index = 0
        while index < len(self.chain):
            instruction = self.chain[index]
            if instruction.state == InstructionState.INIT and failure_reason and instruction.direction == _FORWARD:
                self._move(index, InstructionState.FAILED, failure_reason="SKIPPED")
            elif instruction.state == InstructionState.INIT:
                begun = TOOLS[instruction.tool].begin(self.work, instruction, self._draft)
                self._move(index, begun.state, failure_reason=begun.failure_reason)
            instruction = self.chain[index]
            if instruction.state == InstructionState.PROCESSING:
                awaits_channel = bool(instruction.channel)
                break
            if instruction.state == InstructionState.FAILED and not failure_reason:
                failure_reason = instruction.failure_reason
                if self.payment.state == PaymentState.PROCESSING:
                    self._append(reversal(self.chain), Direction.REVERSE)
            index += 1
        is_waiting = index < len(self.chain)
        if self._draft.bookings:
            ledger.post(self.work, self._draft, self.payment.id)
        self._conclude(is_waiting, failure_reason, awaits_channel)
        return PaymentView(self.payment, self.chain)

    def _append(self, steps: list[Step], direction: Direction) -> None:
        # Reversals stand right behind what has been carried out: what is still INIT is never begun.
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
            )
            note = f"{step.action} {step.channel or step.owner_id} {step.amount_minor} {self.payment.currency}"
            self.chain.append(self.work.insert(instruction, parent_id=self.payment.id, note=note))

    def _move(self, index: int, state: InstructionState, **changes: Any) -> None:
        changes = {name: value for name, value in changes.items() if value}
        moved = INSTRUCTION.move(self.chain[index], state, **changes)
        note = moved.failure_reason
        self.chain[index] = self.work.update(moved, parent_id=self.payment.id, note=note)

    def _conclude(self, is_waiting: bool, failure_reason: str, awaits_channel: bool) -> None:
        due_at_ms = self.work.now_ms + self._result_due_ms if is_waiting and awaits_channel else None
        if is_waiting:
            waiting = msgspec.structs.replace(self.payment, due_at_ms=due_at_ms, ask_count=0)
            if failure_reason and waiting.state == PaymentState.PROCESSING:
                waiting = PAYMENT.move(waiting, PaymentState.REVERSING, failure_reason=failure_reason)
            if waiting != self.payment:
                self.payment = self.work.update(waiting)
            return
        state = PaymentState.FAILED if failure_reason else PaymentState.SUCCEEDED
        moved = PAYMENT.move(
            self.payment, state, due_at_ms=None, failure_reason=failure_reason, finished_at_ms=self.work.now_ms
        )
        parent_id = moved.source_id or moved.original_payment_id or ""
        self.payment = self.work.update(moved, parent_id=parent_id, note=failure_reason)
        if self.payment.operation == Operation.REFUND:
            self._settle_original(succeeded=not failure_reason)
        event = events_pb2.PaymentEvent(payment=payment_proto(self.payment, self.chain))
        self.work.publish(PAYMENT_FAILED if failure_reason else PAYMENT_SUCCEEDED, event)

    def _settle_original(self, *, succeeded: bool) -> None:
        """The refund is decided: what was reserved of the original payment is given back, or free again."""
        assert self.payment.original_payment_id is not None
        original = self.work.get(Payment, self.payment.original_payment_id)
        assert original is not None
        amount_minor = self.payment.amount_minor
        settled = msgspec.structs.replace(
            original,
            refunding_minor=original.refunding_minor - amount_minor,
            refunded_minor=original.refunded_minor + (amount_minor if succeeded else 0),
        )
        note = f"refund {self.payment.id} {'succeeded' if succeeded else 'failed'}"
        self.work.update(settled, parent_id=settled.source_id, note=note)
        if not succeeded:
            reserve_original(self.work, self.chain, -1)


def reserve_original(work: Work, chain: list[Instruction], sign: int) -> None:
    """Counts what a refund's FORWARD chain gives back on the instructions it reverses; sign -1 takes that back."""
    for instruction in chain:
        if instruction.direction != Direction.FORWARD:
            continue
        assert instruction.reverses_id is not None
        reversed_one = _find(work, instruction)
        change = sign * instruction.amount_minor
        replaced = msgspec.structs.replace(reversed_one, refunded_minor=reversed_one.refunded_minor + change)
        assert 0 <= replaced.refunded_minor <= replaced.amount_minor
        work.update(replaced, audit=False)


def _find(work: Work, instruction: Instruction) -> Instruction:
    refund = work.get(Payment, instruction.payment_id)
    assert refund is not None
    assert refund.original_payment_id is not None
    originals = work.many(Instruction, "payment_id", refund.original_payment_id)
    return next(ins for ins in originals if ins.id == instruction.reverses_id)
