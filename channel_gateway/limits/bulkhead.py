"""A bulkhead: how many calls are under way at once."""

from __future__ import annotations


class Bulkhead:
    """Room for ``calls_max`` calls."""

    def __init__(self, calls_max: int) -> None:
        assert calls_max >= 1, "a bulkhead must have room for a call"
        self.calls_max = calls_max
        self.in_flight = 0

    @property
    def is_full(self) -> bool:
        """Whether no call can begin before another has ended."""
        return self.in_flight >= self.calls_max

    def enter(self) -> None:
        """A call begins; ask ``is_full`` before."""
        assert not self.is_full, "more calls than the bulkhead has room for"
        self.in_flight += 1

    def leave(self) -> None:
        """A call has ended."""
        assert self.in_flight > 0, "more calls ended than began"
        self.in_flight -= 1
