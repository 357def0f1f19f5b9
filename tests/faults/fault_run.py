"""Purchases on the full stack while its parts are killed in turn; then all must be as every client was told.

What must hold at the end: every order has ended; what a client was told is so; the same request again gives the same
trade and nothing more; every balance is what the orders make it, to the cent; and every invariant of the checker.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from meshctl import check
from meshctl.settings import SERVICES, MeshSettings
from meshctl.stack import Stack
from paykit.errors import MeshError
from paykit.rpc.channels import Channels
from paymesh.trade.v1 import trade_pb2
from tests.faults import drain
from tests.faults.client import TERMINAL, Client, Unanswered
from tests.faults.counting import Declared, declared_unknown
from tests.faults.in_thread import InThread, in_one_thread
from tests.faults.orders import MERCHANT, USER, Ordered, Plan, carry_out, expected_balances, plans, top_ups
from tests.faults.outages import OUTAGES, Outage
from tests.faults.waits import short_waits
from trade_core.tables import PayAttempt, Trade

IN_FLIGHT_MAX = 40
REPLAYS_IN_FLIGHT_MAX = 32
CONNECT_TIMEOUT_S = 20.0
DRAIN_TIMEOUT_S = 180.0

_TRADE_STATE: Any = trade_pb2.TradeState  # the stubs show the classes, not the wrappers that have Name

T = TypeVar("T")
R = TypeVar("R")


class Summary(msgspec.Struct):
    """What a run did and found. ``problems`` and the report's violations are empty where all held."""

    purchases: int = 0
    orders: int = 0
    refunds: int = 0
    states: Counter[str] = msgspec.field(default_factory=Counter)
    outages: list[tuple[str, float]] = msgspec.field(default_factory=list)  # (what went down, for how many seconds)
    retries: Counter[str] = msgspec.field(default_factory=Counter)
    refusals: Counter[str] = msgspec.field(default_factory=Counter)
    declined_attempts: int = 0
    unknown: Declared = Declared()
    replays: int = 0
    load_s: float = 0.0
    drain_s: float = 0.0
    took_s: float = 0.0
    problems: list[str] = msgspec.field(default_factory=list)
    report: check.Report | None = None

    @property
    def holds(self) -> bool:
        """Whether all that must hold does."""
        return self.report is not None and self.report.is_clean and not self.problems


async def run(
    purchases: int,
    directory: Path,
    *,
    rounds: int = 1,
    seed: int = 1,
    outages: Sequence[Outage] = OUTAGES,
    say: Callable[[str], None] = lambda _line: None,
) -> Summary:
    """A run of ``purchases`` purchases in which each of ``outages`` comes ``rounds`` times, on a stack of its own."""
    summary, started_s = Summary(purchases=purchases), time.monotonic()
    with short_waits(), in_one_thread(directory) as in_thread:
        stack = in_thread.stack
        try:
            await in_thread(Stack.up)
            say("the stack is up")
            channels = Channels(stack.settings.addresses)
            try:
                for service in SERVICES:
                    await channels.wait_ready(service, CONNECT_TIMEOUT_S)
                load = _Load(Client(channels), in_thread, summary, say)
                try:
                    await load.carry_out(purchases, list(outages) * rounds, random.Random(seed))
                finally:
                    await load.stop()
                summary.drain_s = await drain.drain(stack.settings, DRAIN_TIMEOUT_S)
                say(f"nothing is under way after {summary.drain_s:.1f} s")
                await load.look_back(stack.settings)
            finally:
                await channels.close()
            summary.unknown = await declared_unknown(stack.settings)
            summary.report = await check.audit(stack.settings, settled=True)
        finally:
            await in_thread(Stack.down)
    summary.took_s = time.monotonic() - started_s
    return summary


