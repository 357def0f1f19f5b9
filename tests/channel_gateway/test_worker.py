"""How a lane treats a channel that misbehaves, a clock that has run on, and processes that meet at one order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from sqlalchemy import select

from channel_gateway import app
from channel_gateway.channel_order import (
    HANDOVER_GRACE_MS,
    ChannelOrderKind,
    ChannelPolicy,
    ProviderResult,
    ResultStatus,
)
from channel_gateway.channels.base import ReceivedNotification, WithoutStatements
from channel_gateway.channels.sandbox_settings import SandboxChannelSettings
from channel_gateway.commands import MarkSending, Submission, SubmitOrder
from channel_gateway.contexts import OrderContexts
from channel_gateway.tables import ChannelOrder
from channel_gateway.worker import Lane
from paykit.clock import ManualClock
from paykit.context import mint
from paykit.errors import ResourceExhausted
from paykit.ids import new_id
from paykit.settings import ExecutorSettings
from paykit.store.command import Origin
from paykit.store.guard import assert_outside_transaction
from paykit.store.store import Store
from paykit.store.system import Outbox
from tests.channel_gateway.gateway import channel_settings
from tests.channel_gateway.orders import NOW_MS, POLICY, SLOT
from tests.channel_gateway.provider import CHANNEL
from tests.conftest import MakeShards
from tests.schema import make_schema

OK = ProviderResult(status=ResultStatus.SUCCEEDED, provider_reference="ref", amount_minor=1_000, currency="EUR")


class ScriptedChannel(WithoutStatements):
    """A channel that answers what the test says, when the test says."""

    name = CHANNEL
    operations = frozenset(ChannelOrderKind)
    captures_max = 1
    policy: ChannelPolicy = POLICY

    def __init__(self) -> None:
        self.calls: list[tuple[str, ChannelOrder]] = []
        self.called = asyncio.Event()
        self.proceed = asyncio.Event()
        self.proceed.set()
        self.answer: ProviderResult | Exception = OK

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def _answer(self, operation: str, order: ChannelOrder) -> ProviderResult:
        assert_outside_transaction()
        self.calls.append((operation, order))
        self.called.set()
        await self.proceed.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def charge(self, order: ChannelOrder) -> ProviderResult:
        return await self._answer("CHARGE", order)

    async def refund(self, order: ChannelOrder) -> ProviderResult:
        return await self._answer("REFUND", order)

    async def payout(self, order: ChannelOrder) -> ProviderResult:
        return await self._answer("PAYOUT", order)

    async def authorize(self, order: ChannelOrder) -> ProviderResult:
        return await self._answer("AUTHORIZE", order)

    async def capture(self, order: ChannelOrder) -> ProviderResult:
        return await self._answer("CAPTURE", order)

    async def void(self, order: ChannelOrder) -> ProviderResult:
        return await self._answer("VOID", order)

    async def query(self, order: ChannelOrder) -> ProviderResult:
        return await self._answer("QUERY", order)

    def read_notification(self, body: bytes, headers: Mapping[str, str], now_s: float) -> ReceivedNotification:
        raise AssertionError("these orders get no notifications")


class Bench:
    """A store with one lane to a scripted channel."""

    def __init__(self, store: Store, clock: ManualClock, **settings: Any) -> None:
        self.store, self.clock = store, clock
        self.channel = ScriptedChannel()
        changes = {"max_in_flight": 2, "max_queue": 2} | settings
        self._settings = SandboxChannelSettings.model_validate(channel_settings("http://127.0.0.1:1", **changes))
        self.lane = self.new_lane()

    def new_lane(self) -> Lane:
        """What another process would have."""
        return Lane("live", self.channel, self._settings, self.store, OrderContexts(self.store))

    async def submit(self, kind: ChannelOrderKind = ChannelOrderKind.CHARGE) -> ChannelOrder:
        submission = Submission(
            kind=kind,
            channel=CHANNEL,
            amount_minor=1_000,
            currency="EUR",
            instruction_id=new_id("ins", SLOT, NOW_MS),
            payment_id=new_id("pay", SLOT, NOW_MS),
            token="tok",
            original_channel_order_id="",
        )
        return await self.store.run(SubmitOrder(Origin.timer(mint(SLOT, NOW_MS)), submission, self.channel.operations))

    async def stored(self, order: ChannelOrder) -> ChannelOrder:
        table = ChannelOrder.__table__
        (row,) = await self.store.fetch(
            ChannelOrder, select(table).where(table.c.id == order.id), slot=SLOT, shadow=False
        )
        return row

    async def carried(self, order: ChannelOrder, *lanes: Lane) -> ChannelOrder:
        """The order after the lanes (the bench's own, where none is named) have done with it."""
        for lane in lanes or (self.lane,):
            assert lane.offer(order)
        for lane in lanes or (self.lane,):
            lane.start()
            await lane.finished()
        return await self.stored(order)

    async def events(self) -> list[str]:
        rows = await self.store.fetch_everywhere(Outbox, select(Outbox.__table__), shadow=False)
        return [row.destination for row in rows]


@pytest.fixture
async def bench(make_shards: MakeShards) -> AsyncIterator[Bench]:
    shards, clock = make_shards(1, modes=("live",)), ManualClock(NOW_MS)
    await make_schema(app.NAME, shards)
    store = Store(app.NAME, shards, 1, clock, ExecutorSettings())
    await store.start()
    bench = Bench(store, clock)
    yield bench
    await bench.lane.stop()
    await store.stop()


async def test_sending_is_durable_before_the_provider_is_called(bench: Bench) -> None:
    bench.channel.proceed.clear()
    order = await bench.submit()
    bench.lane.start()
    bench.lane.offer(order)
    await asyncio.wait_for(bench.channel.called.wait(), 10)
    during = await bench.stored(order)
    assert (during.state, during.send_count, during.sent_at_ms) == ("SENDING", 1, NOW_MS)
    bench.channel.proceed.set()
    await bench.lane.finished()
    assert (await bench.stored(order)).state == "SUCCEEDED"


@pytest.mark.parametrize("kind", [ChannelOrderKind.CHARGE, ChannelOrderKind.PAYOUT])
async def test_each_kind_is_its_own_operation(bench: Bench, kind: ChannelOrderKind) -> None:
    order = await bench.carried(await bench.submit(kind))
    assert [operation for operation, _ in bench.channel.calls] == [kind.value]
    assert order.state == "SUCCEEDED"
    assert await bench.events() == ["channel.order_succeeded"]


async def test_a_channel_that_raises_leaves_the_outcome_unknown(bench: Bench) -> None:
    bench.channel.answer = ZeroDivisionError()
    assert (await bench.carried(await bench.submit())).state == "UNKNOWN"
    assert await bench.events() == []


async def test_absence_is_judged_by_when_the_provider_was_asked(bench: Bench) -> None:
    assert POLICY.not_found_certain_after_ms is not None
    bench.channel.answer = ZeroDivisionError()
    unknown = await bench.carried(await bench.submit())
    bench.channel.answer = ProviderResult(status=ResultStatus.NOT_FOUND)
    bench.channel.called.clear()
    bench.channel.proceed.clear()
    bench.lane.offer(unknown)
    await asyncio.wait_for(bench.channel.called.wait(), 10)
    bench.clock.advance(POLICY.not_found_certain_after_ms)
    bench.channel.proceed.set()
    await bench.lane.finished()
    early = await bench.stored(unknown)
    assert (early.state, early.query_count) == ("UNKNOWN", 1)
    bench.lane.offer(early)
    await bench.lane.finished()
    assert (await bench.stored(unknown)).state == "FAILED"


async def test_two_processes_that_meet_at_one_order_send_it_once(bench: Bench) -> None:
    order, other = await bench.submit(), bench.new_lane()
    await bench.carried(order, bench.lane, other)
    await other.stop()
    assert len(bench.channel.calls) == 1


async def test_an_order_that_was_settled_meanwhile_is_not_sent(bench: Bench) -> None:
    order = await bench.submit()
    await bench.carried(order)
    await bench.carried(order)  # as it was when it was accepted
    assert len(bench.channel.calls) == 1


async def test_a_process_that_slept_after_marking_sends_another_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = bench.store.run

    async def slow(command: Any) -> Any:
        result = await run(command)
        if isinstance(command, MarkSending):
            bench.clock.advance(POLICY.send_within_ms + 1)
        return result

    monkeypatch.setattr(bench.store, "run", slow)
    order = await bench.carried(await bench.submit())
    assert (order.state, order.send_count) == ("ACCEPTED", 1)
    assert bench.channel.calls == []


async def test_the_lane_is_bounded_and_refuses_before_anything_is_made(bench: Bench) -> None:
    orders = [await bench.submit() for _ in range(3)]
    assert [bench.lane.offer(order) for order in orders] == [True, True, False]
    assert not bench.lane.offer(orders[0])
    with pytest.raises(ResourceExhausted), bench.lane.place("shop"):
        raise AssertionError("there was no place")


async def test_places_count_while_orders_are_being_made(bench: Bench) -> None:
    with bench.lane.place("shop"), bench.lane.place("shop"), pytest.raises(ResourceExhausted), bench.lane.place("shop"):
        raise AssertionError("there was no place")
    with bench.lane.place("shop"):
        pass


async def test_no_more_calls_are_under_way_than_the_bulkhead_allows(bench: Bench) -> None:
    bench.channel.proceed.clear()
    lane = Bench(bench.store, bench.clock, max_in_flight=2, max_queue=10).lane
    lane.channel = bench.channel
    lane.start()
    for _ in range(5):
        lane.offer(await bench.submit())
    await asyncio.wait_for(bench.channel.called.wait(), 10)
    await bench.submit()  # a commit later, whoever could begin has begun
    await bench.submit()
    assert len(bench.channel.calls) == 2
    bench.channel.proceed.set()
    await lane.finished()
    await lane.stop()
    assert len(bench.channel.calls) == 5


async def test_a_stopping_lane_finishes_the_call_and_leaves_the_queue_to_the_timer(bench: Bench) -> None:
    bench.channel.proceed.clear()
    lane = Bench(bench.store, bench.clock, max_in_flight=1, max_queue=10).lane
    lane.channel = bench.channel
    first, second = await bench.submit(), await bench.submit()
    lane.start()
    lane.offer(first)
    lane.offer(second)
    await asyncio.wait_for(bench.channel.called.wait(), 10)
    stopping = asyncio.create_task(lane.stop())
    bench.channel.proceed.set()
    await stopping
    assert (await bench.stored(first)).state == "SUCCEEDED"
    left = await bench.stored(second)
    assert (left.state, left.due_at_ms) == ("ACCEPTED", NOW_MS + HANDOVER_GRACE_MS)
