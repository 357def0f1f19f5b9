"""Lists of trades: whole, in order and without repetition, whatever is filtered and whatever is written meanwhile."""

from __future__ import annotations

import random
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from paykit.errors import InvalidArgument
from paykit.ids import new_id, slot_of
from paymesh.trade.v1 import trade_pb2
from paymesh.trade.v1 import trade_service_pb2 as pb
from tests.trade_core.planting import plant, trade_at
from tests.trade_core.running import Running
from tests.trade_core.support import BUYER, MERCHANT, NOW_MS, Bench
from trade_core import merchant_trades
from trade_core.reads import TradeFilter, TradeReads
from trade_core.tables import MerchantTrade, Trade
from trade_core.wire import TradeView, trade

PAID, CLOSED = trade_pb2.TRADE_STATE_PAID, trade_pb2.TRADE_STATE_CLOSED


def a_filter(**changes: Any) -> TradeFilter:
    """All trades of the buyer."""
    fields: dict[str, Any] = {"owner_id": BUYER, "is_payee": False}
    return TradeFilter(**(fields | changes))


async def listed(reads: TradeReads, wanted: TradeFilter, limit: int) -> list[str]:
    """The ids of a list, page by page to the end; no page is longer than asked for."""
    found: list[str] = []
    before_id = None
    while True:
        page = await reads.page(wanted, before_id, limit, shadow=False)
        assert len(page.rows) <= limit
        found += [row.id if isinstance(row, Trade) else row.trade_id for row in page.rows]
        if not page.next_before_id:
            return found
        before_id = page.next_before_id


def in_merchants_list(row: Trade, version: int = 1) -> MerchantTrade:
    """The trade as its payee has it."""
    message = trade(TradeView(row))
    message.version = version
    slot = slot_of(row.payee_id)
    return merchant_trades.row_of(message, new_id("mtr", slot, NOW_MS), slot)


@pytest.mark.parametrize("is_payee", [False, True])
async def test_a_list_has_what_the_filters_say_newest_first(bench: Bench, is_payee: bool) -> None:
    choose = random.Random(7)
    rows = [
        trade_at(
            choose.randrange(40),
            state=choose.choice(["PAID", "CLOSED", "CREATED"]),
            trade_type=choose.choice(["PURCHASE", "REFUND"]),
            scene=choose.choice(["checkout", "kiosk"]),
            merchant_order_no=choose.choice(["", "no-7"]),
        )
        for _ in range(60)
    ]
    others = [trade_at(number, buyer_id="user.bob", payee_id="merchant.other") for number in range(20)]
    if is_payee:
        await plant(bench.store, *(in_merchants_list(row) for row in rows))
        await plant(bench.store, *(in_merchants_list(row) for row in others))
    else:
        await plant(bench.store, *rows, *others)
    reads = TradeReads(bench.store)
    owner = {"owner_id": MERCHANT if is_payee else BUYER, "is_payee": is_payee}
    for changes, is_wanted in (
        ({}, lambda row: True),
        ({"states": ("CLOSED", "PAID")}, lambda row: row.state in ("CLOSED", "PAID")),
        ({"trade_types": ("REFUND",)}, lambda row: row.trade_type == "REFUND"),
        ({"scene": "kiosk", "states": ("PAID",)}, lambda row: (row.scene, row.state) == ("kiosk", "PAID")),
        ({"merchant_order_no": "no-7"}, lambda row: row.merchant_order_no == "no-7"),
        ({"created_from_ms": NOW_MS + 20}, lambda row: row.created_at_ms >= NOW_MS + 20),
        ({"created_before_ms": NOW_MS + 20}, lambda row: row.created_at_ms < NOW_MS + 20),
        (
            {"created_from_ms": NOW_MS + 5, "created_before_ms": NOW_MS + 30, "scene": "checkout"},
            lambda row: NOW_MS + 5 <= row.created_at_ms < NOW_MS + 30 and row.scene == "checkout",
        ),
    ):
        wanted = sorted((row.id for row in rows if is_wanted(row)), reverse=True)
        for limit in (1, 7, 200):
            assert await listed(reads, a_filter(**owner, **changes), limit) == wanted


