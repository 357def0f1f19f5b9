"""Money that is held first: reserved for a merchant, or kept until the buyer confirms."""

from __future__ import annotations

from meshctl.scenarios.desk import MERCHANT, Desk, Scenario, card, coupon, from_balance
from paymesh.trade.v1.trade_pb2 import TRADE_TYPE_ESCROW, TRADE_TYPE_PRE_AUTHORIZATION

AMOUNT_MINOR = 5000
PART_MINOR = 3200


async def captured_in_part_from_balance(desk: Desk) -> None:
    """A merchant reserves money of a balance and takes a part of it; the rest is free again at once."""
    ann, shop = desk.name("ann"), desk.name("shop")
    await desk.top_up(ann, 6000)
    made = await desk.order(TRADE_TYPE_PRE_AUTHORIZATION, ann, AMOUNT_MINOR, from_balance(), payee_id=shop)
    desk.expect_state(await desk.finished(made.trade_id), "AUTHORIZED")
    await desk.expect_held(ann, AMOUNT_MINOR)
    await desk.expect_balance(ann, 6000)
    trade = await desk.capture(made.trade_id, PART_MINOR)
    desk.expect_state(trade, "PAID")
    desk.require(trade.paid_minor == PART_MINOR, f"{trade.paid_minor} counts as paid, not {PART_MINOR}")
    await desk.expect_balance(ann, 6000 - PART_MINOR)
    await desk.expect_held(ann, 0)
    await desk.expect_balance(shop, PART_MINOR, MERCHANT)


async def captured_in_part_from_card(desk: Desk) -> None:
    """A merchant reserves money of a card and takes a part of it, of which it then gives a part back."""
    ann, shop = desk.name("ann"), desk.name("shop")
    made = await desk.order(TRADE_TYPE_PRE_AUTHORIZATION, ann, AMOUNT_MINOR, card(), payee_id=shop)
    desk.expect_state(await desk.finished(made.trade_id), "AUTHORIZED")
    trade = await desk.capture(made.trade_id, PART_MINOR)
    desk.expect_state(trade, "PAID")
    await desk.expect_channel_moves(trade, ("AUTHORIZE", AMOUNT_MINOR), ("CAPTURE", PART_MINOR))
    await desk.expect_balance(shop, PART_MINOR, MERCHANT)
    refund = await desk.refund(made.trade_id, 200)
    desk.expect_state(refund, "PAID")
    await desk.expect_channel_moves(refund, ("REFUND", 200))
    await desk.expect_balance(shop, PART_MINOR - 200, MERCHANT)


async def voided(desk: Desk) -> None:
    """A merchant lets go of what it had reserved of a balance and a card: nothing has moved."""
    ann, shop = desk.name("ann"), desk.name("shop")
    await desk.top_up(ann, 1000)
    methods = (from_balance(1000), card())
    made = await desk.order(TRADE_TYPE_PRE_AUTHORIZATION, ann, AMOUNT_MINOR, *methods, payee_id=shop)
    held = await desk.finished(made.trade_id)
    desk.expect_state(held, "AUTHORIZED")
    await desk.expect_held(ann, 1000)
    desk.expect_state(await desk.void(made.trade_id), "CLOSED")
    await desk.expect_payment_moves(held.attempts[0].payment_id, ("AUTHORIZE", 4000), ("VOID", 4000))
    await desk.expect_held(ann, 0)
    await desk.expect_balance(ann, 1000)
    await desk.expect_balance(shop, 0, MERCHANT)


async def escrow_confirmed(desk: Desk) -> None:
    """A buyer pays; the merchant has the money when the buyer confirms, not before."""
    ann, shop = desk.name("ann"), desk.name("shop")
    made = await desk.order(TRADE_TYPE_ESCROW, ann, AMOUNT_MINOR, card(), payee_id=shop)
    desk.expect_state(await desk.finished(made.trade_id), "AUTHORIZED")
    await desk.expect_balance(shop, 0, MERCHANT)
    trade = await desk.capture(made.trade_id)
    desk.expect_state(trade, "PAID")
    await desk.expect_channel_moves(trade, ("CHARGE", AMOUNT_MINOR))
    await desk.expect_balance(shop, AMOUNT_MINOR, MERCHANT)


async def escrow_given_back(desk: Desk) -> None:
    """A buyer pays by a coupon of the merchant and a card, and gets all of it back: the coupon can be used again."""
    ann, shop = desk.name("ann"), desk.name("shop")
    coupon_id = await desk.issue_coupon(ann, 500, shop)
    methods = (coupon(coupon_id, 500), card())
    made = await desk.order(TRADE_TYPE_ESCROW, ann, AMOUNT_MINOR, *methods, payee_id=shop)
    held = await desk.finished(made.trade_id)
    desk.expect_state(held, "AUTHORIZED")
    await desk.expect_coupon(ann, "USED")
    desk.expect_state(await desk.void(made.trade_id), "CLOSED")
    await desk.expect_payment_moves(held.attempts[0].payment_id, ("CHARGE", 4500), ("REFUND", 4500))
    await desk.expect_coupon(ann, "AVAILABLE")
    await desk.expect_balance(shop, 0, MERCHANT)


SCENARIOS = (
    Scenario(
        "pre_authorisation_by_balance", "Pre-authorisation by balance, captured in part", captured_in_part_from_balance
    ),
    Scenario("pre_authorisation_by_card", "Pre-authorisation by card, captured in part", captured_in_part_from_card),
    Scenario("pre_authorisation_voided", "Pre-authorisation by balance and card, voided", voided),
    Scenario("escrow_confirmed", "Escrow, confirmed by the buyer", escrow_confirmed),
    Scenario("escrow_given_back", "Escrow by coupon and card, given back", escrow_given_back),
)
