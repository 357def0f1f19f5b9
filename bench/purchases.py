"""Purchases by card, end to end on the full stack: from the call to the news that the trade is PAID.

Run as a module it is the load generator: it sends CreateTrade, single or in Batch messages, hears on NATS which
trades are paid, and keeps a bounded number under way, so that what it measures is a steady flow and no backlog.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import subprocess
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

from bench import children
from bench.measure import Sample, sample_of
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
DRAIN_S = 120  # in which all that was accepted must be paid
PAID = "live.trade.trade_paid"


class Load(msgspec.Struct, frozen=True):
    """``callers`` calls at once of ``batch`` purchases each, at most ``under_way`` purchases accepted and not yet paid.

    The rate is taken over ``seconds``, after ``warm_s`` of the same load.
    """

    config: str
    callers: int
    batch: int
    under_way: int
    warm_s: float
    seconds: float


UNARY = Load(config="", callers=64, batch=1, under_way=256, warm_s=3, seconds=15)
BATCH = Load(config="", callers=4, batch=100, under_way=600, warm_s=3, seconds=15)


class Outcome(msgspec.Struct, frozen=True):
    """``sample`` is of the steady part; ``paid`` counts all, warming and draining included; ``cpu_s`` is the load's."""

    sample: Sample
    paid: int
    cpu_s: float


class Room:
    """Counts what is under way and lets more in, in order, while it stays within a limit."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def enter(self, count: int) -> None:
        """Returns when there is room for ``count`` more, and takes it."""
        if self._waiting or self._free < count:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((count, turn))
            await turn
        else:
            self._free -= count

    def leave(self) -> None:
        """One is no longer under way."""
        self._free += 1
        while self._waiting and self._waiting[0][0] <= self._free:
            count, turn = self._waiting.popleft()
            self._free -= count
            turn.set_result(None)


class Watch:
    """Which purchases were accepted, and when each was paid. Times are those of the monotonic clock, seconds."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._begun_s: dict[str, float] = {}
        self._paid_early_s: dict[str, float] = {}  # the news may come before the answer to the call
        self.paid: list[tuple[float, float]] = []  # (when, how long after its call)

    def accepted(self, trade: trade_pb2.Trade, begun_s: float) -> None:
        """A call's answer."""
        assert trade.state in (trade_pb2.TRADE_STATE_PAYING, trade_pb2.TRADE_STATE_PAID), trade
        paid_s = self._paid_early_s.pop(trade.trade_id, None)
        if paid_s is None:
            self._begun_s[trade.trade_id] = begun_s
        else:
            self.paid.append((paid_s, paid_s - begun_s))
            self._room.leave()

    async def news(self, message: Msg) -> None:
        """A trade is paid."""
        paid_s = time.monotonic()
        trade_id = TradeEvent.FromString(message.data).trade.trade_id
        begun_s = self._begun_s.pop(trade_id, None)
        if begun_s is None:
            self._paid_early_s[trade_id] = paid_s
        else:
            self.paid.append((paid_s, paid_s - begun_s))
            self._room.leave()

    async def all_paid(self) -> None:
        """Returns when nothing is under way; LoadFailed where that takes more than DRAIN_S."""
        until_s = time.monotonic() + DRAIN_S
        while self._begun_s:
            if time.monotonic() > until_s:
                raise children.LoadFailed(
                    f"{len(self._begun_s)} trades are not paid, one is {next(iter(self._begun_s))}"
                )
            await asyncio.sleep(0.05)


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
            self._watch.accepted(response.trade, begun_s)
            return
        numbers = itertools.islice(self._numbers, self._batch)
        items = [CreateTradeItem(request=_request(number, self._run)) for number in numbers]
        message = BatchCreateTradesRequest(items=items)
        begun_s = time.monotonic()
        answer = await self._stub.BatchCreateTrades(message, timeout=CALL_TIMEOUT_S)
        for result in answer.results:
            if result.status.code:
                raise children.LoadFailed(f"a purchase was refused: {result.status}")
            self._watch.accepted(result.response.trade, begun_s)


@contextlib.asynccontextmanager
async def _connected(load: Load, watch: Watch) -> AsyncIterator[Any]:
    settings = load_mesh(load.config)
    assert settings.bus.url is not None
    nats = Client()
    await nats.connect(servers=[settings.bus.url])
    # Events reach a plain subscription when JetStream takes them in, without a consumer's cost.
    await nats.subscribe(PAID, cb=watch.news)
    await nats.flush()
    try:
        async with grpc.aio.insecure_channel(settings.addresses["trade_core"]) as channel:
            yield TradeServiceStub(channel)
    finally:
        await nats.close()


async def drive(load: Load) -> Outcome:
    """The load, in this process, to its end: every purchase accepted is paid."""
    room = Room(load.under_way)
    watch = Watch(room)
    async with _connected(load, watch) as stub:
        sender = Sender(stub, watch, load.batch)
        from_s = time.monotonic() + load.warm_s
        until_s = from_s + load.seconds

        async def caller() -> None:
            while time.monotonic() < until_s:
                await room.enter(load.batch)
                await sender.send()

        async with asyncio.TaskGroup() as callers:
            for _ in range(load.callers):
                callers.create_task(caller())
        await watch.all_paid()
    steady = [latency_s for paid_s, latency_s in watch.paid if from_s <= paid_s < until_s]
    return Outcome(sample_of(steady, load.seconds), len(watch.paid), children.cpu_s())


def buy(stack: Stack, buyers: list[str]) -> None:
    """One purchase for each buyer, accepted on return."""
    run = secrets.token_hex(6)
    items = [CreateTradeItem(request=_request(number, run, buyer)) for number, buyer in enumerate(buyers)]
    with grpc.insecure_channel(stack.settings.addresses["trade_core"]) as channel:
        stub: Any = TradeServiceStub(channel)
        answer = stub.BatchCreateTrades(BatchCreateTradesRequest(items=items), timeout=CALL_TIMEOUT_S)
    for result in answer.results:
        if result.status.code:
            raise children.LoadFailed(f"a purchase was refused: {result.status}")


def start(config: Path, load: Load) -> subprocess.Popen[bytes]:
    """Starts ``load`` against the stack of ``config``, in a process of its own."""
    return children.start(MODULE, msgspec.structs.replace(load, config=str(config)))


def measure(config: Path, load: Load) -> Outcome:
    """Runs ``load`` against the stack of ``config``, in a process of its own, to its end."""
    return children.result(start(config, load), Outcome, load.warm_s + load.seconds)


if __name__ == "__main__":
    children.answer(loop.run(drive(children.argument(Load))))
