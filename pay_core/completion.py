"""COMPLETE: a payment's result is taken from channel_gateway, which has it, though nobody told pay_core."""

from __future__ import annotations

from collections.abc import Iterable

from pay_core import queries
from pay_core.adjustment import id_in
from pay_core.adjustment_commands import DESK
from pay_core.commands import SettleInstruction
from pay_core.consumers import ask_outcome
from pay_core.payment import INSTRUCTION, is_terminal
from pay_core.reading import chain_of, payment_keys
from pay_core.tables import Compensation, Instruction, Payment
from pay_core.terms import Terms, TermsBook
from pay_core.tools.base import Outcome as ToolOutcome
from paykit import compensation
from paykit import context as business_context
from paykit.compensation import CompensationRow, CompensationState, Outcome, request_of
from paykit.errors import FailedPrecondition
from paykit.events.timers import Timer
from paykit.ids import slot_in
from paykit.rpc.channels import Channels
from paykit.store.command import Origin, Rows, Work
from paykit.store.row import Key, key
from paykit.store.store import Store


class SettleAsRepair(SettleInstruction):
    """Takes the outcome that was asked for, and ends the repair in the same transaction."""

    def __init__(
        self, origin: Origin, row: Compensation, instruction: Instruction, outcome: ToolOutcome, terms: Terms
    ) -> None:
        super().__init__(
            origin, instruction.payment_id, instruction.id, tool=instruction.tool, outcome=outcome, terms=terms
        )
        self.compensation_id = row.id

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Compensation, self.compensation_id)
        yield from super().reads(rows)

    def decide(self, work: Work) -> None:
        row = work.get(Compensation, self.compensation_id)
        assert row is not None, "compensations are never removed"
        if row.state == CompensationState.ENDED:
            return
        before = self._state(work)
        super().decide(work)
        after = self._state(work)
        detail = f"{self.instruction_id} is {after}"
        if before == after:
            compensation.end(work, DESK, row, Outcome.NOTHING_TO_DO, f"{detail} already")
        else:
            compensation.end(work, DESK, row, Outcome.DONE, f"{detail}, it was {before}", self.payment_id)

    def _state(self, work: Work) -> str:
        return next((ins.state for ins in chain_of(work, self.payment_id) if ins.id == self.instruction_id), "")


class GoOnCompleting(compensation.Step):
    """Nothing was answered that could be taken: the repair ends where nothing is open, or its questions are used up."""

    desk = DESK

    def __init__(self, origin: Origin, row: Compensation, refusal: str = "") -> None:
        """``refusal``: why an answer could not be taken; empty where there was none."""
        super().__init__(origin, row)
        self.refusal = refusal
        request = request_of(row)
        self.instruction_id = id_in(request.instruction_id, "ins")
        payment_id = id_in(request.payment_id, "pay")
        self.payment_id = payment_id if payment_id and slot_in(payment_id) == row.slot else ""

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield from super().reads(rows)
        if self.payment_id:
            yield from payment_keys(rows, self.payment_id)

    def go_on(self, work: Work, row: CompensationRow) -> None:
        null = self._nothing_open(work)
        if null:
            compensation.end(work, DESK, row, Outcome.NOTHING_TO_DO, null)
        elif self.refusal:
            compensation.end(work, DESK, row, Outcome.REFUSED, self.refusal)
        elif row.ask_count + 1 >= compensation.ASKS_MAX:
            compensation.end(work, DESK, row, Outcome.REFUSED, f"no result after {compensation.ASKS_MAX} questions")
        else:
            work.update(compensation.postponed(row, work.now_ms), audit=False)

    def _nothing_open(self, work: Work) -> str:
        payment = work.get(Payment, self.payment_id) if self.payment_id else None
        if payment is None:
            return "there is no such payment"
        chain = chain_of(work, payment.id)
        instruction = next((ins for ins in chain if ins.id == self.instruction_id), None)
        if instruction is not None and INSTRUCTION.is_terminal(instruction.state):
            return f"{instruction.id} is {instruction.state} already"
        return f"{payment.id} is {payment.state} already" if is_terminal(payment) else ""


class Completion:
    """Goes on with repairs that wait for the answer of another service."""

    def __init__(self, store: Store, channels: Channels, terms: TermsBook) -> None:
        self._store = store
        self._channels = channels
        self._terms = terms

    def timer(self) -> Timer[Compensation]:
        """Fires on ``compensation.due_at_ms``."""
        return Timer("compensation_due", Compensation, self.fire)

    async def fire(self, row: Compensation) -> None:
        """Asks for the result of what is open, outside any transaction, and takes the first that comes."""
        context = business_context.current()
        origin, refusal = Origin.timer(context), ""
        for instruction in await self._open(row, shadow=context.shadow):
            outcome = await ask_outcome(self._channels, instruction, context)
            if outcome is None:
                continue
            try:
                await self._store.run(SettleAsRepair(origin, row, instruction, outcome, self._terms.now()))
            except FailedPrecondition as error:
                refusal = f"{instruction.id}: {error.reason}"
                continue
            return
        await self._store.run(GoOnCompleting(origin, row, refusal))

    async def _open(self, row: Compensation, *, shadow: bool) -> list[Instruction]:
        request = request_of(row)
        payment_id = id_in(request.payment_id, "pay")
        if not payment_id or slot_in(payment_id) != row.slot:
            return []
        payment = await self._store.get(Payment, payment_id, slot=row.slot, shadow=shadow)
        if payment is None:
            return []
        found = await queries.awaited_instructions(self._store, payment, shadow=shadow)
        wanted = id_in(request.instruction_id, "ins")
        return [ins for ins in found if wanted in ("", ins.id)]
