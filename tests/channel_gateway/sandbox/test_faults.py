"""Which calls go otherwise than their tokens say: rules by rate, and windows of time."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_gateway.sandbox.behaviour import BEHAVIOURS
from channel_gateway.sandbox.faults import RETRY_AFTER_S, FaultRule, FaultScript, Window, in_window


def test_the_first_matching_rule_wins_and_counts_down() -> None:
    script = FaultScript(
        [
            FaultRule(behaviour="declined", kind="charge", token_prefix="tok_ok_a", count=1),
            FaultRule(behaviour="timeout_charged", account="card"),
        ],
        seed=1,
    )

    def chosen(kind: str, account: str, token: str) -> str | None:
        behaviour = script.choose(kind, account, token, "r1")
        return behaviour.name if behaviour else None

    assert chosen("charge", "other", "tok_ok_b") is None
    assert chosen("charge", "other", "tok_ok_a") == "declined"
    assert chosen("charge", "other", "tok_ok_a") is None
    assert chosen("refund", "card", "") == "timeout_charged"
    assert chosen("query", "card", "") is None


def test_a_probability_falls_on_the_same_references_with_the_same_seed() -> None:
    def hits(seed: int) -> list[int]:
        script = FaultScript([FaultRule(behaviour="declined", probability=0.2)], seed)
        return [n for n in range(1000) if script.choose("charge", "a", "tok_ok", f"r{n}")]

    assert hits(1) == hits(1) != hits(2)
    assert 150 < len(hits(1)) < 250


@pytest.mark.parametrize("rule", [b'{"behaviour": "x"}', b'{"behaviour": "ok", "probability": 2}', b'{"a": 1}'])
def test_a_rule_that_makes_no_sense_is_refused(rule: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(rule, type=FaultRule)


_RULES = [
    FaultRule(behaviour="declined", kind="charge", probability=0.3),
    FaultRule(behaviour="timeout_charged", probability=0.3),
    FaultRule(behaviour="answer_pending", kind="query", probability=0.3),
    FaultRule(behaviour="unavailable", kind="query", probability=0.3, calls_max=2),
]
_CALLS = st.lists(
    st.tuples(st.sampled_from(["charge", "refund", "query"]), st.integers(0, 20).map("r{}".format)), max_size=60
)


def _chosen(calls: list[tuple[str, str]]) -> dict[tuple[str, str], list[str]]:
    """What happened to each reference by each operation, in its own order."""
    script, chosen = FaultScript(_RULES, seed=3), dict[tuple[str, str], list[str]]()
    for kind, reference in calls:
        behaviour = script.choose(kind, "card", "tok_ok", reference)
        chosen.setdefault((kind, reference), []).append(behaviour.name if behaviour else "")
    return chosen


@given(calls=_CALLS, dice=st.randoms())
def test_the_same_seed_does_the_same_to_each_reference_in_whatever_order_calls_come(
    calls: list[tuple[str, str]], dice: Any
) -> None:
    before = _chosen(calls)
    dice.shuffle(calls)
    assert _chosen(calls) == before


def test_queries_about_one_reference_differ_and_a_rule_may_end_after_so_many() -> None:
    script = FaultScript([FaultRule(behaviour="unavailable", kind="query", probability=0.5, calls_max=4)], seed=1)
    hits = [[script.choose("query", "a", "", f"r{n}") is not None for _ in range(8)] for n in range(200)]
    assert len({tuple(row) for row in hits}) > 8
    assert not any(hit for row in hits for hit in row[4:])


def test_only_an_order_that_is_cut_off_is_chosen_by_its_key_alone() -> None:
    script = FaultScript([FaultRule(behaviour="declined"), FaultRule(behaviour="reset_unread", kind="charge")], seed=1)
    unread = script.choose_unread("charge", "card", "r1")
    assert unread is BEHAVIOURS["reset_unread"]
    assert script.choose_unread("refund", "card", "r1") is None


@pytest.mark.parametrize(
    ("window", "open_at"),
    [
        (Window(), {0, 5, 99, 100, 150, 1_000}),
        (Window(from_ms=100), {100, 150, 1_000}),
        (Window(from_ms=5, until_ms=100), {5, 99}),
        (Window(from_ms=5, every_ms=50, lasts_ms=10), {5, 1_005}),
        (Window(from_ms=0, until_ms=1_000, every_ms=50, lasts_ms=10), {0, 5, 100, 150}),
    ],
)
def test_a_window_is_open_when_it_says(window: Window, open_at: set[int]) -> None:
    moments = {0, 5, 99, 100, 150, 1_000, 1_005}
    found = {moment for moment in moments if in_window([window], "charge", "card", moment) is not None}
    assert found == open_at | ({1_005} if window == Window() or window == Window(from_ms=100) else set())


def test_a_window_is_for_an_account_and_some_operations_and_says_when_to_come_again() -> None:
    windows = [Window(account="card", operations=frozenset({"charge", "query"}), from_ms=0, until_ms=2_500)]
    assert in_window(windows, "refund", "card", 0) is None
    assert in_window(windows, "charge", "bank", 0) is None
    forced = in_window(windows, "query", "card", 1_000)
    assert forced is not None
    assert (forced.behaviour.name, forced.retry_after_s) == ("maintenance", 2)
    endless = in_window([Window(behaviour="error_charged")], "charge", "card", 0)
    assert endless is not None
    assert (endless.behaviour.name, endless.retry_after_s) == ("error_charged", RETRY_AFTER_S)


@pytest.mark.parametrize(
    "window", [b'{"behaviour": "x"}', b'{"every_ms": 5}', b'{"lasts_ms": -1, "every_ms": 2}', b'{"a": 1}']
)
def test_a_window_that_makes_no_sense_is_refused(window: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(window, type=Window)
