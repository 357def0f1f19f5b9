"""Whole orders read in one call: by any id, over all services, and while they change."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from meshctl.embedded import EmbeddedMesh
from meshctl.scenarios import Desk
from meshctl.scenarios.desk import MERCHANT, bank, card, from_balance, money
from pay_core.tables import Hold
from paykit.context import BusinessContext, use
from paykit.errors import NotFound
from paykit.events.message import Message, to_headers
from paykit.ids import new_id, slot_in, slot_of
from paykit.rpc.channels import Channels
from paykit.store.row import Row
from paymesh.event.v1.events_pb2 import ChannelMismatchEvent
from paymesh.pay.v1 import payment_pb2
from paymesh.recon.v1 import recon_service_pb2, recon_service_pb2_grpc
from paymesh.trade.v1 import trade_pb2
from paymesh.trade.v1 import trade_service_pb2 as pb
from tests.paykit.events.waits import until
from trade_core.tables import TradeRelation

PURCHASE = trade_pb2.TRADE_TYPE_PURCHASE
PRE_AUTHORIZATION = trade_pb2.TRADE_TYPE_PRE_AUTHORIZATION
NOW_MS = 1_700_000_000_000
NAMED = (trade_pb2.ATTEMPT_STATE_EFFECTIVE, trade_pb2.ATTEMPT_STATE_AUTHORIZED)
MOVING = (payment_pb2.INSTRUCTION_ACTION_COLLECT, payment_pb2.INSTRUCTION_ACTION_DISBURSE)


async def tree(desk: Desk, id_: str) -> pb.GetTradeTreeResponse:
    """The order an id belongs to."""
    return await desk.trades.GetTradeTree(pb.GetTradeTreeRequest(id=id_), timeout=20)


def wrong(found: pb.GetTradeTreeResponse) -> Iterator[str]:
    """Where a part refers to something that is not in the tree, or an amount came from nowhere."""
    trades = {trade.trade_id for trade in found.trades}
    payments = {payment.payment_id: payment for payment in found.payments}
    orders = {order.channel_order_id for order in found.channel_orders}
    at_home = {journal.payment_id for journal in found.journals if slot_in(journal.payment_id) == journal.slot}
    for trade in found.trades:
        for attempt in trade.attempts:
            if attempt.state in NAMED and attempt.payment_id not in payments:
                yield f"{attempt.attempt_id} was paid by {attempt.payment_id}, which is not there"
        for relation in trade.relations:
            if not {relation.root_trade_id, relation.parent_trade_id, relation.child_trade_id} <= trades:
                yield f"{trade.trade_id} has a relative that is not there"
    for payment in found.payments:
        for step in payment.instructions:
            is_done = step.state == payment_pb2.INSTRUCTION_STATE_SUCCEEDED
            if is_done and step.action in MOVING and payment.payment_id not in at_home:
                yield f"{step.instruction_id} moved money that no journal of {payment.payment_id} books"
            if step.channel_order_id and step.channel_order_id not in orders:
                yield f"{step.instruction_id} was done by {step.channel_order_id}, which is not there"
    for journal in found.journals:
        sums: Counter[str] = Counter()
        for line in journal.lines:
            sums[line.amount.currency_code] += line.amount.amount_minor
        if not journal.lines or any(sums.values()):
            yield f"{journal.journal_id} sums to {dict(sums)}"
    times = [entry.time.ToMilliseconds() for entry in found.timeline]
    if times != sorted(times):
        yield "the timeline goes back in time"
    yield from found.missing_parts


async def row_of(mesh: EmbeddedMesh, service: str, row_type: type[Row], column: str, value: str) -> Row:
    """The first row of a service whose column has a value."""
    table = row_type.__table__
    statement = select(table).where(table.c[column] == value).order_by(table.c.id).limit(1)
    return (await mesh.services[service].store.fetch_everywhere(row_type, statement, shadow=False))[0]


async def break_of(mesh: EmbeddedMesh, channels: Channels, found: pb.GetTradeTreeResponse) -> str:
    """A break of an order: what recon makes of a provider that contradicts itself. Closed again by a person."""
    order = found.channel_orders[0]
    context = BusinessContext(biz_id=order.biz_id)
    body = ChannelMismatchEvent(channel_order=order, evidence="the provider says otherwise").SerializeToString()
    message_id = new_id("msg", slot_in(order.channel_order_id), NOW_MS)
    message = Message(message_id, "live.channel.mismatch_found", to_headers(context, message_id), body)
    assert await mesh.services["recon"].bus.publish([message]) == [None]
    stub = recon_service_pb2_grpc.ReconServiceStub(channels.get("recon"))
    request = recon_service_pb2.ListBreaksRequest(biz_id=order.biz_id)

    async def is_open() -> bool:
        return bool((await stub.ListBreaks(request)).breaks)

    await until(is_open)
    break_id = (await stub.ListBreaks(request)).breaks[0].break_id
    closing = recon_service_pb2.CloseBreakRequest(request_id="close", break_id=break_id, reason="a test's own doing")
    await stub.CloseBreak(closing)
    return break_id


async def test_any_id_of_an_order_gives_all_of_it(desk: Desk, mesh: EmbeddedMesh, channels: Channels) -> None:
    ann = desk.name("ann")
    shop = desk.name_far_from(ann, "shop")
    made = await desk.order(PURCHASE, ann, 1999, card(), payee_id=shop)
    order = await desk.finished(made.trade_id)
    refund = await desk.refund(order.trade_id, 500)
    await mesh.settle()
    whole = await tree(desk, order.trade_id)
    break_id = await break_of(mesh, channels, whole)
    whole = await tree(desk, order.trade_id)

    assert list(wrong(whole)) == []
    assert [trade.trade_id for trade in whole.trades] == [order.trade_id, refund.trade_id]
    assert whole.trades[0] == await desk.trade(order.trade_id)
    assert [payment.operation for payment in whole.payments] == [
        payment_pb2.OPERATION_TRANSFER,
        payment_pb2.OPERATION_REFUND,
    ]
    assert sorted(order.amount.amount_minor for order in whole.channel_orders) == [500, 1999]
    assert {journal.slot for journal in whole.journals} == {slot_of(ann), slot_of(shop)}
    of_shop = [line for journal in whole.journals for line in journal.lines if line.owner_id == shop]
    assert [(line.amount.amount_minor, line.account_kind) for line in of_shop] == [(1999, MERCHANT), (-500, MERCHANT)]
    assert [found.break_id for found in whole.breaks] == [break_id]
    assert {entry.service for entry in whole.timeline} == {"trade_core", "pay_core", "channel_gateway", "recon"}

    relation = await row_of(mesh, "trade_core", TradeRelation, "child_trade_id", refund.trade_id)
    ids = [order.trade_id, refund.trade_id, order.biz_id, relation.id, break_id]
    ids += [attempt.attempt_id for trade in (order, refund) for attempt in trade.attempts]
    for payment in whole.payments:
        ids += [payment.payment_id, *(step.instruction_id for step in payment.instructions)]
    ids += [journal.journal_id for journal in whole.journals]
    for channel_order in whole.channel_orders:
        ids += [channel_order.channel_order_id, channel_order.provider_reference]
    for id_ in ids:
        assert await tree(desk, id_) == whole, id_


async def held(desk: Desk, trade_type: int, buyer: str, shop: str, method: trade_pb2.PayMethod) -> trade_pb2.Trade:
    """An order whose money is reserved or kept: 10.00."""
    made = await desk.order(trade_type, buyer, 1000, method, payee_id=shop)
    trade = await desk.finished(made.trade_id)
    desk.expect_state(trade, "AUTHORIZED")
    return trade


async def captured(desk: Desk, trade_id: str, amount_minor: int, *, keep_rest: bool = False) -> trade_pb2.Trade:
    """What becomes of a held order when some of its money is taken."""
    request = pb.CaptureTradeRequest(
        request_id=f"{trade_id}/{amount_minor}", trade_id=trade_id, amount=money(amount_minor), keep_rest=keep_rest
    )
    await desk.trades.CaptureTrade(request, timeout=20)

    async def is_settled() -> bool:
        return (await desk.trade(trade_id)).state != trade_pb2.TRADE_STATE_SETTLING

    await until(is_settled)
    return await desk.trade(trade_id)


async def test_a_hold_leads_to_its_order(desk: Desk, mesh: EmbeddedMesh) -> None:
    ann, shop = desk.name("ann"), desk.name("shop")
    await desk.top_up(ann, 1000)
    trade = await held(desk, PRE_AUTHORIZATION, ann, shop, from_balance())
    payment_id = trade.attempts[0].payment_id
    whole = await tree(desk, trade.trade_id)
    assert list(wrong(whole)) == []
    assert [payment.state for payment in whole.payments] == [payment_pb2.PAYMENT_STATE_AUTHORIZED]
    assert list(whole.journals) == []
    hold = await row_of(mesh, "pay_core", Hold, "payment_id", payment_id)
    assert (await tree(desk, hold.id)).trades == whole.trades
    desk.expect_state(await captured(desk, trade.trade_id, 600), "PAID")
    await mesh.settle()
    after = await tree(desk, hold.id)
    assert list(wrong(after)) == []
    assert [payment.captured_minor for payment in after.payments] == [600]


async def test_a_merged_order_is_whole_by_any_of_the_orders_it_pays(desk: Desk, mesh: EmbeddedMesh) -> None:
    ann = desk.name("ann")
    parts = [await desk.order(PURCHASE, ann, 700, payee_id=desk.name(f"shop{number}")) for number in range(2)]
    request = pb.CreateTradeRequest(
        request_id=desk.name("merge"),
        trade_type=trade_pb2.TRADE_TYPE_MERGED_PAYMENT,
        buyer_id=ann,
        amount=money(1400),
        merged_trade_ids=[part.trade_id for part in parts],
        pay_methods=[card()],
    )
    merged = (await desk.trades.CreateTrade(request, timeout=20)).trade
    await desk.finished(merged.trade_id)
    refund = await desk.refund(parts[1].trade_id, 200)
    await mesh.settle()
    whole = await tree(desk, parts[0].trade_id)
    assert list(wrong(whole)) == []
    ids = [trade.trade_id for trade in whole.trades]
    assert ids[0] == merged.trade_id
    assert ids[-1] == refund.trade_id
    assert set(ids[1:-1]) == {part.trade_id for part in parts}
    assert len(whole.payments) == len(whole.channel_orders) == 2
    for id_ in (merged.trade_id, parts[1].trade_id, refund.trade_id, merged.biz_id, parts[1].biz_id):
        assert await tree(desk, id_) == whole


async def test_what_nobody_knows_is_not_found(desk: Desk) -> None:
    for prefix in ("trd", "att", "lin", "rel", "pay", "ins", "jnl", "hld", "cas", "chn", "brk", "biz", "xyz"):
        with pytest.raises(NotFound) as refused:
            await tree(desk, new_id(prefix, 7, NOW_MS))
        assert refused.value.reason == "TRADE_TREE_NOT_FOUND"
    with pytest.raises(NotFound):
        await tree(desk, "a-reference-of-nobody")


async def test_a_shadow_order_is_read_in_shadow_alone(desk: Desk, mesh: EmbeddedMesh) -> None:
    ann = desk.name("ann")
    with use(BusinessContext(biz_id=new_id("biz", slot_of(ann), NOW_MS), shadow=True)):
        made = await desk.order(PURCHASE, ann, 1200, card(), payee_id=desk.name("shop"))
        await desk.finished(made.trade_id)
        await mesh.settle()
        whole = await tree(desk, made.trade_id)
        assert await tree(desk, whole.channel_orders[0].provider_reference) == whole
    assert list(wrong(whole)) == []
    assert len(whole.payments) == len(whole.channel_orders) == 1
    with pytest.raises(NotFound):
        await tree(desk, made.trade_id)


async def test_a_tree_is_whole_at_any_moment_of_an_orders_life(desk: Desk, mesh: EmbeddedMesh) -> None:
    begun: list[str] = []
    is_over = asyncio.Event()
    seen: Counter[int] = Counter()

    async def live(number: int) -> None:
        buyer = desk.name(f"buyer{number}")
        shop = desk.name_far_from(buyer, f"shop{number}") if number % 2 else desk.name_beside(buyer, f"shop{number}")
        for method in (card(), from_balance()):
            if method.HasField("balance"):
                begun.append((await desk.top_up(buyer, 1000)).trade_id)
            made = await desk.order(PURCHASE, buyer, 1000, payee_id=shop)
            begun.append(made.trade_id)
            await desk.pay(made.trade_id, method)
            await desk.finished(made.trade_id)
            await desk.refund(made.trade_id, 300)
            await desk.refund(made.trade_id)
        for trade_type, method in ((PRE_AUTHORIZATION, card()), (trade_pb2.TRADE_TYPE_ESCROW, card())):
            trade = await held(desk, trade_type, buyer, shop, method)
            begun.append(trade.trade_id)
            await captured(desk, trade.trade_id, 1000)
        trade = await held(desk, PRE_AUTHORIZATION, buyer, shop, from_balance())  # of what came back
        begun.append(trade.trade_id)
        for amount_minor in (200, 300):
            await captured(desk, trade.trade_id, amount_minor, keep_rest=amount_minor == 200)
        cashed = await desk.order(trade_pb2.TRADE_TYPE_CASH_OUT, buyer, 500, bank())
        begun.append(cashed.trade_id)
        await desk.finished(cashed.trade_id)

    async def look() -> None:
        while not is_over.is_set():
            for trade_id in begun[-6:]:
                found = await tree(desk, trade_id)
                assert list(wrong(found)) == []
                seen[len(found.journals)] += 1
            await asyncio.sleep(0)

    async def write() -> None:
        try:
            await asyncio.gather(*(live(number) for number in range(4)))
        finally:
            is_over.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        group.create_task(look())
    await mesh.settle()
    assert sum(seen.values()) > 20
    assert len(seen) > 2  # seen at several ages
    for trade_id in begun:
        assert list(wrong(await tree(desk, trade_id))) == []
