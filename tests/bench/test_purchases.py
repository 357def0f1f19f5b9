"""What the purchase load promises: a bound on what is under way, and no purchase lost between answer and news."""

from __future__ import annotations

import asyncio

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from bench.children import LoadFailed
from bench.purchases import Room, Watch
from paymesh.event.v1.events_pb2 import TradeEvent
from paymesh.trade.v1 import trade_pb2


def _trade(trade_id: str) -> trade_pb2.Trade:
    return trade_pb2.Trade(trade_id=trade_id, state=trade_pb2.TRADE_STATE_PAYING)


def _news(trade_id: str) -> Msg:
    body = TradeEvent(trade=_trade(trade_id)).SerializeToString()
    return Msg(_client=Client(), subject="live.trade.trade_paid", data=body)


async def test_a_room_lets_in_no_more_than_its_limit_and_in_order() -> None:
    room = Room(100)
    await room.enter(100)
    large = asyncio.create_task(room.enter(60))
    small = asyncio.create_task(room.enter(1))
    await asyncio.sleep(0)
    for _ in range(59):
        room.leave()
    await asyncio.sleep(0)
    assert not large.done(), "59 places are free, 60 are wanted"
    assert not small.done(), "one that wants less must not overtake"
    room.leave()
    await large
    room.leave()
    await small


async def test_a_purchase_counts_once_whether_its_news_comes_before_or_after_the_answer() -> None:
    room = Room(2)
    watch = Watch(room)
    await room.enter(2)
    watch.accepted(_trade("trd_late"), 1.0)
    await watch.news(_news("trd_late"))
    await watch.news(_news("trd_early"))
    watch.accepted(_trade("trd_early"), 2.0)
    assert len(watch.paid) == 2
    async with asyncio.timeout(1):
        await watch.all_paid()
        await room.enter(2)


async def test_a_purchase_that_is_never_paid_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.purchases.DRAIN_S", 0)
    watch = Watch(Room(1))
    watch.accepted(_trade("trd_lost"), 1.0)
    with pytest.raises(LoadFailed, match="trd_lost"):
        await watch.all_paid()


def test_a_refused_purchase_is_not_taken_for_an_accepted_one() -> None:
    failed = trade_pb2.Trade(trade_id="trd_x", state=trade_pb2.TRADE_STATE_FAILED)
    with pytest.raises(AssertionError):
        Watch(Room(1)).accepted(failed, 0.0)
