"""Another channel only after a definite failure: what takes an order there, and what never does."""

from __future__ import annotations

from typing import Any

import pytest

from channel_gateway.channel_order import (
    FAILED_EVENT,
    HANDOVER_GRACE_MS,
    PROVIDER_UNREACHABLE,
    AttemptOutcome,
    ChannelOrderState,
    ProviderResult,
    ResultStatus,
    Source,
)
from channel_gateway.progress import Left, apply_result
from channel_gateway.routing import Onward, onward_of, stored
from channel_gateway.tables import ChannelOrder
from paymesh.channel.v1 import channel_order_pb2
from tests.channel_gateway.orders import NOW_MS, POLICY, make_sending

R, S = ResultStatus, ChannelOrderState
DECLINED = ProviderResult(status=R.FAILED, provider_reference="ref-1", failure_reason="CARD_DECLINED")
NOT_SENT = ProviderResult(status=R.NOT_SENT)
WAY = Onward(channels=("b", "c"), channels_max=3, switch_on=("CARD_DECLINED", PROVIDER_UNREACHABLE))


def routed(**changes: Any) -> ChannelOrder:
    """A charge whose call is under way, and that may go on to two other channels."""
    return make_sending(**({"route": stored(WAY)} | changes))


def reply(order: ChannelOrder, result: ProviderResult, **options: Any) -> Any:
    return apply_result(order, result, Source.REPLY, NOW_MS, POLICY, **options)


def test_outcomes_of_attempts_have_the_names_of_the_protocol() -> None:
    names = {n.removeprefix("ATTEMPT_OUTCOME_") for n in channel_order_pb2.AttemptOutcome.keys()}  # noqa: SIM118
    assert names - {"UNSPECIFIED"} == {outcome.value for outcome in AttemptOutcome}


def test_a_definite_failure_takes_the_order_to_the_next_channel_as_new() -> None:
    before = routed(query_count=2, send_count=3)
    applied = reply(before, DECLINED)
    after = applied.order
    assert (after.id, after.state, after.channel, after.attempt_no) == (before.id, "ACCEPTED", "b", 2)
    assert (after.provider_reference, after.send_count, after.query_count, after.sent_at_ms) == ("", 0, 0, None)
    assert after.due_at_ms == NOW_MS + HANDOVER_GRACE_MS
    assert onward_of(after.route).channels == ("c",)
    assert applied.left == Left(AttemptOutcome.FAILED, "CARD_DECLINED", "ref-1")
    assert applied.announce == ""


def test_what_was_never_sent_goes_on_at_once() -> None:
    applied = reply(routed(), NOT_SENT)
    assert (applied.order.channel, applied.left) == ("b", Left(AttemptOutcome.NOT_SENT, PROVIDER_UNREACHABLE))


def test_what_was_never_sent_is_sent_again_where_the_rule_names_no_such_reason() -> None:
    way = Onward(channels=("b",), channels_max=2, switch_on=("CARD_DECLINED",))
    applied = reply(routed(route=stored(way)), NOT_SENT)
    assert (applied.order.channel, applied.order.state, applied.left) == ("sandbox_card", "ACCEPTED", None)


def test_channels_that_are_not_well_are_avoided() -> None:
    assert reply(routed(), DECLINED, avoid={"b"}).order.channel == "c"


def test_the_last_channel_fails_for_good() -> None:
    applied = reply(routed(attempt_no=3, route=stored(WAY)), DECLINED)
    assert (applied.order.state, applied.order.failure_reason, applied.announce) == (
        "FAILED", "CARD_DECLINED", FAILED_EVENT,
    )  # fmt: skip
    nowhere = reply(reply(routed(), DECLINED).order, DECLINED)  # an order that is not under way is not refused
    assert nowhere.order is None


def test_another_reason_fails_for_good() -> None:
    expired = ProviderResult(status=R.FAILED, failure_reason="CARD_EXPIRED")
    assert reply(routed(), expired).order.state == "FAILED"


@pytest.mark.parametrize("state", ["PENDING", "UNKNOWN"])
@pytest.mark.parametrize("source", list(Source))
def test_an_order_whose_outcome_was_open_never_leaves_its_channel(state: str, source: Source) -> None:
    order = routed(state=state)
    applied = apply_result(order, DECLINED, source, NOW_MS, POLICY, NOW_MS)
    assert applied.order is not None
    assert (applied.order.state, applied.order.channel, applied.left) == ("FAILED", order.channel, None)


@pytest.mark.parametrize("status", [R.UNKNOWN, R.PENDING, R.NOT_FOUND])
@pytest.mark.parametrize("source", list(Source))
def test_no_answer_that_is_not_definite_takes_it_anywhere(status: ResultStatus, source: Source) -> None:
    applied = apply_result(routed(), ProviderResult(status=status), source, NOW_MS, POLICY, NOW_MS)
    assert applied.left is None
    assert applied.order is None or applied.order.channel == "sandbox_card"


def test_a_notified_failure_waits_for_the_reply_that_decides() -> None:
    order = routed()
    notified = apply_result(order, DECLINED, Source.NOTIFICATION, NOW_MS, POLICY)
    assert (notified.order, notified.left, notified.announce) == (None, None, "")
    # Without another channel to go to there is nothing to wait for.
    alone = apply_result(make_sending(), DECLINED, Source.NOTIFICATION, NOW_MS, POLICY)
    assert alone.order is not None
    assert alone.order.state == "FAILED"


@pytest.mark.parametrize("state", sorted(state.value for state in S if state not in (S.SENDING, S.ACCEPTED)))
def test_what_was_not_sent_is_only_believed_of_a_call_under_way(state: str) -> None:
    applied = reply(routed(state=state), NOT_SENT)
    assert (applied.order, applied.left) == (None, None)
