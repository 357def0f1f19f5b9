"""What the rules are told of a payment: as it is asked for, or as it was accepted."""

from __future__ import annotations

from pay_core.chains import Order
from pay_core.chart import AccountKind
from pay_core.payment import BALANCE, CHANNEL, FEES, Action, Direction, Instrument, Operation
from pay_core.rules.model import INSTRUMENT_OF_TOOL, FundingFact, PayeeFact, PaymentFacts
from pay_core.tables import Instruction, Payment
from paykit import context as business_context

_TOOL_OF_INSTRUMENT = {instrument: tool for tool, instrument in INSTRUMENT_OF_TOOL.items()}


def facts_of_order(order: Order, biz_code: str) -> PaymentFacts:
    """What is asked for. ``biz_code`` is "merchant/trade type/scene/channel", each part optional."""
    fundings = [
        FundingFact(
            _rules_tool(order.operation, funding.tool, funding.instrument), funding.amount_minor, funding.channel
        )
        for funding in order.fundings
    ]
    payees = [PayeeFact(*payee) for payee in order.payees]
    merchant, trade_type, scene = _parts(biz_code)
    return PaymentFacts(
        operation=order.operation.value,
        currency=order.currency,
        amount_minor=order.amount_minor,
        payer_id=order.payer_id,
        fundings=tuple(fundings),
        payees=tuple(payees),
        settlement_mode=order.settlement_mode.value,
        merchant=merchant,
        trade_type=trade_type,
        scene=scene,
    )


def facts_of(payment: Payment, chain: list[Instruction]) -> PaymentFacts:
    """A payment that was accepted: its payees as they are paid, its tools, and the business it was for."""
    forward = [ins for ins in chain if ins.direction == Direction.FORWARD]
    operation = Operation(payment.operation)
    fundings = [
        FundingFact(_rules_tool(operation, ins.tool, ins.instrument), ins.amount_minor, ins.channel)
        for ins in forward
        if ins.action in (Action.COLLECT, Action.RESERVE) and ins.owner_id + ins.channel and not ins.reserve_id
    ]
    payees = [
        PayeeFact(ins.owner_id, AccountKind(ins.account_kind), ins.amount_minor, ins.reference)
        for ins in forward
        if ins.action == Action.DISBURSE and (ins.tool == BALANCE or (ins.tool == FEES and ins.owner_id))
    ]
    merchant, trade_type, scene = _parts(business_context.unpack(payment.context).biz_code)
    return PaymentFacts(
        operation=payment.operation,
        currency=payment.currency,
        amount_minor=payment.amount_minor,
        payer_id=payment.payer_id,
        fundings=tuple(fundings),
        payees=tuple(payees),
        settlement_mode=payment.settlement_mode,
        merchant=merchant,
        trade_type=trade_type,
        scene=scene,
    )


def refund_facts(payment: Payment, amount_minor: int) -> PaymentFacts:
    """A refund of a payment, as its limits see it."""
    merchant, trade_type, scene = _parts(business_context.unpack(payment.context).biz_code)
    return PaymentFacts(
        operation=Operation.REFUND.value,
        currency=payment.currency,
        amount_minor=amount_minor,
        payer_id=payment.payer_id,
        merchant=merchant,
        trade_type=trade_type,
        scene=scene,
    )


def _rules_tool(operation: Operation, tool: str, instrument: str) -> str:
    """The name the rules know a tool by; of a channel that does not say, a card for money in, a bank for money out."""
    if tool != CHANNEL:
        return tool
    assumed = Instrument.BANK_ACCOUNT if operation == Operation.WITHDRAW else Instrument.CARD
    return _TOOL_OF_INSTRUMENT[instrument or assumed.value]


def _parts(biz_code: str) -> tuple[str, str, str]:
    merchant, trade_type, scene, *_ = [*biz_code.split("/"), "", "", ""]
    return merchant, trade_type, scene
