"""Several channels for one instrument, and providers that think otherwise later."""

from __future__ import annotations

from meshctl.scenarios.desk import MERCHANT, Desk, Scenario, card
from meshctl.scenarios.trouble import ORDER
from paymesh.trade.v1.trade_pb2 import TRADE_TYPE_PURCHASE

AMOUNT_MINOR = 2750

DOUBT = "channel_doubt"


async def another_channel(desk: Desk) -> None:
    """The first acquirer is in maintenance and takes nothing in: the same order is carried by the other, once."""
    shop = desk.name("shop")
    made = await desk.order(
        TRADE_TYPE_PURCHASE,
        desk.name("ann"),
        AMOUNT_MINOR,
        card("tok_ok_elsewhere"),
        payee_id=shop,
        scene="two-acquirers",
    )
    trade = await desk.finished(made.trade_id)
    desk.expect_state(trade, "PAID")
    await desk.expect_channel_moves(trade, ("CHARGE", AMOUNT_MINOR))
    (order,) = await desk.channel_orders_of(trade)
    desk.require(order.channel == "sandbox_card_b" and order.attempt_no == 2, f"{order.channel} carried it")
    desk.held.append(f"attempt no. {order.attempt_no}, by {order.channel}")
    await desk.expect_history(
        trade,
        ORDER,
        [
            ("SubmitOrder", "ACCEPTED"),
            ("MarkSending", "SENDING"),
            ("ApplyResult", "ACCEPTED"),
            ("MarkSending", "SENDING"),
            ("ApplyResult", "SUCCEEDED"),
        ],
    )
    await desk.expect_balance(shop, AMOUNT_MINOR, MERCHANT)


async def lie_about_a_failure(desk: Desk) -> None:
    """A declined card is said to have been charged after all: the provider is asked, and the doubt dismissed."""
    shop = desk.name("shop")
    token = "tok_notify_success_after_failed"
    made = await desk.order(TRADE_TYPE_PURCHASE, desk.name("ann"), AMOUNT_MINOR, card(token), payee_id=shop)
    trade = await desk.finished(made.trade_id)
    desk.expect_state(trade, "CREATED")
    await desk.expect_history(trade, DOUBT, [("TakeNotification", "OPEN"), ("AnswerDoubt", "DISMISSED")])


SCENARIOS = (
    Scenario("another_channel", "A provider in maintenance, and another channel", another_channel),
    Scenario("lie_about_a_failure", "A notification that lies, and a question", lie_about_a_failure),
)
