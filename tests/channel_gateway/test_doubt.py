"""A provider's word against what is settled, and what its answer makes of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channel_gateway.channel_order import ChannelOrderState, DoubtType, Mismatch, ProviderResult, ResultStatus
from channel_gateway.doubt import (
    DOUBT,
    EVIDENCE_MAX,
    DoubtState,
    Verdict,
    asked_again,
    is_known,
    judge,
    left_mismatch,
    opened,
    question,
    resolved,
    said_again,
)
from channel_gateway.mismatch import find_mismatch
from channel_gateway.tables import ChannelAttempt, ChannelDoubt, ChannelOrder
from paymesh.channel.v1 import doubt_pb2
from tests.channel_gateway.orders import NOW_MS, POLICY, make_order

R, S = ResultStatus, ChannelOrderState
SUCCEEDED = ProviderResult(status=R.SUCCEEDED, provider_reference="ref-1", amount_minor=1_000, currency="EUR")
FAILED = ProviderResult(status=R.FAILED, provider_reference="ref-1", failure_reason="CARD_DECLINED")
NOT_FOUND, UNKNOWN = ProviderResult(status=R.NOT_FOUND), ProviderResult(status=R.UNKNOWN)
PENDING = ProviderResult(status=R.PENDING, provider_reference="ref-1", amount_minor=1_000, currency="EUR")
assert POLICY.not_found_certain_after_ms is not None
CERTAIN_MS = NOW_MS + POLICY.not_found_certain_after_ms


def over(state: str, **changes: Any) -> ChannelOrder:
    """An order that has ended."""
    ended = {"state": state, "provider_reference": "ref-1", "due_at_ms": None, "finished_at_ms": NOW_MS}
    return make_order(**(ended | changes))


def left(order: ChannelOrder, outcome: str = "FAILED", channel: str = "first") -> ChannelAttempt:
    """What the order left on another channel."""
    return ChannelAttempt(
        id="cat_1", slot=7, biz_id=order.biz_id, attempt_key=f"{order.id}/1", channel_order_id=order.id, attempt_no=1,
        channel=channel, outcome=outcome, failure_reason="CARD_DECLINED", provider_reference="ref-0",
        sent_at_ms=NOW_MS, left_at_ms=NOW_MS,
    )  # fmt: skip


def doubt_of(order: ChannelOrder, said: ProviderResult, attempt: ChannelAttempt | None = None) -> ChannelDoubt:
    found = find_mismatch(order, said, POLICY) if attempt is None else left_mismatch(attempt, order, said)
    assert found is not None
    return opened("dbt_1", 1, order, attempt, said, found, due_at_ms=NOW_MS, now_ms=NOW_MS)


def verdict(
    order: ChannelOrder,
    said: ProviderResult,
    answer: ProviderResult,
    attempt: ChannelAttempt | None = None,
    asked_at_ms: int = NOW_MS,
) -> Verdict | None:
    return judge(order, attempt, doubt_of(order, said, attempt), answer, asked_at_ms, POLICY)


def test_states_and_types_have_the_names_of_the_protocol() -> None:
    states = {name.removeprefix("DOUBT_STATE_") for name in doubt_pb2.DoubtState.keys()}  # noqa: SIM118
    types = {name.removeprefix("DOUBT_TYPE_") for name in doubt_pb2.DoubtType.keys()}  # noqa: SIM118
    assert states - {"UNSPECIFIED"} == {state.value for state in DoubtState}
    assert types - {"UNSPECIFIED"} == {kind.value for kind in DoubtType}


def test_a_doubt_ends_once_in_one_of_two_ways() -> None:
    assert DOUBT.terminal == {DoubtState.DISMISSED, DoubtState.CONFIRMED}
    assert DOUBT.transitions[DoubtState.OPEN] == DOUBT.terminal


@pytest.mark.parametrize(
    ("state", "said", "feared"),
    [
        ("FAILED", SUCCEEDED, DoubtType.LATE),
        ("SUCCEEDED", FAILED, DoubtType.DENIED),
        ("SUCCEEDED", msgspec.structs.replace(SUCCEEDED, amount_minor=999), DoubtType.AMOUNT),
        ("SUCCEEDED", msgspec.structs.replace(SUCCEEDED, currency="USD"), DoubtType.AMOUNT),
        ("SUCCEEDED", msgspec.structs.replace(SUCCEEDED, provider_reference="ref-2"), DoubtType.DUPLICATE),
    ],
)
def test_what_is_feared_follows_from_what_is_said(state: str, said: ProviderResult, feared: DoubtType) -> None:
    assert doubt_of(over(state), said).type == feared


def test_another_merchant_is_feared_to_be_another_amount_where_it_is_compared() -> None:
    said = msgspec.structs.replace(SUCCEEDED, merchant="somebody")
    ours = msgspec.structs.replace(POLICY, merchant_id="we")
    found = find_mismatch(over("SUCCEEDED"), said, ours)
    assert found == Mismatch("merchant somebody instead of we", DoubtType.AMOUNT)
    assert find_mismatch(over("SUCCEEDED"), said, POLICY) is None
    assert find_mismatch(over("SUCCEEDED"), msgspec.structs.replace(SUCCEEDED, merchant="we"), ours) is None


@pytest.mark.parametrize(
    ("state", "said", "answer", "expected"),
    [
        ("FAILED", SUCCEEDED, FAILED, Verdict(None)),
        ("FAILED", SUCCEEDED, SUCCEEDED, Verdict(DoubtType.LATE, 1_000, "EUR", "ref-1")),
        ("SUCCEEDED", FAILED, SUCCEEDED, Verdict(None)),
        ("SUCCEEDED", FAILED, FAILED, Verdict(DoubtType.DENIED, 1_000, "EUR", "ref-1")),
        (
            "SUCCEEDED",
            msgspec.structs.replace(SUCCEEDED, amount_minor=999),
            msgspec.structs.replace(SUCCEEDED, amount_minor=999),
            Verdict(DoubtType.AMOUNT, 999, "EUR", "ref-1"),
        ),
        ("SUCCEEDED", msgspec.structs.replace(SUCCEEDED, amount_minor=999), SUCCEEDED, Verdict(None)),
        ("FAILED", SUCCEEDED, UNKNOWN, None),
        ("FAILED", SUCCEEDED, PENDING, None),
        ("SUCCEEDED", FAILED, UNKNOWN, None),
    ],
)
def test_only_an_answer_resolves_a_doubt(
    state: str, said: ProviderResult, answer: ProviderResult, expected: Verdict | None
) -> None:
    assert verdict(over(state), said, answer) == expected


def test_not_found_is_an_answer_only_when_it_is_certain() -> None:
    order = over("FAILED", provider_reference="")
    assert verdict(order, SUCCEEDED, NOT_FOUND, asked_at_ms=CERTAIN_MS - 1) is None
    assert verdict(order, SUCCEEDED, NOT_FOUND, asked_at_ms=CERTAIN_MS) == Verdict(None)
    denied = Verdict(DoubtType.DENIED, 1_000, "EUR", "ref-1")
    assert verdict(over("SUCCEEDED"), FAILED, NOT_FOUND, asked_at_ms=CERTAIN_MS) == denied


def test_a_success_on_a_channel_that_was_left_is_late_or_a_duplicate() -> None:
    said = msgspec.structs.replace(SUCCEEDED, provider_reference="ref-0")
    for state, type_ in (("SUCCEEDED", DoubtType.DUPLICATE), ("FAILED", DoubtType.LATE), ("UNKNOWN", DoubtType.LATE)):
        order = over(state) if state != "UNKNOWN" else make_order(state="UNKNOWN")
        found = verdict(order, said, said, left(order))
        assert found == Verdict(type_, 1_000, "EUR", "ref-0")
        assert verdict(order, said, FAILED, left(order)) == Verdict(None)


@pytest.mark.parametrize("answer", [FAILED, NOT_FOUND, UNKNOWN, ProviderResult(status=R.NOT_SENT)])
def test_a_word_on_a_left_channel_that_agrees_is_no_doubt(answer: ProviderResult) -> None:
    order = over("SUCCEEDED")
    assert left_mismatch(left(order), order, answer) is None


def test_another_reference_is_not_explained_by_an_answer_about_the_known_one() -> None:
    twice = msgspec.structs.replace(SUCCEEDED, provider_reference="ref-2")
    order = over("SUCCEEDED")
    assert verdict(order, twice, SUCCEEDED) is None
    assert verdict(order, twice, twice) == Verdict(DoubtType.DUPLICATE, 1_000, "EUR", "ref-2")


def test_where_another_reference_has_failed_the_known_one_is_asked_about_at_once() -> None:
    """Else a lie about a reference that there is not would stand: the one that failed was the only one."""
    order, other_failed = over("SUCCEEDED"), msgspec.structs.replace(FAILED, provider_reference="ref-2")
    doubt = doubt_of(order, msgspec.structs.replace(SUCCEEDED, provider_reference="ref-2"))
    assert judge(order, None, doubt, other_failed, NOW_MS, POLICY) is None
    again = asked_again(order, None, doubt, other_failed, NOW_MS, POLICY)
    assert (again.provider_reference, again.due_at_ms) == (order.provider_reference, NOW_MS)
    assert again.evidence.endswith("\nref-2 has failed, ref-1 is asked about")
    assert judge(order, None, again, SUCCEEDED, NOW_MS, POLICY) == Verdict(None)
    denied = Verdict(DoubtType.DENIED, 1_000, "EUR", order.provider_reference)
    assert judge(order, None, again, other_failed, NOW_MS, POLICY) == denied
    assert judge(order, None, again, NOT_FOUND, NOW_MS + CERTAIN_MS, POLICY) == denied
    unclear = asked_again(order, None, doubt, msgspec.structs.replace(other_failed, status=R.UNKNOWN), NOW_MS, POLICY)
    assert unclear.provider_reference == "ref-2"


def test_an_open_order_is_settled_by_its_own_questions_and_only_another_amount_is_confirmed() -> None:
    order = make_order(state="UNKNOWN")
    wrong = msgspec.structs.replace(SUCCEEDED, amount_minor=999)
    assert verdict(order, wrong, wrong) == Verdict(DoubtType.AMOUNT, 999, "EUR", "ref-1")
    for answer in (SUCCEEDED, FAILED, PENDING):
        assert verdict(order, wrong, answer) is None


def test_it_is_asked_along_the_ladder_for_ever() -> None:
    order = over("FAILED")
    doubt, waits = doubt_of(order, SUCCEEDED), []
    for _ in range(4):
        doubt = asked_again(order, None, doubt, UNKNOWN, NOW_MS, POLICY)
        assert doubt.due_at_ms is not None
        waits.append(doubt.due_at_ms - NOW_MS)
    assert waits == [5_000, 60_000, 60_000, 60_000]
    assert (doubt.state, doubt.ask_count) == ("OPEN", 4)


def test_what_is_resolved_is_due_no_more() -> None:
    doubt = doubt_of(over("FAILED"), SUCCEEDED)
    done = resolved(doubt, Verdict(DoubtType.LATE, 1_000, "EUR", "ref-9"), NOW_MS + 5)
    assert (done.state, done.type, done.due_at_ms, done.resolved_at_ms) == ("CONFIRMED", "LATE", None, NOW_MS + 5)
    assert (done.amount_minor, done.provider_reference) == (1_000, "ref-9")
    assert resolved(doubt, Verdict(None), NOW_MS).state == "DISMISSED"


def test_evidence_is_added_once_and_bounded() -> None:
    doubt = doubt_of(over("FAILED"), SUCCEEDED)
    more = said_again(doubt, "something else")
    assert more is not None
    assert said_again(more, "something else") is None
    assert said_again(doubt, "x" * EVIDENCE_MAX) is None


def test_what_was_confirmed_is_not_doubted_again() -> None:
    order = over("FAILED")
    late = resolved(doubt_of(order, SUCCEEDED), Verdict(DoubtType.LATE, 1_000, "EUR", "ref-1"), NOW_MS)
    mismatch = find_mismatch(order, SUCCEEDED, POLICY)
    assert mismatch is not None
    assert is_known(late, SUCCEEDED, mismatch)
    assert not is_known(late, msgspec.structs.replace(SUCCEEDED, provider_reference="ref-3"), mismatch)
    assert not is_known(resolved(doubt_of(order, SUCCEEDED), Verdict(None), NOW_MS), SUCCEEDED, mismatch)


def test_a_question_goes_to_the_channel_and_the_reference_in_doubt() -> None:
    order = over("SUCCEEDED")
    said = msgspec.structs.replace(SUCCEEDED, provider_reference="ref-0")
    asked = question(order, doubt_of(order, said, left(order)))
    assert (asked.id, asked.channel, asked.provider_reference) == (order.id, "first", "ref-0")


_ANSWERS = st.builds(
    ProviderResult,
    status=st.sampled_from(list(R)),
    provider_reference=st.sampled_from(["", "ref-1", "ref-2"]),
    amount_minor=st.one_of(st.none(), st.integers(-(2**70), 2**70)),
    currency=st.sampled_from([None, "EUR", "USD"]),
)


@settings(max_examples=400)
@given(
    said=_ANSWERS,
    answer=_ANSWERS,
    state=st.sampled_from(["SUCCEEDED", "FAILED", "UNKNOWN"]),
    later=st.integers(0, 10**6),
)
def test_whatever_is_said_and_answered_a_verdict_says_what_the_answer_says(
    said: ProviderResult, answer: ProviderResult, state: str, later: int
) -> None:
    order = make_order(state="UNKNOWN") if state == "UNKNOWN" else over(state)
    if find_mismatch(order, said, POLICY) is None:
        return
    doubt = doubt_of(order, said)
    assert -(2**63) <= doubt.amount_minor < 2**63
    found = judge(order, None, doubt, answer, NOW_MS + later, POLICY)
    if found is None:
        return
    assert answer.status in (R.SUCCEEDED, R.FAILED, R.NOT_FOUND)
    if found.confirmed in (DoubtType.LATE, DoubtType.DUPLICATE, DoubtType.AMOUNT):
        assert answer.status is R.SUCCEEDED
    if found.confirmed is DoubtType.DENIED:
        assert (order.state, answer.status is R.SUCCEEDED) == ("SUCCEEDED", False)
    if found.confirmed is None and order.state == "FAILED":
        assert answer.status is not R.SUCCEEDED
