"""What a flow promises: a bound on what is under way, and nothing lost between answer and news."""

from __future__ import annotations

import asyncio

import pytest

from bench.children import LoadFailed
from bench.flow import Pace, Room, Watch, flow


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


async def test_a_thing_counts_once_whether_its_news_comes_before_or_after_the_answer() -> None:
    room = Room(3)
    watch = Watch(room)
    await room.enter(3)
    watch.accepted("late", 1.0)
    watch.news("late")
    watch.news("early")
    watch.accepted("early", 2.0)
    watch.answered(3.0)
    assert len(watch.ended) == 3
    async with asyncio.timeout(1):
        await watch.all_ended()
        await room.enter(3)


async def test_a_thing_that_never_ends_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.flow.DRAIN_S", 0)
    watch = Watch(Room(1))
    watch.accepted("lost", 1.0)
    with pytest.raises(LoadFailed, match="lost"):
        await watch.all_ended()


async def test_a_flow_keeps_its_bound_and_counts_warming_but_does_not_measure_it() -> None:
    pace = Pace(callers=4, batch=5, under_way=10, warm_s=0.1, seconds=0.2)
    room = Room(pace.under_way)
    watch = Watch(room)
    under_way, most = 0, 0

    async def send() -> None:
        nonlocal under_way, most
        begun_s = asyncio.get_running_loop().time()
        under_way += pace.batch
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= pace.batch
        for _ in range(pace.batch):
            watch.answered(begun_s)

    outcome = await flow(send, room, watch, pace)
    assert most == pace.under_way
    assert outcome.count == len(watch.ended)
    assert 0 < outcome.sample.per_second * pace.seconds < outcome.count
