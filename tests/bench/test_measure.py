"""Figures are what they say they are."""

from __future__ import annotations

import asyncio

from bench.measure import Sample, drive, median, sample_of


def test_a_sample_gives_rate_and_quantiles_in_milliseconds() -> None:
    latencies_s = [number / 1000 for number in range(1, 101)]
    assert sample_of(latencies_s, 10.0) == Sample(10.0, 51.0, 100.0)
    assert sample_of(latencies_s, 10.0, 1000).per_second == 100.0, "a latency may stand for many operations"


def test_the_median_is_taken_of_each_figure_by_itself() -> None:
    assert median([Sample(1, 30, 200), Sample(3, 10, 100), Sample(2, 20, 300)]) == Sample(2, 20, 200)


async def test_each_caller_has_one_operation_under_way() -> None:
    under_way, most = 0, 0

    async def operation() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1

    await drive(operation, callers=5, seconds=0.01)
    assert most == 5