class _Load:
    """The orders of one run, a bounded number at a time, and the outages that come while they are under way."""

    def __init__(self, client: Client, in_thread: InThread, summary: Summary, say: Callable[[str], None]) -> None:
        self._client = client
        self._in_thread = in_thread
        self._summary = summary
        self._say = say
        self._room = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._under_way: set[asyncio.Task[None]] = set()
        self._ordered: list[Ordered] = []

    async def carry_out(self, purchases: int, outages: Sequence[Outage], dice: random.Random) -> None:
        """Tops balances up, then makes all orders; returns when each was followed to its end."""
        started_s = time.monotonic()
        funding = top_ups(self._client, max(8, purchases // 12))
        await self._begin(funding)
        await asyncio.gather(*self._under_way)
        wanted = plans(self._client, purchases, [plan.buyer_id for plan in funding], dice)
        for number, outage in enumerate(outages):
            phase = wanted[number * len(wanted) // len(outages) : (number + 1) * len(wanted) // len(outages)]
            await self._suffer(outage, phase)
        await asyncio.gather(*self._under_way)
        self._summary.load_s = time.monotonic() - started_s
        self._summary.orders = len(funding) + len(wanted)
        self._summary.retries, self._summary.refusals = self._client.retries, self._client.refusals

    async def _begin(self, orders: Sequence[Plan]) -> list[asyncio.Task[None]]:
        begun = []
        for plan in orders:
            await self._room.acquire()
            task = asyncio.create_task(self._order(plan))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            begun.append(task)
        return begun

    async def _order(self, plan: Plan) -> None:
        try:
            self._ordered.append(await carry_out(self._client, plan))
        except (MeshError, Unanswered) as error:
            self._summary.problems.append(f"order of {plan.buyer_id}: {type(error).__name__}: {error}")
        finally:
            self._room.release()

    async def _suffer(self, outage: Outage, orders: Sequence[Plan]) -> None:
        steps, parts = outage.steps, len(outage.steps) + 1
        shares = [orders[n * len(orders) // parts : (n + 1) * len(orders) // parts] for n in range(parts)]
        await self._begin(shares[0])
        started_s, before = time.monotonic(), len(self._ordered)
        await self._in_thread(steps[0])
        for step, share in zip(steps[1:-1], shares[1:-2], strict=True):
            await asyncio.gather(*await self._begin(share))
            await self._in_thread(step)
        await asyncio.gather(self._in_thread(steps[-1]), self._begin([*shares[-2], *shares[-1]]))
        took_s = time.monotonic() - started_s
        self._summary.outages.append((outage.name, took_s))
        ended = len(self._ordered) - before
        self._say(f"{outage.name}: away for {took_s:.1f} s, {ended} orders ended, {len(self._under_way)} under way")

    async def stop(self) -> None:
        """Gives up what is still under way: nothing, unless something failed."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def look_back(self, settings: MeshSettings) -> None:
        """Compares what came of it all with what the client was told, then sends every request once more."""
        trades = await self._final_trades()
        await self._expect_balances(trades)
        await self._replay(trades)
        # One effect: there is no trade and no attempt that the client does not know.
        attempts = sum(len(trade.attempts) for trade in trades.values())
        self._expect(await drain.count(settings, "trade_core", Trade) == len(trades), "there are unknown trades")
        self._expect(await drain.count(settings, "trade_core", PayAttempt) == attempts, "there are unknown attempts")
        self._expect(len(trades) == sum(self._summary.states.values()), "accepted orders did not end")

    async def _final_trades(self) -> dict[str, trade_pb2.Trade]:
        ids = sorted({answer.trade_id for answer in self._client.answers})
        trades = dict(zip(ids, await self._each(ids, self._client.trade), strict=True))
        for trade_id, trade in trades.items():
            state = _TRADE_STATE.Name(trade.state)
            self._expect(trade.state in TERMINAL, f"{trade_id} is {state}")
            told = self._client.told.get(trade_id, set())
            self._expect(told <= {trade.state}, f"{trade_id} is {state}, and the client was told {told}")
            if trade.state in TERMINAL:
                self._summary.states[state.removeprefix("TRADE_STATE_")] += 1
            self._summary.refunds += trade.trade_type == trade_pb2.TRADE_TYPE_REFUND
            failed = [item for item in trade.attempts if item.state == trade_pb2.ATTEMPT_STATE_FAILED]
            self._summary.declined_attempts += len(failed)
        return trades

    async def _expect_balances(self, trades: dict[str, trade_pb2.Trade]) -> None:
        expected = expected_balances(self._ordered, trades)
        owners = sorted({owner for owner, _ in expected})
        for owner, balances in zip(owners, await self._each(owners, self._client.balances), strict=True):
            for kind in (USER, MERCHANT):
                wanted, found = expected[owner, kind], balances.get(kind, 0)
                self._expect(wanted == found, f"{owner} has {found}, the orders make {wanted}")

    async def _replay(self, trades: dict[str, trade_pb2.Trade]) -> None:
        answers = self._client.answers.copy()
        replayed = await self._each(answers, self._client.replay)
        for answer, again in zip(answers, replayed, strict=True):
            what = f"{answer.method} {answer.request.request_id}"
            self._expect(again.trade_id == answer.trade_id, f"{what}: {again.trade_id} after {answer.trade_id}")
            self._expect(again.biz_id == answer.biz_id, f"{what}: {again.biz_id} after {answer.biz_id}")
            # The first result, or for a call that waits for its result, the trade as it is now.
            states = {answer.state, trades[answer.trade_id].state}
            self._expect(again.state in states, f"{what}: state {again.state} after {answer.state}")
        self._summary.replays = len(answers)

    async def _each(self, items: Sequence[T], look: Callable[[T], Awaitable[R]]) -> list[R]:
        room = asyncio.Semaphore(REPLAYS_IN_FLIGHT_MAX)

        async def one(item: T) -> R:
            async with room:
                return await look(item)

        return await asyncio.gather(*(one(item) for item in items))

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self._summary.problems.append(otherwise)
