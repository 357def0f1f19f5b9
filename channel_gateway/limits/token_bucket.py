"""A token bucket in whole numbers: how many calls may begin in a second, with a burst."""

from __future__ import annotations

NS_PER_S = 1_000_000_000


class TokenBucket:
    """Full with ``burst`` tokens, and one more every ``interval_ns``: in a time t at most burst + t/interval are taken.

    The one number it keeps is when it will be full again, so nothing can drift. A token that was taken and not used
    is lost: given back late, it could make up for one that came in the meantime.
    """

    def __init__(self, interval_ns: int, burst: int) -> None:
        assert interval_ns >= 1, "a bucket without a rate is no bucket"
        assert burst >= 1, "a bucket must hold a token"
        self._interval_ns = interval_ns
        self._burst = burst
        self._full_at_ns: int | None = None  # None: full since ever

    def tokens(self, now_ns: int) -> int:
        """How many can be taken now."""
        return self._burst - -(-self._missing_ns(now_ns) // self._interval_ns)

    def next_at_ns(self, now_ns: int) -> int:
        """When a token can be taken: ``now_ns`` where one is there."""
        return now_ns + max(0, self._missing_ns(now_ns) - (self._burst - 1) * self._interval_ns)

    def take(self, now_ns: int) -> bool:
        """Takes a token; False where there is none."""
        missing_ns = self._missing_ns(now_ns)
        if missing_ns > (self._burst - 1) * self._interval_ns:
            return False
        self._full_at_ns = now_ns + missing_ns + self._interval_ns
        return True

    def _missing_ns(self, now_ns: int) -> int:
        """How long it takes from now until it is full."""
        return 0 if self._full_at_ns is None else max(0, self._full_at_ns - now_ns)


def interval_ns_of(calls_per_s: float) -> int:
    """The time between two tokens, rounded up: never more a second than ``calls_per_s`` says."""
    numerator, denominator = calls_per_s.as_integer_ratio()
    return -(-NS_PER_S * denominator // numerator)
