"""A whole order: which trades belong to it, and what is left out, and said to be, where a service cannot be asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from paykit.clock import SystemClock
from paykit.context import use
from paykit.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from paykit.ids import new_id
from paykit.rpc.batching import serve_batch
from paykit.rpc.channels import Channels
from paykit.rpc.server import Server
from paymesh.channel.v1 import channel_order_pb2, channel_service_pb2, channel_service_pb2_grpc
from paymesh.ops.v1 import ops_service_pb2, ops_service_pb2_grpc
from paymesh.pay.v1 import pay_service_pb2, pay_service_pb2_grpc, payment_pb2
from paymesh.recon.v1 import (
    break_pb2,
    recon_service_pb2,
    recon_service_pb2_grpc,
    repair_pb2,
    repair_service_pb2,
    repair_service_pb2_grpc,
)
from paymesh.trade.v1 import trade_service_pb2 as pb
from tests.trade_core.planting import attempted, plant, related, trade_at
from tests.trade_core.running import Running
from tests.trade_core.support import NOW_MS, SLOT, Bench, a_context
from trade_core.order_rows import read_order
from trade_core.peers import CHANNEL_GATEWAY, PAY_CORE, RECON, Peers
from trade_core.tree import TradeTree

PAYMENT_ID = new_id("pay", SLOT, NOW_MS)


class Neighbours(
    pay_service_pb2_grpc.PayServiceServicer,
    channel_service_pb2_grpc.ChannelServiceServicer,
    recon_service_pb2_grpc.ReconServiceServicer,
    repair_service_pb2_grpc.RepairServiceServicer,
    ops_service_pb2_grpc.OpsServiceServicer,
):
    """The other services, as a test wants them: what they have, who says nothing and who refuses."""

    def __init__(self) -> None:
        self.silent: set[str] = set()
        self.refusing: set[str] = set()
        self.biz_ids: dict[str, str] = {}
        self.asked: list[Any] = []
        self.order_count = 0
        self.instruction_ids = [new_id("ins", SLOT, NOW_MS)]
        self.repair_id = ""  # of a repair that gave something back

    async def _answer(self, method: str, request: Any) -> None:
        self.asked.append(request)
        if method in self.silent:
            await asyncio.Event().wait()
        if method in self.refusing:
            raise Unavailable("not now", reason="SHARD_AWAY")

    async def GetPaymentTree(self, request: Any, context: Any) -> Any:
        await self._answer("GetPaymentTree", request)
        steps = [payment_pb2.Instruction(instruction_id=id_, channel="sandbox_card") for id_ in self.instruction_ids]
        payments = [payment_pb2.Payment(payment_id=PAYMENT_ID, instructions=steps)]
        return pay_service_pb2.GetPaymentTreeResponse(payments=payments)

    async def BatchGetChannelOrders(self, request: Any, context: Any) -> Any:
        response_type = channel_service_pb2.BatchGetChannelOrdersResponse
        return await serve_batch(request, context, self.GetChannelOrder, response_type)

    async def GetChannelOrder(self, request: Any, context: Any) -> Any:
        await self._answer("GetChannelOrder", request)
        if request.instruction_id == self.repair_id:
            order = channel_order_pb2.ChannelOrder(instruction_id=self.repair_id)
            return channel_service_pb2.GetChannelOrderResponse(channel_order=order)
        if self.instruction_ids.index(request.instruction_id) >= self.order_count:
            raise NotFound("the gateway has not heard of it yet")
        order = channel_order_pb2.ChannelOrder(payment_id=PAYMENT_ID, instruction_id=request.instruction_id)
        return channel_service_pb2.GetChannelOrderResponse(channel_order=order)

    async def ListChannelOrders(self, request: Any, context: Any) -> Any:
        await self._answer("ListChannelOrders", request)
        done = int(request.page_token or 0)
        count = min(self.order_count - done, request.page_size)
        orders = [channel_order_pb2.ChannelOrder(payment_id=request.payment_id) for _ in range(count)]
        token = str(done + count) if done + count < self.order_count else ""
        return channel_service_pb2.ListChannelOrdersResponse(channel_orders=orders, next_page_token=token)

    async def ListBreaks(self, request: Any, context: Any) -> Any:
        await self._answer("ListBreaks", request)
        return recon_service_pb2.ListBreaksResponse(breaks=[break_pb2.Break(biz_id=request.biz_id)])

    async def ListRepairs(self, request: Any, context: Any) -> Any:
        await self._answer("ListRepairs", request)
        refund = repair_pb2.Repair(
            biz_id=request.biz_id,
            repair_id=self.repair_id,
            kind=repair_pb2.REPAIR_KIND_REFUND,
            effect_id=f"chn_{self.repair_id[4:]}",
        )
        asked = repair_pb2.Repair(biz_id=request.biz_id, repair_id=self.repair_id, kind=repair_pb2.REPAIR_KIND_QUERY)
        return repair_service_pb2.ListRepairsResponse(repairs=[refund, asked] if self.repair_id else [asked])

    async def GetTimeline(self, request: Any, context: Any) -> Any:
        await self._answer("GetTimeline", request)
        return ops_service_pb2.GetTimelineResponse(biz_id=self.biz_ids.get(request.id, ""))


@asynccontextmanager
async def looking(
    bench: Bench, neighbours: Neighbours, *, wait_s: float = 10.0, margin_s: float = 0.1
) -> AsyncIterator[TradeTree]:
    """A tree over a store and neighbours who answer over gRPC."""
    server = Server("127.0.0.1:0")
    for add in (
        pay_service_pb2_grpc.add_PayServiceServicer_to_server,
        channel_service_pb2_grpc.add_ChannelServiceServicer_to_server,
        recon_service_pb2_grpc.add_ReconServiceServicer_to_server,
        repair_service_pb2_grpc.add_RepairServiceServicer_to_server,
        ops_service_pb2_grpc.add_OpsServiceServicer_to_server,
    ):
        server.add(add, neighbours)
    address = f"127.0.0.1:{await server.start()}"
    channels = Channels(dict.fromkeys((PAY_CORE, CHANNEL_GATEWAY, RECON), address))
    try:
        with use(a_context()):
            yield TradeTree(bench.store, Peers(channels, bench.store), SystemClock(), wait_s, margin_s)
    finally:
        await channels.close(grace_s=1)
        await server.stop(grace_s=1)


@pytest.fixture
def neighbours() -> Neighbours:
    """They have one payment, by card, and no channel orders."""
    return Neighbours()  # type: ignore[abstract]  # they are asked no more than this


async def test_an_order_is_all_that_hangs_together_parents_first(bench: Bench) -> None:
    first, second = trade_at(1), trade_at(2)
    merged = trade_at(3, trade_type="MERGED_PAYMENT", payee_id="")  # younger than what it pays
    refund = trade_at(4, trade_type="REFUND", biz_id=first.biz_id, parent_trade_id=first.id)
    repair = trade_at(5, trade_type="REFUND", biz_id=merged.biz_id, parent_trade_id=merged.id)
    beside = trade_at(6, biz_id=second.biz_id)  # of the same business, without a relation
    stranger = trade_at(7)
    first = msgspec.structs.replace(first, group_trade_id=merged.id)
    relations = [
        related(merged, first, "MERGED"),
        related(merged, second, "MERGED"),
        related(first, refund, "REFUND_OF"),
        related(merged, repair, "DUPLICATE_OF"),
    ]
    attempt = attempted(merged)
    await plant(bench.store, first, second, merged, refund, repair, beside, stranger, *relations, attempt)
    whole = {trade.id for trade in (first, second, merged, refund, repair, beside)}
    views = []
    for id_ in whole:
        views = await read_order(bench.store, SLOT, [id_], [], shadow=False)
        ids = [view.trade.id for view in views]
        assert set(ids) == whole
        assert len(ids) == len(whole)
        for relation in relations:
            assert ids.index(relation.parent_trade_id) < ids.index(relation.child_trade_id)
    by_id = {view.trade.id: view for view in views}
    assert by_id[merged.id].attempts == [attempt]
    assert {relation.kind for relation in by_id[first.id].relations} == {"MERGED", "REFUND_OF"}
    by_business = await read_order(bench.store, SLOT, [], [refund.biz_id], shadow=False)
    assert {view.trade.id for view in by_business} == whole


async def test_an_order_without_bounds_is_refused(bench: Bench) -> None:
    parent = trade_at(0)
    children = [trade_at(1 + number, biz_id=parent.biz_id) for number in range(499)]
    await plant(bench.store, parent, *children)
    assert len(await read_order(bench.store, SLOT, [parent.id], [], shadow=False)) == 500
    await plant(bench.store, trade_at(600, biz_id=parent.biz_id))
    with pytest.raises(FailedPrecondition) as refused:
        await read_order(bench.store, SLOT, [parent.id], [], shadow=False)
    assert refused.value.reason == "TREE_TOO_LARGE"


async def test_every_part_is_asked_for_to_the_end(bench: Bench, neighbours: Neighbours) -> None:
    trade = trade_at(0)
    await plant(bench.store, trade, attempted(trade, payment_id=PAYMENT_ID))
    neighbours.instruction_ids = [new_id("ins", SLOT, NOW_MS) for _ in range(451)]
    neighbours.order_count = 450
    async with looking(bench, neighbours) as tree:
        found = await tree.get(trade.id)
        neighbours.refusing.add("GetPaymentTree")
        without = await tree.get(trade.id)
    assert [payment.payment_id for payment in found.payments] == [PAYMENT_ID]
    assert [order.instruction_id for order in found.channel_orders] == neighbours.instruction_ids[:450]
    assert len(without.channel_orders) == 450
    assert [item.biz_id for item in found.breaks] == [trade.biz_id]
    assert list(found.missing_parts) == []


async def test_what_a_repair_gave_back_is_among_the_channel_orders(bench: Bench, neighbours: Neighbours) -> None:
    trade = trade_at(0)
    await plant(bench.store, trade, attempted(trade, payment_id=PAYMENT_ID))
    neighbours.repair_id = new_id("rpr", SLOT, NOW_MS)
    async with looking(bench, neighbours) as tree:
        found = await tree.get(trade.id)
    assert [repair.repair_id for repair in found.repairs] == [neighbours.repair_id] * 2
    assert [order.instruction_id for order in found.channel_orders] == [neighbours.repair_id]


@pytest.mark.parametrize(
    ("method", "service", "fields"),
    [
        ("GetPaymentTree", "pay_core", ("payments", "journals", "cases")),
        ("GetChannelOrder", "channel_gateway", ("channel_orders",)),
        ("ListBreaks", "recon", ("breaks", "repairs")),
        ("ListRepairs", "recon", ("repairs",)),
    ],
)
async def test_who_refuses_is_named_and_the_rest_is_there(
    bench: Bench, neighbours: Neighbours, method: str, service: str, fields: tuple[str, ...]
) -> None:
    trade = trade_at(0)
    await plant(bench.store, trade, attempted(trade, payment_id=PAYMENT_ID))
    neighbours.order_count = 1
    neighbours.refusing.add(method)
    async with looking(bench, neighbours) as tree:
        found = await tree.get(trade.id)
    assert list(found.missing_parts) == [f"{service}: SHARD_AWAY"]
    for field in {"payments", "channel_orders", "breaks", "repairs", "trades"} - set(fields):
        assert len(getattr(found, field)) == 1, field
    assert not any(getattr(found, field) for field in fields)


async def test_who_says_nothing_does_not_keep_the_rest_from_being_asked_in_time(
    bench: Bench, neighbours: Neighbours
) -> None:
    trade = trade_at(0)
    await plant(bench.store, trade, attempted(trade, payment_id=PAYMENT_ID))
    neighbours.silent |= {"GetPaymentTree", "GetTimeline"}
    neighbours.order_count = 1
    started_s = time.monotonic()
    async with looking(bench, neighbours, wait_s=60.0) as tree:
        deadline_ms = SystemClock().now_ms() + 2000
        with use(msgspec.structs.replace(a_context(), deadline_ms=deadline_ms)):
            found = await tree.get(trade.id)
    assert time.monotonic() - started_s < 2.5
    assert list(found.missing_parts) == [
        "channel_gateway: DEADLINE_EXCEEDED",
        "pay_core: DEADLINE_EXCEEDED",
        "recon: DEADLINE_EXCEEDED",
    ]
    assert len(found.trades) == len(found.channel_orders) == len(found.breaks) == 1


async def test_an_id_of_another_service_is_asked_of_that_service(bench: Bench, neighbours: Neighbours) -> None:
    trade = trade_at(0)
    await plant(bench.store, trade)
    known = [new_id(prefix, SLOT, NOW_MS) for prefix in ("pay", "ins", "jnl", "hld", "cas", "chn", "brk")]
    known += ["ch_3OqW2eLkdIwHu7ix", "pay_29QQoUBi66xm2f"]  # as providers name things
    neighbours.biz_ids = dict.fromkeys(known, trade.biz_id)
    async with looking(bench, neighbours) as tree:
        for id_ in known:
            assert [found.trade_id for found in (await tree.get(id_)).trades] == [trade.id]
        with pytest.raises(NotFound) as refused:
            await tree.get("ch_of_nobody")
        assert refused.value.reason == "TRADE_TREE_NOT_FOUND"
        neighbours.refusing.add("GetTimeline")
        with pytest.raises(Unavailable):
            await tree.get(known[0])


async def test_ids_that_can_be_none_are_refused_and_strangers_not_found(running: Running) -> None:
    for bad in ("", "x" * 65, "a b", "grün"):
        with pytest.raises(InvalidArgument):
            await running.stub.GetTradeTree(pb.GetTradeTreeRequest(id=bad))
    for prefix in ("trd", "att", "lin", "rel", "biz"):
        with pytest.raises(NotFound) as refused:
            await running.stub.GetTradeTree(pb.GetTradeTreeRequest(id=new_id(prefix, SLOT, NOW_MS)))
        assert refused.value.reason == "TRADE_TREE_NOT_FOUND"


async def test_services_without_an_address_are_missing_parts(running: Running) -> None:
    trade = await running.create()
    found = await running.stub.GetTradeTree(pb.GetTradeTreeRequest(id=trade.trade_id))
    assert found.trades[0].trade_id == trade.trade_id
    assert {"recon: NOT_CONFIGURED", "channel_gateway: NOT_CONFIGURED"} <= set(found.missing_parts)
    assert found.timeline[0].command == "CreateTrade"
