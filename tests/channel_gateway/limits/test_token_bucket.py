"""A bucket gives exactly what its rate and burst say, for ever."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channel_gateway.limits.token_bucket import NS_PER_S, TokenBucket, interval_ns_of

intervals = st.integers(1, 1_000)
bursts = st.integers(1, 8)
gaps = st.lists(st.integers(0, 2_500), min_size=1, max_size=60)


@settings(max_examples=200, deadline=None)
@given(intervals, bursts, gaps)
def test_it_gives_what_a_level_that_fills_evenly_would_give(interval_ns: int, burst: int, waits: list[int]) -> None:
    bucket, now_ns, level = TokenBucket(interval_ns, burst), 7, burst * interval_ns
    for wait_ns in waits:
        now_ns += wait_ns
        level = min(burst * interval_ns, level + wait_ns)
        assert bucket.tokens(now_ns) == level // interval_ns
        assert bucket.next_at_ns(now_ns) == now_ns + max(0, interval_ns - level)
        is_there = level >= interval_ns
        assert bucket.take(now_ns) is is_there
        level -= interval_ns * is_there


@settings(max_examples=200, deadline=None)
@given(intervals, bursts, gaps)
def test_in_any_time_no_more_begin_than_rate_and_burst_allow(interval_ns: int, burst: int, waits: list[int]) -> None:
    bucket, now_ns, taken = TokenBucket(interval_ns, burst), 0, []
    for wait_ns in waits:
        now_ns += wait_ns
        while bucket.take(now_ns):
            taken.append(now_ns)
    for first, since_ns in enumerate(taken):
        for count, at_ns in enumerate(taken[first:], start=1):
            assert count <= burst + Fraction(at_ns - since_ns, interval_ns)


@settings(max_examples=100, deadline=None)
@given(intervals, bursts, st.integers(0, 10**18))
def test_who_comes_when_it_says_gets_every_token_there_is(interval_ns: int, burst: int, start_ns: int) -> None:
    """No drift: a thousand tokens later, the next comes to the nanosecond when it should."""
    bucket, now_ns = TokenBucket(interval_ns, burst), start_ns
    for _ in range(1_000 + burst):
        now_ns = bucket.next_at_ns(now_ns)
        assert bucket.take(now_ns)
        assert bucket.tokens(now_ns) < burst
    assert now_ns == start_ns + 1_000 * interval_ns


@pytest.mark.parametrize(("rate", "interval_ns"), [(1.0, NS_PER_S), (3.0, 333_333_334), (0.5, 2 * NS_PER_S)])
def test_a_rate_becomes_an_interval_that_never_exceeds_it(rate: float, interval_ns: int) -> None:
    assert interval_ns_of(rate) == interval_ns


@given(st.floats(0.001, 1_000_000))
def test_no_rate_is_ever_exceeded_by_rounding(rate: float) -> None:
    interval_ns = interval_ns_of(rate)
    assert Fraction(rate) * interval_ns >= NS_PER_S > Fraction(rate) * (interval_ns - 1)
