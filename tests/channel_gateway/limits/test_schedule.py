"""All limits at once, under any traffic: nothing begins that may not, and nothing waits that may."""

from __future__ import annotations

import itertools
from typing import ClassVar

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from channel_gateway.limits.breaker import BreakerPolicy, BreakerState, Ended, Forced
from channel_gateway.limits.fair_queue import Room
from channel_gateway.limits.schedule import CHANNEL, Schedule, Turn
from channel_gateway.limits.scope import ScopePolicy

BREAKER = BreakerPolicy(
    window_calls=6,
    calls_min=3,
    failure_percent=60,
    slow_percent=60,
    slow_ns=None,
    open_ns=200,
    open_max_ns=800,
    probes_max=1,
    probes_good=2,
)
CHANNEL_POLICY = ScopePolicy(in_flight_max=4, queue_max=10, interval_ns=10, burst=3, breaker=BREAKER)
MERCHANT_POLICY = ScopePolicy(in_flight_max=2, queue_max=6, interval_ns=30, burst=2, breaker=BREAKER)
GOOD, BAD = Ended(False, 1), Ended(True, 1)

merchants = st.sampled_from("abc")


def make(
    channel: ScopePolicy = CHANNEL_POLICY, merchant: ScopePolicy = MERCHANT_POLICY, merchants_max: int = 100
) -> Schedule[str]:
    return Schedule(channel, lambda name: merchant, merchants_max, 0)


class AnyTraffic(RuleBasedStateMachine):
    """Offers and ends what it likes; whatever may begin has begun before anything else happens."""

    merchants_max: ClassVar[int] = 100

    def __init__(self) -> None:
        super().__init__()
        self.schedule = make(merchants_max=self.merchants_max)
        self.now_ns = 0
        self.numbers = itertools.count()
        self.waiting: dict[str, tuple[str, bool]] = {}
        self.under_way: list[Turn[str]] = []
        self.begun: dict[str, list[int]] = {}

    def _pump(self) -> None:
        while True:
            stopped = {merchant: self.schedule.is_stopped(merchant, self.now_ns) for merchant in "abc"}
            turn = self.schedule.next(self.now_ns)
            if turn is None:
                return
            assert self.waiting.pop(turn.key) == (turn.merchant, turn.is_query)
            assert turn.is_query or not stopped[turn.merchant], "an open breaker lets no order through"
            self.under_way.append(turn)
            for scope in (CHANNEL, turn.merchant):
                self.begun.setdefault(scope, []).append(self.now_ns)

    @rule(merchant=merchants, is_query=st.booleans(), count=st.integers(1, 4))
    def offer(self, merchant: str, is_query: bool, count: int) -> None:
        for _ in range(count):
            key = str(next(self.numbers))
            lines = [line for line in self.waiting.values() if line[1] is is_query]
            has_room = len(lines) < 10 and lines.count((merchant, is_query)) < 6
            assert self.schedule.offer(merchant, key, key, is_query=is_query) is has_room
            if has_room:
                self.waiting[key] = (merchant, is_query)
        self._pump()

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 99), call=st.sampled_from([GOOD, GOOD, BAD, None]))
    def end(self, which: int, call: Ended | None) -> None:
        turn = self.under_way.pop(which % len(self.under_way))
        turn.call = call
        self.schedule.end(turn, self.now_ns)
        self._pump()

    @rule(wait_ns=st.integers(1, 100))
    def wait(self, wait_ns: int) -> None:
        """Time goes on to the next moment at which the schedule wants to be asked, if there is one before."""
        wake_at_ns = self.schedule.wake_at_ns
        until_ns = self.now_ns + wait_ns
        self.now_ns = until_ns if wake_at_ns is None else max(self.now_ns, min(until_ns, wake_at_ns))
        self._pump()

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 99))
    def withdraw(self, which: int) -> None:
        key = list(self.waiting)[which % len(self.waiting)]
        merchant, is_query = self.waiting[key]
        assert self.schedule.withdraw(merchant, key) is not is_query
        if not is_query:
            del self.waiting[key]

    @rule(scope=st.sampled_from([CHANNEL, "a"]), forced=st.sampled_from([Forced.OPEN, Forced.CLOSED, None, None]))
    def force(self, scope: str, forced: Forced | None) -> None:
        self.schedule.force({} if forced is None else {scope: forced}, self.now_ns)
        self._pump()

    @invariant()
    def no_more_are_under_way_than_there_is_room_for(self) -> None:
        assert len(self.under_way) == self.schedule.channel.in_flight <= 4
        for merchant, scope in self.schedule.merchants().items():
            assert sum(turn.merchant == merchant for turn in self.under_way) == scope.in_flight <= 2

    @invariant()
    def no_more_begin_than_the_rates_allow(self) -> None:
        for scope, begun in self.begun.items():
            if scope != CHANNEL and self.merchants_max < 3:
                continue  # who was forgotten begins with a full bucket
            policy = CHANNEL_POLICY if scope == CHANNEL else MERCHANT_POLICY
            assert policy.interval_ns is not None
            for first, since_ns in enumerate(begun):
                for count, at_ns in enumerate(begun[first:], start=1):
                    assert (count - policy.burst) * policy.interval_ns <= at_ns - since_ns

    @invariant()
    def nothing_waits_that_may_begin(self) -> None:
        for merchant, is_query in set(self.waiting.values()):
            scope = self.schedule.merchants().get(merchant)
            scopes = [self.schedule.channel] + ([] if scope is None else [scope])
            holds = [held for each in scopes if (held := each.held(self.now_ns, is_query)) is not None]
            assert holds
            until_ns = [held.until_ns for held in holds if held.until_ns is not None]
            if len(until_ns) == len(holds):  # no call has to end first, and no person to change his mind
                assert self.schedule.wake_at_ns is not None, "nobody would look at it again"
                assert self.now_ns < self.schedule.wake_at_ns <= max(until_ns)

    def teardown(self) -> None:
        """With good calls and time, everything that waits gets its turn."""
        self.schedule.force({}, self.now_ns)
        self._pump()
        for _ in range(1_000):
            if self.under_way:
                self.end(0, GOOD)
            elif self.schedule.wake_at_ns is not None:
                self.now_ns = self.schedule.wake_at_ns
                self._pump()
        assert not self.waiting