async def test_a_list_that_grows_and_changes_while_it_is_paged_skips_and_repeats_nothing(bench: Bench) -> None:
    rows = [trade_at(number) for number in range(30)]
    await plant(bench.store, *rows)
    reads = TradeReads(bench.store)
    found: list[str] = []
    before_id = None
    for number in range(100):
        page = await reads.page(a_filter(states=("PAID",)), before_id, 4, shadow=False)
        found += [row.id for row in page.rows]
        await plant(bench.store, trade_at(1000 + number), trade_at(number % 30))  # at the top, and in the middle
        before_id = page.next_before_id
        if not before_id:
            break
    assert len(set(found)) == len(found)
    assert {row.id for row in rows} <= set(found)


async def test_filters_that_match_little_scan_a_bounded_part_for_each_page(bench: Bench) -> None:
    oldest = trade_at(0, scene="kiosk")
    await plant(bench.store, oldest, *(trade_at(1 + number) for number in range(4500)))
    reads = TradeReads(bench.store)
    wanted = a_filter(scene="kiosk")
    sizes = []
    before_id = None
    while True:
        page = await reads.page(wanted, before_id, 50, shadow=False)
        sizes.append(len(page.rows))
        before_id = page.next_before_id
        if not before_id:
            break
    assert sizes == [0, 0, 1]
    assert page.rows[0].id == oldest.id


async def test_requests_for_lists_are_refused_by_field(running: Running) -> None:
    for request, field in (
        (pb.ListTradesRequest(), "buyer_id"),
        (pb.ListTradesRequest(buyer_id=BUYER, payee_id=MERCHANT), "buyer_id"),
        (pb.ListTradesRequest(payee_id="a b"), "payee_id"),
        (pb.ListTradesRequest(buyer_id=BUYER, states=[PAID, 99]), "states[1]"),  # type: ignore[list-item]
        (pb.ListTradesRequest(buyer_id=BUYER, trade_types=[0]), "trade_types[0]"),  # type: ignore[list-item]
        (pb.ListTradesRequest(buyer_id=BUYER, states=[PAID] * 33), "states"),
        (pb.ListTradesRequest(buyer_id=BUYER, scene="a b"), "scene"),
        (pb.ListTradesRequest(buyer_id=BUYER, merchant_order_no="a b"), "merchant_order_no"),
        (pb.ListTradesRequest(buyer_id=BUYER, created_from=Timestamp(seconds=-1)), "created_from"),
        (pb.ListTradesRequest(buyer_id=BUYER, created_before=Timestamp(seconds=1 << 40)), "created_before"),
        (pb.ListTradesRequest(buyer_id=BUYER, page_size=201), "page_size"),
        (pb.ListTradesRequest(buyer_id=BUYER, page_token="nonsense"), "page_token"),
    ):
        with pytest.raises(InvalidArgument) as refused:
            await running.stub.ListTrades(request)
        assert [violation.field for violation in refused.value.violations] == [field]


async def test_a_page_token_belongs_to_its_list_and_filters(running: Running) -> None:
    await plant(running.bench.store, *(trade_at(number) for number in range(3)))
    first = pb.ListTradesRequest(buyer_id=BUYER, states=[PAID, CLOSED], page_size=2)
    page = await running.stub.ListTrades(first)
    assert len(page.trades) == 2
    same = pb.ListTradesRequest(buyer_id=BUYER, states=[CLOSED, PAID], page_size=1, page_token=page.next_page_token)
    assert len((await running.stub.ListTrades(same)).trades) == 1
    for other in (
        pb.ListTradesRequest(buyer_id=BUYER),
        pb.ListTradesRequest(buyer_id=BUYER, states=[PAID]),
        pb.ListTradesRequest(payee_id=BUYER, states=[PAID, CLOSED]),
        pb.ListTradesRequest(buyer_id=BUYER, states=[PAID, CLOSED], created_from=Timestamp(seconds=1)),
    ):
        other.page_token = page.next_page_token
        with pytest.raises(InvalidArgument):
            await running.stub.ListTrades(other)


async def test_times_between_milliseconds_cut_as_they_say(running: Running) -> None:
    await plant(running.bench.store, trade_at(0))  # at a whole second
    at = Timestamp(seconds=NOW_MS // 1000)
    after = Timestamp(seconds=NOW_MS // 1000, nanos=1)

    async def count(**times: Timestamp) -> int:
        request = pb.ListTradesRequest(buyer_id=BUYER, **times)  # type: ignore[arg-type]
        return len((await running.stub.ListTrades(request)).trades)

    assert await count(created_from=at) == await count(created_before=after) == 1
    assert await count(created_from=after) == await count(created_before=at) == 0
