"""A breaker opens for a reason, lets through what it says, and closes only on good news of its own time."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from channel_gateway.limits.breaker import Breaker, BreakerPolicy, BreakerState, Ended, Forced, Permit

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
GOOD, BAD, SLOW = Ended(False, 1), Ended(True, 1), Ended(False, 50)
POLICY = BreakerPolicy(
    window_calls=10,
    calls_min=4,
    failure_percent=50,
    slow_percent=75,
    slow_ns=50,
    open_ns=100,
    open_max_ns=350,
    probes_max=2,
    probes_good=3,
)


def make(**changes: Any) -> Breaker:
    return Breaker(msgspec.structs.replace(POLICY, **changes), 0)


def call(breaker: Breaker, now_ns: int, *ends: Ended) -> None:
    for end in ends:
        breaker.end(breaker.begin(now_ns), now_ns, end)


def opened(**changes: Any) -> Breaker:
    breaker = make(**changes)
    call(breaker, 0, BAD, BAD, BAD, BAD)
    assert breaker.state(0) is OPEN
    return breaker


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        ([BAD, BAD, BAD], CLOSED),  # too few to say
        ([BAD, BAD, GOOD, GOOD], OPEN),
        ([BAD, GOOD, GOOD, GOOD], CLOSED),
        ([GOOD, SLOW, SLOW, SLOW], OPEN),
        ([GOOD, GOOD, SLOW, SLOW], CLOSED),
        ([BAD, GOOD] * 2, OPEN),
        # Of the last ten, five failed: the eleventh pushes a good one out.
        ([GOOD] * 6 + [BAD] * 4, CLOSED),
        ([GOOD] * 6 + [BAD] * 5, OPEN),
    ],
)
def test_it_opens_by_the_rates_of_the_last_calls(ends: list[Ended], state: BreakerState) -> None:
    breaker = make()
    call(breaker, 0, *ends)
    assert breaker.state(0) is state
    assert breaker.admits(0) is (state is CLOSED)


def test_without_a_limit_no_call_is_slow() -> None:
    breaker = make(slow_ns=None)
    call(breaker, 0, *[Ended(False, 10**12)] * 10)
    assert breaker.state(0) is CLOSED


def test_pauses_double_up_to_a_bound_and_begin_anew_after_it_was_closed() -> None:
    breaker, now_ns = opened(), 0
    for pause_ns in (100, 200, 350, 350):
        assert breaker.opens_up_at_ns(now_ns) == now_ns + pause_ns
        assert breaker.state(now_ns + pause_ns - 1) is OPEN
        now_ns += pause_ns
        assert breaker.state(now_ns) is HALF_OPEN
        call(breaker, now_ns, GOOD, BAD)
    now_ns += 350
    call(breaker, now_ns, GOOD, GOOD, GOOD)
    assert breaker.state(now_ns) is CLOSED
    call(breaker, now_ns, BAD, BAD, BAD, BAD)
    assert breaker.opens_up_at_ns(now_ns) == now_ns + 100


def test_it_says_since_when_it_is_half_open_whenever_it_is_asked() -> None:
    breaker = opened()
    assert (breaker.state(5_000), breaker.since_ns) == (HALF_OPEN, 100)


def test_a_probe_that_was_not_made_says_nothing_and_frees_its_place() -> None:
    breaker = opened()
    permits = [breaker.begin(100), breaker.begin(100)]
    assert not breaker.admits(100)
    breaker.end(permits[0], 100, None)
    assert breaker.admits(100)
    assert breaker.state(100) is HALF_OPEN


def test_a_slow_probe_is_no_good_one() -> None:
    breaker = opened()
    call(breaker, 100, SLOW)
    assert breaker.state(100) is OPEN


def test_what_began_before_it_opened_says_nothing_of_it_now() -> None:
    breaker = make()
    late = [breaker.begin(0) for _ in range(8)]
    call(breaker, 0, BAD, BAD, BAD, BAD)
    for permit in late[:4]:
        breaker.end(permit, 50, GOOD)
    assert breaker.state(50) is OPEN
    assert breaker.state(100) is HALF_OPEN
    for permit in late[4:]:
        breaker.end(permit, 100, BAD)
    assert breaker.state(100) is HALF_OPEN


def test_queries_count_while_it_is_closed_and_never_close_it() -> None:
    breaker = make()
    for _ in range(4):
        breaker.observe(BAD, 0)
    assert breaker.state(0) is OPEN
    for now_ns in (0, 100):
        for _ in range(20):
            breaker.observe(GOOD, now_ns)
    assert breaker.state(100) is HALF_OPEN


def test_a_person_decides_whatever_the_calls_say() -> None:
    breaker = make()
    breaker.force(Forced.CLOSED, 0)
    call(breaker, 0, *[BAD] * 50)
    assert breaker.admits(0)
    breaker.force(Forced.OPEN, 0)
    assert not breaker.admits(10**9)
    assert breaker.opens_up_at_ns(10**9) is None
    breaker.force(None, 10**9)
    assert breaker.state(10**9) is HALF_OPEN, "it goes on carefully"
    breaker.force(Forced.CLOSED, 10**9)
    breaker.force(None, 10**9)
    assert breaker.state(10**9) is CLOSED


def test_changes_are_told() -> None:
    told: list[BreakerState] = []
    breaker = Breaker(POLICY, 0, told.append)
    call(breaker, 0, BAD, BAD, BAD, BAD)
    call(breaker, 100, GOOD, GOOD, GOOD)
    assert told == [OPEN, HALF_OPEN, CLOSED]


class AnyCalls(RuleBasedStateMachine):
    """Calls that begin and end in any order, while time passes and people decide."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 0
        self.under_way: list[Permit] = []
        self.breaker = make()
        self.opened_at_ns: int | None = None

    @precondition(lambda self: self.breaker.admits(self.now_ns))
    @rule()
    def begin(self) -> None:
        forced = self.breaker.forced
        permit = self.breaker.begin(self.now_ns)
        assert forced is not Forced.OPEN
        assert permit.is_probe is (forced is None and self.breaker.state(self.now_ns) is HALF_OPEN)
        self.under_way.append(permit)

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 99), end=st.sampled_from([GOOD, BAD, SLOW, None]))
    def end(self, which: int, end: Ended | None) -> None:
        before = self.breaker.state(self.now_ns)
        permit = self.under_way.pop(which % len(self.under_way))
        self.breaker.end(permit, self.now_ns, end)
        after = self.breaker.state(self.now_ns)
        if after is not before:
            assert self.breaker.forced is None
            assert end is not None
            assert after is (OPEN if before is CLOSED or end != GOOD else CLOSED)
            assert permit.is_probe is (before is HALF_OPEN)
            self.opened_at_ns = self.now_ns if after is OPEN else None

    @rule(end=st.sampled_from([GOOD, BAD, SLOW]))
    def observe(self, end: Ended) -> None:
        before = self.breaker.state(self.now_ns)
        self.breaker.observe(end, self.now_ns)
        after = self.breaker.state(self.now_ns)
        assert after is before or (before, after) == (CLOSED, OPEN)
        if after is not before:
            self.opened_at_ns = self.now_ns

    @rule(wait_ns=st.integers(1, 400))
    def wait(self, wait_ns: int) -> None:
        self.now_ns += wait_ns

    @rule(forced=st.sampled_from([Forced.OPEN, Forced.CLOSED, None, None]))
    def force(self, forced: Forced | None) -> None:
        self.breaker.force(forced, self.now_ns)
        assert self.breaker.forced is forced

    @invariant()
    def probes_are_bounded(self) -> None:
        probes = sum(permit.is_probe for permit in self.under_way)
        assert self.breaker.probes_in_flight == probes <= POLICY.probes_max
        if self.breaker.forced is None and self.breaker.state(self.now_ns) is HALF_OPEN:
            assert self.breaker.admits(self.now_ns) is (probes < POLICY.probes_max)

    @invariant()
    def open_lets_nothing_through_and_no_longer_than_it_may(self) -> None:
        if self.breaker.forced is Forced.OPEN:
            assert not self.breaker.admits(self.now_ns)
        if self.breaker.forced is None and self.breaker.state(self.now_ns) is OPEN:
            assert not self.breaker.admits(self.now_ns)
            assert self.opened_at_ns is not None
            until_ns = self.breaker.opens_up_at_ns(self.now_ns)
            assert until_ns is not None
            assert POLICY.open_ns <= until_ns - self.opened_at_ns <= POLICY.open_max_ns

    @invariant()
    def the_window_is_bounded(self) -> None:
        breaker = self.breaker
        assert max(breaker.failed_count, breaker.slow_count) <= breaker.calls_count <= POLICY.window_calls


TestAnyCalls = AnyCalls.TestCase
TestAnyCalls.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
