"""Carries channel orders to their providers, bounded per channel, and asks after those whose outcome is not known.

The process that accepts an order hands it over in memory. A timer on ``due_at_ms`` finds whatever was not carried on:
orders that a crash left, and orders to ask the provider about.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

import structlog

from channel_gateway.channel_order import ChannelOrderKind, ChannelOrderState, ProviderResult, ResultStatus, Source
from channel_gateway.channel_settings import ChannelSettings
from channel_gateway.channels import ChannelSet
from channel_gateway.channels.base import Channel
from channel_gateway.commands import ApplyResult, MarkSending, TakeDue
from channel_gateway.contexts import OrderContexts
from channel_gateway.tables import ChannelOrder
from paykit import telemetry
from paykit.context import set_current, unpack
from paykit.errors import MeshError, ResourceExhausted
from paykit.store.command import Origin
from paykit.store.guard import assert_outside_transaction
from paykit.store.store import Store

log = structlog.get_logger(__name__)

CALLS = telemetry.counter("channel_calls_total", "Calls to providers", ("mode", "channel", "operation", "status"))
CALL_SECONDS = telemetry.histogram("channel_call_seconds", "Time of a call to a provider", ("mode", "channel"))
QUEUED = telemetry.gauge("channel_queue_orders", "Orders waiting for a call to the provider", ("mode", "channel"))

_QUERY = "QUERY"
_LEASE_MS = 30_000  # how long an order that a timer handed over is left alone
_RETRY_AFTER_MS = 1_000
_STOP_GRACE_S = 15.0
_SETTLING_PER_CALL = 4  # outcomes being committed, for each call that may be under way
_UNKNOWN = ProviderResult(status=ResultStatus.UNKNOWN)
_NOT_SENT = ProviderResult(status=ResultStatus.NOT_SENT)
_OPERATIONS: Mapping[str, Callable[[Channel, ChannelOrder], Awaitable[ProviderResult]]] = {
    ChannelOrderKind.CHARGE: lambda channel, order: channel.charge(order),
    ChannelOrderKind.REFUND: lambda channel, order: channel.refund(order),
    ChannelOrderKind.PAYOUT: lambda channel, order: channel.payout(order),
    ChannelOrderKind.AUTHORIZE: lambda channel, order: channel.authorize(order),
    ChannelOrderKind.CAPTURE: lambda channel, order: channel.capture(order),
    ChannelOrderKind.VOID: lambda channel, order: channel.void(order),
    _QUERY: lambda channel, order: channel.query(order),
}

T = TypeVar("T")


class Lane:
    """One channel in one mode: a bounded queue and as many workers as calls may be under way."""

    def __init__(
        self, mode: str, channel: Channel, settings: ChannelSettings, store: Store, contexts: OrderContexts
    ) -> None:
        self.channel = channel
        self._mode = mode
        self._store = store
        self._contexts = contexts
        self._in_flight_max = settings.max_in_flight
        self._queue: asyncio.Queue[ChannelOrder] = asyncio.Queue()
        self._queue_max = settings.max_queue
        self._being_submitted = 0
        self._held: set[str] = set()
        self._workers: list[asyncio.Task[None]] = []
        self._settling: set[asyncio.Task[None]] = set()
        self._settling_slots = asyncio.Semaphore(settings.max_in_flight * _SETTLING_PER_CALL)
        self._seconds = CALL_SECONDS.labels(mode, channel.name)
        self._queued = QUEUED.labels(mode, channel.name)

    def start(self) -> None:
        """Starts the workers."""
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._in_flight_max)]

    async def stop(self) -> None:
        """Drops the queue; calls under way get a grace. What is left is found by its due time."""
        while not self._queue.empty():
            self._queue.get_nowait()
            self._queue.task_done()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_GRACE_S):
                await self.finished()
        tasks = [*self._workers, *self._settling]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._workers = []

    async def finished(self) -> None:
        """Until everything that was offered has been carried as far as it goes now."""
        await self._queue.join()

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Keeps a place in the queue for an order while it is being made durable; ResourceExhausted without one."""
        if self._queue.qsize() + self._being_submitted >= self._queue_max:
            raise ResourceExhausted(
                f"too many orders wait for channel {self.channel.name}",
                reason="CHANNEL_BUSY",
                retry_after_ms=_RETRY_AFTER_MS,
            )
        self._being_submitted += 1
        try:
            yield
        finally:
            self._being_submitted -= 1

    def offer(self, order: ChannelOrder) -> bool:
        """Hands an order over; False where it is held already or the queue is full, and its due time must do."""
        if order.id in self._held or self._queue.qsize() >= self._queue_max:
            return False
        self._held.add(order.id)
        self._queue.put_nowait(order)
        self._queued.inc()
        return True

    async def _work(self) -> None:
        while True:
            order = await self._queue.get()
            self._queued.dec()
            outcome = await self._guarded(order, self._carry(order))
            if outcome is None:
                self._let_go(order)
            else:
                # The commit of an outcome waits for other commits: the next call need not wait for it.
                await self._settling_slots.acquire()
                task = asyncio.create_task(self._settle(order, outcome))
                self._settling.add(task)
                task.add_done_callback(self._settling.discard)

    async def _settle(self, order: ChannelOrder, outcome: ApplyResult) -> None:
        try:
            await self._guarded(order, self._store.run(outcome))
        finally:
            self._settling_slots.release()
            self._let_go(order)

    async def _guarded(self, order: ChannelOrder, step: Coroutine[Any, Any, T]) -> T | None:
        """The step's result. Where it fails nothing is lost: the row says how far it came, and is due again."""
        try:
            return await step
        except MeshError as error:
            log.warning("channel_order_postponed", channel_order_id=order.id, reason=error.reason)
        except Exception:
            log.exception("channel_order_failed_here", channel_order_id=order.id)
        return None

    def _let_go(self, order: ChannelOrder) -> None:
        self._held.discard(order.id)
        self._queue.task_done()

    async def _carry(self, order: ChannelOrder) -> ApplyResult | None:
        """Takes an order to the provider; what is to be stored of it."""
        context = unpack(order.context)
        set_current(context)
        origin = Origin.timer(context)
        policy = self.channel.policy
        if order.state == ChannelOrderState.ACCEPTED:
            self._contexts.remember(order.id, context)
            sending = await self._store.run(MarkSending(origin, order.id, policy))
            if sending is None:
                return None
            assert sending.sent_at_ms is not None
            if self._store.clock.now_ms() - sending.sent_at_ms > policy.send_within_ms:
                # Too late for a call to be over when others take it for lost; as none was made, another can be.
                return ApplyResult(origin, order.id, policy, _NOT_SENT, Source.REPLY)
            result = await self._call(order.kind, sending)
            return ApplyResult(origin, order.id, policy, result, Source.REPLY)
        if order.state in (ChannelOrderState.PENDING, ChannelOrderState.UNKNOWN):
            asked_at_ms = self._store.clock.now_ms()
            result = await self._call(_QUERY, order)
            return ApplyResult(origin, order.id, policy, result, Source.QUERY, asked_at_ms)
        return None

    async def _call(self, operation: str, order: ChannelOrder) -> ProviderResult:
        assert_outside_transaction()
        channel = self.channel
        started_s = asyncio.get_running_loop().time()
        try:
            result = await _OPERATIONS[operation](channel, order)
        except Exception:  # a channel's bug leaves the outcome as open as a lost connection does
            log.exception("channel_raised", channel=channel.name, operation=operation, channel_order_id=order.id)
            result = _UNKNOWN
        self._seconds.observe(asyncio.get_running_loop().time() - started_s)
        CALLS.labels(self._mode, channel.name, operation, result.status.value).inc()
        return result


