"""A circuit breaker: stops calls to what fails or drags, and finds out carefully when it is well again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

import msgspec


class BreakerState(StrEnum):
    """What it does with calls."""

    CLOSED = "CLOSED"  # they go through
    OPEN = "OPEN"  # none does
    HALF_OPEN = "HALF_OPEN"  # a few do, to find out


class Forced(StrEnum):
    """What a person has set it to, whatever the calls say."""

    OPEN = "FORCED_OPEN"
    CLOSED = "FORCED_CLOSED"


class BreakerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When it opens and closes. Of the last ``window_calls`` calls, at least ``calls_min``, so many percent."""

    window_calls: int
    calls_min: int
    failure_percent: int
    slow_percent: int
    slow_ns: int | None  # a call that takes as long is slow; None: no call is
    open_ns: int  # the first pause; doubles with each that brings nothing
    open_max_ns: int
    probes_max: int  # calls under way at once while it is half open
    probes_good: int  # so many that went well close it


class Ended(NamedTuple):
    """A call that is over."""

    failed: bool
    took_ns: int


class Permit(NamedTuple):
    """That a call may begin. A result counts only for the state in which its call began."""

    generation: int
    is_probe: bool


OnChange = Callable[[BreakerState], None]


class Breaker:
    """Ask ``admits``, then ``begin``; every permit is ended once, whether its call was made or not.

    ``on_change`` hears what it becomes by itself.
    """

    def __init__(self, policy: BreakerPolicy, now_ns: int, on_change: OnChange | None = None) -> None:
        self._policy = policy
        self._on_change = on_change
        self._state = BreakerState.CLOSED
        self._generation = 0
        self._window: deque[tuple[bool, bool]] = deque()
        self._until_ns = 0  # of OPEN
        self._fruitless = 0  # pauses since it was last CLOSED
        self._probes_good = 0
        self.since_ns = now_ns
        self.forced: Forced | None = None
        self.failed_count = 0  # in the window
        self.slow_count = 0
        self.probes_in_flight = 0

    @property
    def calls_count(self) -> int:
        """How many calls the window has."""
        return len(self._window)

    def state(self, now_ns: int) -> BreakerState:
        """The state it is in by itself, forced or not."""
        if self._state is BreakerState.OPEN and self.forced is None and now_ns >= self._until_ns:
            self._enter(BreakerState.HALF_OPEN, self._until_ns)
        return self._state

    def admits(self, now_ns: int) -> bool:
        """Whether a call may begin now."""
        if self.forced is not None:
            return self.forced is Forced.CLOSED
        state = self.state(now_ns)
        if state is BreakerState.HALF_OPEN:
            return self.probes_in_flight < self._policy.probes_max
        return state is BreakerState.CLOSED

    def opens_up_at_ns(self, now_ns: int) -> int | None:
        """When calls may begin again; None where no time decides that: it admits now, a probe must end, or a person."""
        if self.forced is None and self.state(now_ns) is BreakerState.OPEN:
            return self._until_ns
        return None

    def begin(self, now_ns: int) -> Permit:
        """A call begins; ask ``admits`` before."""
        assert self.admits(now_ns), "the breaker lets no call through"
        is_probe = self.forced is None and self._state is BreakerState.HALF_OPEN
        self.probes_in_flight += is_probe
        return Permit(self._generation, is_probe)

    def end(self, permit: Permit, now_ns: int, call: Ended | None) -> None:
        """A call is over; None where it was not made after all."""
        self.probes_in_flight -= permit.is_probe
        if call is not None and permit.generation == self._generation:
            self._learn(call, now_ns)

    def observe(self, call: Ended, now_ns: int) -> None:
        """Learns from a call that needed no permit. Whether to close again is for probes alone to say."""
        if self.state(now_ns) is BreakerState.CLOSED:
            self._learn(call, now_ns)

    def force(self, forced: Forced | None, now_ns: int) -> None:
        """What a person says. From FORCED_OPEN it goes on half open, from FORCED_CLOSED closed, knowing nothing."""
        if forced is self.forced:
            return
        before, self.forced = self.forced, forced
        self._fruitless = 0
        careful = forced is Forced.OPEN or (forced is None and before is Forced.OPEN)
        self._set(BreakerState.HALF_OPEN if careful else BreakerState.CLOSED, now_ns)

    def _learn(self, call: Ended, now_ns: int) -> None:
        if self.forced is not None:
            return
        policy = self._policy
        is_slow = policy.slow_ns is not None and call.took_ns >= policy.slow_ns
        if self._state is BreakerState.HALF_OPEN:
            self._judge_probe(call.failed or is_slow, now_ns)
            return
        self._window.append((call.failed, is_slow))
        self.failed_count += call.failed
        self.slow_count += is_slow
        if len(self._window) > policy.window_calls:
            failed, slow = self._window.popleft()
            self.failed_count -= failed
            self.slow_count -= slow
        calls = len(self._window)
        too_many = (
            100 * self.failed_count >= policy.failure_percent * calls
            or 100 * self.slow_count >= policy.slow_percent * calls
        )
        if calls >= policy.calls_min and too_many:
            self._open(now_ns)

    def _judge_probe(self, is_bad: bool, now_ns: int) -> None:
        if is_bad:
            self._open(now_ns)
            return
        self._probes_good += 1
        if self._probes_good >= self._policy.probes_good:
            self._fruitless = 0
            self._enter(BreakerState.CLOSED, now_ns)

    def _open(self, now_ns: int) -> None:
        # Bounded before it is shifted: after a week of fruitless pauses the number would be a long one.
        doubled_ns = self._policy.open_ns << min(self._fruitless, 40)
        self._fruitless += 1
        self._until_ns = now_ns + min(doubled_ns, self._policy.open_max_ns)
        self._enter(BreakerState.OPEN, now_ns)

    def _enter(self, state: BreakerState, now_ns: int) -> None:
        self._set(state, now_ns)
        if self._on_change is not None:
            self._on_change(state)

    def _set(self, state: BreakerState, now_ns: int) -> None:
        self._state = state
        self._generation += 1
        self._probes_good = 0
        self._window.clear()
        self.failed_count = self.slow_count = 0
        self.since_ns = now_ns
