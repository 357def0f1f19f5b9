"""The limits of a channel and of each merchant on it, as settings, and what the parts are told of them."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from channel_gateway.limits.breaker import BreakerPolicy
from channel_gateway.limits.scope import ScopePolicy
from channel_gateway.limits.token_bucket import NS_PER_S, interval_ns_of
from paykit.settings import Count, Seconds, Section

Percent = Annotated[int, Field(ge=1, le=100)]
Rate = Annotated[float, Field(ge=0.001, le=1_000_000)]


class BreakerSettings(Section):
    """When a breaker opens and closes. A call fails where no usable answer comes, or it cannot be made; a decline is
    an answer."""

    window_calls: Annotated[int, Field(ge=1, le=10_000)] = 100  # the last calls that count
    calls_min: Annotated[int, Field(ge=1, le=10_000)] = 20  # fewer say nothing
    failure_percent: Percent = 50  # of them failed: it opens
    slow_call_s: Seconds | None = None  # a call that takes as long is slow; left out: no call is
    slow_percent: Percent = 80  # of them were slow: it opens
    open_s: Seconds = 5.0  # the first pause; doubles with each that brings nothing
    open_max_s: Seconds = 120.0
    probes_max: Annotated[int, Field(ge=1, le=1000)] = 3  # calls under way at once while half open
    probes_good: Annotated[int, Field(ge=1, le=1000)] = 3  # so many good ones close it

    @model_validator(mode="after")
    def _can_open(self) -> Self:
        if self.calls_min > self.window_calls:
            raise ValueError("calls_min must not exceed window_calls")
        if self.open_max_s < self.open_s:
            raise ValueError("open_max_s must not be less than open_s")
        return self

    def policy(self) -> BreakerPolicy:
        """As the breaker is told."""
        return BreakerPolicy(
            window_calls=self.window_calls,
            calls_min=self.calls_min,
            failure_percent=self.failure_percent,
            slow_percent=self.slow_percent,
            slow_ns=None if self.slow_call_s is None else _ns(self.slow_call_s),
            open_ns=_ns(self.open_s),
            open_max_ns=_ns(self.open_max_s),
            probes_max=self.probes_max,
            probes_good=self.probes_good,
        )


class _RateSettings(Section):
    """How many calls, of orders and of queries, begin in a second. Left out: as many as may be under way allow."""

    calls_per_s: Rate | None = None
    burst: Count | None = None  # left out: what comes in a second, at least 1
    breaker: BreakerSettings = BreakerSettings()

    @model_validator(mode="after")
    def _burst_belongs_to_a_rate(self) -> Self:
        if self.burst is not None and self.calls_per_s is None:
            raise ValueError("burst needs calls_per_s")
        return self

    def scope(self, in_flight_max: int, queue_max: int) -> ScopePolicy:
        """What a scope is bounded by that has so much room."""
        rate = self.calls_per_s
        return ScopePolicy(
            in_flight_max=in_flight_max,
            queue_max=queue_max,
            interval_ns=None if rate is None else interval_ns_of(rate),
            burst=self.burst or max(1, int(rate or 1)),
            breaker=self.breaker.policy(),
        )


class LimitsSettings(_RateSettings):
    """The limits of a channel beside ``max_in_flight``, ``max_queue`` and ``timeout_s``; per process."""

    success_half_life_s: Seconds = 300.0  # after which what is known of its success weighs half
    merchants_max: Annotated[int, Field(ge=1, le=100_000)] = 2000  # whose limits are kept in memory

    @property
    def success_half_life_ns(self) -> int:
        """As the success rate is told."""
        return _ns(self.success_half_life_s)


class MerchantLimitsSettings(_RateSettings):
    """The limits of one merchant on a channel; per process. By default a quarter of everything is left to others."""

    in_flight_percent: Percent = 75  # of the channel's max_in_flight, rounded up
    queue_percent: Percent = 75  # of its max_queue, rounded up
    timeout_s: Seconds | None = None  # where it is to be less than the channel's

    def scope_in(self, in_flight_max: int, queue_max: int) -> ScopePolicy:
        """What a merchant is bounded by on a channel with so much room."""
        return self.scope(_part(in_flight_max, self.in_flight_percent), _part(queue_max, self.queue_percent))


def _part(whole: int, percent: int) -> int:
    return -(-whole * percent // 100)


def _ns(seconds: float) -> int:
    return int(seconds * NS_PER_S)
