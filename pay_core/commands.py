"""The commands of pay_core, one per use case."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pay_core.orchestration import Orchestration, PaymentView, account_keys, payment_keys, reserve_original
from pay_core.payment import (
    PAYMENT,
    Funding,
    Operation,
    Payee,
    PaymentState,
    Step,
    is_terminal,
    recharge_chain,
    refund_chain,
    transfer_chain,
    withdraw_chain,
)
from pay_core.tables import Instruction, Payment
from paykit import context as business_context
from paykit.errors import FailedPrecondition, NotFound
from paykit.ids import slot_in, slot_of
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key


def _new_payment(
    work: Work,
    operation: Operation,
    payer_id: str,
    currency: str,
    amount_minor: int,
    source_id: str,
    original_payment_id: str | None = None,
) -> Payment:
    return Payment(
        id=work.new_id("pay"),
        slot=slot_of(payer_id) if original_payment_id is None else slot_in(original_payment_id),
        biz_id=work.context.biz_id,
        operation=operation.value,
        state=PAYMENT.initial.value,
        payer_id=payer_id,
        currency=currency,
        amount_minor=amount_minor,
        source_id=source_id,
        original_payment_id=original_payment_id,
        refunding_minor=0,
        refunded_minor=0,
        failure_reason="",
        caller=work.context.caller,
        context=business_context.pack(work.context),
        ask_count=0,
        due_at_ms=None,
        created_at_ms=work.now_ms,
        finished_at_ms=None,
    )


class StartPayment(Command[PaymentView]):
    """Accepts one of the operations that stand alone and carries it as far as it goes at once."""

    result_type = PaymentView

    def __init__(
        self,
        origin: Origin,
        operation: Operation,
        payer_id: str,
        currency: str,
        steps: list[Step],
        amount_minor: int,
        source_id: str,
        result_due_ms: int,
    ) -> None:
        super().__init__(slot_of(payer_id), origin)
        self.operation, self.payer_id, self.currency = operation, payer_id, currency
        self.steps, self.amount_minor, self.source_id = steps, amount_minor, source_id
        self.result_due_ms = result_due_ms

    @property
    def name(self) -> str:
        return self.operation.capitalize()

    def reads(self, rows: Rows) -> Iterable[Key]:
        return account_keys(self.slot, self.currency, self.steps)

    def decide(self, work: Work) -> PaymentView:
        payment = _new_payment(work, self.operation, self.payer_id, self.currency, self.amount_minor, self.source_id)
        return Orchestration.start(work, payment, self.steps, self.result_due_ms).advance()


def recharge(
    origin: Origin, owner_id: str, currency: str, funding: Funding, source_id: str, due_ms: int
) -> StartPayment:
    """Outside to an owner's balance."""
    steps = recharge_chain(owner_id, funding)
    amount_minor = funding.amount_minor
    return StartPayment(origin, Operation.RECHARGE, owner_id, currency, steps, amount_minor, source_id, due_ms)


def withdraw(
    origin: Origin, owner_id: str, currency: str, target: Funding, source_id: str, due_ms: int
) -> StartPayment:
    """An owner's balance to outside."""
    steps = withdraw_chain(owner_id, target)
    amount_minor = target.amount_minor
    return StartPayment(origin, Operation.WITHDRAW, owner_id, currency, steps, amount_minor, source_id, due_ms)


def transfer(
    origin: Origin,
    payer_id: str,
    currency: str,
    fundings: list[Funding],
    payees: list[Payee],
    source_id: str,
    due_ms: int,
) -> StartPayment:
    """A payer's tools to payees; both sides add up to the same."""
    steps = transfer_chain(payer_id, fundings, payees)
    amount_minor = sum(payee.amount_minor for payee in payees)
    assert amount_minor == sum(funding.amount_minor for funding in fundings)
    return StartPayment(origin, Operation.TRANSFER, payer_id, currency, steps, amount_minor, source_id, due_ms)


