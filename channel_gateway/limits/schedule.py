"""Which call of a channel begins next: turns by merchant, within the limits of the channel and of each merchant.

What a limit of one merchant holds back is set aside until a time, or until one of its calls has ended; others go on
meanwhile. Pure: no I/O, and the time is passed in, as nanoseconds of one monotonic clock.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from channel_gateway.limits.breaker import BreakerState, Ended, Forced, Permit
from channel_gateway.limits.fair_queue import FairQueue, Room
from channel_gateway.limits.scope import Held, Scope, ScopePolicy, ScopeState

T = TypeVar("T")

_LOOKED_AT = 64  # merchants that are looked at to find one to forget: a bound on the time it takes

CHANNEL = ""  # the scope of the whole channel; merchants have names
# (the merchant, or CHANNEL; what its breaker has become)
OnBreaker = Callable[[str, BreakerState], None]


class Turn(Generic[T]):
    """A call that may be made. ``call``: how it went, for ``Schedule.end``; None where it was not made after all."""

    def __init__(
        self, merchant: str, key: str, item: T, is_query: bool, permits: tuple[Permit | None, Permit | None]
    ) -> None:
        self.merchant = merchant
        self.key = key
        self.item = item
        self.is_query = is_query
        self.permits = permits
        self.call: Ended | None = None


class Schedule(Generic[T]):
    """Two fair queues, of orders and of queries, in front of the channel's limits and the merchants'.

    It keeps the limits of at most ``merchants_max`` merchants, beside those with something waiting or under way:
    whoever comes then makes it forget one that was not seen for long, and that begins anew when it comes again.
    """

    def __init__(
        self,
        policy: ScopePolicy,
        policy_of: Callable[[str], ScopePolicy],
        merchants_max: int,
        now_ns: int,
        on_breaker: OnBreaker = lambda merchant, state: None,
    ) -> None:
        self._policy_of = policy_of
        self._merchants_max = merchants_max
        self._on_breaker = on_breaker
        self._queues: dict[bool, FairQueue[T]] = {is_query: FairQueue(policy.queue_max) for is_query in (False, True)}
        self.channel = Scope(policy, now_ns, lambda state: on_breaker(CHANNEL, state))
        self._merchants: OrderedDict[str, Scope] = OrderedDict()  # the one idle longest first
        self._forced: Mapping[str, Forced] = {}
        self._parked: list[tuple[int, bool, str]] = []  # a heap of (until ns, queue, merchant); stale ones do no harm
        self._parked_until: dict[tuple[bool, str], int] = {}  # what the heap holds for each, the last
        self._query_first = False
        self.wake_at_ns: int | None = None  # when ``next`` may give something that gave nothing; None: not by time

    def waiting(self, *, is_query: bool) -> int:
        """How many wait."""
        return len(self._queues[is_query])

    def waiting_of(self, merchant: str, *, is_query: bool) -> int:
        """How many of a merchant wait."""
        return self._queues[is_query].waiting(merchant)

    def room(self, merchant: str, *, is_query: bool = False) -> Room:
        """Whether another of ``merchant`` can wait."""
        return self._queues[is_query].room(merchant, self._policy_of(merchant).queue_max)

    def reserve(self, merchant: str) -> None:
        """Keeps a place for an order; ask ``room`` before."""
        self._queues[False].reserve(merchant)

    def unreserve(self, merchant: str) -> None:
        """Gives a reserved place up."""
        self._queues[False].unreserve(merchant)

    def offer(self, merchant: str, key: str, item: T, *, is_query: bool) -> bool:
        """Lets an item wait for its turn; False where there is no room. ``key`` names it, and waits once."""
        if self.room(merchant, is_query=is_query) is not Room.FREE:
            return False
        self._queues[is_query].put(merchant, key, item)
        return True

    def withdraw(self, merchant: str, key: str) -> bool:
        """Takes an order that waits away; False where it does not wait any more."""
        return self._queues[False].remove(merchant, key) is not None

    def clear(self) -> list[str]:
        """Drops all that waits; their keys."""
        return [key for queue in self._queues.values() for key in queue.clear()]

    def next(self, now_ns: int) -> Turn[T] | None:
        """The next call, begun; None where none may begin, and then ``wake_at_ns`` says when to ask again."""
        self._unpark_due(now_ns)
        self.wake_at_ns = None
        for is_query in (self._query_first, not self._query_first):
            turn = self._next_of(is_query, now_ns)
            if turn is not None:
                self._query_first = not is_query
                return turn
        if self._parked:
            self._wake_at(self._parked[0][0])
        return None

    def end(self, turn: Turn[T], now_ns: int) -> None:
        """A call is over: what it says of the channel and the merchant counts, and its places are free."""
        of_channel, of_merchant = turn.permits
        self.channel.end(of_channel, now_ns, turn.call)
        self._merchants[turn.merchant].end(of_merchant, now_ns, turn.call)
        for queue in self._queues.values():
            queue.unpark(turn.merchant)

    def force(self, forced: Mapping[str, Forced], now_ns: int) -> None:
        """What people say now: by merchant, or CHANNEL. Whoever is not named is not forced."""
        if forced == self._forced:
            return
        self._forced = dict(forced)
        self.channel.breaker.force(self._forced.get(CHANNEL), now_ns)
        for merchant, scope in self._merchants.items():
            scope.breaker.force(self._forced.get(merchant), now_ns)
        for queue in self._queues.values():
            for merchant in queue.merchants():
                queue.unpark(merchant)

    def held(self, merchant: str, now_ns: int) -> Held | None:
        """What would keep an order of ``merchant`` from being sent now, apart from the queue before it."""
        scope = self._merchants.get(merchant)
        return self.channel.held(now_ns, False) or (None if scope is None else scope.held(now_ns, False))

    def state(self, merchant: str, now_ns: int) -> ScopeState:
        """How a merchant, or CHANNEL, stands. Of one it keeps nothing of, as one that has done nothing."""
        if merchant == CHANNEL:
            scope, waiting = self.channel, (len(self._queues[False]), len(self._queues[True]))
        else:
            kept = self._merchants.get(merchant)
            scope = self._made(merchant, now_ns) if kept is None else kept
            waiting = (self._queues[False].waiting(merchant), self._queues[True].waiting(merchant))
        return scope.state(now_ns, *waiting)

    def noteworthy(self, now_ns: int) -> list[str]:
        """The merchants of whom there is anything to say: something waits, is under way, is forced or went wrong."""
        names = {merchant for queue in self._queues.values() for merchant in queue.merchants()}
        names.update(name for name, scope in self._merchants.items() if scope.is_noteworthy(now_ns))
        names.update(name for name in self._forced if name != CHANNEL)
        return sorted(names)

    def is_stopped(self, merchant: str, now_ns: int) -> bool:
        """Whether a breaker, the channel's or the merchant's, lets no order of ``merchant`` through now."""
        scope = self._merchants.get(merchant)
        if scope is None:
            return not self.channel.breaker.admits(now_ns) or self._forced.get(merchant) is Forced.OPEN
        return not (self.channel.breaker.admits(now_ns) and scope.breaker.admits(now_ns))

    def stopped_count(self, now_ns: int) -> int:
        """How many merchants have a breaker of their own that lets no order through now."""
        return sum(not scope.breaker.admits(now_ns) for scope in self._merchants.values())

    def merchants(self) -> Mapping[str, Scope]:
        """The merchants that are kept."""
        return self._merchants

    def _next_of(self, is_query: bool, now_ns: int) -> Turn[T] | None:
        queue = self._queues[is_query]
        if queue.next_merchant() is None:
            return None
        held = self.channel.held(now_ns, is_query)
        if held is not None:
            self._wake_at(held.until_ns)
            return None
        while (merchant := queue.next_merchant()) is not None:
            scope = self._scope(merchant, now_ns)
            held = scope.held(now_ns, is_query)
            if held is None:
                _, key, item = queue.take()
                permits = (self.channel.begin(now_ns, is_query), scope.begin(now_ns, is_query))
                return Turn(merchant, key, item, is_query, permits)
            self._park(queue, is_query, merchant, held.until_ns)
        return None

    def _park(self, queue: FairQueue[T], is_query: bool, merchant: str, until_ns: int | None) -> None:
        queue.park(merchant)
        place = (is_query, merchant)
        # Unparked by the end of a call and parked again for the same reason, it stands in the heap already.
        if until_ns is not None and self._parked_until.get(place) != until_ns:
            self._parked_until[place] = until_ns
            heapq.heappush(self._parked, (until_ns, is_query, merchant))

    def _unpark_due(self, now_ns: int) -> None:
        while self._parked and self._parked[0][0] <= now_ns:
            until_ns, is_query, merchant = heapq.heappop(self._parked)
            if self._parked_until.get((is_query, merchant)) == until_ns:
                del self._parked_until[is_query, merchant]
            self._queues[is_query].unpark(merchant)

    def _wake_at(self, at_ns: int | None) -> None:
        if at_ns is not None and (self.wake_at_ns is None or at_ns < self.wake_at_ns):
            self.wake_at_ns = at_ns

    def _scope(self, merchant: str, now_ns: int) -> Scope:
        scope = self._merchants.get(merchant)
        if scope is None:
            self._make_room(now_ns)
            scope = self._merchants[merchant] = self._made(merchant, now_ns)
        self._merchants.move_to_end(merchant)
        return scope

    def _made(self, merchant: str, now_ns: int) -> Scope:
        scope = Scope(self._policy_of(merchant), now_ns, lambda state: self._on_breaker(merchant, state))
        scope.breaker.force(self._forced.get(merchant), now_ns)
        return scope

    def _make_room(self, now_ns: int) -> None:
        """Forgets one not seen for long that has nothing waiting or under way: an idle one, where there is one."""
        if len(self._merchants) < self._merchants_max:
            return
        resting = None
        for merchant in list(itertools.islice(self._merchants, _LOOKED_AT)):
            scope = self._merchants[merchant]
            if scope.in_flight or any(queue.waiting(merchant) for queue in self._queues.values()):
                self._merchants.move_to_end(merchant)  # so that others are looked at next time
            elif scope.is_idle(now_ns):
                del self._merchants[merchant]
                return
            else:
                resting = resting or merchant
        if resting is not None:
            del self._merchants[resting]


def states_of(schedule: Schedule[T], now_ns: int) -> dict[str, ScopeState]:
    """How the channel, as CHANNEL, and every merchant of whom there is anything to say, stand."""
    return {name: schedule.state(name, now_ns) for name in (CHANNEL, *schedule.noteworthy(now_ns))}
