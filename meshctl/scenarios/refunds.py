"""Money of a purchase goes back by the route it came, in whole or in part."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

from meshctl.scenarios.desk import MERCHANT, Desk, Scenario, card, from_balance
from paymesh.trade.v1.trade_pb2 import TRADE_TYPE_PURCHASE, PayMethod

AMOUNT_MINOR = 3000
PART_MINOR = 900


class Route(NamedTuple):
    """How a purchase of AMOUNT_MINOR is paid: what the balance pays, the rest by card."""

    name: str
    title: str
    balance_minor: int

    @property
    def pay_methods(self) -> Sequence[PayMethod]:
        """What to give the order."""
        if self.balance_minor == AMOUNT_MINOR:
            return [from_balance()]
        return [from_balance(self.balance_minor), card()] if self.balance_minor else [card()]

    def to_balance_minor(self, amount_minor: int) -> int:
        """What of a refund goes back to the balance: its share in what was paid."""
        return amount_minor * self.balance_minor // AMOUNT_MINOR


ROUTES = (
    Route("by_card", "by card", 0),
    Route("by_balance", "by balance", AMOUNT_MINOR),
    Route("by_balance_and_card", "by balance and card", 1000),
)


async def full_refund(route: Route, desk: Desk) -> None:
    """All of it goes back, and nothing is left to give back."""
    await _refund(route, desk, None, AMOUNT_MINOR)


async def partial_refund(route: Route, desk: Desk) -> None:
    """A part of it goes back, to each tool in proportion."""
    await _refund(route, desk, PART_MINOR, PART_MINOR)


async def _refund(route: Route, desk: Desk, asked_minor: int | None, amount_minor: int) -> None:
    ann, shop = desk.name("ann"), desk.name("shop")
    if route.balance_minor:
        await desk.top_up(ann, route.balance_minor)
    made = await desk.order(TRADE_TYPE_PURCHASE, ann, AMOUNT_MINOR, *route.pay_methods, payee_id=shop)
    purchase = await desk.finished(made.trade_id)
    desk.expect_state(purchase, "PAID")
    await desk.expect_balance(shop, AMOUNT_MINOR, MERCHANT)

    refund = await desk.refund(purchase.trade_id, asked_minor)
    desk.expect_state(refund, "PAID")
    desk.require(refund.biz_id == purchase.biz_id, "a refund belongs to the business of its purchase")
    after = await desk.trade(purchase.trade_id)
    given, left = after.refunded_minor, after.refundable_minor
    desk.require(
        (given, left) == (amount_minor, AMOUNT_MINOR - amount_minor),
        f"of {AMOUNT_MINOR} {given} is given back and {left} may still be",
    )
    to_balance = route.to_balance_minor(amount_minor)
    await desk.expect_balance(ann, to_balance)
    await desk.expect_balance(shop, AMOUNT_MINOR - amount_minor, MERCHANT)
    to_card = amount_minor - to_balance
    await desk.expect_channel_moves(refund, *([("REFUND", to_card)] if to_card else []))


def _scenario(kind: str, run: Callable[[Route, Desk], Awaitable[None]], route: Route) -> Scenario:
    return Scenario(
        f"{kind}_refund_of_purchase_{route.name}",
        f"{kind.capitalize()} refund of a purchase {route.title}",
        partial(run, route),
    )


SCENARIOS = tuple(
    _scenario(kind, run, route)
    for route in ROUTES
    for kind, run in (("full", full_refund), ("partial", partial_refund))
)
