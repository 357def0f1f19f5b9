"""The fold of facts into a match: what is wrong, in which state, and in whatever order the facts came."""

from __future__ import annotations

from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paykit.state_machine import StateMachine
from paymesh.recon.v1 import break_pb2
from recon import pair as pairing
from recon.matching import BREAK, MATCH, BreakState, BreakType, Fact, MatchKind, MatchState, Side
from recon.pair import Pair, Windows

WINDOW_MS = 30_000
WINDOWS = Windows(WINDOW_MS, 60_000)
PAYMENT = "pay_00000000000000000000000000"
KEY = "ins_00000000000000000000000000"


def fact(side: Side, amount_minor: int, currency: str = "EUR") -> Fact:
    return Fact(MatchKind.PAY_CHANNEL, KEY, side, amount_minor, currency, PAYMENT)


def blank() -> Pair:
    return Pair(MatchKind.PAY_CHANNEL, KEY)


def wrong(pair: Pair) -> BreakType | None:
    found = pairing.problem(pair)
    return None if found is None else found.type


def after(*facts: Fact, now_ms: int = 1000) -> Pair:
    match = blank()
    for item in facts:
        match = pairing.fold(match, [(item, now_ms)], WINDOWS)
    return match


@pytest.mark.parametrize("machine", [MATCH, BREAK], ids=["match", "break"])
def test_every_state_is_reached_from_the_initial_one(machine: StateMachine[StrEnum]) -> None:
    reached, frontier = {machine.initial}, [machine.initial]
    while frontier:
        for state in machine.transitions[frontier.pop()] - reached:
            reached.add(state)
            frontier.append(state)
    assert reached == set(machine.states)


def test_a_closed_break_never_changes_and_a_match_is_never_final() -> None:
    assert BREAK.terminal == {BreakState.CLOSED}
    assert MATCH.terminal == frozenset()


@pytest.mark.parametrize(
    ("names", "proto_name", "prefix"),
    [
        (MatchKind, "MatchKind", "MATCH_KIND_"),
        (BreakType, "BreakType", "BREAK_TYPE_"),
        (BreakState, "BreakState", "BREAK_STATE_"),
    ],
)
def test_names_are_those_of_the_proto(names: type[StrEnum], proto_name: str, prefix: str) -> None:
    declared = break_pb2.DESCRIPTOR.enum_types_by_name[proto_name].values_by_name
    assert {prefix + name.value for name in names} == set(declared) - {prefix + "UNSPECIFIED"}


def test_the_first_side_opens_a_window() -> None:
    match = after(fact(Side.FIRST, 500))
    assert (match.state, match.due_at_ms) == (MatchState.WAITING, 1000 + WINDOW_MS)
    assert wrong(match) is BreakType.MISSING_SECOND


def test_the_second_side_opens_a_window_too() -> None:
    match = after(fact(Side.SECOND, 500))
    assert (match.state, match.due_at_ms) == (MatchState.WAITING, 1000 + WINDOW_MS)
    assert wrong(match) is BreakType.MISSING_FIRST


def test_sides_that_agree_match_and_wait_no_more() -> None:
    match = after(fact(Side.FIRST, 500), fact(Side.SECOND, 500))
    assert (match.state, match.due_at_ms) == (MatchState.MATCHED, None)


@pytest.mark.parametrize("second", [fact(Side.SECOND, 499), fact(Side.SECOND, 500, "USD"), fact(Side.SECOND, 0)])
def test_sides_that_differ_break_at_once(second: Fact) -> None:
    match = after(fact(Side.FIRST, 500), second)
    assert (match.state, match.due_at_ms) == (MatchState.BROKEN, None)
    assert wrong(match) is BreakType.AMOUNT_MISMATCH


def test_one_side_that_contradicts_itself_breaks_even_where_the_other_agrees() -> None:
    match = after(fact(Side.FIRST, 500), fact(Side.SECOND, 500), fact(Side.SECOND, 300))
    assert match.state == MatchState.BROKEN
    assert wrong(match) is BreakType.AMOUNT_MISMATCH


def test_nothing_moved_on_one_side_agrees_with_silence() -> None:
    assert after(fact(Side.FIRST, 0)).state == MatchState.MATCHED
    assert after(fact(Side.SECOND, 0)).state == MatchState.MATCHED


def test_an_unknown_outcome_waits_and_its_failure_settles_it() -> None:
    match = after(fact(Side.UNKNOWN, 500))
    assert (match.state, match.due_at_ms) == (MatchState.WAITING, 1000 + WINDOW_MS)
    assert wrong(match) is BreakType.RESULT_UNKNOWN
    assert after(fact(Side.UNKNOWN, 500), fact(Side.SECOND, 0)).state == MatchState.MATCHED


