"""Points of parts: in whatever parts an amount is taken or given back, the points add up."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from pay_core.points import Worth, given_back_with, taken_with

PARTS = st.lists(st.integers(1, 10**6), min_size=1, max_size=20)
UNITS = st.integers(0, 10**9)


@given(PARTS, UNITS)
def test_parts_add_up_to_the_whole_and_never_stray_by_a_point(parts: list[int], unit_count: int) -> None:
    whole = Worth(sum(parts), unit_count)
    for of_part, strays in ((taken_with, (0, 1)), (given_back_with, (-1, 0))):
        done = Worth(0, 0)
        for part in parts:
            units = of_part(whole, done, part)
            assert units >= 0
            done = Worth(done.amount_minor + part, done.unit_count + units)
            exact = Fraction(unit_count * done.amount_minor, whole.amount_minor)
            assert strays[0] <= done.unit_count - exact <= strays[1]
        assert done == whole


@given(st.data(), st.integers(1, 1000), st.integers(0, 1000))
def test_full_refunds_restore_exactly_though_some_failed_between(
    data: st.DataObject, amount_minor: int, unit_count: int
) -> None:
    whole, done = Worth(amount_minor, unit_count), Worth(0, 0)
    under_way: list[Worth] = []
    for is_last in [False] * data.draw(st.integers(0, 8), "refunds") + [True]:
        left_minor = amount_minor - done.amount_minor
        if not left_minor:
            continue
        part = left_minor if is_last else data.draw(st.integers(1, left_minor))
        begun = Worth(part, given_back_with(whole, done, part))
        assert 0 <= begun.unit_count <= unit_count - done.unit_count
        under_way.append(begun)
        done = Worth(done.amount_minor + part, done.unit_count + begun.unit_count)
        if not is_last and data.draw(st.booleans(), "one fails"):
            failed = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
            done = Worth(done.amount_minor - failed.amount_minor, done.unit_count - failed.unit_count)
    assert done == whole
