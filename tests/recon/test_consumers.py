"""Every event that recon listens to becomes the facts that its service states, and no others."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message

from paykit.clock import ManualClock
from paykit.events.bus import Rejected
from paykit.events.gathering import Gather
from paymesh.channel.v1 import channel_order_pb2
from paymesh.event.v1 import events_pb2
from paymesh.pay.v1 import payment_pb2
from paymesh.trade.v1 import trade_pb2
from recon.commands import TakeFacts, TakeMismatch, TakeOrphan
from recon.consumers import SUBJECTS, consumer
from tests.recon.support import NOW_MS, CardPayment, mint, rules

PAYMENT = CardPayment()


def command(subject: str, body: Message | bytes) -> TakeFacts | TakeMismatch | TakeOrphan | None:
    data = body if isinstance(body, bytes) else body.SerializeToString()
    made = consumer(rules(), Gather(1.0, 100), ManualClock()).to_command(PAYMENT.context, mint("msg"), subject, data)
    assert made is None or isinstance(made, TakeFacts | TakeMismatch | TakeOrphan)
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


@pytest.mark.parametrize("payment_id", ["", PAYMENT.payment_id], ids=["unpaid", "paid"])
def test_a_closed_trade_states_nothing_since_a_late_payment_is_given_back_by_another(payment_id: str) -> None:
    event = events_pb2.TradeEvent(trade=PAYMENT.trade(trade_pb2.TRADE_STATE_CLOSED), payment_id=payment_id)
    assert said("trade.trade_closed", event) == set()


def test_a_part_that_was_paid_by_another_trades_payment_opens_no_window() -> None:
    assert said("trade.trade_paid", events_pb2.TradeEvent(trade=PAYMENT.trade())) == set()


def test_a_trade_states_what_was_captured_of_it() -> None:
    trade = PAYMENT.trade()
    trade.paid_minor = 300
    event = events_pb2.TradeEvent(trade=trade, payment_id=PAYMENT.payment_id)
    assert said("trade.trade_paid", event) == {(f"TRADE_PAY/{PAYMENT.payment_id}", "FIRST", 300)}


@pytest.mark.parametrize(
    ("mode", "expected_minor"),
    [
        (payment_pb2.SETTLEMENT_MODE_IMMEDIATE, 500),
        (payment_pb2.SETTLEMENT_MODE_AUTHORIZE, 300),
        (payment_pb2.SETTLEMENT_MODE_ESCROW, 300),
    ],
)
def test_a_payment_states_what_the_payees_got(mode: payment_pb2.SettlementMode.ValueType, expected_minor: int) -> None:
    payment = PAYMENT.payment()
    del payment.instructions[:]
    payment.settlement_mode, payment.captured_minor, payment.payer_fee_minor = mode, 300, 7
    assert said("pay.payment_succeeded", events_pb2.PaymentEvent(payment=payment)) == {
        (f"TRADE_PAY/{PAYMENT.payment_id}", "SECOND", expected_minor)
    }


def test_an_authorized_payment_states_its_instructions_and_nothing_of_its_trade() -> None:
    payment = PAYMENT.payment()
    payment.state = payment_pb2.PAYMENT_STATE_AUTHORIZED
    payment.instructions[0].action = payment_pb2.INSTRUCTION_ACTION_RESERVE
    assert said("pay.payment_authorized", events_pb2.PaymentEvent(payment=payment)) == {
        (f"PAY_CHANNEL/{PAYMENT.collect_id}", "FIRST", 500),
        (f"PAY_LEDGER/{PAYMENT.disburse_id}", "FIRST", 500),
    }


def test_a_voided_payment_states_that_nothing_was_paid_and_its_releases_are_not_booked() -> None:
    payment = PAYMENT.payment()
    payment.state = payment_pb2.PAYMENT_STATE_VOIDED
    payment.instructions[0].action = payment_pb2.INSTRUCTION_ACTION_RELEASE
    del payment.instructions[1]
    assert said("pay.payment_voided", events_pb2.PaymentEvent(payment=payment)) == {
        (f"TRADE_PAY/{PAYMENT.payment_id}", "SECOND", 0),
        (f"PAY_CHANNEL/{PAYMENT.collect_id}", "FIRST", 500),
    }


@pytest.mark.parametrize("tool", ["coupon", "coupon_account", "points", "escrow", "fees", "suspense"])
@pytest.mark.parametrize(
    ("action", "is_booked"),
    [
        (payment_pb2.INSTRUCTION_ACTION_COLLECT, True),
        (payment_pb2.INSTRUCTION_ACTION_DISBURSE, True),
        (payment_pb2.INSTRUCTION_ACTION_RESERVE, False),
        (payment_pb2.INSTRUCTION_ACTION_RELEASE, False),
    ],
)
def test_every_tool_shows_in_the_ledger_where_it_moves_money(
    tool: str, action: payment_pb2.InstructionAction.ValueType, is_booked: bool
) -> None:
    payment = PAYMENT.payment()
    del payment.instructions[0]
    payment.instructions[0].tool, payment.instructions[0].action = tool, action
    stated = said("pay.payment_succeeded", events_pb2.PaymentEvent(payment=payment))
    assert ((f"PAY_LEDGER/{PAYMENT.disburse_id}", "FIRST", 500) in stated) is is_booked


@pytest.mark.parametrize(("moved_minor", "booked_minor"), [(700, 500), (300, 300), (0, 500)])
def test_what_was_really_moved_is_compared_and_its_excess_is_booked_apart(moved_minor: int, booked_minor: int) -> None:
    payment, order = PAYMENT.payment(), PAYMENT.order()
    payment.instructions[0].moved_minor = order.settled_minor = moved_minor
    stated = said("pay.payment_succeeded", events_pb2.PaymentEvent(payment=payment))
    assert (f"PAY_CHANNEL/{PAYMENT.collect_id}", "FIRST", moved_minor or 500) in stated
    assert (f"PAY_LEDGER/{PAYMENT.collect_id}", "FIRST", booked_minor) in stated
    assert said("channel.order_succeeded", events_pb2.ChannelOrderEvent(channel_order=order)) == {
        (f"PAY_CHANNEL/{PAYMENT.collect_id}", "SECOND", moved_minor or 500)
    }


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


def test_what_left_for_a_channel_is_expected() -> None:
    event = events_pb2.PaymentSubmittedEvent(payment_id=PAYMENT.payment_id)
    event.instructions.add(instruction_id=PAYMENT.collect_id, amount_minor=500, currency_code="EUR")
    assert said("pay.payment_submitted", event) == {(f"PAY_CHANNEL/{PAYMENT.collect_id}", "EXPECTED", 500)}


def test_a_channel_order_that_ended_is_kept_as_it_ended() -> None:
    order = PAYMENT.order()
    order.provider_reference, order.settled_minor = "ref", 480
    made = command("channel.order_succeeded", events_pb2.ChannelOrderEvent(channel_order=order))
    assert isinstance(made, TakeFacts)
    (kept,) = made.heard.orders
    assert (kept.id, kept.kind, kept.state) == (order.channel_order_id, "CHARGE", "SUCCEEDED")
    assert (kept.amount_minor, kept.currency, kept.provider_reference) == (480, "EUR", "ref")
    assert (kept.finished_at_ms, kept.business_date) == (NOW_MS + 100, "2023-11-14")
    assert kept.settlement == "OPEN"


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (channel_order_pb2.CHANNEL_ORDER_STATE_FAILED, channel_order_pb2.CHANNEL_ORDER_KIND_CHARGE),
        (channel_order_pb2.CHANNEL_ORDER_STATE_SUCCEEDED, channel_order_pb2.CHANNEL_ORDER_KIND_AUTHORIZE),
        (channel_order_pb2.CHANNEL_ORDER_STATE_SUCCEEDED, channel_order_pb2.CHANNEL_ORDER_KIND_VOID),
    ],
)
def test_no_statement_is_expected_to_show_what_moved_nothing(
    state: channel_order_pb2.ChannelOrderState.ValueType, kind: channel_order_pb2.ChannelOrderKind.ValueType
) -> None:
    order = PAYMENT.order(state)
    order.kind = kind
    made = command("channel.order_succeeded", events_pb2.ChannelOrderEvent(channel_order=order))
    assert isinstance(made, TakeFacts)
    assert [kept.settlement for kept in made.heard.orders] == ["NOT_EXPECTED"]


def test_an_order_that_has_not_ended_is_not_kept() -> None:
    order = PAYMENT.order(channel_order_pb2.CHANNEL_ORDER_STATE_UNKNOWN)
    made = command("channel.order_unknown", events_pb2.ChannelOrderEvent(channel_order=order))
    assert isinstance(made, TakeFacts)
    assert made.heard.orders == ()
    assert made.heard.records == ()


def test_a_payment_is_whole_when_it_is_over_and_everybody_has_spoken() -> None:
    bodies: list[tuple[str, Message]] = [
        ("channel.order_succeeded", events_pb2.ChannelOrderEvent(channel_order=PAYMENT.order())),
        ("ledger.journal_posted", PAYMENT.journal(events_pb2.BOOKING_LEG_SENT)),
        ("pay.payment_succeeded", events_pb2.PaymentEvent(payment=PAYMENT.payment())),
        ("ledger.journal_posted", PAYMENT.arrival()),
        ("trade.trade_paid", events_pb2.TradeEvent(trade=PAYMENT.trade(), payment_id=PAYMENT.payment_id)),
    ]
    whole = None
    for subject, body in bodies:
        made = command(subject, body)
        assert isinstance(made, TakeFacts)
        assert whole is None or not whole.is_whole
        whole = made if whole is None else whole.merged(made)
    assert whole is not None
    assert whole.is_whole
