"""What tests of orders with parts share: such orders, and the laws of money they are held to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import select

from paykit.errors import FailedPrecondition
from paymesh.event.v1.events_pb2 import TradeEvent
from tests.trade_core.support import MERCHANT, NOW_MS, POLICY, SLOT, Bench, a_result, an_origin
from trade_core.commands import CloseTrade, ExpireTrade, PayTrade
from trade_core.parts import PART_RELATIONS, PartInput
from trade_core.tables import Trade, TradeRelation
from trade_core.trade import PayMethod
from trade_core.types import Tool, TradeType
from trade_core.wire import TradeView

OTHER_MERCHANT = "merchant.books"
DAY_MS = 86_400_000


async def two_orders(bench: Bench) -> list[Trade]:
    """Purchases of 6.00 and 4.00 EUR at two merchants, unpaid, by id."""
    first = (await bench.create(amount_minor=600, lines=())).trade
    second = (await bench.create(amount_minor=400, payee_id=OTHER_MERCHANT, lines=())).trade
    return [first, second]


async def merge(bench: Bench, orders: Sequence[Trade], *, also: Sequence[str] = (), **changes: Any) -> TradeView:
    """A payment of these orders, of their sum where nothing else is said."""
    fields: dict[str, Any] = {
        "trade_type": TradeType.MERGED_PAYMENT,
        "payee_id": "",
        "amount_minor": sum(order.amount_minor for order in orders),
        "lines": (),
        "merged_trade_ids": (*(order.id for order in orders), *also),
    }
    return await bench.create(**(fields | changes))


async def a_split(bench: Bench, **changes: Any) -> TradeView:
    """A purchase of 10.00 EUR, 7.00 of it at one merchant and 3.00 at another."""
    fields: dict[str, Any] = {
        "trade_type": TradeType.SPLIT_PURCHASE,
        "payee_id": "",
        "lines": (),
        "parts": (
            PartInput(amount_minor=700, currency="EUR", payee_id=MERCHANT),
            PartInput(amount_minor=300, currency="EUR", payee_id=OTHER_MERCHANT),
        ),
    }
    return await bench.create(**(fields | changes))


async def a_plan(
    bench: Bench, due_at_ms: Sequence[int] = (NOW_MS + DAY_MS, NOW_MS + 2 * DAY_MS, NOW_MS + 40 * DAY_MS)
) -> TradeView:
    """An order of 10.00 EUR in three instalments: after one day, two and forty."""
    shares = (300, 300, 400)
    parts = tuple(
        PartInput(amount_minor=share, currency="EUR", due_at_ms=due)
        for share, due in zip(shares, due_at_ms, strict=True)
    )
    return await bench.create(trade_type=TradeType.INSTALMENT_PLAN, payee_id=MERCHANT, lines=(), parts=parts)


async def related(bench: Bench, parent: Trade) -> list[tuple[TradeRelation, Trade]]:
    """The trades that stand under one, as they are stored, by id."""
    table = TradeRelation.__table__
    statement = select(table).where(table.c.parent_trade_id == parent.id).order_by(table.c.child_trade_id)
    relations = await bench.store.fetch(TradeRelation, statement, slot=SLOT, shadow=False)
    return [(relation, await bench.trade(relation.child_trade_id)) for relation in relations]


async def parts(bench: Bench, parent: Trade) -> list[Trade]:
    """The parts of an order, by id."""
    return [trade for relation, trade in await related(bench, parent) if relation.kind in PART_RELATIONS]


async def refunds_of(bench: Bench, parent: Trade) -> list[Trade]:
    """The refunds of a trade, asked for or not, by id."""
    return [trade for _, trade in await related(bench, parent) if trade.trade_type == TradeType.REFUND]


async def check_laws(bench: Bench, parent_id: str) -> Trade:
    """That the money of an order and of its parts is consistent; the order as it is stored."""
    parent = await bench.trade(parent_id)
    own = await parts(bench, parent)
    for trade in (parent, *own):
        assert trade.refunded_minor >= 0
        assert trade.refundable_minor >= 0
        assert trade.refunded_minor + trade.refundable_minor <= trade.paid_minor <= trade.amount_minor
        assert (trade.state == "PAID") <= (trade.paid_minor == trade.amount_minor)
    assert parent.part_count == len(own)
    is_merge = parent.trade_type == TradeType.MERGED_PAYMENT
    if not is_merge or parent.state == "PAID":
        paid = [part for part in own if part.state == "PAID"]
        assert parent.part_paid_count == len(paid)
        if paid:
            assert parent.paid_minor == sum(part.paid_minor for part in paid)
            assert parent.refundable_minor == parent.refunded_minor == 0, "refundable money is in one place only"
    if is_merge or parent.trade_type in (TradeType.SPLIT_PURCHASE, TradeType.INSTALMENT_PLAN):
        assert sum(part.amount_minor for part in own) == parent.amount_minor
    else:
        assert sum(part.amount_minor for part in own if part.state in ("PAYING", "PAID")) <= parent.amount_minor
    return parent


async def close(bench: Bench, trade_id: str) -> Trade:
    """Closes a trade for its caller."""
    return (await bench.store.run(CloseTrade(an_origin(), POLICY, trade_id, "no longer"))).trade


async def expire(bench: Bench, trade_id: str) -> TradeView | None:
    """Takes that the time of a trade is up."""
    return await bench.store.run(ExpireTrade(an_origin(), POLICY, trade_id))


async def pay_part(bench: Bench, trade_id: str, amount_minor: int, tool: Tool = Tool.CARD) -> Trade:
    """Begins to pay a part of a trade; the part."""
    methods = [PayMethod(tool, "" if tool is Tool.BALANCE else f"tok_{tool}", amount_minor, "EUR")]
    view = await bench.store.run(PayTrade(an_origin(), POLICY, trade_id, methods, is_partial=True))
    (relation,) = view.relations
    return await bench.trade(relation.child_trade_id)


async def ends(bench: Bench, trade: Trade, is_success: bool = True) -> Trade:
    """The latest attempt of a trade ends; the trade as it is then."""
    await bench.apply(a_result(trade.attempt_id, is_success, trade.amount_minor))
    return await bench.trade(trade.id)


async def reason_of(call: Any) -> str:
    """Why a call is refused."""
    with pytest.raises(FailedPrecondition) as caught:
        await call
    return caught.value.reason


async def subjects(bench: Bench, trade_id: str) -> list[str]:
    """What was told about one trade, in order."""
    told = [(TradeEvent.FromString(row.body).trade, row.destination) for row in await bench.events(trade_id)]
    own = [(trade.version, subject) for trade, subject in told if trade.trade_id == trade_id]
    return [subject for _, subject in sorted(own)]
