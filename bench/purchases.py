"""Purchases by card, end to end on the full stack: from the call to the news that the trade is PAID.

Run as a module it is the load generator: it sends CreateTrade, single or in Batch messages, hears on NATS which
trades are paid, and keeps a bounded number under way, so that what it measures is a steady flow and no backlog.
"""

from __future__ import annotations

import itertools
import secrets
import subprocess
import time
from pathlib import Path
from typing import Any

import grpc
import msgspec

from bench import children
from bench.flow import Outcome, Pace, Room, Watch, flow, heard
from meshctl.settings import load_mesh
from meshctl.stack import Stack
from paykit.rpc import loop
from paymesh.common.v1.money_pb2 import Money
from paymesh.event.v1.events_pb2 import TradeEvent
from paymesh.trade.v1 import trade_pb2
from paymesh.trade.v1.trade_service_pb2 import BatchCreateTradesRequest, CreateTradeItem, CreateTradeRequest
from paymesh.trade.v1.trade_service_pb2_grpc import TradeServiceStub

MODULE = "bench.purchases"
BUYERS = 10_000
MERCHANTS = 200
CALL_TIMEOUT_S = 20
PAID = "live.trade.trade_paid"


class Load(msgspec.Struct, frozen=True):
    """Purchases at ``pace`` against the stack of ``config``."""

    config: str
    pace: Pace


UNARY = Pace(callers=64, batch=1, under_way=256, warm_s=3, seconds=15)
BATCH = Pace(callers=4, batch=100, under_way=600, warm_s=3, seconds=15)


def accepted(trade: trade_pb2.Trade) -> str:
    """The id of a trade that a call has taken; AssertionError where it was not."""
    assert trade.state in (trade_pb2.TRADE_STATE_PAYING, trade_pb2.TRADE_STATE_PAID), trade
    return trade.trade_id


def _request(number: int, run: str, buyer_id: str = "") -> CreateTradeRequest:
    amount = Money(currency_code="EUR", amount_minor=1_000 + number % 9_000)
    return CreateTradeRequest(
        request_id=f"{run}-{number}",
        trade_type=trade_pb2.TRADE_TYPE_PURCHASE,
        buyer_id=buyer_id or f"buyer{number % BUYERS}",
        payee_id=f"shop{number % MERCHANTS}",
        scene="web",
        amount=amount,
        pay_methods=[trade_pb2.PayMethod(card=trade_pb2.CardTool(card_token="tok_ok"))],
    )


class Sender:
    """Sends purchases, one by one or in Batch messages."""

    def __init__(self, stub: Any, watch: Watch, batch: int) -> None:
        self._stub = stub
        self._watch = watch
        self._batch = batch
        self._run = secrets.token_hex(6)
        self._numbers = itertools.count()

    async def send(self) -> None:
        """One call; LoadFailed where a purchase is not accepted."""
        if self._batch == 1:
            request = _request(next(self._numbers), self._run)
            begun_s = time.monotonic()
            response = await self._stub.CreateTrade(request, timeout=CALL_TIMEOUT_S)
            self._watch.accepted(accepted(response.trade), begun_s)
            return
        numbers = itertools.islice(self._numbers, self._batch)
        items = [CreateTradeItem(request=_request(number, self._run)) for number in numbers]
        message = BatchCreateTradesRequest(items=items)
        begun_s = time.monotonic()
        answer = await self._stub.BatchCreateTrades(message, timeout=CALL_TIMEOUT_S)
        for result in answer.results:
            self._watch.accepted(accepted(children.checked(result).trade), begun_s)


async def drive(load: Load) -> Outcome:
    """The load, in this process, to its end: every purchase accepted is paid."""
    settings = load_mesh(load.config)
    room = Room(load.pace.under_way)
    watch = Watch(room)

    def paid(body: bytes) -> None:
        watch.news(TradeEvent.FromString(body).trade.trade_id)

    async with (
        heard(settings, PAID, paid),
        grpc.aio.insecure_channel(settings.addresses["trade_core"]) as channel,
    ):
        sender = Sender(TradeServiceStub(channel), watch, load.pace.batch)
        return await flow(sender.send, room, watch, load.pace)


def buy(stack: Stack, buyers: list[str]) -> list[str]:
    """One purchase for each buyer, accepted on return; the ids of the trades."""
    run = secrets.token_hex(6)
    items = [CreateTradeItem(request=_request(number, run, buyer)) for number, buyer in enumerate(buyers)]
    with grpc.insecure_channel(stack.settings.addresses["trade_core"]) as channel:
        stub: Any = TradeServiceStub(channel)
        answer = stub.BatchCreateTrades(BatchCreateTradesRequest(items=items), timeout=CALL_TIMEOUT_S)
    return [accepted(children.checked(result).trade) for result in answer.results]


def start(config: Path, pace: Pace) -> subprocess.Popen[bytes]:
    """Starts the load against the stack of ``config``, in a process of its own."""
    return children.start(MODULE, Load(str(config), pace))


def measure(config: Path, pace: Pace) -> Outcome:
    """Runs the load against the stack of ``config``, in a process of its own, to its end."""
    return children.result(start(config, pace), Outcome, pace.warm_s + pace.seconds)


if __name__ == "__main__":
    children.answer(loop.run(drive(children.argument(Load))))
