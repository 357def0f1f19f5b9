"""What each event, and each answer to a question, says about the matches it concerns. Pure translation."""

from __future__ import annotations

from paymesh.channel.v1 import channel_order_pb2 as channel_pb2
from paymesh.event.v1 import events_pb2
from paymesh.pay.v1 import payment_pb2 as pay_pb2
from paymesh.trade.v1 import trade_pb2
from recon.matching import Fact, MatchKind, Side

ATTEMPT_PREFIX = "att_"  # source ids of payments that trade_core made; other callers' payments have no trade
CHANNEL_TOOL = "channel"

# What a terminal state says was moved: the amount, or nothing. States that are not terminal say nothing.
_MOVED = 1
_NOT_MOVED = 0
_TRADE = {
    trade_pb2.TRADE_STATE_PAID: _MOVED,
    trade_pb2.TRADE_STATE_FAILED: _NOT_MOVED,
    trade_pb2.TRADE_STATE_CLOSED: _NOT_MOVED,
}
_PAYMENT = {pay_pb2.PAYMENT_STATE_SUCCEEDED: _MOVED, pay_pb2.PAYMENT_STATE_FAILED: _NOT_MOVED}
_INSTRUCTION = {pay_pb2.INSTRUCTION_STATE_SUCCEEDED: _MOVED, pay_pb2.INSTRUCTION_STATE_FAILED: _NOT_MOVED}
_CHANNEL_ORDER = {
    channel_pb2.CHANNEL_ORDER_STATE_SUCCEEDED: _MOVED,
    channel_pb2.CHANNEL_ORDER_STATE_FAILED: _NOT_MOVED,
}


def of_trade(trade: trade_pb2.Trade, payment_id: str) -> list[Fact]:
    """What a terminal trade says of the payment that it names; ValueError where it is PAID and names none."""
    moved = _TRADE.get(trade.state)
    if moved and not payment_id:
        raise ValueError(f"trade {trade.trade_id} is paid by no payment")
    if moved is None or not payment_id:
        return []
    amount = trade.amount
    return [
        Fact(MatchKind.TRADE_PAY, payment_id, Side.FIRST, amount.amount_minor * moved, amount.currency_code, payment_id)
    ]


def of_payment(payment: pay_pb2.Payment) -> list[Fact]:
    """What a payment says of its trade and of each of its instructions that is terminal."""
    facts = []
    payment_id, source_id = payment.payment_id, payment.source_id
    moved = _PAYMENT.get(payment.state)
    if moved is not None and source_id.startswith(ATTEMPT_PREFIX):
        amount = payment.amount
        facts.append(
            Fact(
                MatchKind.TRADE_PAY,
                payment_id,
                Side.SECOND,
                amount.amount_minor * moved,
                amount.currency_code,
                payment_id,
                source_id,
            )
        )
    for instruction in payment.instructions:
        facts += of_instruction(instruction, payment_id)
    return facts


def of_instruction(instruction: pay_pb2.Instruction, payment_id: str) -> list[Fact]:
    """What a terminal instruction says of its channel order and of its journal."""
    moved = _INSTRUCTION.get(instruction.state)
    if moved is None:
        return []
    key, amount, currency = (
        instruction.instruction_id,
        instruction.amount.amount_minor,
        instruction.amount.currency_code,
    )
    facts = []
    if instruction.tool == CHANNEL_TOOL:
        facts.append(Fact(MatchKind.PAY_CHANNEL, key, Side.FIRST, amount * moved, currency, payment_id))
    if moved:
        facts.append(Fact(MatchKind.PAY_LEDGER, key, Side.FIRST, amount, currency, payment_id))
    return facts


def of_journal(journal: events_pb2.JournalEvent) -> list[Fact]:
    """What a journal says of the instructions that it books."""
    facts = []
    payment_id, currency = journal.payment_id, journal.currency_code
    for booked in journal.instructions:
        key, amount, leg = booked.instruction_id, booked.amount_minor, booked.leg
        if leg == events_pb2.BOOKING_LEG_RECEIVED:
            facts.append(Fact(MatchKind.TRANSIT, key, Side.SECOND, amount, currency, payment_id))
            continue
        facts.append(Fact(MatchKind.PAY_LEDGER, key, Side.SECOND, amount, currency, payment_id))
        if leg == events_pb2.BOOKING_LEG_SENT:
            facts.append(Fact(MatchKind.TRANSIT, key, Side.FIRST, amount, currency, payment_id))
    return facts


def of_channel_order(order: channel_pb2.ChannelOrder) -> list[Fact]:
    """What a channel order says of its instruction: moved, not moved, or that nobody knows yet."""
    moved = _CHANNEL_ORDER.get(order.state)
    side = Side.UNKNOWN if moved is None else Side.SECOND
    amount_minor = order.amount.amount_minor * (1 if moved is None else moved)
    return [
        Fact(
            MatchKind.PAY_CHANNEL,
            order.instruction_id,
            side,
            amount_minor,
            order.amount.currency_code,
            order.payment_id,
        )
    ]
