"""Shadow traffic goes through every hop and leaves no trace on the live side."""

from __future__ import annotations

import time

from sqlalchemy import select

from channel_gateway.sandbox.client import read_book
from meshctl.embedded import EmbeddedMesh
from meshctl.scenarios import Desk
from meshctl.scenarios.desk import MERCHANT, card
from meshctl.settings import SERVICES
from meshctl.timeline import gather
from paykit.context import mint, use
from paykit.ids import slot_of
from paykit.rpc.channels import Channels
from paymesh.trade.v1.trade_pb2 import TRADE_TYPE_PURCHASE
from recon.tables import Match
from tests.e2e.wire import written


async def matches_of(mesh: EmbeddedMesh, biz_id: str, *, shadow: bool) -> int:
    """How many payments of an order recon has heard of: what it hears leaves no record of a command."""
    statement = select(Match.__table__).where(Match.__table__.c.biz_id == biz_id)
    return len(await mesh.services["recon"].store.fetch_everywhere(Match, statement, shadow=shadow))


async def test_a_shadow_order_lives_in_shadow_alone(desk: Desk, mesh: EmbeddedMesh, channels: Channels) -> None:
    await mesh.settle()
    live_before = await written(mesh, ("live",))
    shadow_before = await written(mesh, ("shadow",))
    ann, shop = desk.name("ann"), desk.name("shop")
    with use(mint(slot_of(ann), time.time_ns() // 1_000_000, shadow=True)):
        made = await desk.order(TRADE_TYPE_PURCHASE, ann, 4400, card(), payee_id=shop)
        trade = await desk.finished(made.trade_id)
        desk.expect_state(trade, "PAID")
        await desk.expect_balance(shop, 4400, MERCHANT)
        (order,) = await desk.channel_orders_of(trade)
    await mesh.settle()

    assert await written(mesh, ("live",)) == live_before
    shadow_after = await written(mesh, ("shadow",))
    assert all(shadow_after[name] > shadow_before[name] for name in SERVICES if name != "recon")
    assert (await matches_of(mesh, trade.biz_id, shadow=True), await matches_of(mesh, trade.biz_id, shadow=False)) == (
        1,
        0,
    )
    assert await desk.balance(shop, MERCHANT) == 0
    assert (await gather(channels, trade.trade_id)).entries == []
    assert (await gather(channels, trade.trade_id, shadow=True)).biz_ids == [trade.biz_id]
    sandbox = mesh.settings.sandbox
    assert sandbox is not None
    key = sandbox.admin_key.get_secret_value()
    booked = [entry async for entry in read_book(f"http://{sandbox.host}:{sandbox.port}", key)]
    assert [entry.livemode for entry in booked if entry.reference == order.channel_order_id] == [False]
