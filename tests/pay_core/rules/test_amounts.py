"""Fees to the minor unit, with the rounding that is named."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pay_core.rules.amounts import Price, Rounding, Tier, TierMode, divided

TIERS = (Tier(10_000, 20_000, 5), Tier(50_000, 10_000, 0), Tier(None, 5_000, 0))


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        (Rounding.HALF_EVEN, [0, 0, 1, 2, 2, 2]),
        (Rounding.HALF_UP, [0, 1, 1, 2, 2, 3]),
        (Rounding.UP, [1, 1, 1, 2, 2, 3]),
        (Rounding.DOWN, [0, 0, 0, 1, 2, 2]),
    ],
)
def test_rounds_as_named(rounding: Rounding, expected: list[int]) -> None:
    assert [divided(n, 10, rounding) for n in (1, 5, 6, 15, 20, 25)] == expected


@given(st.integers(0, 10**30), st.integers(1, 10**12), st.sampled_from(Rounding))
def test_rounding_is_less_than_one_unit_off_and_on_the_named_side(n: int, d: int, rounding: Rounding) -> None:
    exact, rounded = Fraction(n, d), divided(n, d, rounding)
    if rounding is Rounding.UP:
        assert 0 <= rounded - exact < 1
    elif rounding is Rounding.DOWN:
        assert 0 <= exact - rounded < 1
    else:
        assert abs(rounded - exact) <= Fraction(1, 2)
        if rounding is Rounding.HALF_EVEN:
            assert rounded == round(exact)


@pytest.mark.parametrize(
    ("amount_minor", "whole", "marginal"),
    [
        (1, 5, 5),
        (10_000, 205, 205),
        (10_001, 100, 205),
        (50_000, 500, 605),
        (50_001, 250, 605),
        (90_000, 450, 805),
    ],
)
def test_tiers_hold_for_the_whole_or_for_their_band(amount_minor: int, whole: int, marginal: int) -> None:
    assert Price(TIERS, TierMode.WHOLE).of(amount_minor) == whole
    assert Price(TIERS, TierMode.MARGINAL).of(amount_minor) == marginal


def test_a_sum_of_parts_is_rounded_once() -> None:
    halves = (Tier(1, 500_000, 0), Tier(None, 500_000, 0))
    assert Price(halves, TierMode.MARGINAL, rounding=Rounding.UP).of(2) == 1


def test_the_bounds_hold_after_rounding() -> None:
    price = Price((Tier(None, 10_000, 0),), min_minor=10, max_minor=50)
    assert [price.of(amount) for amount in (1, 1000, 1500, 2549, 9000)] == [10, 10, 15, 25, 50]


@given(st.lists(st.integers(1, 10**15), min_size=2, max_size=2).map(sorted), st.sampled_from(Rounding))
def test_a_marginal_fee_never_falls_as_the_amount_rises(amounts: list[int], rounding: Rounding) -> None:
    price = Price(TIERS, TierMode.MARGINAL, rounding=rounding)
    assert price.of(amounts[0]) <= price.of(amounts[1])
