"""Whatever comes in whatever order, replies, notifications and queries, of two processes: one outcome, one charge.

A stateful test drives the real commands over rows in memory, against a provider with two accounts whose truth is
known. It never lies in its replies and its answers; in one of the machines it lies in its notifications, and in one
it charges what it has denied to know, and never says so by itself.
"""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from channel_gateway.channel_order import (
    CHANNEL_ORDER,
    FAILED_EVENT,
    PROVIDER_NOT_FOUND,
    PROVIDER_UNREACHABLE,
    SUCCEEDED_EVENT,
    ChannelOrderState,
    ProviderResult,
    ResultStatus,
    Source,
    is_asked_about,
)
from channel_gateway.channels.base import ReceivedNotification
from channel_gateway.commands import ApplyResult, MarkSending, TakeDue, TakeNotification
from channel_gateway.doubt_commands import AnswerDoubt, TakeDoubt
from channel_gateway.routing import Onward, stored
from channel_gateway.tables import ChannelAttempt, ChannelOrder
from paykit.context import mint
from paykit.store.command import Origin
from tests.channel_gateway.desk import Desk
from tests.channel_gateway.orders import NOW_MS, POLICY, SLOT, make_order

R = ResultStatus
FIRST, SECOND = "sandbox_card", "sandbox_card_b"
POLICIES = {
    name: msgspec.structs.replace(POLICY, channel=name, not_found_again_after_ms=(60_000, 3_000_000))
    for name in (FIRST, SECOND)
}
WAY = Onward(channels=(SECOND,), channels_max=2, switch_on=("CARD_DECLINED", PROVIDER_UNREACHABLE))
CONTEXT = mint(SLOT, NOW_MS, caller="test")
LEASE_MS = 30_000
CERTAIN_MS = POLICY.not_found_certain_after_ms or 0
assert CERTAIN_MS
_OPEN = (ChannelOrderState.PENDING, ChannelOrderState.UNKNOWN)
_seldom = st.sampled_from([False, False, False, True])
_channels = st.sampled_from([FIRST, SECOND])


class Call(msgspec.Struct, eq=False):
    """A call under way: what the provider made of it."""

    channel: str
    truth: str  # "charged", "declined", "refused" (nothing was done), "lost" (it never came), "late" (it will)
    sent_at_ms: int


def word(channel: str, status: ResultStatus, **changes: Any) -> ProviderResult:
    """What the provider says of the order on an account."""
    if status in (R.SUCCEEDED, R.FAILED):
        reason = "CARD_DECLINED" if status is R.FAILED else ""
        said = ProviderResult(
            status=status,
            provider_reference=f"ref-{channel}",
            failure_reason=reason,
            amount_minor=1_000,
            currency="EUR",
        )
        return msgspec.structs.replace(said, **changes)
    return ProviderResult(status=status)


