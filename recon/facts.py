"""What each event, and each answer to a question, says about the matches it concerns. Pure translation."""

from __future__ import annotations

from paykit.ids import is_id
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
# A CLOSED trade says nothing: a payment of it that succeeds afterwards, or did before, is given back by another trade.
_TRADE = {trade_pb2.TRADE_STATE_PAID: _MOVED, trade_pb2.TRADE_STATE_FAILED: _NOT_MOVED}
_PAYMENT = {
    pay_pb2.PAYMENT_STATE_SUCCEEDED: _MOVED,
    pay_pb2.PAYMENT_STATE_FAILED: _NOT_MOVED,
    pay_pb2.PAYMENT_STATE_VOIDED: _NOT_MOVED,
}
# Held first, then captured: what the payees got is what was captured.
_CAPTURED = (pay_pb2.SETTLEMENT_MODE_AUTHORIZE, pay_pb2.SETTLEMENT_MODE_ESCROW)
_INSTRUCTION = {pay_pb2.INSTRUCTION_STATE_SUCCEEDED: _MOVED, pay_pb2.INSTRUCTION_STATE_FAILED: _NOT_MOVED}
_CHANNEL_ORDER = {
    channel_pb2.CHANNEL_ORDER_STATE_SUCCEEDED: _MOVED,
    channel_pb2.CHANNEL_ORDER_STATE_FAILED: _NOT_MOVED,
}


def of_trade(trade: trade_pb2.Trade, payment_id: str) -> list[Fact]:
    """What a terminal trade says of the payment that it names. Parts that are paid together, and orders that are paid
    by their parts, name none: the payment belongs to the other trade."""
    moved = _TRADE.get(trade.state)
    if moved is None or not payment_id:
        return []
    # All of the order, or what was captured of it.
    paid_minor = (trade.paid_minor or trade.amount.amount_minor) * moved
    currency, at_ms = trade.amount.currency_code, trade.paid_time.ToMilliseconds()
    return [Fact(MatchKind.TRADE_PAY, payment_id, Side.FIRST, paid_minor, currency, payment_id, at_ms=at_ms)]


def paid_minor(payment: pay_pb2.Payment) -> int:
    """What the payees of a SUCCEEDED payment got in all; fees borne by the payer come on top."""
    return payment.captured_minor if payment.settlement_mode in _CAPTURED else payment.amount.amount_minor


def moved_minor(instruction: pay_pb2.Instruction) -> int:
    """What a SUCCEEDED instruction moved, or reserved."""
    return instruction.moved_minor or instruction.amount.amount_minor


def moves_money(instruction: pay_pb2.Instruction) -> bool:
    """Whether it shows in the ledger once it SUCCEEDED; a reserve and its release do not."""
    return instruction.action in (pay_pb2.INSTRUCTION_ACTION_COLLECT, pay_pb2.INSTRUCTION_ACTION_DISBURSE)


def of_payment(payment: pay_pb2.Payment) -> list[Fact]:
    """What a payment says of each of its instructions that is terminal, and of its trade where it is so itself.

    It may say so several times, held, captured and over: a fact that is known says nothing new.
    """
    facts = []
    payment_id, source_id = payment.payment_id, payment.source_id
    moved = _PAYMENT.get(payment.state)
    at_ms = payment.finish_time.ToMilliseconds()
    if moved is not None and source_id.startswith(ATTEMPT_PREFIX):
        facts.append(
            Fact(
                MatchKind.TRADE_PAY,
                payment_id,
                Side.SECOND,
                paid_minor(payment) * moved,
                payment.amount.currency_code,
                payment_id,
                source_id,
                at_ms,
            )
        )
    for instruction in payment.instructions:
        facts += of_instruction(instruction, payment_id, at_ms)
    return facts


def of_submitted(event: events_pb2.PaymentSubmittedEvent) -> list[Fact]:
    """What is on its way to channels: their orders are expected."""
    at_ms = event.submit_time.ToMilliseconds()
    return [
        Fact(
            MatchKind.PAY_CHANNEL,
            sent.instruction_id,
            Side.EXPECTED,
            sent.amount_minor,
            sent.currency_code,
            event.payment_id,
            at_ms=at_ms,
        )
        for sent in event.instructions
    ]


def of_instruction(instruction: pay_pb2.Instruction, payment_id: str, at_ms: int = 0) -> list[Fact]:
    """What a terminal instruction says of its channel order and of its journal; ``at_ms`` is when its payment ended."""
    moved = _INSTRUCTION.get(instruction.state)
    if moved is None:
        return []
    key, currency = instruction.instruction_id, instruction.amount.currency_code
    came_minor = moved_minor(instruction)
    facts = []
    if instruction.tool == CHANNEL_TOOL:
        facts.append(
            Fact(MatchKind.PAY_CHANNEL, key, Side.FIRST, came_minor * moved, currency, payment_id, at_ms=at_ms)
        )
    if moved and moves_money(instruction):
        # What came in excess is booked with it, as suspense.
        booked_minor = min(came_minor, instruction.amount.amount_minor)
        facts.append(Fact(MatchKind.PAY_LEDGER, key, Side.FIRST, booked_minor, currency, payment_id, at_ms=at_ms))
    return facts


def of_journal(journal: events_pb2.JournalEvent) -> list[Fact]:
    """What a journal says of the instructions that it books."""
    facts = []
    at_ms = journal.post_time.ToMilliseconds()
    for booked in journal.instructions:
        if booked.leg == events_pb2.BOOKING_LEG_RECEIVED:
            facts.append(_booked(journal, booked, MatchKind.TRANSIT, Side.SECOND, at_ms))
            continue
        facts.append(_booked(journal, booked, MatchKind.PAY_LEDGER, Side.SECOND, at_ms))
        if booked.leg == events_pb2.BOOKING_LEG_SENT:
            facts.append(_booked(journal, booked, MatchKind.TRANSIT, Side.FIRST, at_ms))
    return facts


def _booked(
    journal: events_pb2.JournalEvent, booked: events_pb2.BookedInstruction, kind: MatchKind, side: Side, at_ms: int
) -> Fact:
    return Fact(
        kind,
        booked.instruction_id,
        side,
        booked.amount_minor,
        journal.currency_code,
        journal.payment_id,
        at_ms=at_ms,
    )


def of_channel_order(order: channel_pb2.ChannelOrder) -> list[Fact]:
    """What a channel order says of its instruction: moved, not moved, or that nobody knows yet. One that a repair made
    has none."""
    if is_id(order.instruction_id, "rpr"):
        return []
    moved = _CHANNEL_ORDER.get(order.state)
    side = Side.UNKNOWN if moved is None else Side.SECOND
    amount_minor = order.amount.amount_minor
    if moved is not None:
        amount_minor = (order.settled_minor or amount_minor) * moved
    return [
        Fact(
            MatchKind.PAY_CHANNEL,
            order.instruction_id,
            side,
            amount_minor,
            order.amount.currency_code,
            order.payment_id,
            at_ms=order.finish_time.ToMilliseconds(),
        )
    ]