class Refund(Command[PaymentView]):
    """Reserves money of an earlier TRANSFER and starts giving it back by its original route."""

    result_type = PaymentView

    def __init__(
        self, origin: Origin, payment_id: str, currency: str, amount_minor: int, source_id: str, result_due_ms: int
    ) -> None:
        super().__init__(slot_in(payment_id), origin)
        self.payment_id, self.currency, self.amount_minor = payment_id, currency, amount_minor
        self.source_id, self.result_due_ms = source_id, result_due_ms

    def reads(self, rows: Rows) -> Iterable[Key]:
        return payment_keys(rows, self.payment_id)

    def decide(self, work: Work) -> PaymentView:
        original = work.get(Payment, self.payment_id)
        if original is None:
            raise NotFound(f"no payment {self.payment_id}", reason="PAYMENT_NOT_FOUND")
        if original.operation != Operation.TRANSFER or original.state != PaymentState.SUCCEEDED:
            raise FailedPrecondition(
                f"payment {original.id} is a {original.operation} in state {original.state}: only a SUCCEEDED TRANSFER "
                "can be refunded",
                reason="NOT_REFUNDABLE",
                subject=original.id,
            )
        if original.currency != self.currency:
            raise FailedPrecondition(
                f"payment {original.id} is in {original.currency}", reason="CURRENCY_MISMATCH", subject=original.id
            )
        steps = refund_chain(work.many(Instruction, "payment_id", original.id), self.amount_minor)
        reserved = msgspec.structs.replace(original, refunding_minor=original.refunding_minor + self.amount_minor)
        assert reserved.refunding_minor + reserved.refunded_minor <= reserved.amount_minor
        work.update(reserved, parent_id=original.source_id, note=f"{self.amount_minor} reserved for a refund")
        payment = _new_payment(
            work, Operation.REFUND, original.payer_id, self.currency, self.amount_minor, self.source_id, original.id
        )
        run = Orchestration.start(work, payment, steps, self.result_due_ms)
        reserve_original(work, run.chain, 1)
        return run.advance()


class SettleInstruction(Command[None]):
    """Takes the outcome of an instruction that was awaited, and goes on with its payment.

    The outcome comes from channel_gateway (event, refusal or question) or from another slot (SettleTransit).
    ``tool`` is the one that speaks: no other may settle the instruction. ``moved`` is the amount and currency that it
    says were moved; None where it says nothing.
    """

    def __init__(
        self,
        origin: Origin,
        payment_id: str,
        instruction_id: str,
        *,
        tool: str,
        failure_reason: str = "",
        channel_order_id: str | None = None,
        moved: tuple[int, str] | None = None,
        result_due_ms: int,
    ) -> None:
        super().__init__(slot_in(payment_id), origin)
        self.payment_id, self.instruction_id, self.tool = payment_id, instruction_id, tool
        self.failure_reason, self.channel_order_id, self.moved = failure_reason, channel_order_id, moved
        self.result_due_ms = result_due_ms

    def reads(self, rows: Rows) -> Iterable[Key]:
        return payment_keys(rows, self.payment_id)

    def decide(self, work: Work) -> None:
        payment = work.get(Payment, self.payment_id)
        chain = work.many(Instruction, "payment_id", self.payment_id)
        instruction = next((ins for ins in chain if ins.id == self.instruction_id), None)
        if payment is None or instruction is None:
            raise NotFound(f"no instruction {self.instruction_id} of payment {self.payment_id}")
        if instruction.tool != self.tool:
            raise FailedPrecondition(
                f"instruction {instruction.id} is carried out by {instruction.tool}, not by {self.tool}",
                reason="WRONG_TOOL",
                subject=instruction.id,
            )
        if self.moved is not None and self.moved != (instruction.amount_minor, instruction.currency):
            raise FailedPrecondition(
                f"instruction {instruction.id} is over {instruction.amount_minor} {instruction.currency}, "
                f"{self.moved[0]} {self.moved[1]} was moved",
                reason="AMOUNT_MISMATCH",
                subject=instruction.id,
            )
        run = Orchestration(work, payment, chain, self.result_due_ms)
        if run.settle(self.instruction_id, failure_reason=self.failure_reason, channel_order_id=self.channel_order_id):
            run.advance()


class AskLater(Command[None]):
    """The channel result is still unknown: the next question gets its time, later each time."""

    def __init__(self, origin: Origin, payment_id: str, first_due_ms: int, max_due_ms: int) -> None:
        super().__init__(slot_in(payment_id), origin)
        self.payment_id, self.first_due_ms, self.max_due_ms = payment_id, first_due_ms, max_due_ms

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Payment, self.payment_id)

    def decide(self, work: Work) -> None:
        payment = work.get(Payment, self.payment_id)
        if payment is None or is_terminal(payment) or payment.due_at_ms is None or payment.due_at_ms > work.now_ms:
            return
        pause_ms = min(self.first_due_ms * 2**payment.ask_count, self.max_due_ms)
        later = msgspec.structs.replace(
            payment, ask_count=min(payment.ask_count + 1, 30), due_at_ms=work.now_ms + pause_ms
        )
        work.update(later)