def test_what_was_sent_has_a_window_of_its_own_until_somebody_speaks() -> None:
    match = after(fact(Side.EXPECTED, 500))
    assert (match.state, match.due_at_ms) == (MatchState.WAITING, 1000 + WINDOWS.expected_ms)
    assert wrong(match) is BreakType.RESULT_UNKNOWN
    assert pairing.at_risk(match) == (500, "EUR")
    assert after(fact(Side.EXPECTED, 500), fact(Side.SECOND, 0)).state == MatchState.MATCHED
    assert after(fact(Side.EXPECTED, 500), fact(Side.FIRST, 0)).state == MatchState.MATCHED
    spoken = after(fact(Side.EXPECTED, 500), fact(Side.SECOND, 500))
    assert (wrong(spoken), spoken.due_at_ms) == (BreakType.MISSING_FIRST, 1000 + WINDOW_MS)


def test_an_outcome_that_is_said_to_be_unknown_takes_the_expectations_place() -> None:
    match = after(fact(Side.EXPECTED, 500), fact(Side.UNKNOWN, 500))
    assert match.due_at_ms == 1000 + WINDOW_MS


def test_an_outcome_is_unknown_even_after_the_payment_gave_up() -> None:
    match = after(fact(Side.FIRST, 0), fact(Side.UNKNOWN, 500))
    assert match.state == MatchState.WAITING
    assert wrong(match) is BreakType.RESULT_UNKNOWN


def test_a_known_outcome_opens_a_window_of_its_own_for_the_payment() -> None:
    waiting = after(fact(Side.UNKNOWN, 500))
    broken = pairing.give_up(waiting, 99_000)
    known = pairing.fold(broken, [(fact(Side.SECOND, 500), 50_000)], WINDOWS)
    assert (known.state, known.due_at_ms, known.ask_count) == (MatchState.WAITING, 50_000 + WINDOW_MS, 0)


def test_a_broken_match_stays_broken_when_an_old_fact_comes_again() -> None:
    broken = pairing.give_up(after(fact(Side.FIRST, 500)), 99_000)
    assert pairing.fold(broken, [(fact(Side.FIRST, 500), 60_000)], WINDOWS) is broken


def test_a_question_that_was_put_off_stays_put_off_when_an_old_fact_comes_again() -> None:
    asked = pairing.postpone(after(fact(Side.FIRST, 500)), 99_000)
    assert pairing.fold(asked, [(fact(Side.FIRST, 500), 60_000)], WINDOWS).due_at_ms == 99_000


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ([fact(Side.FIRST, 500)], (500, "EUR")),
        ([fact(Side.SECOND, 700, "JPY")], (700, "JPY")),
        ([fact(Side.FIRST, 500), fact(Side.SECOND, 480)], (20, "EUR")),
        ([fact(Side.FIRST, 500), fact(Side.SECOND, 0)], (500, "EUR")),
        ([fact(Side.FIRST, 500), fact(Side.SECOND, 900, "USD")], (900, "USD")),
        ([fact(Side.UNKNOWN, 500)], (500, "EUR")),
        ([fact(Side.FIRST, 500), fact(Side.SECOND, 500), fact(Side.SECOND, 300)], (500, "EUR")),
    ],
)
def test_what_is_at_risk(facts: list[Fact], expected: tuple[int, str]) -> None:
    assert pairing.at_risk(after(*facts)) == expected


_facts = st.builds(fact, st.sampled_from(Side), st.sampled_from([0, 300, 500]), st.sampled_from(["EUR", "USD"]))
_heard = st.lists(st.tuples(_facts, st.integers(1, 5000)), min_size=1, max_size=8)


@given(heard=_heard, data=st.data())
def test_any_order_and_repetition_of_the_same_facts_gives_the_same_match(
    heard: list[tuple[Fact, int]], data: st.DataObject
) -> None:
    again = data.draw(st.lists(st.sampled_from(heard), max_size=6))
    other = data.draw(st.permutations(heard + again))
    one = two = blank()
    for item in heard:
        one = pairing.fold(one, [item], WINDOWS)
    for item in other:
        two = pairing.fold(two, [item], WINDOWS)
    assert one == two
    assert pairing.fold(blank(), heard, WINDOWS) == one


@given(heard=_heard)
def test_a_match_waits_exactly_while_a_side_is_silent(heard: list[tuple[Fact, int]]) -> None:
    match = pairing.fold(blank(), heard, WINDOWS)
    found = wrong(match)
    assert (match.due_at_ms is not None) == (match.state == MatchState.WAITING)
    assert (match.state == MatchState.MATCHED) == (found is None)
    assert (match.state == MatchState.BROKEN) == (found is BreakType.AMOUNT_MISMATCH)
