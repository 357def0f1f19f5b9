"""Carries channel orders to their providers, bounded per channel, and asks after those whose outcome is not known.

The process that accepts an order hands it over in memory. A timer on ``due_at_ms`` finds whatever was not carried on:
orders that a crash left, and orders to ask the provider about.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec
import structlog

from channel_gateway.carrier import QUERY, UNANSWERED, Avoided, Carrier, HandOn, Question, call
from channel_gateway.channel_order import ChannelOrderState, ProviderResult, ResultStatus
from channel_gateway.channel_settings import ChannelSettings
from channel_gateway.channels import ChannelSet
from channel_gateway.channels.base import Channel
from channel_gateway.commands import TakeDue
from channel_gateway.contexts import OrderContexts
from channel_gateway.lane_metrics import BREAKER_CHANGES, CALL_SECONDS, CALLS, QUEUED, REFUSED, show
from channel_gateway.limits.breaker import BreakerState, Ended, Forced
from channel_gateway.limits.fair_queue import Room
from channel_gateway.limits.schedule import CHANNEL, Schedule, Turn, states_of
from channel_gateway.limits.scope import ScopeState
from channel_gateway.limits.success_rate import SuccessRate
from channel_gateway.limits.token_bucket import NS_PER_S
from channel_gateway.merchants import NO_MERCHANT, merchant_of
from channel_gateway.router import Router
from channel_gateway.tables import ChannelOrder, ChannelOverride
from paykit.context import set_current, unpack
from paykit.errors import MeshError, ResourceExhausted
from paykit.store.command import Origin
from paykit.store.store import Store

log = structlog.get_logger(__name__)

_LEASE_MS = 30_000  # how long an order that a timer handed over is left alone, at least
_LEASE_MAX_MS = 300_000
_RETRY_AFTER_MS = 1_000
_RETRY_AFTER_MAX_MS = 30_000
_TIMEOUT_MARGIN_S = 1.0
_STOP_GRACE_S = 15.0
_SETTLING_PER_CALL = 4  # outcomes being committed, for each call that may be under way
# What says that the channel does not work: no usable answer, or none could be asked for. A decline is an answer.
_FAILURES = frozenset({ResultStatus.UNKNOWN, ResultStatus.NOT_SENT})
_SUCCESSES = frozenset({ResultStatus.SUCCEEDED, ResultStatus.PENDING})  # PENDING: the provider has taken it

T = TypeVar("T")


class ChannelHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How a channel fares in this process, for one merchant. From memory alone."""

    is_open: bool  # a breaker, the channel's or the merchant's, lets no order through now
    is_full: bool  # another order would be refused
    success_ppm: int  # of a million calls so many went well, lately; a decline is neither
    queued: int
    in_flight: int


class LaneState(NamedTuple):
    """How a channel stands in this process, and its merchants. ``now_ns`` is when, by the clock of all other times."""

    now_ns: int
    success_ppm: int
    scopes: dict[str, ScopeState]  # by merchant, and CHANNEL


