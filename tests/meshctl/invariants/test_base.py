"""Chains of records are judged without knowing the order of one millisecond; what is found is bounded."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshctl.invariants.base import FOUND_MAX, Tally, is_path


@given(st.lists(st.integers(-3, 3), max_size=6), st.randoms())
def test_running_balances_in_any_order_are_a_path(amounts: list[int], random: object) -> None:
    balances = list(itertools.accumulate(amounts, initial=0))
    edges = list(itertools.pairwise(balances))
    random.shuffle(edges)  # type: ignore[attr-defined]
    assert is_path(edges, 0, balances[-1])


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=6), st.data())
def test_with_one_edge_bent_there_is_no_path(amounts: list[int], data: st.DataObject) -> None:
    balances = list(itertools.accumulate(amounts, initial=0))
    edges = list(itertools.pairwise(balances))
    bent = data.draw(st.integers(0, len(edges) - 1))
    edges[bent] = (edges[bent][0] + 100, edges[bent][1])
    assert not is_path(edges, 0, balances[-1])


@pytest.mark.parametrize(
    ("edges", "end"),
    [
        ([("", "A"), ("A", "B")], "A"),  # ends elsewhere
        ([("", "A"), ("", "A")], "A"),  # begins twice
        ([("A", "B")], "B"),  # begins nowhere
        ([("", "A"), ("B", "C"), ("C", "B")], "A"),  # a circle beside it
    ],
)
def test_a_gap_a_second_beginning_and_a_circle_beside_it_are_no_path(edges: list[tuple[str, str]], end: str) -> None:
    assert not is_path(edges, "", end)


def test_states_that_come_again_are_a_path() -> None:
    edges = [("B", "A"), ("", "A"), ("A", "B"), ("A", "B")]
    assert is_path(edges, "", "B")


def test_violations_beyond_the_bound_are_counted_only() -> None:
    tally = Tally()
    for number in range(FOUND_MAX + 5):
        tally.expect(False, f"id-{number}", "wrong")
    tally.expect(True, "id", "right")
    assert (tally.violation_count, len(tally.found)) == (FOUND_MAX + 5, FOUND_MAX)
