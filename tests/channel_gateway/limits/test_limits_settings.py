"""What limits may be set to, and what the parts are told of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from channel_gateway.channels.sandbox_settings import SandboxChannelSettings
from channel_gateway.limits.limits_settings import LimitsSettings, MerchantLimitsSettings
from channel_gateway.limits.token_bucket import NS_PER_S
from tests.channel_gateway.gateway import channel_settings


def settings(**changes: Any) -> SandboxChannelSettings:
    return SandboxChannelSettings.model_validate(channel_settings("http://127.0.0.1:1", **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"limits": {"calls_per_s": 0}},
        {"limits": {"burst": 5}},
        {"limits": {"burst": 0, "calls_per_s": 1}},
        {"limits": {"breaker": {"calls_min": 11, "window_calls": 10}}},
        {"limits": {"breaker": {"open_s": 10, "open_max_s": 9}}},
        {"limits": {"breaker": {"failure_percent": 0}}},
        {"limits": {"breaker": {"failure_percent": 101}}},
        {"limits": {"unknown": 1}},
        {"merchant_limits": {"queue_percent": 0}},
        {"merchant_limits": {"timeout_s": 1.5}, "timeout_s": 1},
        {"merchants": {"shop": {"timeout_s": 1.5}}, "timeout_s": 1},
        {"merchants": {"not a name": {}}},
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(**changes)


def test_the_defaults_set_no_rate_and_leave_a_quarter_to_others() -> None:
    channel = settings(max_in_flight=128, max_queue=4096)
    whole, merchant = channel.scope(), channel.merchant_scope()("anybody")
    assert (whole.in_flight_max, whole.queue_max, whole.interval_ns) == (128, 4096, None)
    assert (merchant.in_flight_max, merchant.queue_max, merchant.interval_ns) == (96, 3072, None)
    assert whole.breaker.slow_ns is None


@given(st.integers(1, 10_000), st.integers(1, 100))
def test_a_merchants_part_is_never_nothing_and_never_more_than_all(whole: int, percent: int) -> None:
    limits = MerchantLimitsSettings(in_flight_percent=percent, queue_percent=percent)
    part = limits.scope_in(whole, whole)
    assert part.in_flight_max == part.queue_max
    assert 1 <= part.queue_max <= whole
    assert 0 <= 100 * part.queue_max - percent * whole < 100


@pytest.mark.parametrize(
    ("changes", "interval_ns", "burst"),
    [
        ({"calls_per_s": 20}, NS_PER_S // 20, 20),
        ({"calls_per_s": 0.1}, 10 * NS_PER_S, 1),
        ({"calls_per_s": 20, "burst": 3}, NS_PER_S // 20, 3),
    ],
)
def test_without_a_burst_it_is_what_comes_in_a_second(changes: dict[str, Any], interval_ns: int, burst: int) -> None:
    scope = LimitsSettings.model_validate(changes).scope(1, 1)
    assert scope.interval_ns == pytest.approx(interval_ns, abs=1)
    assert scope.burst == burst


def test_a_named_merchant_has_its_own_limits_and_others_the_common_ones() -> None:
    channel = settings(
        max_in_flight=10,
        timeout_s=4,
        merchant_limits={"in_flight_percent": 50, "breaker": {"slow_call_s": 2}},
        merchants={"large": {"in_flight_percent": 90, "calls_per_s": 5, "timeout_s": 3}},
    )
    large, other = channel.merchant_scope()("large"), channel.merchant_scope()("other")
    assert (large.in_flight_max, large.burst, large.breaker.slow_ns) == (9, 5, None)
    assert (other.in_flight_max, other.interval_ns, other.breaker.slow_ns) == (5, None, 2 * NS_PER_S)
    assert (channel.merchant_timeout_s("large"), channel.merchant_timeout_s("other")) == (3, 4)
