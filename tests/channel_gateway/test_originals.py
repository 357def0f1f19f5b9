"""What may follow a charge, a capture or an authorisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_gateway.originals import (
    capturable_minor,
    check_capture,
    check_refund,
    check_void,
    refundable_minor,
)
from channel_gateway.tables import ChannelOrder
from paykit.errors import FailedPrecondition
from tests.channel_gateway.orders import make_order


def done(kind: str, amount_minor: int = 1_000, **changes: Any) -> ChannelOrder:
    return make_order(**({"kind": kind, "state": "SUCCEEDED", "amount_minor": amount_minor} | changes))


AUTHORIZATION = done("AUTHORIZE")


def follower(kind: str, amount_minor: int, state: str = "ACCEPTED", original: ChannelOrder = AUTHORIZATION) -> Any:
    return make_order(
        kind=kind,
        state=state,
        amount_minor=amount_minor,
        payment_id=original.payment_id,
        original_channel_order_id=original.id,
    )


def reason_of(call: Any, *arguments: Any) -> str:
    with pytest.raises(FailedPrecondition) as refused:
        call(*arguments)
    return refused.value.reason


def test_failed_refunds_leave_their_amount_refundable() -> None:
    charge = done("CHARGE")
    refunds = [follower("REFUND", 300, original=charge), follower("REFUND", 500, "FAILED", charge)]
    assert refundable_minor(charge, refunds) == 700


@pytest.mark.parametrize("kind", ["CHARGE", "CAPTURE"])
def test_a_charge_and_a_capture_are_refunded_up_to_what_they_moved(kind: str) -> None:
    original = done(kind)
    before = [follower("REFUND", 400, "UNKNOWN", original)]
    assert check_refund(original, before, follower("REFUND", 600, original=original)) is original
    assert reason_of(check_refund, original, before, follower("REFUND", 601, original=original)) == (
        "REFUND_EXCEEDS_CHARGE"
    )


@pytest.mark.parametrize("settled_minor", [1_500, 500])
def test_what_was_really_moved_may_be_refunded_and_no_more(settled_minor: int) -> None:
    charge = done("CHARGE", settled_minor=settled_minor)
    assert check_refund(charge, [], follower("REFUND", settled_minor, original=charge)) is charge
    assert reason_of(check_refund, charge, [], follower("REFUND", settled_minor + 1, original=charge))


@pytest.mark.parametrize("kind", ["AUTHORIZE", "VOID", "REFUND", "PAYOUT"])
def test_nothing_else_is_refunded(kind: str) -> None:
    original = done(kind)
    wanted = follower("REFUND", 1, original=original)
    assert reason_of(check_refund, original, [], wanted) == "ORIGINAL_NOT_REFUNDABLE"


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "UNKNOWN"},
        {"state": "FAILED"},
        {"channel": "other"},
        {"currency": "USD"},
        {"kind": "CHARGE"},
        {"payment_id": "pay_other"},
    ],
)
@pytest.mark.parametrize("kind", ["CAPTURE", "VOID"])
def test_what_goes_on_needs_a_succeeded_authorization_of_the_same_payment_and_channel(
    kind: str, changes: dict[str, Any]
) -> None:
    original = msgspec.structs.replace(AUTHORIZATION, **changes)
    assert reason_of(_check, kind, original, []) == "ORIGINAL_NOT_AUTHORIZED"
    assert reason_of(_check, kind, None, []) == "ORIGINAL_NOT_AUTHORIZED"


def _check(kind: str, original: ChannelOrder | None, followers: Sequence[ChannelOrder], amount_minor: int = 1) -> Any:
    wanted = follower(kind, amount_minor)
    if kind == "CAPTURE":
        return check_capture(original, followers, wanted, captures_max=1)
    return check_void(original, followers, wanted)


def test_a_capture_takes_at_most_what_is_left_and_as_often_as_the_channel_can() -> None:
    assert reason_of(_check, "CAPTURE", AUTHORIZATION, [], 1_001) == "AUTHORIZATION_EXCEEDED"
    before = [follower("CAPTURE", 400)]
    assert reason_of(_check, "CAPTURE", AUTHORIZATION, before) == "CAPTURES_EXHAUSTED"
    assert check_capture(AUTHORIZATION, before, follower("CAPTURE", 600), captures_max=2) is AUTHORIZATION
    assert reason_of(check_capture, AUTHORIZATION, before, follower("CAPTURE", 601), 2) == "AUTHORIZATION_EXCEEDED"


def test_a_failed_capture_or_void_does_not_count() -> None:
    before = [follower("CAPTURE", 400, "FAILED"), follower("VOID", 1_000, "FAILED")]
    assert _check("CAPTURE", AUTHORIZATION, before, 1_000) is AUTHORIZATION
    assert _check("VOID", AUTHORIZATION, before, 1_000) is AUTHORIZATION


@pytest.mark.parametrize("state", ["ACCEPTED", "UNKNOWN", "SUCCEEDED"])
@pytest.mark.parametrize("kind", ["CAPTURE", "VOID"])
def test_nothing_goes_on_once_a_void_is_under_way(kind: str, state: str) -> None:
    assert reason_of(_check, kind, AUTHORIZATION, [follower("VOID", 1_000, state)]) == "AUTHORIZATION_VOIDED"


def test_a_void_gives_up_what_captures_left_and_not_what_they_took() -> None:
    before = [follower("CAPTURE", 400, "UNKNOWN")]
    assert _check("VOID", AUTHORIZATION, before, 600) is AUTHORIZATION
    assert reason_of(_check, "VOID", AUTHORIZATION, before, 601) == "AUTHORIZATION_EXCEEDED"


_ASKED = st.lists(
    st.tuples(st.sampled_from(["CAPTURE", "VOID"]), st.integers(1, 700), st.sampled_from(["FAILED", "SUCCEEDED"])),
    max_size=15,
)


@given(asked=_ASKED, captures_max=st.integers(1, 5))
def test_whatever_is_asked_for_captures_never_exceed_their_authorization(
    asked: list[tuple[str, int, str]], captures_max: int
) -> None:
    followers: list[ChannelOrder] = []
    for kind, amount_minor, state in asked:
        wanted = follower(kind, amount_minor, state)
        try:
            if kind == "CAPTURE":
                check_capture(AUTHORIZATION, followers, wanted, captures_max)
            else:
                check_void(AUTHORIZATION, followers, wanted)
        except FailedPrecondition:
            continue
        followers.append(wanted)
    standing = [order for order in followers if order.state != "FAILED"]
    assert capturable_minor(AUTHORIZATION, followers) >= 0
    assert sum(order.kind == "CAPTURE" for order in standing) <= captures_max
    assert [order.kind for order in standing].count("VOID") <= 1
    if any(order.kind == "VOID" for order in standing):
        assert standing[-1].kind == "VOID"
