"""A merchant's list over all buyers, wherever they live."""

from __future__ import annotations

from meshctl.scenarios import Desk
from meshctl.scenarios.desk import card
from paymesh.trade.v1 import trade_pb2
from paymesh.trade.v1 import trade_service_pb2 as pb
from tests.paykit.events.waits import until


async def test_a_merchant_lists_orders_of_buyers_on_every_shard_and_their_refunds(desk: Desk) -> None:
    shop = desk.name("shop")
    buyers = [desk.name_beside(shop, "near"), desk.name_far_from(shop, "far")]
    orders = [await desk.order(trade_pb2.TRADE_TYPE_PURCHASE, buyer, 900, card(), payee_id=shop) for buyer in buyers]
    paid = [await desk.finished(order.trade_id) for order in orders]
    refund = await desk.refund(paid[1].trade_id, 300)
    wanted = {trade.trade_id: trade.state for trade in (*paid, refund)}
    request = pb.ListTradesRequest(payee_id=shop, page_size=2)

    async def is_listed() -> bool:
        found: dict[str, int] = {}
        request.page_token = ""
        while True:
            page = await desk.trades.ListTrades(request, timeout=10)
            found |= {trade.trade_id: trade.state for trade in page.trades}
            if not page.next_page_token:
                return found == wanted
            request.page_token = page.next_page_token

    await until(is_listed)
