"""The balance tool: moves money of the ledger itself, on the payment's slot at once, to others through transit."""

from __future__ import annotations

from typing import Any

from pay_core.ledger import KIND_NUMBER, AccountKind, AccountRef, Draft, Leg, available_minor, internal, owned
from pay_core.payment import Action, InstructionState, Step
from pay_core.tables import Instruction
from pay_core.tools.base import Begun
from paykit.ids import slot_of
from paykit.store.command import Work
from paymesh.common.v1 import money_pb2
from paymesh.pay.v1 import ledger_service_pb2

RECEIVE_TRANSIT = "/paymesh.pay.v1.TransitService/ReceiveTransit"
DRAW_TRANSIT = "/paymesh.pay.v1.TransitService/DrawTransit"

INSUFFICIENT_FUNDS = "INSUFFICIENT_FUNDS"


class BalanceTool:
    """Collects from and disburses to customers' accounts."""

    def accounts(self, slot: int, currency: str, step: Step | Instruction) -> list[AccountRef]:
        # Only the owner's slot has the account; elsewhere the money passes through transit.
        if slot_of(step.owner_id) == slot:
            return [owned(step.owner_id, AccountKind(step.account_kind), currency)]
        return [internal(slot, AccountKind.IN_TRANSIT, currency)]

    def begin(self, work: Work, instruction: Instruction, draft: Draft) -> Begun:
        (account,) = self.accounts(draft.slot, draft.currency, instruction)
        is_local = account.kind != AccountKind.IN_TRANSIT
        amount_minor = instruction.amount_minor
        if instruction.action == Action.DISBURSE:
            draft.book(instruction.id, amount_minor, Leg.LOCAL if is_local else Leg.SENT, account, amount_minor)
            if not is_local:
                work.call(RECEIVE_TRANSIT, ledger_service_pb2.ReceiveTransitRequest(**_transit_fields(instruction)))
            return Begun(InstructionState.SUCCEEDED)
        if not is_local:
            work.call(DRAW_TRANSIT, ledger_service_pb2.DrawTransitRequest(**_transit_fields(instruction)))
            return Begun(InstructionState.PROCESSING)
        if available_minor(work, account) + draft.change_of(account) < amount_minor:
            return Begun(InstructionState.FAILED, INSUFFICIENT_FUNDS)
        draft.book(instruction.id, amount_minor, Leg.LOCAL, account, -amount_minor)
        return Begun(InstructionState.SUCCEEDED)

    def book(self, instruction: Instruction, draft: Draft) -> None:
        """Money that was drawn from another slot has arrived."""
        in_transit = internal(draft.slot, AccountKind.IN_TRANSIT, instruction.currency)
        draft.book(instruction.id, instruction.amount_minor, Leg.RECEIVED, in_transit, -instruction.amount_minor)


def _transit_fields(instruction: Instruction) -> dict[str, Any]:
    return {
        "instruction_id": instruction.id,
        "payment_id": instruction.payment_id,
        "owner_id": instruction.owner_id,
        "account_kind": KIND_NUMBER[AccountKind(instruction.account_kind)],
        "amount": money_pb2.Money(currency_code=instruction.currency, amount_minor=instruction.amount_minor),
    }
