"""What a lane's limits hold back waits, durable and without a worker, while others go; and ends only as never sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from channel_gateway import app
from channel_gateway.channel_order import ChannelOrderKind, ProviderResult, ResultStatus
from channel_gateway.channels import ChannelSet
from channel_gateway.channels.sandbox_settings import SandboxChannelSettings
from channel_gateway.commands import Submission, SubmitOrder
from channel_gateway.contexts import OrderContexts
from channel_gateway.limits.breaker import BreakerState, Forced
from channel_gateway.limits.schedule import CHANNEL as WHOLE_CHANNEL
from channel_gateway.tables import ChannelOrder, ChannelOverride
from channel_gateway.worker import Dispatcher, Lane
from paykit.clock import ManualClock
from paykit.context import mint
from paykit.errors import ResourceExhausted
from paykit.ids import new_id
from paykit.settings import ExecutorSettings
from paykit.store.command import Origin
from paykit.store.store import Store
from tests.channel_gateway.gateway import channel_settings
from tests.channel_gateway.orders import NOW_MS, SLOT
from tests.channel_gateway.provider import CHANNEL
from tests.channel_gateway.test_worker import Bench, ScriptedChannel
from tests.conftest import MakeShards
from tests.schema import make_schema

BREAKER = {"window_calls": 4, "calls_min": 2, "open_s": 0.2, "probes_max": 1, "probes_good": 1}
DECLINED = ProviderResult(status=ResultStatus.FAILED, failure_reason="CARD_DECLINED")
SILENCE = ProviderResult(status=ResultStatus.UNKNOWN)
FORCE_OPEN = {WHOLE_CHANNEL: Forced.OPEN}


class LimitedBench(Bench):
    """A bench whose orders name a merchant."""

    async def submit_for(self, merchant: str) -> ChannelOrder:
        context = msgspec.structs.replace(mint(SLOT, NOW_MS), biz_code=f"{merchant}/PURCHASE/checkout/card")
        submission = Submission(
            kind=ChannelOrderKind.CHARGE,
            channel=CHANNEL,
            amount_minor=1_000,
            currency="EUR",
            instruction_id=new_id("ins", SLOT, NOW_MS),
            payment_id=new_id("pay", SLOT, NOW_MS),
            token="tok",
            original_channel_order_id="",
        )
        return await self.store.run(SubmitOrder(Origin.timer(context), submission, self.channel.operations))

    async def called(self, count: int) -> None:
        """Until the channel has been called so often."""
        while len(self.channel.calls) < count:
            self.channel.called.clear()
            await self.channel.called.wait()

    def limited(self, **settings: Any) -> Lane:
        """Another lane to the same channel, with limits."""
        changes = {"max_in_flight": 4, "max_queue": 8} | settings
        parsed = SandboxChannelSettings.model_validate(channel_settings("http://127.0.0.1:1", **changes))
        self.lane = Lane("live", self.channel, parsed, self.store, OrderContexts(self.store))
        self.lane.start()
        return self.lane


@pytest.fixture
async def bench(make_shards: MakeShards) -> AsyncIterator[LimitedBench]:
    shards, clock = make_shards(1, modes=("live",)), ManualClock(NOW_MS)
    await make_schema(app.NAME, shards)
    store = Store(app.NAME, shards, 1, clock, ExecutorSettings())
    await store.start()
    bench = LimitedBench(store, clock)
    yield bench
    bench.channel.proceed.set()
    await bench.lane.stop()
    await store.stop()


def breaker_of(lane: Lane, scope: str = WHOLE_CHANNEL) -> BreakerState:
    return lane.state().scopes[scope].breaker


async def opened(bench: LimitedBench, **settings: Any) -> Lane:
    """A lane whose breaker has opened, for ``open_s`` of the breaker."""
    lane = bench.limited(**({"limits": {"breaker": BREAKER | {"open_s": 60}}} | settings))
    bench.channel.answer = SILENCE
    for _ in range(2):
        assert lane.offer(await bench.submit_for("shop"))
    await lane.finished()
    assert breaker_of(lane) is BreakerState.OPEN
    return lane


async def test_an_open_breaker_lets_orders_wait_and_they_go_when_it_has_found_the_channel_well(
    bench: LimitedBench,
) -> None:
    lane = await opened(bench, limits={"breaker": BREAKER | {"open_s": 0.3}})
    bench.channel.answer = ProviderResult(status=ResultStatus.SUCCEEDED)
    waiting = [await bench.submit_for(merchant) for merchant in ("shop", "cafe")]
    calls = len(bench.channel.calls)
    for order in waiting:
        assert lane.offer(order)
    assert [(await bench.stored(order)).state for order in waiting] == ["ACCEPTED"] * 2
    assert len(bench.channel.calls) == calls
    await asyncio.wait_for(lane.finished(), 10)
    assert [(await bench.stored(order)).state for order in waiting] == ["SUCCEEDED"] * 2
    assert breaker_of(lane) is BreakerState.CLOSED


async def test_an_open_breaker_does_not_stop_queries(bench: LimitedBench) -> None:
    lane = await opened(bench)
    bench.channel.answer = ProviderResult(status=ResultStatus.SUCCEEDED)
    lost = await bench.stored(bench.channel.calls[0][1])
    assert lost.state == "UNKNOWN"
    assert lane.offer(lost)
    await lane.finished()
    assert (await bench.stored(lost)).state == "SUCCEEDED"
    assert breaker_of(lane) is BreakerState.OPEN


async def test_declines_are_answers_and_open_nothing(bench: LimitedBench) -> None:
    lane = bench.limited(limits={"breaker": BREAKER})
    bench.channel.answer = DECLINED
    for _ in range(4):
        lane.offer(await bench.submit_for("shop"))
    await lane.finished()
    state = lane.state().scopes[WHOLE_CHANNEL]
    assert (state.breaker, state.calls_count, state.failed_count) == (BreakerState.CLOSED, 4, 0)
    assert lane.health("shop").success_ppm == 1_000_000


async def test_what_cannot_be_sent_counts_as_failed(bench: LimitedBench) -> None:
    lane = bench.limited(limits={"breaker": BREAKER})
    bench.channel.answer = ProviderResult(status=ResultStatus.NOT_SENT)
    for _ in range(2):
        lane.offer(await bench.submit_for("shop"))
    await lane.finished()
    assert breaker_of(lane) is BreakerState.OPEN
    health = lane.health("shop")
    assert (health.is_open, health.is_full) == (True, False)
    assert health.success_ppm == pytest.approx(333_333, abs=5_000)


async def test_a_merchant_that_fails_stops_itself_alone(bench: LimitedBench) -> None:
    lane = bench.limited(merchant_limits={"breaker": BREAKER | {"open_s": 60}})
    bench.channel.answer = SILENCE
    for _ in range(2):
        lane.offer(await bench.submit_for("shop"))
    await lane.finished()
    bench.channel.answer = ProviderResult(status=ResultStatus.SUCCEEDED)
    held, free = await bench.submit_for("shop"), await bench.submit_for("cafe")
    assert lane.offer(held)
    assert lane.offer(free)
    assert (lane.health("shop").is_open, lane.health("cafe").is_open) == (True, False)
    async with asyncio.timeout(10):
        await bench.called(3)
    assert [order.id for _, order in bench.channel.calls[2:]] == [free.id]
    assert (await bench.stored(held)).state == "ACCEPTED"


async def test_a_merchant_whose_calls_hang_keeps_no_worker_from_others(bench: LimitedBench) -> None:
    lane = bench.limited(max_in_flight=4, merchant_limits={"in_flight_percent": 50})
    bench.channel.proceed.clear()
    for _ in range(3):
        lane.offer(await bench.submit_for("shop"))
    lane.offer(await bench.submit_for("cafe"))
    async with asyncio.timeout(10):
        await bench.called(3)
    state = lane.state().scopes
    assert (state["shop"].in_flight, state["shop"].queued, state["cafe"].in_flight) == (2, 1, 1)
    bench.channel.proceed.set()
    await lane.finished()
    assert len(bench.channel.calls) == 4


async def test_a_merchant_that_floods_waits_behind_itself(bench: LimitedBench) -> None:
    lane = bench.limited(max_in_flight=1, max_queue=12)
    lane.force(FORCE_OPEN)
    flood = [await bench.submit_for("flood") for _ in range(6)]
    late = await bench.submit_for("cafe")
    for order in (*flood, late):
        assert lane.offer(order)
    lane.force({})
    await asyncio.wait_for(lane.finished(), 10)
    assert [order.id for _, order in bench.channel.calls] == [flood[0].id, late.id, *(order.id for order in flood[1:])]


async def test_calls_begin_no_faster_than_the_rate(bench: LimitedBench) -> None:
    lane = bench.limited(limits={"calls_per_s": 20, "burst": 1})
    orders = [await bench.submit_for("shop") for _ in range(4)]
    started_s = time.monotonic()
    for order in orders:
        assert lane.offer(order)
    await lane.finished()
    assert time.monotonic() - started_s >= 3 / 20
    assert len(bench.channel.calls) == 4


async def test_a_merchants_own_time_limit_ends_a_call_as_unknown(bench: LimitedBench) -> None:
    lane = bench.limited(timeout_s=5, merchants={"hasty": {"timeout_s": 0.05}})
    bench.channel.proceed.clear()
    order = await bench.submit_for("hasty")
    lane.offer(order)
    await asyncio.wait_for(lane.finished(), 4)
    assert (await bench.stored(order)).state == "UNKNOWN"
    assert lane.state().scopes["hasty"].failed_count == 1


async def test_a_flood_is_refused_at_its_share_and_everybody_when_all_is_full(bench: LimitedBench) -> None:
    lane = bench.limited(max_queue=4, merchant_limits={"queue_percent": 50})
    lane.force(FORCE_OPEN)
    for merchant in ("flood", "flood"):
        lane.offer(await bench.submit_for(merchant))
    with pytest.raises(ResourceExhausted) as refused, lane.place("flood"):
        raise AssertionError("there was no place")
    assert (refused.value.reason, refused.value.retry_after_ms) == ("CHANNEL_BUSY", 1_000)
    assert (lane.health("flood").is_full, lane.health("cafe").is_full) == (True, False)
    with lane.place("cafe"):
        pass
    for merchant in ("cafe", "shop"):
        lane.offer(await bench.submit_for(merchant))
    with pytest.raises(ResourceExhausted), lane.place("bar"):
        raise AssertionError("there was no place")
    lane.force({})
    await lane.finished()


class DispatcherBench:
    """What timers do with orders of a channel that is forced open; nobody listens where it would call."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store, self.clock = store, clock
        settings = SandboxChannelSettings.model_validate(channel_settings("http://127.0.0.1:1"))
        self.give_up_ms = settings.policy().resend_give_up_after_ms
        self.dispatcher = Dispatcher(store, ChannelSet({CHANNEL: settings}), OrderContexts(store))
        self.dispatcher.force("live", [self.override])

    @property
    def override(self) -> ChannelOverride:
        return ChannelOverride(
            id=new_id("ovr", 0, NOW_MS),
            slot=0,
            biz_id="",
            override_key=f"{CHANNEL}/",
            channel=CHANNEL,
            merchant="",
            mode="FORCED_OPEN",
            reason="maintenance",
            set_by="ann",
            set_at_ms=NOW_MS,
            expire_at_ms=NOW_MS + 86_400_000,
        )


