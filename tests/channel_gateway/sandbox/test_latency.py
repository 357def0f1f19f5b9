"""How long the provider takes, by distribution."""

from __future__ import annotations

from statistics import median, quantiles
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_gateway.sandbox.latency import LATENCY_MS_MAX, Latency


def sample(latency: Latency, count: int = 4_000, seed: int = 1) -> list[float]:
    return [latency.of(seed, "charge", f"r{n}") for n in range(count)]


def test_a_fixed_latency_is_always_the_same() -> None:
    assert set(sample(Latency(low_ms=12), 50)) == {12.0}


def test_a_uniform_latency_fills_its_range() -> None:
    found = sample(Latency(kind="uniform", low_ms=10, high_ms=30))
    assert 10 <= min(found) < 10.5
    assert 29.5 < max(found) <= 30
    assert median(found) == pytest.approx(20, abs=0.5)


def test_a_lognormal_latency_has_the_percentiles_it_is_told() -> None:
    found = sample(Latency(kind="lognormal", p50_ms=50, p99_ms=400))
    assert median(found) == pytest.approx(50, rel=0.06)
    assert quantiles(found, n=100)[98] == pytest.approx(400, rel=0.25)


def test_some_calls_take_longer_by_a_spike() -> None:
    found = sample(Latency(low_ms=5, spike_rate=0.1, spike_ms=1_000))
    spikes = [ms for ms in found if ms > 1_000]
    assert set(found) == {5.0, 1_005.0}
    assert 300 < len(spikes) < 500


@given(
    reference=st.text(min_size=1, max_size=64), p50_ms=st.floats(1, 1_000), factor=st.floats(1, 50), seed=st.integers()
)
def test_the_same_call_takes_the_same_time_within_bounds(
    reference: str, p50_ms: float, factor: float, seed: int
) -> None:
    latency = Latency(kind="lognormal", p50_ms=p50_ms, p99_ms=p50_ms * factor, spike_rate=0.5, spike_ms=100)
    first = latency.of(seed, "charge", reference)
    assert 0 < first <= LATENCY_MS_MAX
    assert latency.of(seed, "charge", reference) == first


def test_operations_and_seeds_differ() -> None:
    latency = Latency(kind="uniform", high_ms=1_000)
    assert len({latency.of(1, "charge", "r"), latency.of(1, "query", "r"), latency.of(2, "charge", "r")}) == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "uniform", "low_ms": 2, "high_ms": 1},
        {"kind": "lognormal"},
        {"kind": "lognormal", "p50_ms": 5, "p99_ms": 4},
        {"low_ms": -1},
        {"low_ms": LATENCY_MS_MAX + 1},
        {"spike_rate": 1.5},
    ],
)
def test_a_distribution_that_makes_no_sense_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"latency|high_ms|spike_rate"):
        Latency(**settings)
