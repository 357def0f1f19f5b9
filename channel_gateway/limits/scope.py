"""The limits of one scope, a channel or a merchant on it, taken together."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

from channel_gateway.limits.breaker import Breaker, BreakerPolicy, BreakerState, Ended, Forced, OnChange, Permit
from channel_gateway.limits.bulkhead import Bulkhead
from channel_gateway.limits.token_bucket import TokenBucket


class ScopePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a scope is bounded by."""

    in_flight_max: int
    queue_max: int  # orders, and as many queries, that wait
    interval_ns: int | None  # between two calls, on the average; None: as many as the bulkhead has room for
    burst: int
    breaker: BreakerPolicy


class HeldBy(StrEnum):
    """What lets a call not begin."""

    BREAKER = "BREAKER"
    BULKHEAD = "BULKHEAD"
    RATE = "RATE"


class Held(NamedTuple):
    """That a call cannot begin, and until when; None where the end of another call, or a person, decides that."""

    by: HeldBy
    until_ns: int | None


class ScopeState(msgspec.Struct, frozen=True, kw_only=True):
    """How a scope stands."""

    breaker: BreakerState
    since_ns: int
    forced: Forced | None
    opens_up_at_ns: int | None
    calls_count: int  # in the breaker's window
    failed_count: int
    slow_count: int
    in_flight: int
    in_flight_max: int
    tokens: int | None  # None where there is no rate
    queued: int  # orders that wait
    queries_queued: int
    queue_max: int


class Scope:
    """Bulkhead, token bucket and breaker. Queries pass a breaker that is open: they are how one learns."""

    def __init__(self, policy: ScopePolicy, now_ns: int, on_change: OnChange | None = None) -> None:
        self.policy = policy
        self.breaker = Breaker(policy.breaker, now_ns, on_change)
        self._bulkhead = Bulkhead(policy.in_flight_max)
        self._bucket = None if policy.interval_ns is None else TokenBucket(policy.interval_ns, policy.burst)

    @property
    def in_flight(self) -> int:
        """How many calls are under way."""
        return self._bulkhead.in_flight

    def held(self, now_ns: int, is_query: bool) -> Held | None:
        """What keeps a call from beginning now; None where nothing does."""
        if not is_query and not self.breaker.admits(now_ns):
            return Held(HeldBy.BREAKER, self.breaker.opens_up_at_ns(now_ns))
        if self._bulkhead.is_full:
            return Held(HeldBy.BULKHEAD, None)
        if self._bucket is not None and (next_at_ns := self._bucket.next_at_ns(now_ns)) > now_ns:
            return Held(HeldBy.RATE, next_at_ns)
        return None

    def begin(self, now_ns: int, is_query: bool) -> Permit | None:
        """A call begins; ask ``held`` before. Gives what ``end`` needs."""
        self._bulkhead.enter()
        if self._bucket is not None:
            taken = self._bucket.take(now_ns)
            assert taken, "there was no token"
        return None if is_query else self.breaker.begin(now_ns)

    def end(self, permit: Permit | None, now_ns: int, call: Ended | None) -> None:
        """A call is over; ``call`` is None where it was not made after all."""
        self._bulkhead.leave()
        if permit is not None:
            self.breaker.end(permit, now_ns, call)
        elif call is not None:
            self.breaker.observe(call, now_ns)

    def is_idle(self, now_ns: int) -> bool:
        """Whether nothing would be lost but the breaker's window if it were made anew."""
        return (
            self._bulkhead.in_flight == 0
            and (self._bucket is None or self._bucket.tokens(now_ns) == self.policy.burst)
            and self.breaker.forced is None
            and self.breaker.state(now_ns) is BreakerState.CLOSED
        )

    def is_noteworthy(self, now_ns: int) -> bool:
        """Whether there is anything to say of it."""
        return not self.is_idle(now_ns) or self.breaker.failed_count > 0 or self.breaker.slow_count > 0

    def state(self, now_ns: int, queued: int, queries_queued: int) -> ScopeState:
        """How it stands, with so many waiting before it."""
        breaker = self.breaker
        return ScopeState(
            breaker=breaker.state(now_ns),
            since_ns=breaker.since_ns,
            forced=breaker.forced,
            opens_up_at_ns=breaker.opens_up_at_ns(now_ns),
            calls_count=breaker.calls_count,
            failed_count=breaker.failed_count,
            slow_count=breaker.slow_count,
            in_flight=self._bulkhead.in_flight,
            in_flight_max=self._bulkhead.calls_max,
            tokens=None if self._bucket is None else self._bucket.tokens(now_ns),
            queued=queued,
            queries_queued=queries_queued,
            queue_max=self.policy.queue_max,
        )