async def test_what_is_held_back_is_left_alone_longer_and_longer_and_given_up_as_never_sent(
    bench: LimitedBench,
) -> None:
    timers = DispatcherBench(bench.store, bench.clock)
    order = await bench.submit_for("shop")
    assert order.due_at_ms is not None
    looks = 0
    while order.state == "ACCEPTED":
        looks += 1
        bench.clock.advance(order.due_at_ms - bench.clock.now_ms())
        await timers.dispatcher.take_due(order)
        order = await bench.stored(order)
        assert order.due_at_ms is None or order.due_at_ms > bench.clock.now_ms()
        if order.due_at_ms is None:
            break
    assert (order.state, order.failure_reason, order.provider_reference) == ("FAILED", "PROVIDER_UNREACHABLE", "")
    assert order.finished_at_ms == NOW_MS + timers.give_up_ms
    assert await bench.events() == ["channel.order_failed"]
    assert looks < 10
    health = timers.dispatcher.health("live", CHANNEL, "shop")
    assert (health.queued, health.is_open) == (0, True)


async def test_an_order_is_tried_once_however_old_it_is_when_nothing_holds_it(bench: LimitedBench) -> None:
    lane = bench.limited()
    order = await bench.submit_for("shop")
    bench.clock.advance(10 * bench.channel.policy.resend_give_up_after_ms)
    assert not lane.holds_too_long(order, bench.clock.now_ms())
    assert lane.offer(order)
    await lane.finished()
    assert (await bench.stored(order)).state == "SUCCEEDED"


async def test_giving_up_does_not_touch_what_is_on_its_way(bench: LimitedBench) -> None:
    lane = bench.limited()
    bench.channel.proceed.clear()
    order = await bench.submit_for("shop")
    lane.offer(order)
    await asyncio.wait_for(bench.channel.called.wait(), 10)
    await lane.give_up(order)
    assert (await bench.stored(order)).state == "SENDING"
    bench.channel.proceed.set()
    await lane.finished()
    assert (await bench.stored(order)).state == "SUCCEEDED"


async def test_a_channel_that_ignores_its_time_limit_is_left(bench: LimitedBench, monkeypatch: Any) -> None:
    monkeypatch.setattr("channel_gateway.worker._TIMEOUT_MARGIN_S", 0.05)
    lane = bench.limited(timeout_s=0.05)
    assert isinstance(bench.channel, ScriptedChannel)
    bench.channel.proceed.clear()
    order = await bench.submit_for("shop")
    lane.offer(order)
    await asyncio.wait_for(lane.finished(), 10)
    assert (await bench.stored(order)).state == "UNKNOWN"
