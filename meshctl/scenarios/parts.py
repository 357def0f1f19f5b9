"""Orders with parts: instalments, merged payments, splits, and orders that are paid bit by bit or by many tools."""

from __future__ import annotations

from meshctl.scenarios.desk import MERCHANT, Desk, Scenario, card, coupon, from_balance, in_days, part, points
from paymesh.trade.v1 import trade_pb2
from paymesh.trade.v1.trade_pb2 import (
    TRADE_TYPE_INSTALMENT_PLAN,
    TRADE_TYPE_MERGED_PAYMENT,
    TRADE_TYPE_PURCHASE,
    TRADE_TYPE_SPLIT_PURCHASE,
)


async def instalments(desk: Desk) -> None:
    """An order in three instalments, each paid on its own; one of them is given back."""
    ann, shop = desk.name("ann"), desk.name("shop")
    due = [part(1000, due_time=in_days(30 * number)) for number in (1, 2, 3)]
    plan = await desk.order(TRADE_TYPE_INSTALMENT_PLAN, ann, 3000, payee_id=shop, parts=due)
    first, *others = await _parts_of(desk, plan.trade_id)
    await desk.pay(first, card())
    desk.expect_state(await desk.finished(first), "PAID")
    desk.expect_state(await desk.trade(plan.trade_id), "PARTIALLY_PAID")
    for instalment in others:
        await desk.pay(instalment, card())
        desk.expect_state(await desk.finished(instalment), "PAID")
    desk.expect_state(await desk.trade(plan.trade_id), "PAID")
    await desk.expect_balance(shop, 3000, MERCHANT)
    desk.expect_state(await desk.refund(others[0]), "PAID")
    await desk.expect_balance(shop, 2000, MERCHANT)


async def merged_payment(desk: Desk) -> None:
    """Two orders of two merchants by one charge; one of them is given back alone."""
    ann, shop, bakery = desk.name("ann"), desk.name("shop"), desk.name("bakery")
    book = await desk.order(TRADE_TYPE_PURCHASE, ann, 1999, payee_id=shop)
    cake = await desk.order(TRADE_TYPE_PURCHASE, ann, 1201, payee_id=bakery)
    both = (book.trade_id, cake.trade_id)
    made = await desk.order(TRADE_TYPE_MERGED_PAYMENT, ann, 3200, card(), merges=both)
    trade = await desk.finished(made.trade_id)
    desk.expect_state(trade, "PAID")
    await desk.expect_channel_moves(trade, ("CHARGE", 3200))
    for trade_id in both:
        desk.expect_state(await desk.trade(trade_id), "PAID")
    refund = await desk.refund(cake.trade_id)
    desk.expect_state(refund, "PAID")
    await desk.expect_channel_moves(refund, ("REFUND", 1201))
    await desk.expect_balance(shop, 1999, MERCHANT)
    await desk.expect_balance(bakery, 0, MERCHANT)


async def split_purchase(desk: Desk) -> None:
    """One order and one payment, settled to two merchants; a part of what one of them got is given back."""
    ann, shop, bakery = desk.name("ann"), desk.name("shop"), desk.name("bakery")
    await desk.top_up(ann, 1000)
    parts = [part(2000, shop), part(1000, bakery)]
    methods = (from_balance(1000), card())
    made = await desk.order(TRADE_TYPE_SPLIT_PURCHASE, ann, 3000, *methods, parts=parts)
    trade = await desk.finished(made.trade_id)
    desk.expect_state(trade, "PAID")
    await desk.expect_channel_moves(trade, ("CHARGE", 2000))
    await desk.expect_balance(shop, 2000, MERCHANT)
    await desk.expect_balance(bakery, 1000, MERCHANT)
    (of_bakery,) = [one for one in await _parts_of(desk, made.trade_id) if (await desk.trade(one)).payee_id == bakery]
    refund = await desk.refund(of_bakery, 600)
    desk.expect_state(refund, "PAID")
    await desk.expect_channel_moves(refund, ("REFUND", 400))
    await desk.expect_balance(ann, 200)
    await desk.expect_balance(shop, 2000, MERCHANT)
    await desk.expect_balance(bakery, 400, MERCHANT)


async def paid_in_parts(desk: Desk) -> None:
    """An order is paid by a part from a balance, and later by another from a card."""
    ann, shop = desk.name("ann"), desk.name("shop")
    await desk.top_up(ann, 1000)
    made = await desk.order(TRADE_TYPE_PURCHASE, ann, 3000, payee_id=shop)
    await _pay_part(desk, made.trade_id, from_balance(1000))
    desk.expect_state(await desk.trade(made.trade_id), "PARTIALLY_PAID")
    await _pay_part(desk, made.trade_id, card(amount_minor=2000))
    trade = await desk.trade(made.trade_id)
    desk.expect_state(trade, "PAID")
    desk.require(trade.paid_minor == 3000, f"{trade.paid_minor} counts as paid")
    await desk.expect_balance(ann, 0)
    await desk.expect_balance(shop, 3000, MERCHANT)


async def three_tools(desk: Desk) -> None:
    """A coupon, points and a card pay together; what is given back goes to each in proportion, to the cent."""
    ann, shop = desk.name("ann"), desk.name("shop")
    coupon_id = await desk.issue_coupon(ann, 500)
    await desk.grant_points(ann, 1000)
    methods = (coupon(coupon_id, 500), points(700), card())
    made = await desk.order(TRADE_TYPE_PURCHASE, ann, 3000, *methods, payee_id=shop)
    trade = await desk.finished(made.trade_id)
    desk.expect_state(trade, "PAID")
    await desk.expect_channel_moves(trade, ("CHARGE", 1800))
    await desk.expect_points(ann, 300)
    await desk.expect_coupon(ann, "USED")
    await desk.expect_balance(shop, 3000, MERCHANT)
    first = await desk.refund(made.trade_id, 1000)  # 166.67, 233.33 and 600: the largest remainder gets the odd cent
    await desk.expect_channel_moves(first, ("REFUND", 600))
    await desk.expect_points(ann, 533)
    await desk.expect_coupon(ann, "USED")
    second = await desk.refund(made.trade_id)
    await desk.expect_channel_moves(second, ("REFUND", 1200))
    await desk.expect_points(ann, 1000)
    await desk.expect_coupon(ann, "AVAILABLE")
    await desk.expect_balance(shop, 0, MERCHANT)


async def _parts_of(desk: Desk, trade_id: str) -> list[str]:
    """The ids of a trade's parts, those that are due sooner first."""
    relations = (await desk.trade(trade_id)).relations
    parts = [await desk.trade(one.child_trade_id) for one in relations if one.parent_trade_id == trade_id]
    return [part.trade_id for part in sorted(parts, key=lambda part: part.expire_time.seconds)]


async def _pay_part(desk: Desk, trade_id: str, method: trade_pb2.PayMethod) -> None:
    before = await _parts_of(desk, trade_id)
    await desk.pay(trade_id, method, is_partial=True)
    for made in set(await _parts_of(desk, trade_id)) - set(before):
        desk.expect_state(await desk.finished(made), "PAID")


SCENARIOS = (
    Scenario("instalments", "An order in three instalments, one given back", instalments),
    Scenario("merged_payment", "Two orders by one payment, one given back", merged_payment),
    Scenario("split_purchase", "One order split to two merchants, a part given back", split_purchase),
    Scenario("paid_in_parts", "An order paid in two parts", paid_in_parts),
    Scenario("three_tools", "A purchase by coupon, points and card, given back in two steps", three_tools),
)
