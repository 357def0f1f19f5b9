"""The channel tool: asks channel_gateway to move money outside; the result comes as an event."""

from __future__ import annotations

from pay_core.ledger import AccountKind, AccountRef, Draft, Leg, internal
from pay_core.payment import Action, InstructionState, Step
from pay_core.tables import Instruction
from pay_core.tools.base import Begun
from paykit.store.command import Work
from paymesh.channel.v1 import channel_order_pb2, channel_service_pb2
from paymesh.common.v1 import money_pb2

SUBMIT_CHANNEL_ORDER = "/paymesh.channel.v1.ChannelService/SubmitChannelOrder"


class ChannelTool:
    """Collects from and disburses to cards and bank accounts outside."""

    def accounts(self, slot: int, currency: str, step: Step | Instruction) -> list[AccountRef]:
        return [internal(slot, AccountKind.EXTERNAL, currency, step.channel)]

    def begin(self, work: Work, instruction: Instruction, draft: Draft) -> Begun:
        if instruction.action == Action.COLLECT:
            kind = channel_order_pb2.CHANNEL_ORDER_KIND_CHARGE
        elif instruction.original_channel_order_id:
            kind = channel_order_pb2.CHANNEL_ORDER_KIND_REFUND
        else:
            kind = channel_order_pb2.CHANNEL_ORDER_KIND_PAYOUT
        request = channel_service_pb2.SubmitChannelOrderRequest(
            request_id=instruction.id,
            kind=kind,
            channel=instruction.channel,
            amount=money_pb2.Money(currency_code=instruction.currency, amount_minor=instruction.amount_minor),
            instruction_id=instruction.id,
            payment_id=instruction.payment_id,
            token=instruction.token,
            original_channel_order_id=instruction.original_channel_order_id or "",
        )
        work.call(SUBMIT_CHANNEL_ORDER, request)
        return Begun(InstructionState.PROCESSING)

    def book(self, instruction: Instruction, draft: Draft) -> None:
        (account,) = self.accounts(draft.slot, draft.currency, instruction)
        sign = -1 if instruction.action == Action.COLLECT else 1
        draft.book(instruction.id, instruction.amount_minor, Leg.LOCAL, account, sign * instruction.amount_minor)
