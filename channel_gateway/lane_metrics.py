"""The metrics of lanes. None has a label for merchants, of whom there may be any number."""

from __future__ import annotations

from channel_gateway.limits.breaker import BreakerState, Forced
from channel_gateway.limits.scope import ScopeState
from paykit import telemetry

_LANE = ("mode", "channel")
CALLS = telemetry.counter("channel_calls_total", "Calls to providers", (*_LANE, "operation", "status"))
CALL_SECONDS = telemetry.histogram("channel_call_seconds", "Time of a call to a provider", _LANE)
QUEUED = telemetry.gauge("channel_queue_orders", "Orders waiting for a call to the provider", _LANE)
REFUSED = telemetry.counter("channel_refused_total", "Orders refused for want of room", (*_LANE, "room"))
BREAKER_CHANGES = telemetry.counter(
    "channel_breaker_changes_total", "Changes of breakers, by what they became", (*_LANE, "scope", "state")
)
QUERIES_QUEUED = telemetry.gauge("channel_queue_queries", "Orders whose outcome waits to be asked for", _LANE)
IN_FLIGHT = telemetry.gauge("channel_calls_in_flight", "Calls under way", _LANE)
BREAKER = telemetry.gauge("channel_breaker_state", "1 for the state the channel's breaker is in", (*_LANE, "state"))
FAILED = telemetry.gauge("channel_window_failed_calls", "Failed calls in the breaker's window", _LANE)
WINDOW = telemetry.gauge("channel_window_calls", "Calls in the breaker's window", _LANE)
TOKENS = telemetry.gauge("channel_tokens", "Calls that the rate lets begin at once", _LANE)
SUCCESS = telemetry.gauge("channel_success_ratio", "Calls that went well, lately", _LANE)
STOPPED = telemetry.gauge("channel_stopped_merchants", "Merchants whose own breaker lets no order through", _LANE)

_STATES = (*(state.value for state in BreakerState), *(forced.value for forced in Forced))
_PPM = 1_000_000


def show(mode: str, channel: str, whole: ScopeState, success_ppm: int, stopped_merchants: int) -> None:
    """Shows how a channel stands."""
    state = whole.breaker.value if whole.forced is None else whole.forced.value
    for each in _STATES:
        BREAKER.labels(mode, channel, each).set(each == state)
    QUEUED.labels(mode, channel).set(whole.queued)
    QUERIES_QUEUED.labels(mode, channel).set(whole.queries_queued)
    IN_FLIGHT.labels(mode, channel).set(whole.in_flight)
    FAILED.labels(mode, channel).set(whole.failed_count)
    WINDOW.labels(mode, channel).set(whole.calls_count)
    if whole.tokens is not None:
        TOKENS.labels(mode, channel).set(whole.tokens)
    SUCCESS.labels(mode, channel).set(success_ppm / _PPM)
    STOPPED.labels(mode, channel).set(stopped_merchants)
