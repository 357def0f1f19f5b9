"""Turns go round, nobody is passed over, nothing is lost, and nothing is kept of those who have nothing here."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from channel_gateway.limits.fair_queue import FairQueue, Room

ITEMS_MAX, SHARE_MAX = 8, 5

merchants = st.sampled_from("abcd")


class FairQueueAgainstModel(RuleBasedStateMachine):
    """Beside a dict of lists. ``passed``: for whoever had a turn, who has been ready ever since and had none."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[int] = FairQueue(ITEMS_MAX)
        self.lines: dict[str, list[int]] = {}
        self.parked: set[str] = set()
        self.reserved: list[str] = []
        self.passed: dict[str, set[str]] = {}
        self.number = 0

    def _not_ready(self, merchant: str) -> None:
        for waiting in self.passed.values():
            waiting.discard(merchant)

    def _ready(self) -> set[str]:
        return {merchant for merchant in self.lines if merchant not in self.parked}

    @rule(merchant=merchants)
    def put(self, merchant: str) -> None:
        waiting = sum(map(len, self.lines.values())) + len(self.reserved)
        own = len(self.lines.get(merchant, [])) + self.reserved.count(merchant)
        expected = Room.FULL if waiting >= ITEMS_MAX else Room.SHARE_FULL if own >= SHARE_MAX else Room.FREE
        assert self.queue.room(merchant, SHARE_MAX) is expected
        if expected is Room.FREE:
            self.number += 1
            self.queue.put(merchant, str(self.number), self.number)
            self.lines.setdefault(merchant, []).append(self.number)

    @rule(merchant=merchants)
    def reserve(self, merchant: str) -> None:
        if self.queue.room(merchant, SHARE_MAX) is Room.FREE:
            self.queue.reserve(merchant)
            self.reserved.append(merchant)

    @precondition(lambda self: self.reserved)
    @rule(place=st.integers(0, 99))
    def unreserve(self, place: int) -> None:
        self.queue.unreserve(self.reserved.pop(place % len(self.reserved)))

    @precondition(lambda self: self._ready())
    @rule()
    def take(self) -> None:
        expected = self.queue.next_merchant()
        merchant, key, item = self.queue.take()
        assert merchant == expected
        assert merchant in self._ready()
        assert self.lines[merchant][0] == item == int(key)
        assert not self.passed.get(merchant), "somebody who was ready all the time was passed over"
        self._not_ready(merchant)
        del self.lines[merchant][0]
        if not self.lines[merchant]:
            self._gone(merchant)
        self.passed[merchant] = self._ready() - {merchant}

    @rule(merchant=merchants)
    def park(self, merchant: str) -> None:
        self.queue.park(merchant)
        if merchant in self.lines:
            self.parked.add(merchant)
            self._not_ready(merchant)

    @rule(merchant=merchants)
    def unpark(self, merchant: str) -> None:
        self.queue.unpark(merchant)
        self.parked.discard(merchant)

    @rule(merchant=merchants, place=st.integers(0, 99))
    def remove(self, merchant: str, place: int) -> None:
        line = self.lines.get(merchant, [])
        item = line.pop(place % len(line)) if line else 0
        assert self.queue.remove(merchant, str(item)) == (item or None)
        if item and not line:
            self._gone(merchant)

    def _gone(self, merchant: str) -> None:
        del self.lines[merchant]
        self.parked.discard(merchant)
        self._not_ready(merchant)

    @invariant()
    def agrees(self) -> None:
        assert len(self.queue) == sum(map(len, self.lines.values()))
        assert sorted(self.queue.merchants()) == sorted(self.lines)
        assert all(self.queue.waiting(merchant) == len(self.lines.get(merchant, [])) for merchant in "abcd")
        assert (self.queue.next_merchant() is None) is (not self._ready())


TestFairQueueAgainstModel = FairQueueAgainstModel.TestCase
TestFairQueueAgainstModel.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def test_a_flood_waits_behind_itself() -> None:
    queue: FairQueue[int] = FairQueue(1_000)
    for number in range(500):
        queue.put("flood", str(number), number)
    queue.put("small", "s", -1)
    assert [queue.take()[0] for _ in range(3)] == ["flood", "small", "flood"]


def test_clearing_gives_all_keys_and_leaves_nothing() -> None:
    queue: FairQueue[int] = FairQueue(10)
    queue.put("a", "1", 1)
    queue.put("b", "2", 2)
    queue.park("b")
    assert sorted(queue.clear()) == ["1", "2"]
    assert (len(queue), queue.next_merchant(), queue.merchants()) == (0, None, [])


def test_nothing_is_kept_of_merchants_that_have_gone() -> None:
    queue: FairQueue[int] = FairQueue(10)
    for number in range(10_000):
        merchant = f"m{number}"
        queue.room(merchant, 5)
        queue.reserve(merchant)
        queue.unreserve(merchant)
        queue.put(merchant, "1", number)
        queue.take()
    kept = [value for value in vars(queue).values() if hasattr(value, "__len__")]
    assert sum(map(len, kept)) == 0
