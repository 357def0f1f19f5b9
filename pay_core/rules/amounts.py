"""The arithmetic of fees and splits: whole minor units, rates in parts per million, every rounding named."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

PPM = 1_000_000


class Rounding(StrEnum):
    """How a part of a minor unit becomes a whole one or none."""

    HALF_EVEN = "HALF_EVEN"
    HALF_UP = "HALF_UP"
    UP = "UP"
    DOWN = "DOWN"


class TierMode(StrEnum):
    """WHOLE: the tier the amount falls into holds for all of it. MARGINAL: each tier holds for its own band."""

    WHOLE = "WHOLE"
    MARGINAL = "MARGINAL"


def divided(numerator: int, denominator: int, rounding: Rounding) -> int:
    """``numerator / denominator`` of non-negative numbers, rounded as named."""
    whole, rest = divmod(numerator, denominator)
    if rest == 0 or rounding is Rounding.DOWN:
        return whole
    if rounding is Rounding.UP:
        return whole + 1
    twice = 2 * rest
    if twice == denominator:
        return whole + (1 if rounding is Rounding.HALF_UP else whole % 2)
    return whole + (twice > denominator)


class Tier(NamedTuple):
    """Up to which amount (inclusive; None is open) which price holds."""

    up_to_minor: int | None
    rate_ppm: int
    fixed_minor: int


class Price(NamedTuple):
    """What a fee costs. A fee without tiers has one open tier."""

    tiers: tuple[Tier, ...]
    mode: TierMode = TierMode.WHOLE
    min_minor: int = 0
    max_minor: int | None = None
    rounding: Rounding = Rounding.HALF_EVEN

    def of(self, amount_minor: int) -> int:
        """The fee on an amount: fixed parts and rates are added exactly, rounded once, then kept in the bounds."""
        total_ppm = self._whole_ppm(amount_minor) if self.mode is TierMode.WHOLE else self._marginal_ppm(amount_minor)
        fee = max(self.min_minor, divided(total_ppm, PPM, self.rounding))
        return fee if self.max_minor is None else min(fee, self.max_minor)

    def _whole_ppm(self, amount_minor: int) -> int:
        tier = next(tier for tier in self.tiers if tier.up_to_minor is None or amount_minor <= tier.up_to_minor)
        return amount_minor * tier.rate_ppm + tier.fixed_minor * PPM

    def _marginal_ppm(self, amount_minor: int) -> int:
        total_ppm = below = 0
        for tier in self.tiers:
            upper = amount_minor if tier.up_to_minor is None else min(amount_minor, tier.up_to_minor)
            if upper <= below:
                break
            total_ppm += (upper - below) * tier.rate_ppm + tier.fixed_minor * PPM
            below = upper
        return total_ppm
