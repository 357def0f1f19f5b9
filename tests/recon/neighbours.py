"""The three services recon asks, on a loopback port: real gRPC, scripted answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from paykit.context import current
from paykit.errors import NotFound
from paykit.rpc.batching import serve_batch
from paykit.rpc.channels import Channels
from paykit.rpc.server import Server
from paymesh.channel.v1 import channel_order_pb2, channel_service_pb2, channel_service_pb2_grpc
from paymesh.ops.v1 import ops_service_pb2, ops_service_pb2_grpc
from paymesh.pay.v1 import (
    ledger_service_pb2,
    ledger_service_pb2_grpc,
    pay_service_pb2,
    pay_service_pb2_grpc,
    payment_pb2,
)
from paymesh.trade.v1 import trade_pb2, trade_service_pb2, trade_service_pb2_grpc
from tests.recon.support import NOW_MS


class Neighbours:
    """What the services would answer; ``asked`` notes method and business id of every question."""

    def __init__(self) -> None:
        self.payments: list[payment_pb2.Payment] = []
        self.orders: list[channel_order_pb2.ChannelOrder] = []
        self.trades: list[trade_pb2.Trade] = []
        self.accounts: dict[str, list[ledger_service_pb2.Account]] = {}  # by owner
        self.entries: dict[str, list[ledger_service_pb2.Entry]] = {}  # by account, newest first
        self.asked: list[tuple[str, str]] = []

    def note(self, method: str) -> None:
        """Notes a question."""
        self.asked.append((method, current().biz_id))

    def book(
        self,
        owner_id: str,
        kind: payment_pb2.AccountKind.ValueType,
        payment_id: str,
        amount_minor: int,
        post_ms: int = NOW_MS,
    ) -> None:
        """Adds an entry to an owner's account."""
        account_id = f"acc-{owner_id}-{kind}"
        if account_id not in self.entries:
            account = ledger_service_pb2.Account(account_id=account_id, kind=kind)
            account.balance.currency_code = "EUR"
            self.accounts.setdefault(owner_id, []).append(account)
        entry = ledger_service_pb2.Entry(account_id=account_id, payment_id=payment_id)
        entry.amount.amount_minor = amount_minor
        entry.post_time.FromMilliseconds(post_ms)
        self.entries.setdefault(account_id, []).insert(0, entry)


class _Pay(pay_service_pb2_grpc.PayServiceServicer):
    def __init__(self, world: Neighbours) -> None:
        self.world = world

    async def GetPayment(self, request: Any, servicer: Any) -> pay_service_pb2.GetPaymentResponse:
        self.world.note("GetPayment")
        for payment in self.world.payments:
            if payment.payment_id == request.payment_id:
                return pay_service_pb2.GetPaymentResponse(payment=payment)
        raise NotFound("no such payment")

    async def BatchGetPayments(self, request: Any, servicer: Any) -> pay_service_pb2.BatchGetPaymentsResponse:
        return await serve_batch(request, servicer, self.GetPayment, pay_service_pb2.BatchGetPaymentsResponse)


class _Ledger(ledger_service_pb2_grpc.LedgerServiceServicer):
    def __init__(self, world: Neighbours) -> None:
        self.world = world

    async def ListAccounts(self, request: Any, servicer: Any) -> ledger_service_pb2.ListAccountsResponse:
        self.world.note("ListAccounts")
        return ledger_service_pb2.ListAccountsResponse(accounts=self.world.accounts.get(request.owner_id, []))

    async def ListEntries(self, request: Any, servicer: Any) -> ledger_service_pb2.ListEntriesResponse:
        self.world.note("ListEntries")
        start = int(request.page_token or 0)
        entries = self.world.entries[request.account_id]
        page = entries[start : start + request.page_size]
        following = start + request.page_size
        return ledger_service_pb2.ListEntriesResponse(
            entries=page, next_page_token=str(following) if following < len(entries) else ""
        )


class _Channel(channel_service_pb2_grpc.ChannelServiceServicer):
    def __init__(self, world: Neighbours) -> None:
        self.world = world

    async def GetChannelOrder(self, request: Any, servicer: Any) -> channel_service_pb2.GetChannelOrderResponse:
        self.world.note("GetChannelOrder")
        for order in self.world.orders:
            if order.instruction_id == request.instruction_id:
                return channel_service_pb2.GetChannelOrderResponse(channel_order=order)
        raise NotFound("no such order")

    async def BatchGetChannelOrders(
        self, request: Any, servicer: Any
    ) -> channel_service_pb2.BatchGetChannelOrdersResponse:
        response_type = channel_service_pb2.BatchGetChannelOrdersResponse
        return await serve_batch(request, servicer, self.GetChannelOrder, response_type)


class _Trade(trade_service_pb2_grpc.TradeServiceServicer):
    def __init__(self, world: Neighbours) -> None:
        self.world = world

    async def GetTrade(self, request: Any, servicer: Any) -> trade_service_pb2.GetTradeResponse:
        self.world.note("GetTrade")
        for trade in self.world.trades:
            if trade.trade_id == request.trade_id:
                return trade_service_pb2.GetTradeResponse(trade=trade)
        raise NotFound("no such trade")


class _Ops(ops_service_pb2_grpc.OpsServiceServicer):
    def __init__(self, world: Neighbours) -> None:
        self.world = world

    async def GetTimeline(self, request: Any, servicer: Any) -> ops_service_pb2.GetTimelineResponse:
        self.world.note("GetTimeline")
        changes = [ops_service_pb2.Change(id=trade.trade_id, entity="trade") for trade in self.world.trades]
        return ops_service_pb2.GetTimelineResponse(
            biz_id=request.id, entries=[ops_service_pb2.TimelineEntry(changes=changes)]
        )


@asynccontextmanager
async def serving(world: Neighbours) -> AsyncIterator[Channels]:
    """Serves ``world`` and gives channels to it."""
    server = Server("127.0.0.1:0")
    server.add(pay_service_pb2_grpc.add_PayServiceServicer_to_server, _Pay(world))  # type: ignore[abstract]  # what recon never asks
    server.add(ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server, _Ledger(world))  # type: ignore[abstract]  # what recon never asks
    server.add(channel_service_pb2_grpc.add_ChannelServiceServicer_to_server, _Channel(world))  # type: ignore[abstract]  # what recon never asks
    server.add(trade_service_pb2_grpc.add_TradeServiceServicer_to_server, _Trade(world))  # type: ignore[abstract]  # what recon never asks
    server.add(ops_service_pb2_grpc.add_OpsServiceServicer_to_server, _Ops(world))  # type: ignore[abstract]  # what recon never asks
    port = await server.start()
    async with connected(port) as channels:
        try:
            yield channels
        finally:
            await server.stop(1.0)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Channels]:
    """Channels to whatever listens on a port, for all three services."""
    address = f"127.0.0.1:{port}"
    channels = Channels({"trade_core": address, "pay_core": address, "channel_gateway": address})
    try:
        yield channels
    finally:
        await channels.close(1.0)
