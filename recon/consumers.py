"""Events in: each becomes one command on the slot of the payment it is about, or none where it says nothing new."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import DecodeError

from paykit.context import BusinessContext
from paykit.events.bus import Rejected
from paykit.events.consumers import Consumer
from paykit.store.command import Origin
from paymesh.event.v1 import events_pb2
from recon import doubts, facts
from recon.commands import TakeFacts, TakeMismatch, TakeOrphan
from recon.doubts import ResolveDoubt, TakeDoubt
from recon.matching import Fact
from recon.rules import Rules

CONSUMER = "matcher"
MISMATCH_FOUND = "channel.mismatch_found"
MISMATCH_RESOLVED = "channel.mismatch_resolved"


def _trade(body: bytes) -> list[Fact]:
    event = events_pb2.TradeEvent.FromString(body)
    return facts.of_trade(event.trade, event.payment_id)


def _payment(body: bytes) -> list[Fact]:
    return facts.of_payment(events_pb2.PaymentEvent.FromString(body).payment)


def _journal(body: bytes) -> list[Fact]:
    return facts.of_journal(events_pb2.JournalEvent.FromString(body))


def _channel_order(body: bytes) -> list[Fact]:
    return facts.of_channel_order(events_pb2.ChannelOrderEvent.FromString(body).channel_order)


FACTS: dict[str, Callable[[bytes], list[Fact]]] = {
    "trade.trade_paid": _trade,
    "trade.trade_failed": _trade,
    "trade.trade_closed": _trade,
    "pay.payment_succeeded": _payment,
    "pay.payment_failed": _payment,
    "pay.payment_authorized": _payment,
    "pay.payment_voided": _payment,
    "ledger.journal_posted": _journal,
    "channel.order_succeeded": _channel_order,
    "channel.order_failed": _channel_order,
    "channel.order_unknown": _channel_order,
}
SUBJECTS = (*FACTS, MISMATCH_FOUND, MISMATCH_RESOLVED)


def consumer(rules: Rules) -> Consumer:
    """The one consumer of recon. An event that cannot be read, or names ids of no form, is a dead letter at once."""

    def to_command(
        context: BusinessContext, message_id: str, subject: str, body: bytes
    ) -> TakeFacts | TakeOrphan | TakeDoubt | ResolveDoubt | None:
        try:
            if subject == MISMATCH_FOUND:
                return _mismatch(context, message_id, body, rules)
            if subject == MISMATCH_RESOLVED:
                doubted, confirmed = doubts.resolved(events_pb2.ChannelDoubtEvent.FromString(body))
                return ResolveDoubt(Origin.event(context, CONSUMER, message_id), doubted, confirmed, rules)
            found = FACTS[subject](body)
            return TakeFacts(Origin.event(context, CONSUMER, message_id), found, rules) if found else None
        except (DecodeError, ValueError) as error:
            raise Rejected(f"{subject} {message_id}: {error}") from error

    return Consumer(CONSUMER, SUBJECTS, to_command)


def _mismatch(
    context: BusinessContext, message_id: str, body: bytes, rules: Rules
) -> TakeMismatch | TakeOrphan | TakeDoubt:
    event = events_pb2.ChannelMismatchEvent.FromString(body)
    order = event.channel_order
    origin = Origin.event(context, CONSUMER, message_id)
    if not order.instruction_id:  # the provider names an order that channel_gateway does not have
        return TakeOrphan(origin, order.channel_order_id, rules, event.evidence)
    if event.doubt_id:
        return TakeDoubt(origin, doubts.doubted(event), rules)
    risk = (order.amount.amount_minor, order.amount.currency_code)
    return TakeMismatch(origin, facts.of_channel_order(order), rules, risk, event.evidence)
