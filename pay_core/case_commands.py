"""Commands on cases: a person decides, and the decision is carried out."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pay_core import case as cases
from pay_core import phases
from pay_core.case import CASE_RESOLVED, CaseResolution, CaseType
from pay_core.commands import new_payment
from pay_core.convert import case_proto
from pay_core.orchestration import Orchestration
from pay_core.payment import SUSPENSE, Action, Direction, Operation, Step, to_balance
from pay_core.reading import chain_of, payment_keys, step_keys
from pay_core.tables import Instruction, Payment, PaymentCase
from pay_core.terms import Terms
from pay_core.tools import TOOLS
from paykit.errors import NotFound
from paykit.ids import slot_in
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key
from paymesh.event.v1 import events_pb2


class ResolveCase(Command[PaymentCase]):
    """Decides an OPEN case and carries the decision out."""

    result_type = PaymentCase

    def __init__(self, origin: Origin, case_id: str, resolution: CaseResolution, reason: str, terms: Terms) -> None:
        super().__init__(slot_in(case_id), origin)
        self.case_id, self.resolution, self.reason, self.terms = case_id, resolution, reason, terms

    def reads(self, rows: Rows) -> Iterable[Key]:
        keys = [key(PaymentCase, self.case_id)]
        case = rows.get(PaymentCase, self.case_id)
        if case is None:
            return keys
        payment = rows.get(Payment, case.payment_id)
        if payment is not None:
            owner = to_balance(payment.payer_id, 1)
            keys += step_keys(rows, self.slot, case.currency, [Step(Action.COLLECT, SUSPENSE, 1), owner])
        return keys + payment_keys(rows, case.payment_id)

    def decide(self, work: Work) -> PaymentCase:
        case = work.get(PaymentCase, self.case_id)
        if case is None:
            raise NotFound(f"no case {self.case_id}", reason="CASE_NOT_FOUND")
        work.adopt(case.biz_id)
        payment = work.get(Payment, case.payment_id)
        chain = chain_of(work, case.payment_id)
        assert payment is not None
        instruction = next(ins for ins in chain if ins.id == case.instruction_id)
        caller, resolution = work.context.caller, self.resolution
        decided = cases.resolved(case, resolution, self.reason, caller, work.now_ms, "")
        if case.type == CaseType.OVERPAYMENT:
            payment_id = self._return_excess(work, case, payment, instruction)
            decided = msgspec.structs.replace(decided, resolution_payment_id=payment_id)
        else:
            self._go_on(Orchestration(work, payment, chain, self.terms), instruction)
        decided = work.update(decided, parent_id=payment.id, note=f"{resolution} {self.reason}"[:200])
        work.publish(CASE_RESOLVED, events_pb2.CaseEvent(case=case_proto(decided)))
        return decided

    def _go_on(self, run: Orchestration, failed: Instruction) -> None:
        if self.resolution == CaseResolution.RETRY:
            run.add(phases.copy_of(failed, failed.attempt_no + 1, None), Direction.REVERSE)
        elif self.resolution == CaseResolution.TO_BALANCE:
            run.add(run.instead(failed), Direction.REVERSE)
        elif failed.action == Action.RELEASE:
            run.accept(failed.id)
        else:
            run.add(run.instead(failed, SUSPENSE), Direction.REVERSE)
        run.advance()

    def _return_excess(self, work: Work, case: PaymentCase, payment: Payment, instruction: Instruction) -> str:
        """What came too much goes back, by a payment of its own out of suspense; its id, empty where it stays there."""
        if self.resolution == CaseResolution.ACCEPT:
            return ""
        if self.resolution == CaseResolution.RETRY:
            back = TOOLS[instruction.tool].give_back(instruction, case.amount_minor)._replace(reverses_id=None)
        else:
            back = to_balance(payment.payer_id, case.amount_minor)
        version = self.terms.rules.version
        refund = new_payment(
            work, Operation.REFUND, payment.payer_id, case.currency, case.amount_minor, case.id, version, payment.id
        )
        # Where the provider refuses, it goes to the payer's balance: somebody has decided that it goes back.
        refund = msgspec.structs.replace(refund, is_repair=1)
        Orchestration.start(
            work, refund, [Step(Action.COLLECT, SUSPENSE, case.amount_minor), back], self.terms
        ).advance()
        return refund.id
