"""Every event that recon listens to becomes the facts that its service states, and no others."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message

from paykit.events.bus import Rejected
from paymesh.channel.v1 import channel_order_pb2
from paymesh.event.v1 import events_pb2
from paymesh.trade.v1 import trade_pb2
from recon.commands import TakeFacts, TakeMismatch, TakeOrphan
from recon.consumers import SUBJECTS, consumer
from tests.recon.support import CardPayment, mint, rules

PAYMENT = CardPayment()


def command(subject: str, body: Message | bytes) -> TakeFacts | TakeOrphan | None:
    data = body if isinstance(body, bytes) else body.SerializeToString()
    made = consumer(rules()).to_command(PAYMENT.context, mint("msg"), subject, data)
    assert made is None or isinstance(made, TakeFacts | TakeOrphan)
    return made


def said(subject: str, body: Message) -> set[tuple[str, str, int]]:
    made = command(subject, body)
    if made is None:
        return set()
    assert isinstance(made, TakeFacts)
    return {
        (match_key, fact.side.value, fact.amount_minor) for match_key, facts in made.facts.items() for fact in facts
    }


def test_it_listens_to_every_service() -> None:
    assert {subject.partition(".")[0] for subject in SUBJECTS} == {"trade", "pay", "ledger", "channel"}


def test_a_trade_states_what_it_was_paid() -> None:
    event = events_pb2.TradeEvent(trade=PAYMENT.trade(), payment_id=PAYMENT.payment_id)
    assert said("trade.trade_paid", event) == {(f"TRADE_PAY/{PAYMENT.payment_id}", "FIRST", 500)}


def test_a_failed_trade_states_that_nothing_was_paid() -> None:
    trade = PAYMENT.trade(trade_pb2.TRADE_STATE_FAILED)
    event = events_pb2.TradeEvent(trade=trade, payment_id=PAYMENT.payment_id)
    assert said("trade.trade_failed", event) == {(f"TRADE_PAY/{PAYMENT.payment_id}", "FIRST", 0)}


def test_a_trade_closed_without_a_payment_states_nothing() -> None:
    event = events_pb2.TradeEvent(trade=PAYMENT.trade(trade_pb2.TRADE_STATE_CLOSED))
    assert said("trade.trade_closed", event) == set()


def test_a_payment_states_its_trade_its_channel_order_and_its_journals() -> None:
    assert said("pay.payment_succeeded", events_pb2.PaymentEvent(payment=PAYMENT.payment())) == {
        (f"TRADE_PAY/{PAYMENT.payment_id}", "SECOND", 500),
        (f"PAY_CHANNEL/{PAYMENT.collect_id}", "FIRST", 500),
        (f"PAY_LEDGER/{PAYMENT.collect_id}", "FIRST", 500),
        (f"PAY_LEDGER/{PAYMENT.disburse_id}", "FIRST", 500),
    }


def test_a_journal_states_what_it_books_and_what_it_sends() -> None:
    assert said("ledger.journal_posted", PAYMENT.journal(events_pb2.BOOKING_LEG_SENT)) == {
        (f"PAY_LEDGER/{PAYMENT.collect_id}", "SECOND", 500),
        (f"PAY_LEDGER/{PAYMENT.disburse_id}", "SECOND", 500),
        (f"TRANSIT/{PAYMENT.disburse_id}", "FIRST", 500),
    }
    assert said("ledger.journal_posted", PAYMENT.arrival()) == {(f"TRANSIT/{PAYMENT.disburse_id}", "SECOND", 500)}


@pytest.mark.parametrize(
    ("subject", "state", "side", "amount_minor"),
    [
        ("channel.order_succeeded", channel_order_pb2.CHANNEL_ORDER_STATE_SUCCEEDED, "SECOND", 500),
        ("channel.order_failed", channel_order_pb2.CHANNEL_ORDER_STATE_FAILED, "SECOND", 0),
        ("channel.order_unknown", channel_order_pb2.CHANNEL_ORDER_STATE_UNKNOWN, "UNKNOWN", 500),
    ],
)
def test_a_channel_order_states_its_outcome(
    subject: str, state: channel_order_pb2.ChannelOrderState.ValueType, side: str, amount_minor: int
) -> None:
    event = events_pb2.ChannelOrderEvent(channel_order=PAYMENT.order(state))
    assert said(subject, event) == {(f"PAY_CHANNEL/{PAYMENT.collect_id}", side, amount_minor)}


def test_a_contradiction_is_told_apart_from_an_order_that_does_not_exist() -> None:
    known = events_pb2.ChannelMismatchEvent(channel_order=PAYMENT.order(), evidence="says 700")
    orphan = events_pb2.ChannelMismatchEvent(evidence="says it did")
    orphan.channel_order.channel_order_id = mint("chn")
    assert isinstance(command("channel.mismatch_found", known), TakeMismatch)
    assert isinstance(command("channel.mismatch_found", orphan), TakeOrphan)


@pytest.mark.parametrize(
    ("subject", "body"),
    [
        ("trade.trade_paid", b"\xff\xff"),
        ("trade.trade_paid", events_pb2.TradeEvent(trade=PAYMENT.trade())),
        ("channel.order_succeeded", events_pb2.ChannelOrderEvent()),
        ("channel.mismatch_found", events_pb2.ChannelMismatchEvent()),
        ("ledger.journal_posted", events_pb2.JournalEvent(instructions=[events_pb2.BookedInstruction()])),
    ],
)
def test_what_can_never_be_read_is_rejected_at_once(subject: str, body: Message | bytes) -> None:
    if not isinstance(body, bytes):
        body = body.SerializeToString()
    with pytest.raises(Rejected):
        command(subject, body)
