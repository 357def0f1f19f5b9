"""The state machine of channel orders, and what providers' words make of them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_gateway.channel_order import (
    CHANNEL_ORDER,
    FAILED_EVENT,
    PROVIDER_NOT_FOUND,
    PROVIDER_UNREACHABLE,
    SUCCEEDED_EVENT,
    UNKNOWN_EVENT,
    ChannelOrderKind,
    ChannelOrderState,
    DoubtType,
    Mismatch,
    ProviderResult,
    ResultStatus,
    Source,
    is_asked_about,
    moved_minor,
)
from channel_gateway.progress import Applied, apply_result, lose, start_sending
from channel_gateway.tables import ChannelOrder
from paymesh.channel.v1 import channel_order_pb2
from tests.channel_gateway.orders import NOW_MS, POLICY, make_order, make_sending

_STATES, _KINDS = channel_order_pb2.ChannelOrderState, channel_order_pb2.ChannelOrderKind
R, S = ResultStatus, ChannelOrderState
SUCCEEDED = ProviderResult(status=R.SUCCEEDED, provider_reference="ref-1", amount_minor=1_000, currency="EUR")
PENDING = ProviderResult(status=R.PENDING, provider_reference="ref-1", amount_minor=1_000, currency="EUR")
FAILED = ProviderResult(status=R.FAILED, provider_reference="ref-1", failure_reason="CARD_DECLINED")
UNKNOWN = ProviderResult(status=R.UNKNOWN)
NOT_FOUND = ProviderResult(status=R.NOT_FOUND)
NOT_SENT = ProviderResult(status=R.NOT_SENT)


def applied(
    order: ChannelOrder,
    result: ProviderResult,
    source: Source = Source.REPLY,
    now_ms: int = NOW_MS,
    asked_at_ms: int | None = None,
) -> Applied:
    """``asked_at_ms`` is ``now_ms`` for a query where nothing else is said."""
    if source is Source.QUERY and asked_at_ms is None:
        asked_at_ms = now_ms
    return apply_result(order, result, source, now_ms, POLICY, asked_at_ms)


def changed(outcome: Applied) -> ChannelOrder:
    assert outcome.order is not None
    return outcome.order


def test_every_state_is_reachable_and_only_the_outcomes_are_terminal() -> None:
    reached, frontier = {CHANNEL_ORDER.initial}, [CHANNEL_ORDER.initial]
    while frontier:
        for after in CHANNEL_ORDER.transitions[frontier.pop()] - reached:
            reached.add(after)
            frontier.append(after)
    assert reached == set(ChannelOrderState)
    assert CHANNEL_ORDER.terminal == {S.SUCCEEDED, S.FAILED}


def test_states_and_kinds_have_the_names_of_the_protocol() -> None:
    states = {name.removeprefix("CHANNEL_ORDER_STATE_") for name in _STATES.keys()}  # noqa: SIM118
    kinds = {name.removeprefix("CHANNEL_ORDER_KIND_") for name in _KINDS.keys()}  # noqa: SIM118
    assert states - {"UNSPECIFIED"} == {state.value for state in ChannelOrderState}
    assert kinds - {"UNSPECIFIED"} == {kind.value for kind in ChannelOrderKind}


def test_only_an_accepted_order_starts_to_be_sent() -> None:
    sending = start_sending(make_order(), NOW_MS, POLICY)
    assert sending is not None
    assert (sending.state, sending.send_count, sending.sent_at_ms) == ("SENDING", 1, NOW_MS)
    assert sending.due_at_ms == NOW_MS + POLICY.sending_ms
    for state in set(ChannelOrderState) - {S.ACCEPTED}:
        assert start_sending(make_order(state=state.value), NOW_MS, POLICY) is None


def test_a_success_settles_and_is_announced() -> None:
    outcome = applied(make_sending(), SUCCEEDED)
    order = changed(outcome)
    assert (order.state, order.provider_reference, order.finished_at_ms) == ("SUCCEEDED", "ref-1", NOW_MS)
    assert order.due_at_ms is None
    assert outcome.announce == SUCCEEDED_EVENT


def test_a_definite_failure_keeps_its_reason() -> None:
    outcome = applied(make_sending(), FAILED)
    assert (changed(outcome).state, changed(outcome).failure_reason) == ("FAILED", "CARD_DECLINED")
    assert outcome.announce == FAILED_EVENT


def test_no_answer_is_unknown_and_never_failed() -> None:
    outcome = applied(make_sending(), UNKNOWN)
    assert changed(outcome).state == "UNKNOWN"
    assert changed(outcome).due_at_ms == NOW_MS + POLICY.query_ladder_ms[0]
    assert outcome.announce == ""


@pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED"])
@pytest.mark.parametrize("result", [SUCCEEDED, FAILED, PENDING, UNKNOWN, NOT_FOUND, NOT_SENT])
@pytest.mark.parametrize("source", list(Source))
def test_a_terminal_order_never_changes(state: str, result: ProviderResult, source: Source) -> None:
    order = make_sending(state=state, provider_reference="ref-1", due_at_ms=None, finished_at_ms=NOW_MS)
    outcome = applied(order, result, source, NOW_MS + 10**9)
    assert outcome.order is None
    assert outcome.announce == ""
    contradicts = {("SUCCEEDED", R.FAILED), ("FAILED", R.SUCCEEDED)}
    assert bool(outcome.mismatch) == ((state, result.status) in contradicts)


@pytest.mark.parametrize("changes", [{"amount_minor": 1_001}, {"currency": "USD"}, {"provider_reference": "another"}])
@pytest.mark.parametrize("source", [Source.REPLY, Source.NOTIFICATION])
def test_a_wrong_amount_currency_or_reference_changes_nothing_and_is_a_mismatch(
    changes: dict[str, object], source: Source
) -> None:
    order = make_sending(provider_reference="ref-1")
    outcome = applied(order, msgspec.structs.replace(SUCCEEDED, **changes), source)
    assert outcome.order is None
    assert outcome.mismatch


def test_a_mismatch_found_by_a_query_moves_only_the_next_query() -> None:
    order = make_sending(state="UNKNOWN")
    outcome = applied(order, msgspec.structs.replace(SUCCEEDED, amount_minor=999), Source.QUERY)
    assert outcome.mismatch
    expected = msgspec.structs.replace(order, query_count=1, due_at_ms=NOW_MS + POLICY.query_ladder_ms[1])
    assert outcome.order == expected


def test_a_result_for_an_order_that_was_never_sent_is_a_mismatch() -> None:
    outcome = applied(make_order(), SUCCEEDED, Source.NOTIFICATION)
    assert outcome.order is None
    assert outcome.mismatch


def test_what_cannot_have_left_is_sent_again_later_and_given_up_in_the_end() -> None:
    again = changed(applied(make_sending(send_count=3), NOT_SENT))
    assert (again.state, again.due_at_ms) == ("ACCEPTED", NOW_MS + 4 * POLICY.resend_delay_ms)
    outcome = applied(make_sending(), NOT_SENT, now_ms=NOW_MS + POLICY.resend_give_up_after_ms)
    assert (changed(outcome).state, changed(outcome).failure_reason) == ("FAILED", PROVIDER_UNREACHABLE)


def test_not_sent_after_the_order_was_given_up_as_lost_does_not_bring_it_back() -> None:
    assert applied(make_sending(state="UNKNOWN"), NOT_SENT) == Applied()


def test_not_found_is_no_failure_before_it_is_certain() -> None:
    assert POLICY.not_found_certain_after_ms is not None
    certain_ms = NOW_MS + POLICY.not_found_certain_after_ms
    order = make_sending(state="UNKNOWN")
    assert changed(applied(order, NOT_FOUND, Source.QUERY, certain_ms - 1)).state == "UNKNOWN"
    outcome = applied(order, NOT_FOUND, Source.QUERY, certain_ms)
    assert (changed(outcome).state, changed(outcome).failure_reason) == ("FAILED", PROVIDER_NOT_FOUND)


AGAIN = msgspec.structs.replace(POLICY, not_found_again_after_ms=(60_000, 600_000))
FAILED_MS = NOW_MS + 40_000


def not_found_order() -> ChannelOrder:
    """An order that failed at FAILED_MS because the provider did not know it."""
    outcome = apply_result(make_sending(state="UNKNOWN"), NOT_FOUND, Source.QUERY, FAILED_MS, AGAIN, FAILED_MS)
    assert outcome.announce == "channel.order_failed"
    return changed(outcome)


def asked_again(order: ChannelOrder, result: ProviderResult, now_ms: int) -> Applied:
    return apply_result(order, result, Source.QUERY, now_ms, AGAIN, now_ms)


def test_what_was_not_found_is_asked_about_again_when_the_channel_says() -> None:
    order = not_found_order()
    assert is_asked_about(order)
    assert order.due_at_ms == FAILED_MS + 60_000
    first = asked_again(order, NOT_FOUND, FAILED_MS + 61_000)
    assert (changed(first).state, changed(first).due_at_ms, first.announce) == ("FAILED", FAILED_MS + 600_000, "")
    last = changed(asked_again(changed(first), NOT_FOUND, FAILED_MS + 600_000))
    assert last.due_at_ms is None
    assert not is_asked_about(last)


def test_what_was_not_found_and_is_there_after_all_is_a_late_success() -> None:
    outcome = asked_again(not_found_order(), SUCCEEDED, FAILED_MS + 60_000)
    assert outcome.mismatch is not None
    assert outcome.mismatch.feared is DoubtType.LATE
    assert (changed(outcome).state, changed(outcome).due_at_ms, outcome.announce) == ("FAILED", None, "")


@pytest.mark.parametrize("result", [UNKNOWN, PENDING], ids=lambda result: result.status.value)
def test_no_answer_about_what_was_not_found_has_the_provider_asked_until_there_is_one(result: ProviderResult) -> None:
    order = not_found_order()
    assert changed(asked_again(order, result, FAILED_MS + 60_000)).due_at_ms == FAILED_MS + 600_000
    last_ms = FAILED_MS + 600_000
    assert changed(asked_again(order, result, last_ms)).due_at_ms == last_ms + AGAIN.query_ladder_ms[-1]


def test_a_notification_does_not_stand_for_the_question_that_is_to_be_asked() -> None:
    order = not_found_order()
    told = apply_result(order, FAILED, Source.NOTIFICATION, FAILED_MS + 1, AGAIN)
    assert told == Applied()
    assert changed(asked_again(order, FAILED, FAILED_MS + 60_000)).due_at_ms is None


def test_not_found_says_how_it_stood_when_the_query_was_made_however_late_it_is_applied() -> None:
    assert POLICY.not_found_certain_after_ms is not None
    certain_ms = NOW_MS + POLICY.not_found_certain_after_ms
    order = make_sending(state="UNKNOWN")
    late = applied(order, NOT_FOUND, Source.QUERY, certain_ms + 60_000, asked_at_ms=certain_ms - 1)
    assert changed(late).state == "UNKNOWN"


def test_not_found_never_fails_an_order_on_a_channel_that_does_not_declare_it() -> None:
    policy = msgspec.structs.replace(POLICY, not_found_certain_after_ms=None)
    later_ms = NOW_MS + 10**12
    outcome = apply_result(make_sending(state="UNKNOWN"), NOT_FOUND, Source.QUERY, later_ms, policy, later_ms)
    assert changed(outcome).state == "UNKNOWN"


def test_not_found_of_an_order_the_provider_had_is_a_mismatch() -> None:
    pending = make_sending(state="PENDING", provider_reference="ref-1")
    outcome = applied(pending, NOT_FOUND, Source.QUERY, NOW_MS + 10**9)
    assert outcome.mismatch
    assert changed(outcome).state == "PENDING"


def test_the_ladder_ends_in_one_announcement_and_goes_on_asking() -> None:
    order, now_ms, announced, waits = make_sending(state="PENDING"), NOW_MS, [], []
    for _ in range(6):
        outcome = applied(order, UNKNOWN, Source.QUERY, now_ms)
        order = changed(outcome)
        announced.append(outcome.announce)
        assert order.due_at_ms is not None
        waits.append(order.due_at_ms - now_ms)
        now_ms = order.due_at_ms
    assert announced == ["", "", UNKNOWN_EVENT, "", "", ""]
    assert waits == [5_000, 60_000, 60_000, 60_000, 60_000, 60_000]
    assert (order.state, order.query_count) == ("UNKNOWN", 6)


def test_a_call_is_lost_only_when_its_time_has_passed() -> None:
    order = make_sending()
    assert order.due_at_ms is not None
    assert lose(order, order.due_at_ms - 1, POLICY) == Applied()
    assert changed(lose(order, order.due_at_ms, POLICY)).state == "UNKNOWN"
    assert lose(make_sending(state="SUCCEEDED"), order.due_at_ms, POLICY) == Applied()


MAY_DIFFER = msgspec.structs.replace(POLICY, amount_may_differ=True)


def told(order: ChannelOrder, amount_minor: int, result: ProviderResult = SUCCEEDED) -> Applied:
    """What a channel whose amount may differ makes of ``result`` with that amount."""
    said = msgspec.structs.replace(result, amount_minor=amount_minor)
    return apply_result(order, said, Source.NOTIFICATION, NOW_MS, MAY_DIFFER)


@pytest.mark.parametrize("state", ["SENDING", "PENDING", "UNKNOWN"])
@pytest.mark.parametrize("amount_minor", [1, 999, 1_500])
def test_another_amount_settles_where_the_channel_declares_that_it_may_differ(state: str, amount_minor: int) -> None:
    outcome = told(make_sending(state=state), amount_minor)
    order = changed(outcome)
    assert (order.state, order.amount_minor, order.settled_minor) == ("SUCCEEDED", 1_000, amount_minor)
    assert moved_minor(order) == amount_minor
    assert (outcome.announce, outcome.mismatch) == (SUCCEEDED_EVENT, None)


def test_the_amount_asked_for_leaves_the_settled_one_zero() -> None:
    order = changed(told(make_sending(), 1_000))
    assert (order.settled_minor, moved_minor(order)) == (0, 1_000)


def test_once_settled_another_amount_is_a_mismatch_and_the_settled_one_is_silent() -> None:
    order = changed(told(make_sending(), 1_500))
    assert told(order, 1_500) == Applied()
    for amount_minor in (1_000, 1_499):
        mismatch = told(order, amount_minor).mismatch
        assert mismatch == Mismatch(f"amount {amount_minor} instead of 1500", DoubtType.AMOUNT)


def test_a_pending_reply_that_comes_after_the_settlement_speaks_of_what_was_asked_for() -> None:
    order = changed(told(make_sending(), 1_500))
    assert told(order, 1_000, PENDING) == Applied()


@pytest.mark.parametrize("amount_minor", [0, -5, 2**63])
def test_an_amount_that_cannot_have_moved_is_a_mismatch_even_where_it_may_differ(amount_minor: int) -> None:
    outcome = told(make_sending(), amount_minor)
    assert outcome.order is None
    assert outcome.mismatch


@pytest.mark.parametrize("kind", sorted(set(ChannelOrderKind) - {ChannelOrderKind.CHARGE}))
def test_only_a_charge_may_move_another_amount(kind: ChannelOrderKind) -> None:
    assert told(make_sending(kind=kind.value), 1_500).mismatch


def test_a_failed_charge_is_not_settled_by_another_amount() -> None:
    failed = make_sending(state="FAILED", due_at_ms=None, finished_at_ms=NOW_MS)
    outcome = told(failed, 1_500)
    assert outcome.order is None
    assert outcome.mismatch


_WORDS = st.tuples(
    st.sampled_from([PENDING, UNKNOWN, NOT_FOUND, NOT_SENT]), st.sampled_from(list(Source)), st.integers(0, 29_999)
)


@given(outcome=st.sampled_from([SUCCEEDED, FAILED]), words=st.lists(_WORDS, max_size=12), data=st.data())
def test_any_order_and_repetition_of_consistent_words_ends_in_the_same_state(
    outcome: ProviderResult, words: list[tuple[ProviderResult, Source, int]], data: st.DataObject
) -> None:
    # NOT_SENT is the sender's own, so it comes from replies alone, and not beside an outcome.
    words = [word for word in words if word[0].status is not R.NOT_SENT]
    copies = data.draw(st.integers(1, 3))
    final = (outcome, data.draw(st.sampled_from([Source.REPLY, Source.NOTIFICATION, Source.QUERY])), 0)
    order, announcements = make_sending(), []
    for result, source, after_ms in data.draw(st.permutations(words + [final] * copies)):
        result_of = applied(order, result, source, NOW_MS + after_ms)
        before, order = order, result_of.order or order
        announcements.append(result_of.announce)
        assert before.state == order.state or CHANNEL_ORDER.allows(before.state, S(order.state))
    assert order.state == outcome.status.value
    assert order.provider_reference == "ref-1"
    assert (order.due_at_ms is None) == (order.finished_at_ms is not None)
    assert [a for a in announcements if a in (SUCCEEDED_EVENT, FAILED_EVENT)] == [
        SUCCEEDED_EVENT if outcome is SUCCEEDED else FAILED_EVENT
    ]


@given(
    moved=st.integers(1, 2_000),
    words=st.lists(st.tuples(st.sampled_from([PENDING, UNKNOWN]), st.sampled_from(list(Source))), max_size=8),
    data=st.data(),
)
def test_whenever_the_moved_amount_is_told_it_is_settled_once_and_nothing_else_contradicts_it(
    moved: int, words: list[tuple[ProviderResult, Source]], data: st.DataObject
) -> None:
    final = msgspec.structs.replace(SUCCEEDED, amount_minor=moved)
    finals = [(final, data.draw(st.sampled_from(list(Source)))) for _ in range(data.draw(st.integers(1, 3)))]
    order, announced = make_sending(), 0
    for result, source in data.draw(st.permutations(words + finals)):
        outcome = apply_result(order, result, source, NOW_MS, MAY_DIFFER, NOW_MS)
        assert outcome.mismatch is None
        announced += outcome.announce == SUCCEEDED_EVENT
        order = outcome.order or order
    assert (order.state, moved_minor(order), announced) == ("SUCCEEDED", moved, 1)


@given(words=st.lists(st.tuples(st.sampled_from([SUCCEEDED, FAILED, PENDING, UNKNOWN, NOT_FOUND, NOT_SENT]),
                                st.sampled_from(list(Source)), st.integers(0, 10**9)), max_size=15))  # fmt: skip
def test_whatever_is_said_moves_are_legal_terminals_stay_and_waits_have_a_due_time(
    words: list[tuple[ProviderResult, Source, int]],
) -> None:
    order = make_sending()
    for result, source, after_ms in words:
        outcome = applied(order, result, source, NOW_MS + after_ms)
        if CHANNEL_ORDER.is_terminal(order.state):
            assert outcome.order is None
        if outcome.order is not None:
            assert order.state == outcome.order.state or CHANNEL_ORDER.allows(order.state, S(outcome.order.state))
            order = outcome.order
        assert (order.due_at_ms is None) == CHANNEL_ORDER.is_terminal(order.state)
