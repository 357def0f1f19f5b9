"""What a scenario works with: the calls a business service makes, and expectations about what came of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from meshctl.scenarios.calls import CALL_TIMEOUT_S, MERCHANT, POINTS, USER, Calls, ScenarioFailed
from meshctl.scenarios.methods import CURRENCY, bank, card, coupon, from_balance, in_days, money, part, points, wallet
from paykit.money import format_minor
from paykit.rpc.channels import Channels
from paymesh.channel.v1 import channel_order_pb2
from paymesh.pay.v1 import ledger_service_pb2, payment_pb2
from paymesh.trade.v1 import trade_pb2

__all__ = [
    "CURRENCY",
    "MERCHANT",
    "USER",
    "Desk",
    "Scenario",
    "ScenarioFailed",
    "bank",
    "card",
    "coupon",
    "from_balance",
    "in_days",
    "money",
    "part",
    "points",
    "wallet",
]

ARRIVE_TIMEOUT_S = 20.0  # of money on its way to another slot, and of late notifications
POLL_INTERVAL_S = 0.05

_SETTLED = (channel_order_pb2.CHANNEL_ORDER_STATE_SUCCEEDED, channel_order_pb2.CHANNEL_ORDER_STATE_FAILED)
_TRADE_STATE: Any = trade_pb2.TradeState  # the stubs show the classes, not the wrappers that have Name
_COUPON_STATE: Any = ledger_service_pb2.CouponState


class Scenario(NamedTuple):
    """``run(desk)`` makes orders and raises ScenarioFailed where one does not end as it must."""

    name: str  # for tests and options: letters, digits and underscores
    title: str
    run: Callable[[Desk], Awaitable[None]]


class Desk(Calls):
    """One scenario's place of work: its calls, and what has been shown to hold."""

    def __init__(self, channels: Channels) -> None:
        super().__init__(channels)
        self.held: list[str] = []

    async def top_up(self, user_id: str, amount_minor: int) -> trade_pb2.Trade:
        """Brings money to a user's balance by a card that works."""
        made = await self.order(trade_pb2.TRADE_TYPE_TOP_UP, user_id, amount_minor, card())
        trade = await self.finished(made.trade_id)
        self.expect_state(trade, "PAID")
        await self.expect_balance(user_id, amount_minor)
        return trade

    # Expectations

    def expect_state(self, trade: trade_pb2.Trade, state: str) -> None:
        """The state of a trade, without its prefix."""
        actual = _TRADE_STATE.Name(trade.state).removeprefix("TRADE_STATE_")
        self.require(actual == state, f"trade {trade.trade_id} is {actual} {trade.reason}, not {state}")
        self.held.append(f"trade {trade.trade_id[-6:]} is {state}")

    async def expect_balance(self, owner_id: str, amount_minor: int, kind: int = USER) -> None:
        """A balance to the cent. Money for another slot may be on its way for a moment after the trade is paid."""
        await self._expect_soon(lambda: self.balance(owner_id, kind), amount_minor, f"the balance of {owner_id}")
        self.held.append(f"{owner_id} has {format_minor(amount_minor, CURRENCY)}")

    async def expect_history(self, trade: trade_pb2.Trade, entity: str, wanted: list[tuple[str, str]]) -> None:
        """That channel_gateway's history of a trade is exactly ``wanted``, as soon as the last of it has come."""
        what = f"the history of {entity} of {trade.trade_id}"
        await self._expect_soon(lambda: self.gateway_history(trade, entity), wanted, what)
        self.held.append(f"{entity.replace('_', ' ')}: {' → '.join(state for _, state in wanted) or 'none'}")

    async def expect_channel_moves(self, trade: trade_pb2.Trade, *wanted: tuple[str, int]) -> None:
        """That providers moved exactly ``wanted`` for a trade, each once: ("CHARGE", 1000), …"""
        await self.expect_payment_moves((await self.payment_of(trade)).payment_id, *wanted)

    async def expect_payment_moves(self, payment_id: str, *wanted: tuple[str, int]) -> None:
        """As ``expect_channel_moves``, of any payment; what providers declined moved nothing."""
        orders = await self.channel_orders(payment_id)
        undone = [o.channel_order_id for o in orders if o.state not in _SETTLED]
        self.require(not undone, f"channel orders have not ended: {undone}")
        orders = [order for order in orders if order.state == channel_order_pb2.CHANNEL_ORDER_STATE_SUCCEEDED]
        kinds: Any = channel_order_pb2.ChannelOrderKind
        moved = [
            (kinds.Name(o.kind).removeprefix("CHANNEL_ORDER_KIND_"), o.settled_minor or o.amount.amount_minor)
            for o in orders
        ]
        self.require(sorted(moved) == sorted(wanted), f"providers moved {moved} for {payment_id}, not {wanted}")
        for kind, amount_minor in wanted:
            self.held.append(f"{kind} of {format_minor(amount_minor, CURRENCY)}, once")

    async def expect_points(self, owner_id: str, point_count: int) -> None:
        """How many points a user has."""
        await self._expect_soon(lambda: self.balance(owner_id, POINTS), point_count, f"the points of {owner_id}")
        self.held.append(f"{owner_id} has {point_count} points")

    async def expect_coupon(self, owner_id: str, state: str) -> None:
        """The state of a user's one coupon."""

        async def look() -> list[str]:
            request = ledger_service_pb2.ListCouponsRequest(owner_id=owner_id)
            coupons = (await self.benefits.ListCoupons(request, timeout=CALL_TIMEOUT_S)).coupons
            return [_COUPON_STATE.Name(coupon.state).removeprefix("COUPON_STATE_") for coupon in coupons]

        await self._expect_soon(look, [state], f"the coupon of {owner_id}")
        self.held.append(f"the coupon of {owner_id} is {state}")

    async def expect_held(self, owner_id: str, amount_minor: int) -> None:
        """What of a user's balance is kept for payments."""
        request = ledger_service_pb2.ListAccountsRequest(owner_id=owner_id)
        accounts = (await self.ledger.ListAccounts(request, timeout=CALL_TIMEOUT_S)).accounts
        held = sum(account.held_minor for account in accounts if account.kind == USER)
        self.require(held == amount_minor, f"{held} of the balance of {owner_id} is held, not {amount_minor}")
        self.held.append(f"{format_minor(amount_minor, CURRENCY)} of {owner_id} is held")

    async def expect_returned(self, trade_id: str, purpose: str, *wanted: tuple[str, int]) -> None:
        """That one attempt of a trade is RETURNED, by a refund of that purpose which moved ``wanted`` and is PAID."""

        async def look() -> list[tuple[str, str]]:
            found = (await self.order_tree(trade_id)).trades
            return [(trade.purpose, _TRADE_STATE.Name(trade.state)) for trade in found if trade.purpose]

        await self._expect_soon(look, [(purpose, "TRADE_STATE_PAID")], f"what gives money of {trade_id} back")
        attempts = (await self.trade(trade_id)).attempts
        returned = [one for one in attempts if one.state == trade_pb2.ATTEMPT_STATE_RETURNED]
        self.require(len(returned) == 1, f"{len(returned)} attempts of {trade_id} are RETURNED")
        (refund,) = [trade for trade in (await self.order_tree(trade_id)).trades if trade.purpose]
        self.held.append(f"attempt no. {returned[0].attempt_no} came unwanted ({purpose}) and went back")
        await self.expect_channel_moves(await self.trade(refund.trade_id), *wanted)

    async def expect_case(self, trade_id: str) -> payment_pb2.Case:
        """The one open case of an order."""

        async def look() -> int:
            return len((await self.order_tree(trade_id)).cases)

        await self._expect_soon(look, 1, f"the number of cases of {trade_id}")
        return (await self.order_tree(trade_id)).cases[0]

    async def _expect_soon(self, look: Callable[[], Awaitable[Any]], wanted: Any, what: str) -> None:
        actual = await look()
        try:
            async with asyncio.timeout(ARRIVE_TIMEOUT_S):
                while actual != wanted:
                    await asyncio.sleep(POLL_INTERVAL_S)
                    actual = await look()
        except TimeoutError:
            raise ScenarioFailed(f"{what} is {actual}, not {wanted}") from None