class Histories(RuleBasedStateMachine):
    """One charge that may be carried by two channels."""

    lies = False
    breaks_its_word = False

    @initialize()
    def begin(self) -> None:
        self.desk = Desk(make_order(route=stored(WAY), channel=FIRST))
        self.id = self.desk.order.id
        self.calls: list[Call] = []
        self.queries: list[tuple[str, int, ProviderResult]] = []
        self.charged: set[str] = set()
        self.declined: set[str] = set()
        self.effective_calls: dict[str, int] = {FIRST: 0, SECOND: 0}
        self.ended: ChannelOrder | None = None
        self.numbers = itertools.count(1)

    # The processes

    @rule(is_stale=_seldom, truth=st.sampled_from(["charged", "declined", "refused", "lost", "late"]))
    def send(self, is_stale: bool, truth: str) -> None:
        """Some process has the order in its queue of a channel, however long ago it was put there."""
        channel = self._other() if is_stale else self.desk.order.channel
        sending = self.desk.run(MarkSending(Origin.timer(CONTEXT), self.id, POLICIES[channel]))
        if sending is None:
            return
        assert sending.channel == channel
        if truth != "refused":
            self.effective_calls[channel] += 1
        if truth == "charged":
            self.charged.add(channel)
        elif truth == "declined":
            self.declined.add(channel)
        self.calls.append(Call(channel, truth, self.desk.now_ms))

    @precondition(lambda self: self.desk.order.state == "ACCEPTED")
    @rule(truth=st.sampled_from(["charged", "late"]), is_asked=st.booleans())
    def fall_silent(self, truth: str, is_asked: bool) -> None:
        """A call is made, no reply comes in time, and the provider is asked at once."""
        self.send(is_stale=False, truth=truth)
        call = self.calls.pop()
        if truth == "late":
            self.calls.append(Call(call.channel, "arriving", call.sent_at_ms))
        self._apply(call.channel, word(call.channel, R.UNKNOWN), Source.REPLY)
        if is_asked and self.desk.order.state in _OPEN:
            self.ask_and_hear()

    @precondition(lambda self: self.breaks_its_word and self.desk.order.state == "ACCEPTED")
    @rule()
    def deny(self) -> None:
        """A call hangs, and the provider says for certain that it does not know the order."""
        self.fall_silent("late", is_asked=False)
        self.wait(40_000)
        if self.desk.order.state in _OPEN:
            self.ask_and_hear()

    @precondition(lambda self: self.lies and self.desk.order.state == "ACCEPTED")
    @rule(status=st.sampled_from([R.SUCCEEDED, R.FAILED]))
    def lie_while_it_is_sent(self, status: ResultStatus) -> None:
        """A call is made that charges, and somebody says at once what became of it."""
        channel = self.desk.order.channel
        self.send(is_stale=False, truth="charged")
        self._notify(channel, word(channel, status))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), is_heard=st.booleans())
    def reply(self, data: st.DataObject, is_heard: bool) -> None:
        """A reply comes, in time or long after; or nothing does."""
        call = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        status = {"charged": R.SUCCEEDED, "declined": R.FAILED, "refused": R.NOT_SENT}.get(call.truth, R.UNKNOWN)
        if call.truth == "late":
            self.calls.append(Call(call.channel, "arriving", call.sent_at_ms))
        said = word(call.channel, status if is_heard else R.UNKNOWN)
        self._apply(call.channel, said, Source.REPLY)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """The process of a call is gone with its reply."""
        call = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        if call.truth in ("late", "arriving"):
            self.calls.append(Call(call.channel, "arriving", call.sent_at_ms))

    @precondition(lambda self: any(call.truth == "arriving" for call in self.calls))
    @rule()
    def arrive(self) -> None:
        """What hung is charged after all, within the time that the provider has declared, or while it is asked yet."""
        for call in [one for one in self.calls if one.truth == "arriving"]:
            self.calls.remove(call)
            is_in_time = self.desk.now_ms - call.sent_at_ms < CERTAIN_MS
            if is_in_time or (self.breaks_its_word and self.desk.order.due_at_ms is not None):
                self.charged.add(call.channel)

    @rule(wait_ms=st.sampled_from([0, 500, 5_000, 12_000, 40_000, 700_000]))
    def wait(self, wait_ms: int) -> None:
        # What is certain after a time is so only once whatever hung has arrived or never will.
        if wait_ms >= 12_000 and not self.breaks_its_word:
            self.arrive()
        self.desk.now_ms += wait_ms

    @precondition(lambda self: (self.desk.order.due_at_ms or 2**62) <= self.desk.now_ms)
    @rule(is_stale=_seldom)
    def take_due(self, is_stale: bool) -> None:
        channel = self._other() if is_stale else self.desk.order.channel
        self.desk.run(TakeDue(Origin.timer(CONTEXT), self.id, POLICIES[channel], LEASE_MS))

    @precondition(lambda self: is_asked_about(self.desk.order))
    @rule(is_answered=st.booleans())
    def ask(self, is_answered: bool) -> None:
        """A query begins: its answer says how things stand now."""
        order = self.desk.order
        if is_asked_about(order) and len(self.queries) < 4:
            answer = self._truth(order.channel) if is_answered else word(order.channel, R.UNKNOWN)
            self.queries.append((order.channel, self.desk.now_ms, answer))

    @precondition(lambda self: self.queries)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        channel, asked_at_ms, said = self.queries.pop(data.draw(st.integers(0, len(self.queries) - 1)))
        self._apply(channel, said, Source.QUERY, asked_at_ms)

    @precondition(lambda self: self.desk.order.state in _OPEN)
    @rule()
    def ask_and_hear(self) -> None:
        self._apply(self.desk.order.channel, self._truth(self.desk.order.channel), Source.QUERY, self.desk.now_ms)

    @rule(channel=_channels)
    def notify(self, channel: str) -> None:
        self._notify(channel, self._truth(channel))

    @precondition(lambda self: self.lies)
    @rule(
        is_stale=_seldom,
        status=st.sampled_from([R.SUCCEEDED, R.FAILED, R.FAILED, R.PENDING]),
        changes=st.sampled_from([{}, {}, {}, {"amount_minor": 999}, {"currency": "USD"}, {"provider_reference": "x"}]),
    )
    def lie(self, is_stale: bool, status: ResultStatus, changes: dict[str, Any]) -> None:
        channel = self._other() if is_stale else self.desk.order.channel
        self._notify(channel, word(channel, status, **changes))

    @precondition(lambda self: any(doubt.state == "OPEN" for doubt in self.desk.doubts))
    @rule()
    def explain(self) -> None:
        """The timer asks about every doubt."""
        for doubt in [one for one in self.desk.doubts if one.state == "OPEN"]:
            asked = self.desk.run(TakeDoubt(Origin.timer(CONTEXT), doubt, LEASE_MS))
            if asked is not None:
                said, policy = self._truth(doubt.channel), POLICIES[doubt.channel]
                self.desk.run(AnswerDoubt(Origin.timer(CONTEXT), asked.doubt, policy, said, self.desk.now_ms))

    def _other(self) -> str:
        return SECOND if self.desk.order.channel == FIRST else FIRST

    def _apply(self, channel: str, said: ProviderResult, source: Source, asked_at_ms: int | None = None) -> None:
        self.desk.run(ApplyResult(Origin.timer(CONTEXT), self.id, POLICIES[channel], said, source, asked_at_ms))

    def _notify(self, channel: str, said: ProviderResult) -> None:
        if said.status is R.NOT_FOUND:
            return
        name = f"n-{next(self.numbers)}"
        received = ReceivedNotification(notification_id=name, channel_order_id=self.id, result=said)
        origin = Origin.event(CONTEXT, "provider", f"{channel}/{name}")
        self.desk.run(TakeNotification(origin, channel, POLICIES[channel], received, b"{}"))

    def _truth(self, channel: str) -> ProviderResult:
        if channel in self.charged:
            return word(channel, R.SUCCEEDED)
        return word(channel, R.FAILED if channel in self.declined else R.NOT_FOUND)

    # What holds

    @invariant()
    def one_call_a_channel(self) -> None:
        """Nothing is sent twice to a channel, but what certainly was not done there."""
        assert all(number <= 1 for number in self.effective_calls.values()), self.effective_calls

    @invariant()
    def never_two_charges(self) -> None:
        """Another channel is tried only where the first has certainly done nothing."""
        assert len(self.charged) <= 1

    @invariant()
    def one_outcome(self) -> None:
        """A terminal order stays as it is, and is announced once."""
        order = self.desk.order
        if self.ended is not None:
            assert msgspec.structs.replace(order, due_at_ms=None, version=1) == self.ended
        elif CHANNEL_ORDER.is_terminal(order.state):
            self.ended = msgspec.structs.replace(order, due_at_ms=None, version=1)
        outcomes = self.desk.announced(SUCCEEDED_EVENT) + self.desk.announced(FAILED_EVENT)
        assert len(outcomes) == int(self.ended is not None)
        if order.failure_reason != PROVIDER_NOT_FOUND:
            assert (order.due_at_ms is None) == CHANNEL_ORDER.is_terminal(order.state)

    @invariant()
    def what_was_left_is_kept(self) -> None:
        order, attempts = self.desk.order, self.desk.all(ChannelAttempt)
        assert [attempt.attempt_no for attempt in attempts] == list(range(1, order.attempt_no))
        assert order.channel not in {attempt.channel for attempt in attempts}

    @invariant()
    def one_doubt_is_open_on_a_channel(self) -> None:
        channels = [doubt.channel for doubt in self.desk.doubts if doubt.state == "OPEN"]
        assert len(channels) == len(set(channels))

    @invariant()
    def no_failure_while_it_is_not_known(self) -> None:
        """With a provider that keeps its word: FAILED only where nothing was charged and nothing can be any more."""
        if not self.lies and not self.breaks_its_word and self.desk.order.state == "FAILED":
            assert not self.charged
            arriving = [call for call in self.calls if call.truth in ("late", "arriving")]
            assert all(self.desk.now_ms - call.sent_at_ms >= CERTAIN_MS for call in arriving)

    def teardown(self) -> None:
        """Told the truth once more and asked, every charge that does not stand is known as what it is."""
        if not hasattr(self, "desk"):
            return
        if self.breaks_its_word:
            self.arrive()
        for call in list(self.calls):  # what will never be heard of again
            self.calls.remove(call)
        for channel in (FIRST, SECOND):
            if not self.breaks_its_word:
                self._notify(channel, self._truth(channel))
        for _ in range(12):
            self.desk.now_ms += 700_000
            order = self.desk.order
            if is_asked_about(order):
                self._apply(order.channel, self._truth(order.channel), Source.QUERY, self.desk.now_ms)
            self.take_due(False)
            self.explain()
        order = self.desk.order
        done = order.channel if order.state == "SUCCEEDED" else ""
        confirmed = {(doubt.channel, doubt.type) for doubt in self.desk.doubts if doubt.state == "CONFIRMED"}
        for channel in self.charged - {done}:
            if CHANNEL_ORDER.is_terminal(order.state):
                assert {(channel, "LATE"), (channel, "DUPLICATE")} & confirmed, (order, self.desk.doubts)
        if done and done not in self.charged and done in self.declined:
            assert (done, "DENIED") in confirmed, (order, self.desk.doubts)
        if not self.lies and not self.breaks_its_word:
            assert not confirmed


class LyingNotifications(Histories):
    """The same, where notifications say anything."""

    lies = True


class LateCharges(Histories):
    """The same, where what the provider did not know when it should have is charged after that, and never told."""

    breaks_its_word = True


_SETTINGS = settings(
    max_examples=120, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestHistories = Histories.TestCase
TestHistories.settings = _SETTINGS
TestLyingNotifications = LyingNotifications.TestCase
TestLyingNotifications.settings = _SETTINGS
TestLateCharges = LateCharges.TestCase
TestLateCharges.settings = _SETTINGS
