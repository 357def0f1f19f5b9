"""How well calls went lately: a success rate in which what is long past counts less."""

from __future__ import annotations

PPM = 1_000_000
_PRIOR = 1.0  # the weight of the good faith that one has who is not known, or not lately


class SuccessRate:
    """Every outcome weighs 1 when it comes and half of that after each half-life.

    Nothing known counts as 100 %: who is never chosen for his failures is tried again when they have faded.
    """

    def __init__(self, half_life_ns: int) -> None:
        assert half_life_ns >= 1, "evidence must not fade at once"
        self._half_life_ns = half_life_ns
        self._good = 0.0
        self._all = 0.0
        self._at_ns = 0

    def record(self, succeeded: bool, now_ns: int) -> None:
        """Takes an outcome in."""
        kept = self._kept(now_ns)
        self._good = self._good * kept + succeeded
        self._all = self._all * kept + 1.0
        self._at_ns = max(self._at_ns, now_ns)

    def ppm(self, now_ns: int) -> int:
        """Successes in a million outcomes."""
        kept = self._kept(now_ns)
        return min(PPM, round(PPM * (self._good * kept + _PRIOR) / (self._all * kept + _PRIOR)))

    def _kept(self, now_ns: int) -> float:
        """Which part of the evidence is left."""
        return float(0.5 ** (max(0, now_ns - self._at_ns) / self._half_life_ns))
