"""A payee's list is what the events say, in whatever order and however often they come."""

from __future__ import annotations

import itertools
import random

import msgspec
import pytest
from sqlalchemy import select

from paykit.ids import new_id, slot_in, slot_of
from paykit.store.command import Origin
from paymesh.event.v1.events_pb2 import TradeEvent
from paymesh.trade.v1 import trade_pb2
from paymesh.trade.v1 import trade_service_pb2 as pb
from tests.paykit.events.waits import until
from tests.trade_core.running import BALANCE, Running, eur
from tests.trade_core.support import BUYER, MERCHANT, NOW_MS, Bench, a_context, a_trade_row, fresh
from trade_core import merchant_trades, wire
from trade_core.merchant_trades import ProjectTrade, as_trade, row_of, to_command
from trade_core.tables import MerchantTrade, Trade
from trade_core.trade import TradeState
from trade_core.types import TradeType
from trade_core.wire import TradeView

SLOT = slot_of(MERCHANT)
PAID = trade_pb2.TRADE_STATE_PAID


def event(row: Trade) -> bytes:
    """What an event of a trade carries."""
    return TradeEvent(trade=wire.trade(TradeView(row))).SerializeToString()


async def listed(bench: Bench) -> list[MerchantTrade]:
    """The list of the merchant."""
    return await bench.store.fetch(MerchantTrade, select(MerchantTrade.__table__), slot=SLOT, shadow=False)


async def tell(bench: Bench, row: Trade, message_id: str) -> None:
    """Brings an event, as the consumer would."""
    command = to_command(a_context(), message_id, "trade.trade_changed", event(row))
    assert command is not None
    await bench.store.run(command)


async def test_events_in_any_order_and_number_leave_the_latest_version(bench: Bench) -> None:
    made = a_trade_row(state="CREATED", version=1)
    versions = [
        made,
        msgspec.structs.replace(made, state="PAID", version=3, paid_at_ms=NOW_MS + 5),
        msgspec.structs.replace(made, state="PAID", version=4, paid_at_ms=NOW_MS + 5, refunded_minor=300),
    ]
    choose = random.Random(3)
    for order in itertools.permutations(versions):
        trade_id = new_id("trd", made.slot, NOW_MS)
        told = [msgspec.structs.replace(row, id=trade_id, order_key=trade_id) for row in order]
        told += choose.choices(told, k=2)
        for row in told:
            await tell(bench, row, f"{trade_id}/{row.version}")
        (found,) = [item for item in await listed(bench) if item.trade_id == trade_id]
        assert (found.trade_version, found.state, found.refunded_minor) == (4, "PAID", 300)
        assert slot_in(found.id) == found.slot == SLOT


async def test_one_message_takes_effect_once_and_an_old_one_changes_nothing(bench: Bench) -> None:
    row = a_trade_row(version=5)
    await tell(bench, row, "first")
    (before,) = await listed(bench)
    await tell(bench, row, "first")
    await tell(bench, msgspec.structs.replace(row, version=4, state="CREATED"), "older")
    await tell(bench, row, "again")
    assert await listed(bench) == [before]


@pytest.mark.parametrize("state", [state.value for state in TradeState])
@pytest.mark.parametrize("trade_type", [trade_type.value for trade_type in TradeType])
def test_a_listed_trade_is_shown_as_the_trade_is(trade_type: str, state: str) -> None:
    row = a_trade_row(
        trade_type=trade_type, state=state, reason="EXPIRED", scene="kiosk", merchant_order_no="no-1", version=7,
        paid_at_ms=NOW_MS + 9, refunded_minor=1,
    )  # fmt: skip
    shown = wire.trade(TradeView(row))
    assert as_trade(row_of(shown, new_id("mtr", SLOT, NOW_MS), SLOT)) == shown


def test_a_trade_without_a_payee_is_on_no_list() -> None:
    row = a_trade_row(trade_type="TOP_UP", payee_id="")
    assert to_command(a_context(), fresh("msg"), "trade.trade_paid", event(row)) is None
    command = to_command(a_context(), fresh("msg"), "trade.trade_paid", event(a_trade_row()))
    assert isinstance(command, ProjectTrade)
    assert command.slot == SLOT
    assert command.origin == Origin.event(command.origin.context, merchant_trades.CONSUMER, command.origin.request_id)


async def test_a_merchant_finds_orders_and_refunds_of_all_its_buyers(running: Running) -> None:
    merchant = f"merchant.{fresh()}"
    orders = [
        await running.create(buyer_id=f"{BUYER}.{number}", payee_id=merchant, pay_methods=[BALANCE])
        for number in range(3)
    ]
    refund_request = pb.RefundTradeRequest(request_id=fresh(), trade_id=orders[0].trade_id, amount=eur(400))
    refund = (await running.stub.RefundTrade(refund_request)).refund
    await running.until(refund.trade_id, PAID)
    wanted = {trade.trade_id for trade in orders} | {refund.trade_id}

    async def is_listed() -> bool:
        page = await running.stub.ListTrades(pb.ListTradesRequest(payee_id=merchant, states=[PAID]))
        return {trade.trade_id for trade in page.trades} == wanted

    await until(is_listed)
    page = await running.stub.ListTrades(pb.ListTradesRequest(payee_id=merchant, trade_types=[refund.trade_type]))
    (shown,) = page.trades
    assert (shown.trade_id, shown.buyer_id, shown.amount) == (refund.trade_id, f"{BUYER}.0", eur(400))
    mine = await running.stub.ListTrades(pb.ListTradesRequest(buyer_id=merchant))
    assert list(mine.trades) == []
