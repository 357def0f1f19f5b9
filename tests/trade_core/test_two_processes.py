"""Two processes at the same orders at once: whatever each of them wins, the money laws hold."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest_asyncio

from paykit.clock import ManualClock
from paykit.errors import AlreadyExists, FailedPrecondition
from paykit.ids import new_id
from paykit.settings import ExecutorSettings
from paykit.store.store import Store
from tests.conftest import MakeShards
from tests.schema import make_schema
from tests.trade_core.part_support import check_laws, close, expire, merge, pay_part
from tests.trade_core.support import CARD, NOW_MS, SLOT, Bench, a_result
from trade_core.payments import PaymentResult
from trade_core.tables import Trade


@pytest_asyncio.fixture
async def benches(make_shards: MakeShards) -> AsyncIterator[tuple[Bench, Bench]]:
    """Two stores over the same databases, as two processes have them."""
    shards = make_shards(1, ("live",))
    await make_schema("trade_core", shards)
    clock = ManualClock(NOW_MS)
    stores = [Store("trade_core", shards, 1, clock, ExecutorSettings()) for _ in range(2)]
    for store in stores:
        await store.start()
    try:
        yield Bench(stores[0], clock), Bench(stores[1], clock)
    finally:
        for store in stores:
            await store.stop()


async def attempted(call: Awaitable[Any]) -> Any:
    """What a call answers; None where the state of things refuses it. Nothing else is expected."""
    try:
        return await call
    except (FailedPrecondition, AlreadyExists):
        return None


def ending(part: Trade, number: int) -> PaymentResult:
    """How the payment of a part ends: every fourth fails."""
    payment_id = new_id("pay", SLOT, NOW_MS)
    return a_result(part.attempt_id, number % 4 > 0, part.amount_minor, payment_id=payment_id)


async def test_parts_paid_refunded_and_closed_by_two_processes_keep_the_money_laws(
    benches: tuple[Bench, Bench],
) -> None:
    chance = random.Random(7)
    for _ in range(4):
        wholes = [(await benches[0].create(lines=(), time_to_live_ms=60_000)).trade for _ in range(4)]
        begun = (attempted(pay_part(chance.choice(benches), whole.id, 300)) for whole in wholes for _ in range(4))
        parts = [part for part in await asyncio.gather(*begun) if part is not None]
        assert len(parts) == 3 * len(wholes), "a fourth would be more than the order costs"
        results = [ending(part, number) for number, part in enumerate(parts)]
        calls = [attempted(chance.choice(benches).apply(result)) for result in results for _ in range(2)]
        calls += [attempted(chance.choice(benches).refund(part.id, 100)) for part in parts]
        calls += [attempted(close(chance.choice(benches), whole.id)) for whole in wholes[:2]]
        benches[0].clock.advance(60_000)
        calls += [attempted(expire(chance.choice(benches), whole.id)) for whole in wholes]
        chance.shuffle(calls)
        await asyncio.gather(*calls)
        for result in results:
            await benches[0].apply(result)
        for whole in wholes:
            assert (await check_laws(benches[0], whole.id)).state == "CLOSED"
        for part, result in zip(parts, results, strict=True):
            await check_came_back(benches[0], part.id, result)


async def check_came_back(bench: Bench, part_id: str, result: PaymentResult) -> None:
    """That all a part of a closed order brought is on its way back, once."""
    part = await bench.trade(part_id)
    back_minor = sum(refund.amount_minor for refund in await bench.refunds(part_id))
    assert back_minor == result.captured_minor
    assert part.refundable_minor == 0


async def test_an_order_is_paid_alone_or_within_one_group_by_two_processes(benches: tuple[Bench, Bench]) -> None:
    chance = random.Random(11)
    for _ in range(6):
        orders = [(await benches[0].create(amount_minor=500, lines=())).trade for _ in range(3)]
        calls = [
            attempted(merge(benches[0], orders[:2], pay_methods=(CARD,))),
            attempted(merge(benches[1], orders[1:], pay_methods=(CARD,))),
            *(attempted(chance.choice(benches).pay(order.id)) for order in orders),
            *(attempted(close(chance.choice(benches), order.id)) for order in orders[:1]),
        ]
        chance.shuffle(calls)
        await asyncio.gather(*calls)
        for order in orders:
            stored = await benches[0].trade(order.id)
            states = [attempt.state for attempt in await benches[0].attempts(order.id)]
            assert states in ([], ["PAYING"])
            ways = (bool(stored.group_trade_id), stored.state == "PAYING", stored.state == "CLOSED")
            assert ways.count(True) <= 1
            assert (stored.state == "PAYING") == bool(states)
