"""Servicers over the real stubs whose behaviour a test sets, and what they saw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from paykit.context import BusinessContext, current, current_or_none
from paykit.rpc.batching import serve_batch
from paymesh.pay.v1 import pay_service_pb2, pay_service_pb2_grpc, payment_pb2
from paymesh.trade.v1 import trade_pb2, trade_service_pb2, trade_service_pb2_grpc

TRANSFER = "/paymesh.pay.v1.PayService/Transfer"


async def answer(request: pay_service_pb2.TransferRequest) -> pay_service_pb2.TransferResponse:
    """A payment that repeats the request's source id and carries the business id served under."""
    payment = payment_pb2.Payment(source_id=request.source_id, biz_id=current().biz_id)
    return pay_service_pb2.TransferResponse(payment=payment)


class Pay(pay_service_pb2_grpc.PayServiceServicer):
    """PayService: Transfer (internal), BatchTransfer, and GetPayment (edge); the rest stays unimplemented."""

    def __init__(self) -> None:
        self.transfer: Callable[[Any], Awaitable[pay_service_pb2.TransferResponse]] = answer
        self.contexts: list[BusinessContext] = []
        self.batches: list[int] = []
        self.entered = asyncio.Event()

    async def Transfer(self, request: Any, context: Any) -> Any:
        self.contexts.append(current())
        self.entered.set()
        return await self.transfer(request)

    async def BatchTransfer(self, request: Any, context: Any) -> Any:
        self.batches.append(len(request.items))
        return await serve_batch(request, context, self.Transfer, pay_service_pb2.BatchTransferResponse)

    async def GetPayment(self, request: Any, context: Any) -> Any:
        self.contexts.append(current())
        return pay_service_pb2.GetPaymentResponse(payment=payment_pb2.Payment(biz_id=current().biz_id))


class Trade(trade_service_pb2_grpc.TradeServiceServicer):
    """TradeService: CreateTrade and BatchCreateTrades (edge), WatchTrade (edge, a stream)."""

    def __init__(self) -> None:
        self.contexts: list[BusinessContext | None] = []
        self.watch: Callable[[Any], AsyncIterator[trade_service_pb2.WatchTradeResponse]] = three_trades

    async def CreateTrade(self, request: Any, context: Any) -> Any:
        self.contexts.append(current())
        return trade_service_pb2.CreateTradeResponse(trade=trade_pb2.Trade(biz_id=current().biz_id))

    async def BatchCreateTrades(self, request: Any, context: Any) -> Any:
        return await serve_batch(request, context, self.CreateTrade, trade_service_pb2.BatchCreateTradesResponse)

    async def WatchTrade(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.contexts.append(current_or_none())
        async for response in self.watch(request):
            yield response


async def three_trades(request: trade_service_pb2.WatchTradeRequest) -> AsyncIterator[Any]:
    """Three responses, all of the trade asked for."""
    for _ in range(3):
        yield trade_service_pb2.WatchTradeResponse(trade=trade_pb2.Trade(trade_id=request.trade_id))
