"""The points tool: the payer's points for money of the platform, at the rate of the rules, at once.

Money comes from MARKETING; the points go back to where they were issued, in the same journal.
"""

from __future__ import annotations

from collections.abc import Iterable

from pay_core import holds, ledger
from pay_core.chart import POINTS_UNIT, AccountKind
from pay_core.ledger import AccountRef, Draft, Leg
from pay_core.payment import POINTS, Action, InstructionState, Step
from pay_core.points import INSUFFICIENT_POINTS, Worth, given_back_with, taken_with
from pay_core.tables import Instruction, Payment
from pay_core.tools.base import BaseTool, Begun, Capabilities, Intake
from paykit.store.command import Rows, Work
from paykit.store.row import Key

_DONE = Begun(InstructionState.SUCCEEDED)


class PointsTool(BaseTool):
    """COLLECT takes points of ``owner_id`` (``unit_count``), DISBURSE gives them back; RESERVE holds them.

    A part of an amount has its proportion of the points (``pay_core.points``), which may be none of them.
    """

    name = POINTS
    capabilities = Capabilities(frozenset(Action), captures_max=None, unit=POINTS_UNIT)

    def reads(self, slot: int, currency: str, step: Step | Instruction, rows: Rows) -> Iterable[Key]:
        yield from ledger.account_keys([_marketing(slot, currency), _points(step.owner_id), _issued(slot)])
        if step.reserve_id is not None:
            yield holds.hold_key(step.reserve_id)
        elif isinstance(step, Instruction) and step.action == Action.RESERVE:
            yield holds.hold_key(step.id)

    def prepare(self, rows: Rows, step: Step, intake: Intake) -> Step:
        """FailedPrecondition (TOOL_NOT_ALLOWED) where the rules have no rate."""
        units = intake.rules.points_for(step.amount_minor)
        return step._replace(owner_id=intake.payer_id, account_kind=AccountKind.POINTS.value, unit_count=units)

    def begin(self, work: Work, instruction: Instruction, draft: Draft) -> Begun:
        if instruction.action == Action.DISBURSE:
            self._book(instruction, draft, 1)
            return _DONE
        refusal = self._keep_or_take(work, instruction, draft)
        if refusal:
            known = INSUFFICIENT_POINTS if refusal == ledger.INSUFFICIENT_FUNDS else refusal
            return Begun(InstructionState.FAILED, known)
        if instruction.action == Action.COLLECT:
            self._book(instruction, draft, -1)
        return _DONE

    def take(self, reserve: Instruction, amount_minor: int, taken_minor: int, taken_units: int) -> Step:
        whole = Worth(reserve.amount_minor, reserve.unit_count)
        units = taken_with(whole, Worth(taken_minor, taken_units), amount_minor)
        return super().take(reserve, amount_minor, taken_minor, taken_units)._replace(unit_count=units)

    def give_back(self, instruction: Instruction, amount_minor: int) -> Step:
        whole = Worth(instruction.amount_minor, instruction.unit_count)
        done = Worth(instruction.refunded_minor, instruction.refunded_unit_count)
        units = given_back_with(whole, done, amount_minor)
        return super().give_back(instruction, amount_minor)._replace(unit_count=units)

    def _keep_or_take(self, work: Work, instruction: Instruction, draft: Draft) -> str:
        """Makes sure of the points that an instruction needs; why it cannot, or empty."""
        points, units = _points(instruction.owner_id), instruction.unit_count
        if instruction.action == Action.RESERVE:
            payment = work.get(Payment, instruction.payment_id)
            assert payment is not None
            expires_at_ms = payment.expires_at_ms
            placed = holds.place(work, points, units, instruction.payment_id, instruction.id, expires_at_ms, draft)
            return placed if isinstance(placed, str) else ""
        if instruction.reserve_id is None:
            return ledger.refusal(work, points, units, draft)
        hold = holds.hold_of(work, instruction.reserve_id)
        assert hold is not None
        if instruction.action == Action.RELEASE:
            holds.release(work, hold)
            return ""
        captured = holds.capture(work, hold, units) if units else hold
        return captured if isinstance(captured, str) else ""

    def _book(self, instruction: Instruction, draft: Draft, sign: int) -> None:
        """Money and points in one journal; ``sign`` is 1 to the payer."""
        amount_minor, units = instruction.amount_minor, instruction.unit_count
        marketing = _marketing(draft.slot, draft.currency)
        draft.book(instruction.id, amount_minor, Leg.LOCAL, marketing, sign * amount_minor)
        if units:
            mine, issued = _points(instruction.owner_id), _issued(draft.slot)
            debit, credit = (issued, mine) if sign > 0 else (mine, issued)
            draft.shift(debit, credit, units)


def _points(owner_id: str) -> AccountRef:
    return ledger.owned(owner_id, AccountKind.POINTS, POINTS_UNIT)


def _issued(slot: int) -> AccountRef:
    return ledger.internal(slot, AccountKind.POINTS_ISSUED, POINTS_UNIT)


def _marketing(slot: int, currency: str) -> AccountRef:
    return ledger.internal(slot, AccountKind.MARKETING, currency)
