"""How long the provider takes for a call: a distribution for each account and operation, as data."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Literal

import msgspec

from channel_gateway.sandbox.behaviour import Operation, roll

LATENCY_MS_MAX = 600_000.0
_NORMAL = NormalDist()
_Z_99 = _NORMAL.inv_cdf(0.99)


class Latency(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One distribution, in milliseconds. ``fixed``: ``low_ms``. ``uniform``: from ``low_ms`` up to ``high_ms``.
    ``lognormal``: half of the calls take up to ``p50_ms``, all but a hundredth up to ``p99_ms``. A share of
    ``spike_rate`` takes ``spike_ms`` longer."""

    kind: Literal["fixed", "uniform", "lognormal"] = "fixed"
    low_ms: float = 0.0
    high_ms: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    spike_rate: float = 0.0
    spike_ms: float = 0.0

    def __post_init__(self) -> None:
        if not all(0 <= ms <= LATENCY_MS_MAX for ms in (self.low_ms, self.high_ms, self.p50_ms, self.p99_ms)):
            raise ValueError(f"a latency must lie between 0 and {LATENCY_MS_MAX:.0f} ms")
        if self.kind == "uniform" and self.high_ms < self.low_ms:
            raise ValueError("high_ms must not be less than low_ms")
        if self.kind == "lognormal" and not 0 < self.p50_ms <= self.p99_ms:
            raise ValueError("a lognormal latency needs 0 < p50_ms <= p99_ms")
        if not (0 <= self.spike_rate <= 1 and 0 <= self.spike_ms <= LATENCY_MS_MAX):
            raise ValueError("spike_rate must lie between 0 and 1, spike_ms in the bounds of a latency")

    def at(self, share: float, spike_share: float) -> float:
        """The latency at a share (0 to 1) of the distribution, at most LATENCY_MS_MAX."""
        ms = self.low_ms
        if self.kind == "uniform":
            ms += share * (self.high_ms - self.low_ms)
        elif self.kind == "lognormal" and share > 0:
            ms = self.p50_ms * math.exp(math.log(self.p99_ms / self.p50_ms) / _Z_99 * _NORMAL.inv_cdf(share))
        if spike_share < self.spike_rate:
            ms += self.spike_ms
        return min(ms, LATENCY_MS_MAX)

    def of(self, seed: int, operation: Operation, reference: str) -> float:
        """The latency of one call: the same for the same seed, operation and reference."""
        spike_share = roll(seed, "spike", operation, reference) if self.spike_rate else 1.0
        share = 0.0 if self.kind == "fixed" else roll(seed, "latency", operation, reference)
        return self.at(share, spike_share)
