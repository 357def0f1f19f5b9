"""A business service that keeps asking: the same request_id until it is answered, and it remembers every answer."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from paykit.errors import MeshError
from paykit.rpc.channels import Channels
from paymesh.common.v1 import money_pb2
from paymesh.pay.v1 import ledger_service_pb2, ledger_service_pb2_grpc
from paymesh.trade.v1 import trade_pb2, trade_service_pb2, trade_service_pb2_grpc

# What leaves open whether it was done, or says to come again: the same request is sent until it is answered.
# A server whose deadline passes first may answer CANCELLED before the client's own has passed.
RETRYABLE = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED"})

TERMINAL = frozenset((trade_pb2.TRADE_STATE_PAID, trade_pb2.TRADE_STATE_FAILED, trade_pb2.TRADE_STATE_CLOSED))

UNDER_WAY = frozenset((trade_pb2.TRADE_STATE_PAYING, trade_pb2.TRADE_STATE_SETTLING))

CALL_TIMEOUT_S = 4.0
ANSWER_TIMEOUT_S = 180.0
FOLLOW_TIMEOUT_S = 300.0
WATCH_TIMEOUT_S = 60.0
_FIRST_RETRY_S = 0.05
_LAST_RETRY_S = 2.0
_PAGE_SIZE = 200

R = TypeVar("R")


class Unanswered(Exception):
    """A request was not answered, or an order did not end, within the time that every fault must be over in."""


class Answer(msgspec.Struct, frozen=True):
    """What the client was told, once: of a request that was accepted, the trade and its state."""

    method: str
    request: Any
    trade_id: str
    biz_id: str
    state: int


class Client:
    """Makes the calls of TradeService. ``retries`` counts the answers that were none, by code."""

    def __init__(self, channels: Channels) -> None:
        self._trades = trade_service_pb2_grpc.TradeServiceStub(channels.get("trade_core"))
        self._ledger = ledger_service_pb2_grpc.LedgerServiceStub(channels.get("pay_core"))
        self._run = secrets.token_hex(4)
        self.answers: list[Answer] = []
        self.told: dict[str, set[int]] = {}  # trade -> the terminal states it was said to be in
        self.retries: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()

    def name(self, text: str) -> str:
        """A user or merchant of this run alone."""
        return f"{text}.{self._run}"

    def request_id(self) -> str:
        """A fresh one."""
        return f"{self._run}-r{secrets.token_hex(8)}"  # all of digits by chance, it could be a card number

    async def create(self, request: trade_service_pb2.CreateTradeRequest) -> trade_pb2.Trade:
        """CreateTrade, answered; the trade as the answer had it."""
        trade: trade_pb2.Trade = (await self._send("CreateTrade", request)).trade
        return self._remember("CreateTrade", request, trade)

    async def pay(self, trade_id: str, *pay_methods: trade_pb2.PayMethod) -> trade_pb2.Trade:
        """PayTrade, answered."""
        request = trade_service_pb2.PayTradeRequest(
            request_id=self.request_id(), trade_id=trade_id, pay_methods=pay_methods
        )
        return self._remember("PayTrade", request, (await self._send("PayTrade", request)).trade)

    async def close(self, trade_id: str) -> trade_pb2.Trade:
        """CloseTrade, answered."""
        request = trade_service_pb2.CloseTradeRequest(request_id=self.request_id(), trade_id=trade_id)
        return self._remember("CloseTrade", request, (await self._send("CloseTrade", request)).trade)

    async def capture(self, trade_id: str, amount: money_pb2.Money) -> trade_pb2.Trade:
        """CaptureTrade of so much, answered."""
        request = trade_service_pb2.CaptureTradeRequest(request_id=self.request_id(), trade_id=trade_id, amount=amount)
        return self._remember("CaptureTrade", request, (await self._send("CaptureTrade", request)).trade)

    async def void(self, trade_id: str) -> trade_pb2.Trade:
        """VoidTrade, answered."""
        request = trade_service_pb2.VoidTradeRequest(request_id=self.request_id(), trade_id=trade_id, reason="faults")
        return self._remember("VoidTrade", request, (await self._send("VoidTrade", request)).trade)

    async def refund(self, request: trade_service_pb2.RefundTradeRequest) -> trade_pb2.Trade:
        """RefundTrade, answered; the refund."""
        return self._remember("RefundTrade", request, (await self._send("RefundTrade", request)).refund)

    async def replay(self, answer: Answer) -> trade_pb2.Trade:
        """Sends a request that was answered once more; what comes now."""
        response = await self._send(answer.method, answer.request)
        trade: trade_pb2.Trade = response.refund if answer.method == "RefundTrade" else response.trade
        return trade

    async def trade(self, trade_id: str) -> trade_pb2.Trade:
        """The whole trade as it is now."""
        response = await self._send("GetTrade", trade_service_pb2.GetTradeRequest(trade_id=trade_id))
        trade: trade_pb2.Trade = response.trade
        return trade

    async def followed(self, trade_id: str) -> trade_pb2.Trade:
        """Watches a trade until no payment of it is under way, watching again whenever the watch breaks."""
        return await self._until_answered("WatchTrade", lambda: self._watched(trade_id), FOLLOW_TIMEOUT_S)

    async def balances(self, owner_id: str) -> dict[int, int]:
        """An owner's balances in minor units, by kind of account."""
        request = ledger_service_pb2.ListAccountsRequest(owner_id=owner_id, page_size=_PAGE_SIZE)
        response = await self._until_answered(
            "ListAccounts", lambda: self._ledger.ListAccounts(request, timeout=CALL_TIMEOUT_S), ANSWER_TIMEOUT_S
        )
        return {account.kind: account.balance.amount_minor for account in response.accounts}

    async def _watched(self, trade_id: str) -> trade_pb2.Trade:
        while True:
            request = trade_service_pb2.WatchTradeRequest(trade_id=trade_id)
            async for update in self._trades.WatchTrade(request, timeout=WATCH_TIMEOUT_S):
                if update.trade.state not in UNDER_WAY:
                    trade: trade_pb2.Trade = update.trade
                    self._told(trade)
                    return trade

    async def _send(self, method: str, request: Any) -> Any:
        stub = getattr(self._trades, method)
        return await self._until_answered(method, lambda: stub(request, timeout=CALL_TIMEOUT_S), ANSWER_TIMEOUT_S)

    async def _until_answered(self, what: str, call: Callable[[], Awaitable[R]], timeout_s: float) -> R:
        until_s = time.monotonic() + timeout_s
        delay_s = _FIRST_RETRY_S
        while True:
            try:
                return await call()
            except MeshError as error:
                task = asyncio.current_task()
                if error.code == "CANCELLED" and task is not None and task.cancelling():
                    raise asyncio.CancelledError from error  # it was this client that gave up
                if error.code not in RETRYABLE:
                    self.refusals[f"{what} {error.code} {error.reason}"] += 1
                    raise
                self.retries[error.code] += 1
                if time.monotonic() > until_s:
                    raise Unanswered(f"{what} after {timeout_s:g} s: {error.code} {error.message}") from error
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(2 * delay_s, _LAST_RETRY_S)

    def _remember(self, method: str, request: Any, trade: trade_pb2.Trade) -> trade_pb2.Trade:
        self.answers.append(Answer(method, request, trade.trade_id, trade.biz_id, trade.state))
        self._told(trade)
        return trade

    def _told(self, trade: trade_pb2.Trade) -> None:
        if trade.state in TERMINAL:
            self.told.setdefault(trade.trade_id, set()).add(trade.state)
