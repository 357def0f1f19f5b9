"""Providers and banks that decline, keep silent, or speak too often, too early or too late."""

from __future__ import annotations

from meshctl.scenarios.desk import MERCHANT, Desk, Scenario, bank, card
from paymesh.trade.v1.trade_pb2 import (
    ATTEMPT_STATE_EFFECTIVE,
    ATTEMPT_STATE_FAILED,
    TRADE_TYPE_CASH_OUT,
    TRADE_TYPE_PURCHASE,
    Trade,
)

AMOUNT_MINOR = 1999

ORDER = "channel_order"
NOTIFICATION = "notification"
ACCEPTED = ("SubmitOrder", "ACCEPTED")
SENDING = ("MarkSending", "SENDING")
PENDING = ("ApplyResult", "PENDING")
UNKNOWN = ("ApplyResult", "UNKNOWN")
FOUND = ("ApplyResult", "SUCCEEDED")  # by a query
NOTIFIED = ("TakeNotification", "SUCCEEDED")


async def declined_card(desk: Desk) -> None:
    """A declined card leaves the order open; another card pays it."""
    shop = desk.name("shop")
    made = await desk.order(TRADE_TYPE_PURCHASE, desk.name("ann"), AMOUNT_MINOR, card("tok_declined"), payee_id=shop)
    open_again = await desk.finished(made.trade_id)
    desk.expect_state(open_again, "CREATED")
    desk.require(bool(open_again.reason), "the trade does not say why the card was declined")
    await desk.pay(made.trade_id, card())
    trade = await desk.finished(made.trade_id)
    desk.expect_state(trade, "PAID")
    states = [attempt.state for attempt in trade.attempts]
    desk.require(states == [ATTEMPT_STATE_FAILED, ATTEMPT_STATE_EFFECTIVE], f"the attempts are in states {states}")
    await desk.expect_channel_moves(trade, ("CHARGE", AMOUNT_MINOR))
    await desk.expect_balance(shop, AMOUNT_MINOR, MERCHANT)


async def cash_out_refused_by_bank(desk: Desk) -> None:
    """A bank that refuses a cash-out: what was taken from the balance is put back, and the trade fails."""
    ann = desk.name("ann")
    await desk.top_up(ann, 5000)
    made = await desk.order(TRADE_TYPE_CASH_OUT, ann, 4200, bank("tok_nobody"))
    trade = await desk.finished(made.trade_id)
    desk.expect_state(trade, "FAILED")
    await desk.expect_balance(ann, 5000)


async def timeout_after_charging(desk: Desk) -> None:
    """The provider charges and never answers: UNKNOWN, until a query finds the charge. It is not charged again."""
    trade = await _purchase(desk, "tok_timeout_charged")
    await desk.expect_history(trade, ORDER, [ACCEPTED, SENDING, UNKNOWN, FOUND])
    await desk.expect_history(trade, NOTIFICATION, [])


async def notification_twice(desk: Desk) -> None:
    """The same notification comes twice and takes effect once."""
    trade = await _purchase(desk, "tok_notify_twice")
    await desk.expect_history(trade, ORDER, [ACCEPTED, SENDING, PENDING, NOTIFIED])
    await desk.expect_history(trade, NOTIFICATION, [("TakeNotification", "APPLIED")])


async def notification_late(desk: Desk) -> None:
    """A query finds the result before the notification comes: that changes nothing any more."""
    trade = await _purchase(desk, "tok_notify_late")
    await desk.expect_history(trade, ORDER, [ACCEPTED, SENDING, PENDING, FOUND])
    await desk.expect_history(trade, NOTIFICATION, [("TakeNotification", "REDUNDANT")])


async def notification_before_reply(desk: Desk) -> None:
    """The notification overtakes the reply: it decides, and the reply changes nothing any more."""
    trade = await _purchase(desk, "tok_notify_before_reply")
    await desk.expect_history(trade, ORDER, [ACCEPTED, SENDING, NOTIFIED])
    await desk.expect_history(trade, NOTIFICATION, [("TakeNotification", "APPLIED")])


async def notification_never(desk: Desk) -> None:
    """The provider promises a notification and never sends it: a query finds the result."""
    trade = await _purchase(desk, "tok_notify_never")
    await desk.expect_history(trade, ORDER, [ACCEPTED, SENDING, PENDING, FOUND])
    await desk.expect_history(trade, NOTIFICATION, [])


async def _purchase(desk: Desk, token: str) -> Trade:
    """A purchase by a card of that behaviour, paid: one charge, and the merchant has the money."""
    shop = desk.name("shop")
    made = await desk.order(TRADE_TYPE_PURCHASE, desk.name("ann"), AMOUNT_MINOR, card(token), payee_id=shop)
    trade = await desk.finished(made.trade_id)
    desk.expect_state(trade, "PAID")
    await desk.expect_channel_moves(trade, ("CHARGE", AMOUNT_MINOR))
    await desk.expect_balance(shop, AMOUNT_MINOR, MERCHANT)
    return trade


SCENARIOS = (
    Scenario("declined_card", "A declined card, then another", declined_card),
    Scenario("cash_out_refused_by_bank", "A cash-out that the bank refuses", cash_out_refused_by_bank),
    Scenario("timeout_after_charging", "A provider that times out after charging", timeout_after_charging),
    Scenario("notification_twice", "A notification that comes twice", notification_twice),
    Scenario("notification_late", "A notification that comes late", notification_late),
    Scenario("notification_before_reply", "A notification that comes before the reply", notification_before_reply),
    Scenario("notification_never", "A notification that never comes", notification_never),
)