class ForgetfulTraffic(AnyTraffic):
    """The same where hardly anybody is remembered."""

    merchants_max = 1


TestForgetfulTraffic = ForgetfulTraffic.TestCase
TestForgetfulTraffic.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyTraffic = AnyTraffic.TestCase
TestAnyTraffic.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_one_merchants_limits_do_not_hold_others_up() -> None:
    schedule = make(merchant=msgspec.structs.replace(MERCHANT_POLICY, in_flight_max=1))
    for merchant, number in itertools.product("ab", range(3)):
        schedule.offer(merchant, f"{merchant}{number}", "", is_query=False)
    first, second = schedule.next(0), schedule.next(0)
    assert first is not None
    assert second is not None
    assert [first.key, second.key] == ["a0", "b0"]
    assert schedule.next(0) is None
    schedule.end(second, 0)
    third = schedule.next(0)
    assert third is not None
    assert third.key == "b1"


def test_queries_and_orders_take_turns_and_an_open_breaker_stops_orders_alone() -> None:
    schedule = make(merchant=CHANNEL_POLICY)
    for is_query in (False, True):
        for number in range(2):
            schedule.offer("a", f"{is_query}{number}", "", is_query=is_query)
    turns = [schedule.next(0) for _ in range(2)]
    assert [turn.is_query for turn in turns if turn] == [False, True]
    schedule.force({CHANNEL: Forced.OPEN}, 0)
    assert schedule.is_stopped("a", 0)
    last = schedule.next(0)
    assert last is not None
    assert last.is_query
    assert schedule.next(10**9) is None


def test_a_merchants_breaker_stops_that_merchant() -> None:
    told: list[tuple[str, BreakerState]] = []
    patient = msgspec.structs.replace(BREAKER, calls_min=6)
    schedule: Schedule[str] = Schedule(
        msgspec.structs.replace(CHANNEL_POLICY, interval_ns=None, breaker=patient),
        lambda name: msgspec.structs.replace(MERCHANT_POLICY, interval_ns=None),
        100,
        0,
        lambda merchant, state: told.append((merchant, state)),
    )
    for number in range(3):
        schedule.offer("a", str(number), "", is_query=False)
        turn = schedule.next(0)
        assert turn is not None
        turn.call = BAD
        schedule.end(turn, 0)
    assert told == [("a", BreakerState.OPEN)]
    assert (schedule.is_stopped("a", 0), schedule.is_stopped("b", 0)) == (True, False)
    schedule.offer("a", "held", "", is_query=False)
    schedule.offer("b", "free", "", is_query=False)
    turn = schedule.next(0)
    assert turn is not None
    assert turn.key == "free"
    assert schedule.next(0) is None
    assert schedule.wake_at_ns == 200
    probe = schedule.next(200)
    assert probe is not None
    assert probe.key == "held"


def test_reserved_places_count() -> None:
    schedule = make()
    for _ in range(6):
        schedule.reserve("a")
    assert schedule.room("a") is Room.SHARE_FULL
    assert not schedule.offer("a", "1", "", is_query=False)
    for _ in range(4):
        schedule.reserve("b")
    assert schedule.room("c") is Room.FULL
    schedule.unreserve("a")
    assert schedule.room("c") is Room.FREE


def test_memory_does_not_grow_with_the_merchants_that_came() -> None:
    schedule: Schedule[str] = Schedule(
        msgspec.structs.replace(CHANNEL_POLICY, interval_ns=None), lambda name: MERCHANT_POLICY, 50, 0
    )
    stays = "m0"
    for number in range(2_000):
        now_ns = number * 1_000
        for merchant in {stays, f"m{number}"}:
            schedule.offer(merchant, f"{merchant}/{number}", "", is_query=False)
            turn = schedule.next(now_ns)
            assert turn is not None
            turn.call = GOOD
            schedule.end(turn, now_ns)
    assert len(schedule.merchants()) == 50
    assert stays in schedule.merchants()


def test_who_waits_is_not_forgotten_and_keeps_nobody_else_in_memory() -> None:
    schedule = make(channel=msgspec.structs.replace(CHANNEL_POLICY, interval_ns=None, queue_max=200), merchants_max=10)
    held = {f"held{number}": Forced.OPEN for number in range(100)}
    schedule.force(held, 0)
    for merchant in held:
        schedule.offer(merchant, merchant, "", is_query=False)
    assert schedule.next(0) is None
    for number in range(1_000):
        schedule.offer(f"m{number}", str(number), "", is_query=False)
        turn = schedule.next(0)
        assert turn is not None
        assert turn.merchant == f"m{number}"
        schedule.end(turn, 0)
    assert held.keys() <= schedule.merchants().keys()
    assert len(schedule.merchants()) <= len(held) + 10


def test_what_is_under_way_is_never_forgotten() -> None:
    schedule: Schedule[str] = Schedule(CHANNEL_POLICY, lambda name: MERCHANT_POLICY, 1, 0)
    turns = []
    for merchant in "abc":
        schedule.offer(merchant, merchant, "", is_query=False)
        turns.append(schedule.next(0))
    for turn in turns:
        assert turn is not None
        schedule.end(turn, 0)
    assert schedule.channel.in_flight == 0
