"""Closed-loop load and what it measured."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple


class Sample(NamedTuple):
    """One run: operations a second, and latencies in milliseconds."""

    per_second: float
    p50_ms: float
    p99_ms: float


def sample_of(latencies_s: Sequence[float], elapsed_s: float, operations: int | None = None) -> Sample:
    """A sample from the latencies of a run; ``operations`` where one latency stands for several."""
    ordered = sorted(latencies_s)
    count = len(ordered) if operations is None else operations
    return Sample(count / elapsed_s, 1000 * ordered[len(ordered) // 2], 1000 * ordered[int(len(ordered) * 0.99)])


def median(samples: Sequence[Sample]) -> Sample:
    """The median of each figure."""
    return Sample(*(statistics.median(column) for column in zip(*samples, strict=True)))


async def drive(operation: Callable[[], Awaitable[object]], callers: int, seconds: float, each: int = 1) -> Sample:
    """``callers`` callers, each with one operation under way, for ``seconds``. An operation does ``each`` things."""
    latencies_s: list[float] = []
    started_s = time.perf_counter()
    until_s = started_s + seconds

    async def caller() -> None:
        while (begun_s := time.perf_counter()) < until_s:
            await operation()
            latencies_s.append(time.perf_counter() - begun_s)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return sample_of(latencies_s, time.perf_counter() - started_s, each * len(latencies_s))
