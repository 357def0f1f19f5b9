"""Money: splits that add up, and amounts written as their currency writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paykit.money import EXPONENT, INT64_MAX, allocate, format_minor, is_currency

weights = st.lists(st.integers(0, INT64_MAX), min_size=1, max_size=8).filter(any)


@given(st.integers(0, INT64_MAX), weights)
def test_splits_into_parts_that_add_up(amount_minor: int, weights: list[int]) -> None:
    parts = allocate(amount_minor, weights)
    assert sum(parts) == amount_minor
    total = sum(weights)
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part * total - amount_minor * weight) < total  # within one minor unit of its share
        assert part == 0 or weight > 0


@given(weights, st.data())
def test_gives_no_part_more_than_its_weight(weights: list[int], data: st.DataObject) -> None:
    amount_minor = data.draw(st.integers(0, sum(weights)))
    assert all(part <= weight for part, weight in zip(allocate(amount_minor, weights), weights, strict=True))


def test_gives_remainders_to_the_largest_then_to_the_first() -> None:
    assert allocate(100, [1, 1, 1]) == [34, 33, 33]
    assert allocate(10, [6, 3, 1]) == [6, 3, 1]
    assert allocate(5, [6, 3, 1]) == [3, 2, 0]


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [(-1050, "EUR", "-10.50 EUR"), (7, "JPY", "7 JPY"), (1, "KWD", "0.001 KWD"), (0, "USD", "0.00 USD")],
)
def test_writes_amounts_with_the_exponent_of_their_currency(minor: int, currency: str, text: str) -> None:
    assert format_minor(minor, currency) == text


def test_knows_iso_4217_codes_only() -> None:
    assert is_currency("EUR")
    assert not any(is_currency(code) for code in ("", "eur", "EURO", "XXX", "ABC"))
    assert len(EXPONENT) > 150
