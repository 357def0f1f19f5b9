"""Never more under way than there is room for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_gateway.limits.bulkhead import Bulkhead


@given(st.integers(1, 5), st.lists(st.booleans(), max_size=50))
def test_it_is_full_exactly_when_so_many_are_under_way(calls_max: int, begins: list[bool]) -> None:
    bulkhead, under_way = Bulkhead(calls_max), 0
    for begin in begins:
        if begin and not bulkhead.is_full:
            bulkhead.enter()
            under_way += 1
        elif not begin and under_way:
            bulkhead.leave()
            under_way -= 1
        assert bulkhead.in_flight == under_way <= calls_max
        assert bulkhead.is_full is (under_way == calls_max)


def test_it_does_not_lose_count() -> None:
    bulkhead = Bulkhead(1)
    with pytest.raises(AssertionError):
        bulkhead.leave()
    bulkhead.enter()
    with pytest.raises(AssertionError):
        bulkhead.enter()