class Dispatcher:
    """The lanes of all channels, and what the timer does with due orders."""

    def __init__(self, store: Store, channels: ChannelSet, contexts: OrderContexts) -> None:
        self._store = store
        self._channels = channels
        self._lanes: dict[tuple[str, str], Lane] = {}
        for mode, channel in channels:
            self._lanes[mode, channel.name] = Lane(mode, channel, channels.settings[channel.name], store, contexts)

    async def start(self) -> None:
        """Opens the channels and starts the workers."""
        await self._channels.start()
        for lane in self._lanes.values():
            lane.start()

    async def stop(self) -> None:
        """Finishes the calls under way and closes the channels."""
        await asyncio.gather(*(lane.stop() for lane in self._lanes.values()))
        await self._channels.stop()

    def lane(self, mode: str, channel: str) -> Lane:
        """The lane of a channel; FailedPrecondition where the channel is not configured for the mode."""
        return self._lanes[mode, self._channels.get(mode, channel).name]

    async def take_due(self, row: ChannelOrder) -> None:
        """The timer: leases a due order and hands it to its lane, or gives its lost call up."""
        context = unpack(row.context)
        lane = self.lane(context.mode, row.channel)
        order = await self._store.run(TakeDue(Origin.timer(context), row.id, lane.channel.policy, _LEASE_MS))
        if order is not None and not lane.offer(order):
            log.info("channel_order_waits_for_its_lane", channel_order_id=order.id)
