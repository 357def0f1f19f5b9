"""The commands that begin a payment or go on with one. Captures and voids, and cases, have files of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import msgspec

from pay_core import chains, ledger, phases
from pay_core.chains import Order, Parts
from pay_core.chart import AccountKind
from pay_core.facts import facts_of, facts_of_order, refund_facts
from pay_core.orchestration import Orchestration, PaymentView
from pay_core.payment import (
    BALANCE,
    COUPON,
    FEES,
    PAYMENT,
    Action,
    Operation,
    PaymentState,
    Plan,
    SettlementMode,
    Step,
    is_terminal,
    stored,
)
from pay_core.phases import Refunded
from pay_core.reading import chain_of, payment_keys, step_keys
from pay_core.refunds import reserve_original
from pay_core.routes import channels_of
from pay_core.rules.model import Decision
from pay_core.tables import Instruction, Payment
from pay_core.terms import Terms
from pay_core.tools import TOOLS
from pay_core.tools.base import Intake, Outcome
from pay_core.usage import count_usage, usage_keys
from paykit import context as business_context
from paykit.errors import FailedPrecondition, MeshError, NotFound
from paykit.ids import slot_in, slot_of
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key


def new_payment(
    work: Work,
    operation: Operation,
    payer_id: str,
    currency: str,
    amount_minor: int,
    source_id: str,
    rules_version: int,
    original_payment_id: str | None = None,
    **columns: Any,
) -> Payment:
    """A payment that has just been accepted, with its accounting date. ``columns``: those that have a default."""
    slot = slot_of(payer_id) if original_payment_id is None else slot_in(original_payment_id)
    return Payment(
        id=work.new_id("pay"),
        slot=slot,
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
        rules_version=rules_version,
        accounting_date=ledger.intake_date(work, slot, currency),
        **columns,
    )


class StartPayment(Command[PaymentView]):
    """Accepts one of the operations that stand alone and carries it as far as it goes at once.

    The rules are asked once, when it is made: FailedPrecondition with their reasons, when it is decided.
    """

    result_type = PaymentView

    def __init__(self, origin: Origin, order: Order, source_id: str, terms: Terms) -> None:
        super().__init__(slot_of(order.payer_id), origin)
        self.order, self.source_id, self.terms = order, source_id, terms
        self.decision: Decision | None = None
        self._refusal: MeshError | None = None
        self._fundings: list[Step] = []
        self._touched: list[Step] = []
        self._usage_keys: list[Key] = []
        self._has_coupon = any(funding.tool == COUPON for funding in order.fundings)
        self._keys: list[Key] | None = None
        try:
            self._ask_rules()
        except MeshError as error:
            # Not raised yet: what was accepted under other rules is answered as it was then.
            self._refusal = error

    def _ask_rules(self) -> None:
        order = self.order
        decision = self.terms.rules.decide(facts_of_order(order, self.origin.context.biz_code))
        self._fundings = chains.funding_steps(order, decision)
        self._touched = chains.touched(order, self._fundings, decision)
        self._usage_keys = usage_keys(order.payer_id, decision.limits, order.currency)
        self.decision = decision

    @property
    def name(self) -> str:
        return self.order.operation.capitalize()

    def reads(self, rows: Rows) -> Iterable[Key]:
        if self._refusal is not None:
            return ()
        # Asked for in rounds: only a coupon leads to further rows.
        if self._keys is None or self._has_coupon:
            self._keys = self._usage_keys + step_keys(rows, self.slot, self.order.currency, self._touched)
        return self._keys

    def decide(self, work: Work) -> PaymentView:
        if self._refusal is not None:
            raise self._refusal
        order, decision = self.order, self.decision
        assert decision is not None
        merchants = frozenset([p.owner_id for p in order.payees if p.account_kind == AccountKind.MERCHANT])
        intake = Intake(order.payer_id, order.currency, merchants, self.terms.rules, work.now_ms)
        fundings = [TOOLS[step.tool].prepare(work, step, intake) for step in self._fundings]
        shares = chains.share_steps(order, decision, fundings)
        expires_in_ms, is_kept = order.expires_in_ms, order.settlement_mode != SettlementMode.IMMEDIATE
        payment = new_payment(
            work,
            order.operation,
            order.payer_id,
            order.currency,
            order.amount_minor,
            self.source_id,
            decision.rules_version,
            settlement_mode=order.settlement_mode.value,
            payer_fee_minor=decision.payer_fee_minor,
            payee_fee_minor=sum([fee.amount_minor for fee in decision.fees]) - decision.payer_fee_minor,
            expires_at_ms=None if expires_in_ms is None else work.now_ms + expires_in_ms,
        )
        usages = count_usage(work, payment, decision.limits)
        if is_kept or usages:
            plan = Plan(tuple(shares) if is_kept else (), usages)
            payment = msgspec.structs.replace(payment, plan=stored(plan))
        steps = chains.chain(Parts(order, decision, fundings, shares))
        return Orchestration.start(work, payment, steps, self.terms).advance()


class Refund(Command[PaymentView]):
    """Reserves money of an earlier TRANSFER and starts giving it back by its original route."""

    result_type = PaymentView

    def __init__(
        self,
        origin: Origin,
        payment_id: str,
        currency: str,
        amount_minor: int,
        source_id: str,
        terms: Terms,
        *,
        payee_reference: str = "",
        is_repair: bool = False,
    ) -> None:
        super().__init__(slot_in(payment_id), origin)
        self.payment_id, self.currency, self.amount_minor = payment_id, currency, amount_minor
        self.source_id, self.terms = source_id, terms
        self.payee_reference, self.is_repair = payee_reference, is_repair
        self.decision: Decision | None = None

    def reads(self, rows: Rows) -> Iterable[Key]:
        keys = payment_keys(rows, self.payment_id)
        original = rows.get(Payment, self.payment_id)
        if original is None:
            return keys
        # The bearers of fees, who may have to give back what the platform keeps.
        bearers = [
            Step(Action.COLLECT, BALANCE, 1, owner_id=ins.owner_id, account_kind=ins.account_kind)
            for ins in chain_of(rows, self.payment_id)
            if ins.tool == FEES and ins.owner_id
        ]
        keys += step_keys(rows, self.slot, original.currency, bearers)
        with contextlib.suppress(MeshError):  # raised again when it is decided
            keys += usage_keys(original.payer_id, self._decision(original).limits, original.currency)
        return keys

    def _decision(self, original: Payment) -> Decision:
        if self.decision is None:
            self.decision = self.terms.rules.decide(refund_facts(original, self.amount_minor))
        return self.decision

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
        decision = self._decision(original)
        paid = chain_of(work, original.id)
        policy = self.terms.rules.refund_policy(facts_of(original, paid))
        steps = phases.refund_chain(paid, Refunded(self.amount_minor, self.payee_reference, policy.return_fees))
        reserved = msgspec.structs.replace(original, refunding_minor=original.refunding_minor + self.amount_minor)
        assert reserved.refunding_minor + reserved.refunded_minor <= reserved.amount_minor
        work.update(reserved, parent_id=original.source_id, note=f"{self.amount_minor} reserved for a refund")
        payment = new_payment(
            work,
            Operation.REFUND,
            original.payer_id,
            self.currency,
            self.amount_minor,
            self.source_id,
            decision.rules_version,
            original.id,
            is_repair=int(self.is_repair),
        )
        usages = count_usage(work, payment, decision.limits)
        payment = msgspec.structs.replace(payment, plan=stored(Plan(usages=usages)))
        run = Orchestration.start(work, payment, steps, self.terms)
        reserve_original(work, original.id, run.chain, 1)
        return run.advance()


class SettleInstruction(Command[None]):
    """Takes the outcome of an instruction that was awaited, and goes on with its payment.

    The outcome comes from channel_gateway (event, refusal or question) or from another slot (SettleTransit).
    ``tool`` is the one that speaks: no other may settle the instruction.
    """

    def __init__(
        self, origin: Origin, payment_id: str, instruction_id: str, *, tool: str, outcome: Outcome, terms: Terms
    ) -> None:
        super().__init__(slot_in(payment_id), origin)
        self.payment_id, self.instruction_id, self.tool = payment_id, instruction_id, tool
        self.outcome, self.terms = outcome, terms

    def reads(self, rows: Rows) -> Iterable[Key]:
        keys = payment_keys(rows, self.payment_id)
        settled = rows.get(Instruction, self.instruction_id)
        if settled is not None and self.outcome.channel not in ("", settled.channel):
            # It is booked where it was done.
            elsewhere = msgspec.structs.replace(settled, channel=self.outcome.channel)
            keys += step_keys(rows, self.slot, settled.currency, [elsewhere])
        return keys

    def decide(self, work: Work) -> None:
        payment = work.get(Payment, self.payment_id)
        chain = chain_of(work, self.payment_id)
        instruction = next((ins for ins in chain if ins.id == self.instruction_id), None)
        if payment is None or instruction is None:
            raise NotFound(f"no instruction {self.instruction_id} of payment {self.payment_id}")
        if instruction.tool != self.tool:
            raise FailedPrecondition(
                f"instruction {instruction.id} is carried out by {instruction.tool}, not by {self.tool}",
                reason="WRONG_TOOL",
                subject=instruction.id,
            )
        _check_moved(instruction, self.outcome)
        _check_channel(instruction, self.outcome)
        run = Orchestration(work, payment, chain, self.terms)
        if run.settle(self.instruction_id, self.outcome):
            run.advance()


def _check_channel(instruction: Instruction, outcome: Outcome) -> None:
    if outcome.channel and outcome.channel not in {instruction.channel, *channels_of(instruction.route)}:
        raise FailedPrecondition(
            f"instruction {instruction.id} may not be carried out by {outcome.channel}",
            reason="CHANNEL_MISMATCH",
            subject=instruction.id,
        )


def _check_moved(instruction: Instruction, outcome: Outcome) -> None:
    asked = (instruction.amount_minor, instruction.currency)
    moved = asked if outcome.moved is None else outcome.moved
    may_differ = TOOLS[instruction.tool].capabilities.amount_may_differ and instruction.action == Action.COLLECT
    if outcome.settled_minor and not outcome.failure_reason and not may_differ:
        moved = (outcome.settled_minor, moved[1])
    if moved != asked:
        raise FailedPrecondition(
            f"instruction {instruction.id} is over {asked[0]} {asked[1]}, {moved[0]} {moved[1]} was moved",
            reason="AMOUNT_MISMATCH",
            subject=instruction.id,
        )


class Advance(Command[None]):
    """A payment's due time has passed: what waited for it is begun, and the next question gets its time.

    ``was_asked``: results were asked for and are still open; the next question comes later than the one before.
    """

    def __init__(self, origin: Origin, payment_id: str, terms: Terms, *, was_asked: bool = True) -> None:
        super().__init__(slot_in(payment_id), origin)
        self.payment_id, self.terms, self.was_asked = payment_id, terms, was_asked

    def reads(self, rows: Rows) -> Iterable[Key]:
        return payment_keys(rows, self.payment_id)

    def decide(self, work: Work) -> None:
        payment = work.get(Payment, self.payment_id)
        if payment is None or is_terminal(payment) or payment.due_at_ms is None or payment.due_at_ms > work.now_ms:
            return
        if payment.state == PaymentState.AUTHORIZED:
            return  # its time ends it: VoidPayment
        chain = chain_of(work, payment.id)
        Orchestration(work, payment, chain, self.terms).advance(was_asked=self.was_asked)
