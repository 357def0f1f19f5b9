"""The balance tool: moves money of the ledger itself, on the payment's slot at once, to others through transit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pay_core import holds, ledger
from pay_core.ledger import KIND_NUMBER, AccountKind, AccountRef, Draft, Leg, internal, owned
from pay_core.payment import BALANCE, Action, InstructionState, Step
from pay_core.tables import Instruction, Payment
from pay_core.tools.base import BaseTool, Begun, Capabilities
from paykit.ids import slot_of
from paykit.store.command import Rows, Work
from paykit.store.row import Key
from paymesh.common.v1 import money_pb2
from paymesh.pay.v1 import ledger_service_pb2

RECEIVE_TRANSIT = "/paymesh.pay.v1.TransitService/ReceiveTransit"
DRAW_TRANSIT = "/paymesh.pay.v1.TransitService/DrawTransit"

INSUFFICIENT_FUNDS = ledger.INSUFFICIENT_FUNDS

_DONE = Begun(InstructionState.SUCCEEDED)
_SENT = Begun(InstructionState.PROCESSING)


class BalanceTool(BaseTool):
    """Collects from and disburses to customers' accounts; a reserve is a hold, and only on the payment's slot."""

    name = BALANCE
    capabilities = Capabilities(frozenset(Action), captures_max=None, is_immediate=False)

    def reads(self, slot: int, currency: str, step: Step | Instruction, rows: Rows) -> Iterable[Key]:
        yield from ledger.account_keys([_account(slot, currency, step)])
        if step.reserve_id is not None:
            yield holds.hold_key(step.reserve_id)
        elif isinstance(step, Instruction) and step.action == Action.RESERVE:
            yield holds.hold_key(step.id)

    def begin(self, work: Work, instruction: Instruction, draft: Draft) -> Begun:
        account = _account(draft.slot, draft.currency, instruction)
        is_local = account.kind != AccountKind.IN_TRANSIT
        amount_minor = instruction.amount_minor
        if instruction.action == Action.DISBURSE:
            draft.book(instruction.id, amount_minor, Leg.LOCAL if is_local else Leg.SENT, account, amount_minor)
            if not is_local:
                work.call(RECEIVE_TRANSIT, _transit(work, ledger_service_pb2.ReceiveTransitRequest, instruction))
            return _DONE
        if not is_local:
            work.call(DRAW_TRANSIT, _transit(work, ledger_service_pb2.DrawTransitRequest, instruction))
            return _SENT
        refusal = _keep_or_take(work, account, instruction, draft)
        if refusal:
            return Begun(InstructionState.FAILED, refusal)
        if instruction.action == Action.COLLECT:
            draft.book(instruction.id, amount_minor, Leg.LOCAL, account, -amount_minor)
        return _DONE

    def book(self, work: Work, instruction: Instruction, draft: Draft) -> None:
        """Money that was drawn from another slot has arrived."""
        in_transit = internal(draft.slot, AccountKind.IN_TRANSIT, instruction.currency)
        draft.book(instruction.id, instruction.amount_minor, Leg.RECEIVED, in_transit, -instruction.amount_minor)


def _account(slot: int, currency: str, step: Step | Instruction) -> AccountRef:
    # Only the owner's slot has the account; elsewhere the money passes through transit.
    if slot_of(step.owner_id) == slot:
        return owned(step.owner_id, AccountKind(step.account_kind), currency)
    assert step.action in (Action.COLLECT, Action.DISBURSE), "a reserve lies on the slot of its payment"
    return internal(slot, AccountKind.IN_TRANSIT, currency)


def _keep_or_take(work: Work, account: AccountRef, instruction: Instruction, draft: Draft) -> str:
    """Makes sure of the money that an instruction needs; why it cannot, or empty."""
    amount_minor = instruction.amount_minor
    if instruction.action == Action.RESERVE:
        payment = work.get(Payment, instruction.payment_id)
        assert payment is not None
        expires_at_ms, payment_id = payment.expires_at_ms, instruction.payment_id
        placed = holds.place(work, account, amount_minor, payment_id, instruction.id, expires_at_ms, draft)
        return placed if isinstance(placed, str) else ""
    if instruction.reserve_id is None:
        return ledger.refusal(work, account, amount_minor, draft)
    hold = holds.hold_of(work, instruction.reserve_id)
    assert hold is not None
    if instruction.action == Action.RELEASE:
        holds.release(work, hold)
        return ""
    captured = holds.capture(work, hold, amount_minor)
    return captured if isinstance(captured, str) else ""


def _transit(work: Work, request_type: type[Any], instruction: Instruction) -> Any:
    payment = work.get(Payment, instruction.payment_id)
    assert payment is not None
    return request_type(
        instruction_id=instruction.id,
        payment_id=instruction.payment_id,
        owner_id=instruction.owner_id,
        account_kind=KIND_NUMBER[AccountKind(instruction.account_kind)],
        amount=money_pb2.Money(currency_code=instruction.currency, amount_minor=instruction.amount_minor),
        accounting_date=payment.accounting_date,
    )
