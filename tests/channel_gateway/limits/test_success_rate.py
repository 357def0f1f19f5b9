"""What happened counts, and less and less."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_gateway.limits.success_rate import PPM, SuccessRate

HALF_LIFE_NS = 1_000

outcomes = st.lists(st.tuples(st.booleans(), st.integers(0, 5_000)), max_size=30)


def _rate(history: list[tuple[bool, int]]) -> tuple[SuccessRate, int]:
    rate, now_ns = SuccessRate(HALF_LIFE_NS), 0
    for succeeded, wait_ns in history:
        now_ns += wait_ns
        rate.record(succeeded, now_ns)
    return rate, now_ns


@given(outcomes)
def test_it_is_the_share_of_successes_by_what_each_weighs_now(history: list[tuple[bool, int]]) -> None:
    rate, now_ns = _rate(history)
    good, total, at_ns = 1.0, 1.0, 0
    for succeeded, wait_ns in history:
        at_ns += wait_ns
        weight = 0.5 ** ((now_ns - at_ns) / HALF_LIFE_NS)
        good, total = good + weight * succeeded, total + weight
    assert rate.ppm(now_ns) == pytest.approx(PPM * good / total, abs=1)
    assert 0 < rate.ppm(now_ns) <= PPM


@given(outcomes, st.booleans())
def test_a_success_never_lowers_it_and_a_failure_never_raises_it(
    history: list[tuple[bool, int]], succeeded: bool
) -> None:
    rate, now_ns = _rate(history)
    before = rate.ppm(now_ns)
    rate.record(succeeded, now_ns)
    assert rate.ppm(now_ns) >= before if succeeded else rate.ppm(now_ns) <= before


@given(outcomes, st.integers(0, 10**7))
def test_time_heals(history: list[tuple[bool, int]], wait_ns: int) -> None:
    rate, now_ns = _rate(history)
    assert rate.ppm(now_ns + wait_ns) >= rate.ppm(now_ns)
    assert rate.ppm(now_ns + 10**9) == PPM


def test_one_half_life_halves_what_is_known() -> None:
    rate = SuccessRate(HALF_LIFE_NS)
    assert rate.ppm(0) == PPM
    rate.record(False, 0)
    assert rate.ppm(0) == 500_000
    assert rate.ppm(HALF_LIFE_NS) == 666_667


def test_a_clock_that_stands_back_does_no_harm() -> None:
    rate = SuccessRate(HALF_LIFE_NS)
    rate.record(False, 5_000)
    rate.record(True, 4_000)
    assert rate.ppm(4_000) == rate.ppm(5_000) == 666_667
