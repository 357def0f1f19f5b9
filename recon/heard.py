"""What an event says, all of it: facts for the pairs, the records that ended, and the channel order to be kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
from msgspec.structs import replace

from paykit.context import BusinessContext
from paykit.ids import slot_in
from paykit.records import RecordKind, hash64
from paymesh.channel.v1 import channel_order_pb2 as channel_pb2
from paymesh.event.v1 import events_pb2
from paymesh.pay.v1 import payment_pb2 as pay_pb2
from paymesh.trade.v1 import trade_pb2
from recon import facts
from recon.matching import Fact
from recon.sides import Record
from recon.tables import RecordedOrder

POSTED = "POSTED"

slot_of_id = lru_cache(maxsize=8192)(slot_in)  # several events name the same ids

_CHANNEL_STATE: Any = channel_pb2.ChannelOrderState  # the stubs show the classes, not their wrappers
_CHANNEL_KIND: Any = channel_pb2.ChannelOrderKind
_PAYMENT_STATE: Any = pay_pb2.PaymentState
_ATTEMPT_STATE: Any = trade_pb2.AttemptState

_OVER = (pay_pb2.PAYMENT_STATE_SUCCEEDED, pay_pb2.PAYMENT_STATE_FAILED, pay_pb2.PAYMENT_STATE_VOIDED)
_KEPT = (trade_pb2.ATTEMPT_STATE_EFFECTIVE, trade_pb2.ATTEMPT_STATE_RETURNED)
_ENDED = (channel_pb2.CHANNEL_ORDER_STATE_SUCCEEDED, channel_pb2.CHANNEL_ORDER_STATE_FAILED)
# A reserve and its release move nothing, so no statement has a line for them.
_UNSTATED = (channel_pb2.CHANNEL_ORDER_KIND_AUTHORIZE, channel_pb2.CHANNEL_ORDER_KIND_VOID)


class Heard(msgspec.Struct, frozen=True):
    """What is said of one payment."""

    payment_id: str
    facts: tuple[Fact, ...] = ()
    records: tuple[Record, ...] = ()
    orders: tuple[RecordedOrder, ...] = ()
    is_end: bool = False  # whether it says that the payment is over

    def __bool__(self) -> bool:
        return bool(self.facts or self.records or self.orders)

    def plus(self, other: Heard) -> Heard:
        """Both."""
        return Heard(
            self.payment_id,
            self.facts + other.facts,
            self.records + other.records,
            self.orders + other.orders,
            self.is_end or other.is_end,
        )


def _record(kind: RecordKind, id_: str, at_ms: int, state: str, amount_minor: int, currency: str) -> Record:
    return Record(kind.value, id_, at_ms, amount_minor, hash64(id_, state, amount_minor, currency), slot_of_id(id_))


def _trade(body: bytes, context: BusinessContext) -> Heard:
    event = events_pb2.TradeEvent.FromString(body)
    records = [
        _record(
            RecordKind.ATTEMPT,
            attempt.attempt_id,
            attempt.finish_time.ToMilliseconds(),
            _ATTEMPT_STATE.Name(attempt.state).removeprefix("ATTEMPT_STATE_"),
            attempt.amount.amount_minor,
            "",
        )
        for attempt in event.trade.attempts
        if attempt.state in _KEPT and attempt.HasField("finish_time") and attempt.payment_id == event.payment_id != ""
    ]
    return Heard(event.payment_id, tuple(facts.of_trade(event.trade, event.payment_id)), tuple(records))


def _payment(body: bytes, context: BusinessContext) -> Heard:
    payment = events_pb2.PaymentEvent.FromString(body).payment
    is_over = payment.state in _OVER
    records: tuple[Record, ...] = ()
    if is_over and payment.HasField("finish_time"):
        state = _PAYMENT_STATE.Name(payment.state).removeprefix("PAYMENT_STATE_")
        at_ms, paid_minor = payment.finish_time.ToMilliseconds(), facts.paid_minor(payment)
        currency = payment.amount.currency_code
        records = (_record(RecordKind.PAYMENT, payment.payment_id, at_ms, state, paid_minor, currency),)
    return Heard(payment.payment_id, tuple(facts.of_payment(payment)), records, is_end=is_over)


def _submitted(body: bytes, context: BusinessContext) -> Heard:
    event = events_pb2.PaymentSubmittedEvent.FromString(body)
    return Heard(event.payment_id, tuple(facts.of_submitted(event)))


def _journal(body: bytes, context: BusinessContext) -> Heard:
    journal = events_pb2.JournalEvent.FromString(body)
    if not (journal.payment_id or journal.instructions):
        return Heard("")  # an adjustment: it belongs to no payment
    records: tuple[Record, ...] = ()
    if journal.HasField("post_time") and journal.entries:
        debit_minor = sum([-entry.amount_minor for entry in journal.entries if entry.amount_minor < 0])
        id_, at_ms = journal.journal_id, journal.post_time.ToMilliseconds()
        records = (_record(RecordKind.JOURNAL, id_, at_ms, POSTED, debit_minor, journal.currency_code),)
    return Heard(journal.payment_id, tuple(facts.of_journal(journal)), records)


def _channel_order(body: bytes, context: BusinessContext) -> Heard:
    order = events_pb2.ChannelOrderEvent.FromString(body).channel_order
    said = tuple(facts.of_channel_order(order))
    if order.state not in _ENDED or not order.HasField("finish_time"):
        return Heard(order.payment_id, said)
    kept = recorded_order(order, context)
    id_, currency = order.channel_order_id, order.amount.currency_code
    record = _record(RecordKind.ORDER, id_, kept.finished_at_ms, kept.state, kept.amount_minor, currency)
    return Heard(order.payment_id, said, (record,), (kept,))


def recorded_order(order: channel_pb2.ChannelOrder, context: BusinessContext) -> RecordedOrder:
    """The row of a channel order that ended. ``context``: of the event that told of it."""
    finished_at_ms = order.finish_time.ToMilliseconds()
    has_line = order.state == channel_pb2.CHANNEL_ORDER_STATE_SUCCEEDED and order.kind not in _UNSTATED
    return RecordedOrder(
        id=order.channel_order_id,
        slot=slot_of_id(order.channel_order_id),
        biz_id=order.biz_id,
        payment_id=order.payment_id,
        instruction_id=order.instruction_id,
        channel=order.channel,
        merchant=order.merchant or context.biz_code.partition("/")[0],
        kind=_CHANNEL_KIND.Name(order.kind).removeprefix("CHANNEL_ORDER_KIND_"),
        state=_CHANNEL_STATE.Name(order.state).removeprefix("CHANNEL_ORDER_STATE_"),
        currency=order.amount.currency_code,
        amount_minor=order.settled_minor or order.amount.amount_minor,
        provider_reference=order.provider_reference,
        failure_reason=order.failure_reason,
        finished_at_ms=finished_at_ms,
        business_date=datetime.fromtimestamp(finished_at_ms / 1000, UTC).date().isoformat(),
        settlement="OPEN" if has_line else "NOT_EXPECTED",
        statement_line_id=None,
        break_id=None,
    )


EVENTS: dict[str, Callable[[bytes, BusinessContext], Heard]] = {
    "trade.trade_paid": _trade,
    "trade.trade_failed": _trade,
    "trade.trade_closed": _trade,
    "pay.payment_submitted": _submitted,
    "pay.payment_succeeded": _payment,
    "pay.payment_failed": _payment,
    "pay.payment_authorized": _payment,
    "pay.payment_voided": _payment,
    "ledger.journal_posted": _journal,
    "channel.order_succeeded": _channel_order,
    "channel.order_failed": _channel_order,
    "channel.order_unknown": _channel_order,
}


def _returned(body: bytes, context: BusinessContext) -> Heard:
    """That an attempt's payment was given back: what its trade says is about another payment, or none."""
    return replace(_trade(body, context), facts=())


# What no event tells, and the sweep finds.
_FOUND = {"trade.trade_changed": _returned}


def of_event(subject: str, body: bytes, context: BusinessContext) -> Heard:
    """What an event says (``subject`` without mode). ValueError or DecodeError where it cannot be read."""
    return EVENTS[subject](body, context)


def of_found(subject: str, body: bytes, context: BusinessContext) -> Heard | None:
    """As ``of_event``, of a record that the sweep found; None where it says nothing."""
    read = EVENTS.get(subject) or _FOUND.get(subject)
    return None if read is None else read(body, context)