class Lane:
    """One channel in one mode: who waits for a call, in turns by merchant, and the calls under way, within limits."""

    def __init__(
        self,
        mode: str,
        channel: Channel,
        settings: ChannelSettings,
        store: Store,
        contexts: OrderContexts,
        now_ns: Callable[[], int] = time.monotonic_ns,
        avoided: Avoided = lambda mode, order: (),
        hand_on: HandOn = lambda mode, order: None,
    ) -> None:
        """``avoided``, ``hand_on``: see ``Carrier``."""
        self.channel = channel
        self._mode = mode
        self._settings = settings
        self._carrier = Carrier(mode, channel, store, contexts, avoided, hand_on)
        self._now_ns = now_ns
        self._questions: dict[str, Question] = {}
        self.schedule: Schedule[ChannelOrder | Question] = Schedule(
            settings.scope(), settings.merchant_scope(), settings.limits.merchants_max, now_ns(), self._breaker_changed
        )
        self._success = SuccessRate(settings.limits.success_half_life_ns)
        self._is_running = False
        self._held: set[str] = set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._settling_slots = asyncio.Semaphore(settings.max_in_flight * _SETTLING_PER_CALL)
        self._wake: asyncio.TimerHandle | None = None
        self._queued = QUEUED.labels(mode, channel.name)
        self._seconds = CALL_SECONDS.labels(mode, channel.name)

    def start(self) -> None:
        """Begins to call."""
        self._is_running = True
        self._pump()

    async def stop(self) -> None:
        """Drops the queue; calls under way get a grace. What is left is found by its due time."""
        self._is_running = False
        for order_id in self.schedule.clear():
            self._let_go(order_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_GRACE_S):
                await self.finished()
        if self._wake is not None:
            self._wake.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def finished(self) -> None:
        """Until everything that was offered has been carried as far as it goes now."""
        await self._is_empty.wait()

    @contextlib.contextmanager
    def place(self, merchant: str) -> Iterator[None]:
        """Keeps a place in the queue for an order while it is being made durable; ResourceExhausted without one."""
        merchant = merchant or NO_MERCHANT
        room = self.schedule.room(merchant)
        if room is not Room.FREE:
            REFUSED.labels(self._mode, self.channel.name, room.value).inc()
            whose = "" if room is Room.FULL else " of this merchant"
            raise ResourceExhausted(
                f"too many orders{whose} wait for channel {self.channel.name}",
                reason="CHANNEL_BUSY",
                retry_after_ms=self._retry_after_ms(merchant),
            )
        self.schedule.reserve(merchant)
        try:
            yield
        finally:
            self.schedule.unreserve(merchant)

    def offer(self, order: ChannelOrder) -> bool:
        """Hands an order over; False where it is held already or there is no room, and its due time must do."""
        if order.id in self._held:
            return False
        is_query = order.state != ChannelOrderState.ACCEPTED
        if not self.schedule.offer(merchant_of(order), order.id, order, is_query=is_query):
            return False
        self._hold(order.id)
        return True

    async def ask(self, id_: str, order: ChannelOrder) -> ProviderResult | None:
        """What the provider says of an order now, within the limits of every query; None where there is no room.

        ``id_``: what asks. It asks once at a time.
        """
        question = Question(id_, order, asyncio.get_running_loop().create_future())
        if id_ in self._held or not self.schedule.offer(merchant_of(order), id_, question, is_query=True):
            return None
        self._questions[id_] = question
        self._hold(id_)
        return await question.answer

    def health(self, merchant: str) -> ChannelHealth:
        """How it fares now."""
        merchant = merchant or NO_MERCHANT
        now_ns = self._now_ns()
        return ChannelHealth(
            is_open=self.schedule.is_stopped(merchant, now_ns),
            is_full=self.schedule.room(merchant) is not Room.FREE,
            success_ppm=self._success.ppm(now_ns),
            queued=self.schedule.waiting(is_query=False),
            in_flight=self.schedule.channel.in_flight,
        )

    def state(self) -> LaneState:
        """How the channel, and the merchants of whom there is anything to say, stand."""
        now_ns = self._now_ns()
        return LaneState(now_ns, self._success.ppm(now_ns), states_of(self.schedule, now_ns))

    def force(self, forced: Mapping[str, Forced]) -> None:
        """What people say of the channel and its merchants now: ``Schedule.force``. Shows in metrics how it stands."""
        self.schedule.force(forced, self._now_ns())
        self._pump()
        now_ns = self._now_ns()
        state = self.schedule.state(CHANNEL, now_ns)
        show(self._mode, self.channel.name, state, self._success.ppm(now_ns), self.schedule.stopped_count(now_ns))

    def lease_ms(self, order: ChannelOrder, now_ms: int) -> int:
        """How long a timer leaves a due order alone: at least until its limits may let it go."""
        if order.state != ChannelOrderState.ACCEPTED:
            return _LEASE_MS
        now_ns = self._now_ns()
        held = self.schedule.held(merchant_of(order), now_ns)
        until_ns = now_ns if held is None or held.until_ns is None else held.until_ns
        # What waits here for long is looked at more and more seldom: each look is a write.
        waited_ms = now_ms - order.created_at_ms if order.id in self._held else 0
        lease_ms = min(max(_LEASE_MS, waited_ms, (until_ns - now_ns) // 1_000_000), _LEASE_MAX_MS)
        give_up_ms = order.created_at_ms + self.channel.policy.resend_give_up_after_ms - now_ms
        return min(lease_ms, give_up_ms) if give_up_ms > 0 else lease_ms

    def holds_too_long(self, order: ChannelOrder, now_ms: int) -> bool:
        """Whether a limit has kept an order from being sent for as long as one is tried at all."""
        is_old = now_ms - order.created_at_ms >= self.channel.policy.resend_give_up_after_ms
        if order.state != ChannelOrderState.ACCEPTED or not is_old:
            return False
        return order.id in self._held or self.schedule.is_stopped(merchant_of(order), self._now_ns())

    async def give_up(self, order: ChannelOrder) -> None:
        """Ends an order that is not on its way as one that was never sent."""
        if self.schedule.withdraw(merchant_of(order), order.id):
            self._let_go(order.id)
        await self._carrier.give_up(order)

    def _pump(self) -> None:
        """Begins every call that may begin now, and wakes again when the next may."""
        if not self._is_running:
            return
        now_ns = self._now_ns()
        while (turn := self.schedule.next(now_ns)) is not None:
            task = asyncio.create_task(self._take(turn))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._queued.set(self.schedule.waiting(is_query=False))
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        wake_at_ns = self.schedule.wake_at_ns
        if wake_at_ns is not None:
            wait_s = max(0, wake_at_ns - now_ns) / NS_PER_S
            self._wake = asyncio.get_running_loop().call_later(wait_s, self._pump)

    async def _take(self, turn: Turn[ChannelOrder | Question]) -> None:
        """One order to the provider, and what came of it into the store."""
        order = turn.item
        if isinstance(order, Question):
            await self._answer(turn, order)
            return
        try:
            try:
                carried = self._carrier.carry(order, partial(self._call, turn=turn))
                outcome = await self._guarded(order, carried)
                if outcome is not None:
                    await self._settling_slots.acquire()
            finally:
                # The commit of an outcome waits for other commits: the next call need not wait for it.
                self.schedule.end(turn, self._now_ns())
                self._pump()
            if outcome is not None:
                try:
                    await self._guarded(order, self._carrier.settle(outcome))
                finally:
                    self._settling_slots.release()
        finally:
            self._let_go(order.id)

    async def _answer(self, turn: Turn[ChannelOrder | Question], question: Question) -> None:
        try:
            set_current(unpack(question.order.context))
            question.answered(await self._call(QUERY, question.order, turn))
        finally:
            self.schedule.end(turn, self._now_ns())
            self._let_go(question.id)
            self._pump()

    async def _guarded(self, order: ChannelOrder, step: Coroutine[Any, Any, T]) -> T | None:
        """The step's result. Where it fails nothing is lost: the row says how far it came, and is due again."""
        try:
            return await step
        except MeshError as error:
            log.warning("channel_order_postponed", channel_order_id=order.id, reason=error.reason)
        except Exception:
            log.exception("channel_order_failed_here", channel_order_id=order.id)
        return None

    def _hold(self, id_: str) -> None:
        self._held.add(id_)
        self._is_empty.clear()
        self._pump()

    def _let_go(self, id_: str) -> None:
        self._held.discard(id_)
        question = self._questions.pop(id_, None)
        if question is not None:
            question.answered(UNANSWERED)
        if not self._held:
            self._is_empty.set()

    async def _call(self, operation: str, order: ChannelOrder, turn: Turn[ChannelOrder | Question]) -> ProviderResult:
        started_ns = self._now_ns()
        result = await call(self.channel, operation, order, self._timeout_s(turn.merchant))
        ended_ns = self._now_ns()
        has_failed = result.status in _FAILURES
        turn.call = Ended(failed=has_failed, took_ns=ended_ns - started_ns)
        if not turn.is_query and (has_failed or result.status in _SUCCESSES):
            self._success.record(not has_failed, ended_ns)
        self._seconds.observe((ended_ns - started_ns) / NS_PER_S)
        CALLS.labels(self._mode, self.channel.name, operation, result.status.value).inc()
        return result

    def _timeout_s(self, merchant: str) -> float:
        """The merchant's own, or a little more than the channel keeps to by itself, and knows best what it means."""
        timeout_s = self._settings.merchant_timeout_s(merchant)
        return timeout_s if timeout_s < self._settings.timeout_s else timeout_s + _TIMEOUT_MARGIN_S

    def _retry_after_ms(self, merchant: str) -> int:
        now_ns = self._now_ns()
        held = self.schedule.held(merchant, now_ns)
        until_ns = now_ns if held is None or held.until_ns is None else held.until_ns
        return min(max(_RETRY_AFTER_MS, (until_ns - now_ns) // 1_000_000), _RETRY_AFTER_MAX_MS)

    def _breaker_changed(self, merchant: str, state: BreakerState) -> None:
        scope = "channel" if merchant == CHANNEL else "merchant"
        BREAKER_CHANGES.labels(self._mode, self.channel.name, scope, state.value).inc()
        log.warning("channel_breaker", mode=self._mode, channel=self.channel.name, merchant=merchant, state=state.value)


class Dispatcher:
    """The lanes of all channels, and what the timer does with due orders."""

    def __init__(self, store: Store, channels: ChannelSet, contexts: OrderContexts) -> None:
        self._store = store
        self._channels = channels
        self._lanes: dict[tuple[str, str], Lane] = {}
        self.router = Router(channels, self.health)
        for mode, channel in channels:
            settings = channels.settings[channel.name]
            self._lanes[mode, channel.name] = Lane(
                mode, channel, settings, store, contexts, avoided=self.router.avoided, hand_on=self._hand_on
            )

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

    def health(self, mode: str, channel: str, merchant: str) -> ChannelHealth:
        """How a channel fares in this process, from memory; FailedPrecondition as ``lane``."""
        return self.lane(mode, channel).health(merchant)

    def states(self, mode: str) -> Mapping[str, LaneState]:
        """How each channel of a mode stands in this process, by name."""
        return {channel: lane.state() for (its_mode, channel), lane in self._lanes.items() if its_mode == mode}

    def force(self, mode: str, overrides: list[ChannelOverride]) -> None:
        """Keeps to what people have set the breakers of a mode to; those that are not named decide by themselves.

        Told every second, and shows in metrics how the lanes stand.
        """
        forced: dict[str, dict[str, Forced]] = {}
        for row in overrides:
            forced.setdefault(row.channel, {})[row.merchant] = Forced(row.mode)
        for (its_mode, channel), lane in self._lanes.items():
            if its_mode == mode:
                lane.force(forced.get(channel, {}))

    def _hand_on(self, mode: str, order: ChannelOrder) -> None:
        if order.state == ChannelOrderState.ACCEPTED and self._channels.find(mode, order.channel) is not None:
            self.lane(mode, order.channel).offer(order)

    async def take_due(self, row: ChannelOrder) -> None:
        """The timer: leases a due order and hands it to its lane, or gives its lost call up."""
        context = unpack(row.context)
        lane = self.lane(context.mode, row.channel)
        now_ms = self._store.clock.now_ms()
        lease_ms = lane.lease_ms(row, now_ms)
        order = await self._store.run(TakeDue(Origin.timer(context), row.id, lane.channel.policy, lease_ms))
        if order is None:
            return
        if lane.holds_too_long(order, now_ms):
            await lane.give_up(order)
        elif not lane.offer(order):
            log.info("channel_order_waits_for_its_lane", channel_order_id=order.id)
