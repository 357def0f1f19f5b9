"""Money that nobody wants (any more), or that comes as another amount: it goes back by itself, or to a person."""

from __future__ import annotations

from meshctl.scenarios.desk import MERCHANT, Desk, Scenario, card, wallet
from paymesh.pay.v1 import payment_pb2
from paymesh.trade.v1.trade_pb2 import TRADE_TYPE_PURCHASE

AMOUNT_MINOR = 2400
LATE = "tok_customer_late"  # confirms when others were quicker
EXCESS_MINOR = 500  # that a customer of tok_pays_more pays on top


async def paid_twice(desk: Desk) -> None:
    """A customer confirms in two wallets: the first that comes pays, the other goes back by itself."""
    shop = desk.name("shop")
    made = await desk.order(TRADE_TYPE_PURCHASE, desk.name("ann"), AMOUNT_MINOR, wallet(LATE), payee_id=shop)
    await desk.pay(made.trade_id, wallet())
    trade = await desk.finished(made.trade_id)
    desk.expect_state(trade, "PAID")
    await desk.expect_channel_moves(trade, ("CHARGE", AMOUNT_MINOR))
    await desk.expect_returned(made.trade_id, "DUPLICATE", ("REFUND", AMOUNT_MINOR))
    await desk.expect_balance(shop, AMOUNT_MINOR, MERCHANT)


async def success_after_close(desk: Desk) -> None:
    """A customer confirms an order that was closed meanwhile: the money goes back by itself."""
    shop = desk.name("shop")
    made = await desk.order(TRADE_TYPE_PURCHASE, desk.name("ann"), AMOUNT_MINOR, wallet(LATE), payee_id=shop)
    desk.expect_state(await desk.close(made.trade_id), "CLOSED")
    await desk.expect_returned(made.trade_id, "LATE", ("REFUND", AMOUNT_MINOR))
    desk.expect_state(await desk.trade(made.trade_id), "CLOSED")
    await desk.expect_balance(shop, 0, MERCHANT)


async def price_changed(desk: Desk) -> None:
    """A customer confirms the old price of an order that costs less now: it goes back, and the new one is paid."""
    shop = desk.name("shop")
    made = await desk.order(TRADE_TYPE_PURCHASE, desk.name("ann"), AMOUNT_MINOR, wallet(LATE), payee_id=shop)
    await desk.reprice(made.trade_id, 1900)
    await desk.expect_returned(made.trade_id, "LATE", ("REFUND", AMOUNT_MINOR))
    desk.expect_state(await desk.trade(made.trade_id), "CREATED")
    await desk.pay(made.trade_id, card())
    trade = await desk.finished(made.trade_id)
    desk.expect_state(trade, "PAID")
    await desk.expect_channel_moves(trade, ("CHARGE", 1900))
    await desk.expect_balance(shop, 1900, MERCHANT)


async def paid_too_much(desk: Desk) -> None:
    """A wallet brings more than was asked for: the rest waits in a case, and a person puts it on the balance."""
    ann, shop = desk.name("ann"), desk.name("shop")
    made = await desk.order(TRADE_TYPE_PURCHASE, ann, AMOUNT_MINOR, wallet("tok_pays_more"), payee_id=shop)
    trade = await desk.finished(made.trade_id)
    desk.expect_state(trade, "PAID")
    await desk.expect_channel_moves(trade, ("CHARGE", AMOUNT_MINOR + EXCESS_MINOR))
    await desk.expect_balance(shop, AMOUNT_MINOR, MERCHANT)
    case = await desk.expect_case(made.trade_id)
    desk.require(
        (case.type, case.amount.amount_minor) == (payment_pb2.CASE_TYPE_OVERPAYMENT, EXCESS_MINOR),
        f"the case is of type {case.type} over {case.amount.amount_minor}",
    )
    await desk.resolve(case.case_id, payment_pb2.CASE_RESOLUTION_TO_BALANCE)
    await desk.expect_balance(ann, EXCESS_MINOR)


async def refund_to_expired_card(desk: Desk) -> None:
    """A refund to a card that has expired goes to the balance, because the rules say so."""
    ann, shop = desk.name("ann"), desk.name("shop")
    token = "tok_ok__refund_expired"
    made = await desk.order(TRADE_TYPE_PURCHASE, ann, AMOUNT_MINOR, card(token), payee_id=shop)
    desk.expect_state(await desk.finished(made.trade_id), "PAID")
    refund = await desk.refund(made.trade_id)
    desk.expect_state(refund, "PAID")
    await desk.expect_channel_moves(refund)
    await desk.expect_balance(ann, AMOUNT_MINOR)
    await desk.expect_balance(shop, 0, MERCHANT)


async def second_card_declined(desk: Desk) -> None:
    """Of two cards the second is declined: the first has its money back, and the order can be paid again."""
    shop = desk.name("shop")
    methods = (card(amount_minor=1000), card("tok_declined"))
    made = await desk.order(TRADE_TYPE_PURCHASE, desk.name("ann"), AMOUNT_MINOR, *methods, payee_id=shop)
    trade = await desk.finished(made.trade_id)
    desk.expect_state(trade, "CREATED")
    await desk.expect_payment_moves(trade.attempts[0].payment_id, ("CHARGE", 1000), ("REFUND", 1000))
    await desk.expect_balance(shop, 0, MERCHANT)


SCENARIOS = (
    Scenario("paid_twice", "An order paid in two wallets", paid_twice),
    Scenario("success_after_close", "A wallet that pays after the order was closed", success_after_close),
    Scenario("price_changed", "A wallet that pays the price of before", price_changed),
    Scenario("paid_too_much", "A wallet that pays too much", paid_too_much),
    Scenario("refund_to_expired_card", "A refund to a card that has expired", refund_to_expired_card),
    Scenario("second_card_declined", "Two cards, the second declined", second_card_declined),
)
