"""GetTradeTree: whole orders, each a purchase by card and its refunds, found by any of their ids.

Run as a module it is the load generator.
"""

from __future__ import annotations

import random
import secrets
from typing import Any

import grpc
import msgspec

from bench import children, counters, purchases
from bench.counters import Measured
from bench.flow import Outcome
from bench.measure import drive
from bench.payments import amount
from meshctl.settings import load_mesh
from meshctl.stack import Stack
from paykit.rpc import loop
from paymesh.trade.v1.trade_service_pb2 import (
    BatchRefundTradesRequest,
    GetTradeTreeRequest,
    GetTradeTreeResponse,
    RefundTradeItem,
    RefundTradeRequest,
)
from paymesh.trade.v1.trade_service_pb2_grpc import TradeServiceStub

MODULE = "bench.tree"
ORDERS = 100
REFUNDS = 2  # of each order
REFUND_MINOR = 100
CALL_TIMEOUT_S = 20


class Load(msgspec.Struct, frozen=True):
    """``callers`` ask at once, each for the order of one of ``ids``, for ``seconds``."""

    config: str
    callers: int
    seconds: float
    ids: list[str]


ALONE = Load(config="", callers=1, seconds=8, ids=[])
CROWD = Load(config="", callers=16, seconds=8, ids=[])


class Orders(msgspec.Struct, frozen=True):
    """The ids by which the orders may be asked for, and how much a tree holds."""

    ids: list[str]
    bytes_per_tree: int


def prepare(stack: Stack) -> Orders:
    """Makes the orders, refunds them in part, and looks at each tree once; LoadFailed where one is not whole."""
    trade_ids = purchases.buy(stack, [f"reader{number}" for number in range(ORDERS)])
    counters.settle(stack)
    with grpc.insecure_channel(stack.settings.addresses["trade_core"]) as channel:
        stub: Any = TradeServiceStub(channel)
        for _ in range(REFUNDS):
            message = BatchRefundTradesRequest(items=[RefundTradeItem(request=_refund(id_)) for id_ in trade_ids])
            answer = stub.BatchRefundTrades(message, timeout=CALL_TIMEOUT_S)
            for result in answer.results:
                children.checked(result)
            counters.settle(stack)
        trees = [stub.GetTradeTree(GetTradeTreeRequest(id=id_), timeout=CALL_TIMEOUT_S) for id_ in trade_ids]
    ids = [id_ for tree in trees for id_ in _ids(whole(tree))]
    return Orders(ids, sum(tree.ByteSize() for tree in trees) // len(trees))


def _refund(trade_id: str) -> RefundTradeRequest:
    return RefundTradeRequest(request_id=secrets.token_hex(12), trade_id=trade_id, amount=amount(REFUND_MINOR))


def whole(tree: GetTradeTreeResponse) -> GetTradeTreeResponse:
    """The tree, which holds the purchase, its refunds, and a payment and a channel order of each."""
    parts = (len(tree.trades), len(tree.payments), len(tree.channel_orders))
    if tree.missing_parts or parts != (1 + REFUNDS,) * 3 or not tree.journals or not tree.timeline:
        raise children.LoadFailed(f"not a whole tree: {parts}, missing {list(tree.missing_parts)}")
    return tree


def _ids(tree: GetTradeTreeResponse) -> list[str]:
    found = [trade.trade_id for trade in tree.trades]
    found += [payment.payment_id for payment in tree.payments]
    return [*found, *(order.channel_order_id for order in tree.channel_orders), tree.trades[0].biz_id]


async def run(load: Load) -> Outcome:
    """The load, in this process."""
    async with grpc.aio.insecure_channel(load_mesh(load.config).addresses["trade_core"]) as channel:
        stub: Any = TradeServiceStub(channel)
        count = 0

        async def ask() -> None:
            nonlocal count
            request = GetTradeTreeRequest(id=random.choice(load.ids))
            whole(await stub.GetTradeTree(request, timeout=CALL_TIMEOUT_S))
            count += 1

        sample = await drive(ask, load.callers, load.seconds)
        return Outcome(sample, count, children.cpu_s())


def measure(stack: Stack, load: Load) -> Measured:
    """Runs ``load`` against the stack, in a process of its own."""
    before_s = counters.cpu_s(stack)
    child = children.start(MODULE, msgspec.structs.replace(load, config=str(stack.config)))
    outcome = children.result(child, Outcome, load.seconds)
    return counters.measured(stack, before_s, outcome)


if __name__ == "__main__":
    children.answer(loop.run(run(children.argument(Load))))
