"""What Stripe's answers mean for an order: pure, every answer that its API documents and those it does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_gateway.channel_order import ProviderResult, ResultStatus
from channel_gateway.channels import stripe_outcomes as outcomes
from channel_gateway.channels.stripe_objects import (
    Intent,
    Payout,
    Refund,
    Unrepresentable,
    read,
    to_minor,
    to_stripe,
)
from channel_gateway.tables import ChannelOrder
from paykit.money import AMOUNT_MINOR_MAX, EXPONENT
from tests.channel_gateway.orders import make_sending

R = ResultStatus
PI = "pi_3MtwBwLkdIwHu7ix28a3tqPa"


def order(kind: str = "CHARGE", **changes: Any) -> ChannelOrder:
    following = {"token": "", "original_provider_reference": PI} if kind in ("CAPTURE", "VOID", "REFUND") else {}
    return make_sending(**({"kind": kind} | following | changes))


def said(of: ChannelOrder, **changes: Any) -> dict[str, Any]:
    """The payment intent of an order, as Stripe tells it."""
    return {
        "id": PI,
        "object": "payment_intent",
        "livemode": True,
        "status": "succeeded",
        "capture_method": "automatic" if of.kind == "CHARGE" else "manual",
        "amount": 1_000,
        "amount_received": 1_000,
        "amount_capturable": 0,
        "currency": "eur",
        "metadata": {"channel_order_id": of.id},
        "latest_charge": "ch_1",
    } | changes


def intent(of: ChannelOrder, **changes: Any) -> Intent:
    found = read(said(of, **changes), Intent)
    assert found is not None
    return found


def refused(of: ChannelOrder, status: int | None, **error: Any) -> ProviderResult:
    return outcomes.of_refusal(of, True, status, {"error": error})


def reserved(received: int, capturable: int) -> dict[str, Any]:
    """An authorisation with so much taken and so much left."""
    return {"status": "requires_capture", "amount_received": received, "amount_capturable": capturable}


DECLINED = {"type": "card_error", "code": "card_declined"}
INVALID = {"type": "invalid_request_error"}


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (402, DECLINED | {"decline_code": "generic_decline"}, "CARD_DECLINED"),
        (402, DECLINED | {"decline_code": "insufficient_funds"}, "INSUFFICIENT_FUNDS"),
        (402, DECLINED, "CARD_DECLINED"),
        (402, {"type": "card_error", "code": "expired_card"}, "CARD_EXPIRED"),
        (402, {"type": "card_error", "code": "authentication_required"}, "AUTHENTICATION_REQUIRED"),
        (402, {"type": "card_error"}, "PROVIDER_DECLINED"),
        (402, {"type": "card_error", "decline_code": "<b>No</b>"}, "PROVIDER_DECLINED"),
        (402, {"type": "card_error", "decline_code": "x" * 33}, "PROVIDER_DECLINED"),
        (400, INVALID | {"code": "amount_too_small"}, "AMOUNT_TOO_SMALL"),
        (400, INVALID, "PROVIDER_REFUSED"),
        (404, INVALID | {"code": "resource_missing"}, "RESOURCE_MISSING"),
    ],
)
def test_a_refusal_of_stripes_form_is_definite_and_has_a_reason(
    status: int, error: dict[str, Any], expected: str
) -> None:
    result = refused(order(), status, **error)
    assert (result.status, result.failure_reason) == (R.FAILED, expected)


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (401, INVALID, R.NOT_SENT),
        (403, INVALID, R.NOT_SENT),
        (429, INVALID | {"code": "rate_limit"}, R.NOT_SENT),
        (429, INVALID | {"code": "lock_timeout"}, R.NOT_SENT),
        (400, INVALID | {"code": "rate_limit"}, R.NOT_SENT),
        (400, INVALID | {"code": "lock_timeout"}, R.NOT_SENT),
        # Something is being done, or was, under the order's own key.
        (400, {"type": "idempotency_error"}, R.UNKNOWN),
        (409, {"type": "idempotency_error", "code": "idempotency_key_in_use"}, R.UNKNOWN),
        (429, INVALID | {"code": "idempotency_key_in_use"}, R.UNKNOWN),
        (409, INVALID | {"code": "lock_timeout"}, R.UNKNOWN),
        (424, INVALID, R.UNKNOWN),
        (500, {"type": "api_error"}, R.UNKNOWN),
        (502, DECLINED, R.UNKNOWN),
        (503, INVALID, R.UNKNOWN),
        (200, DECLINED, R.UNKNOWN),
        (302, INVALID, R.UNKNOWN),
        (402, {"type": "unheard_of"}, R.UNKNOWN),
        (400, {}, R.UNKNOWN),
        (None, DECLINED, R.UNKNOWN),
    ],
)
def test_what_was_turned_away_was_not_sent_and_all_else_is_unknown(
    status: int | None, error: dict[str, Any], expected: ResultStatus
) -> None:
    assert refused(order(), status, **error).status is expected


@pytest.mark.parametrize("body", [None, [], "error", {}, {"error": "invalid_client"}, {"error": {"type": 5}}])
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 429])
def test_a_refusal_that_is_not_of_stripes_form_says_nothing(status: int, body: Any) -> None:
    assert outcomes.of_refusal(order(), True, status, body) == outcomes.UNKNOWN


def test_a_decline_names_the_intent_and_is_not_believed_of_one_that_is_another_or_goes_on() -> None:
    of = order()
    declined = said(of, status="requires_payment_method", amount_received=0)
    result = refused(of, 402, **DECLINED, payment_intent=declined)
    assert (result.status, result.provider_reference) == (R.FAILED, PI)
    for changes in ({"livemode": False}, {"metadata": {"channel_order_id": order().id}}, {"status": "perhaps"}):
        assert refused(of, 402, **DECLINED, payment_intent=declined | changes) == outcomes.UNKNOWN
    for status in ("processing", "requires_capture", "succeeded"):
        result = refused(of, 402, **DECLINED, payment_intent=declined | {"status": status})
        assert (result.status, result.provider_reference) == (R.UNKNOWN, PI)


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("CHARGE", {}, (R.SUCCEEDED, 1_000)),
        ("CHARGE", {"amount_received": 999}, (R.SUCCEEDED, 999)),
        ("CHARGE", {"status": "processing"}, (R.PENDING, None)),
        ("CHARGE", {"status": "requires_capture"}, (R.UNKNOWN, None)),
        ("CHARGE", {"capture_method": "manual"}, (R.UNKNOWN, None)),
        ("CHARGE", {"currency": "zzz"}, (R.UNKNOWN, None)),
        ("CHARGE", {"status": "canceled"}, (R.FAILED, None)),
        ("AUTHORIZE", {"capture_method": "automatic"}, (R.UNKNOWN, None)),
        ("AUTHORIZE", reserved(0, 1_000), (R.SUCCEEDED, 1_000)),
        ("AUTHORIZE", reserved(400, 600), (R.SUCCEEDED, 1_000)),
        ("AUTHORIZE", reserved(0, 900), (R.SUCCEEDED, 900)),
        ("AUTHORIZE", {"amount_received": 600}, (R.SUCCEEDED, 1_000)),
        ("AUTHORIZE", {"status": "canceled", "amount_received": 0}, (R.SUCCEEDED, 1_000)),
        ("AUTHORIZE", {"status": "canceled", "latest_charge": None}, (R.FAILED, None)),
        ("AUTHORIZE", {"status": "canceled", "last_payment_error": DECLINED}, (R.FAILED, None)),
    ],
)
def test_a_state_of_the_intent_means_this(kind: str, changes: dict[str, Any], expected: tuple[Any, Any]) -> None:
    of = order(kind)
    result = outcomes.of_intent(of, intent(of, **changes))
    assert result is not None
    assert (result.status, result.amount_minor) == expected


@pytest.mark.parametrize("status", ["requires_action", "requires_confirmation", "requires_payment_method"])
def test_an_intent_that_waits_for_somebody_is_open(status: str) -> None:
    of = order()
    assert outcomes.of_intent(of, intent(of, status=status)) is None


def test_what_failed_has_the_reason_of_its_last_attempt() -> None:
    of = order()
    error = DECLINED | {"decline_code": "do_not_honor"}
    for status in ("requires_payment_method", "canceled"):
        result = outcomes.of_intent(of, intent(of, status=status, last_payment_error=error))
        assert result == outcomes.failed("DO_NOT_HONOR", PI)
    given_up = outcomes.of_intent(of, intent(of, status="canceled", cancellation_reason="abandoned"))
    assert given_up == outcomes.failed("AUTHENTICATION_REQUIRED", PI)
    by_hand = outcomes.of_intent(of, intent(of, status="canceled", cancellation_reason="fraudulent"))
    assert by_hand == outcomes.failed("PAYMENT_CANCELED", PI)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"metadata": {"OURS": "600"}, "amount_received": 600}, (R.SUCCEEDED, "", 600)),
        ({"metadata": {"OURS": "600", "OTHER": "300"}, "amount_received": 900}, (R.SUCCEEDED, "", 600)),
        ({"metadata": {"OURS": "600", "OTHER": "300"}, "status": "canceled"}, (R.SUCCEEDED, "", 600)),
        ({"metadata": {"OURS": "600"}, "status": "processing"}, (R.PENDING, "", None)),
        ({"metadata": {"OURS": "six"}}, (R.UNKNOWN, "", None)),
        ({"metadata": {}, "status": "requires_capture"}, (R.NOT_FOUND, "", None)),
        ({"metadata": {}, "status": "processing"}, (R.NOT_FOUND, "", None)),
        ({"metadata": {"OTHER": "300"}}, (R.FAILED, "AUTH_NOT_OPEN", None)),
        ({"metadata": {}, "status": "canceled"}, (R.FAILED, "AUTH_NOT_OPEN", None)),
        ({"metadata": {}, "status": "canceled", "cancellation_reason": "automatic"}, (R.FAILED, "AUTH_EXPIRED", None)),
    ],
)
def test_a_capture_is_known_by_its_mark_on_the_intent(changes: dict[str, Any], expected: tuple[Any, ...]) -> None:
    of, other = order("CAPTURE", amount_minor=600), order("CAPTURE")
    names = {"OURS": of.id, "OTHER": other.id}
    changes = changes | {"metadata": {names[name]: value for name, value in changes["metadata"].items()}}
    result = outcomes.of_following(of, intent(of, **changes))
    assert (result.status, result.failure_reason, result.amount_minor) == expected


@pytest.mark.parametrize(
    ("amount_minor", "changes", "expected"),
    [
        (1_000, {"status": "canceled", "amount_received": 0}, R.SUCCEEDED),
        (400, {"status": "canceled", "amount_received": 600}, R.SUCCEEDED),
        (400, {"amount_received": 600}, R.SUCCEEDED),
        (401, {"amount_received": 600}, R.FAILED),
        (1_000, {"status": "requires_capture", "amount_received": 0}, R.NOT_FOUND),
        (1_000, {"status": "requires_payment_method"}, R.FAILED),
        (1_000, {"status": "canceled", "capture_method": "automatic"}, R.FAILED),
    ],
)
def test_a_void_is_done_where_nothing_is_reserved_and_nothing_of_it_taken(
    amount_minor: int, changes: dict[str, Any], expected: ResultStatus
) -> None:
    of = order("VOID", amount_minor=amount_minor)
    assert outcomes.of_following(of, intent(of, **changes)).status is expected


def test_what_the_state_did_not_allow_may_have_been_done_before() -> None:
    unexpected = INVALID | {"code": "payment_intent_unexpected_state"}
    capture, void = order("CAPTURE", amount_minor=600), order("VOID")
    done = said(capture, metadata={capture.id: "600"}, amount_received=600)
    assert refused(capture, 400, **unexpected, payment_intent=done).status is R.SUCCEEDED
    canceled = said(void, status="canceled", amount_received=0)
    assert refused(void, 400, **unexpected, payment_intent=canceled).status is R.SUCCEEDED
    assert refused(capture, 400, **unexpected, payment_intent=canceled).failure_reason == "AUTH_NOT_OPEN"
    open_ = said(void, status="requires_capture", amount_received=0)
    assert refused(void, 400, **unexpected, payment_intent=open_).failure_reason == "AUTH_NOT_OPEN"
    other = canceled | {"id": "pi_another"}
    assert refused(void, 400, **unexpected, payment_intent=other) == outcomes.UNKNOWN


@pytest.mark.parametrize(
    ("kind", "code", "param", "expected"),
    [
        ("CAPTURE", "amount_too_large", "amount_to_capture", "CAPTURE_EXCEEDS_AUTH"),
        ("REFUND", "amount_too_large", "amount", "REFUND_EXCEEDS_CHARGE"),
        ("REFUND", None, "amount", "REFUND_EXCEEDS_CHARGE"),
        ("REFUND", "charge_already_refunded", None, "REFUND_EXCEEDS_CHARGE"),
        ("CHARGE", "amount_too_large", "amount", "AMOUNT_TOO_LARGE"),
        ("PAYOUT", "balance_insufficient", None, "BALANCE_INSUFFICIENT"),
    ],
)
def test_too_much_is_called_what_it_is(kind: str, code: str | None, param: str | None, expected: str) -> None:
    assert refused(order(kind), 400, **INVALID, code=code, param=param).failure_reason == expected


def test_a_refund_that_is_refused_is_not_judged_by_the_payment_it_is_of() -> None:
    of = order("REFUND")
    result = refused(of, 400, **INVALID, code="charge_already_refunded", payment_intent=said(order()))
    assert result.status is R.FAILED


@pytest.mark.parametrize(
    ("status", "expected", "reason"),
    [
        ("succeeded", R.SUCCEEDED, ""),
        ("pending", R.PENDING, ""),
        ("requires_action", R.PENDING, ""),
        ("failed", R.FAILED, "CARD_EXPIRED"),
        ("canceled", R.FAILED, "REFUND_CANCELED"),
    ],
)
def test_a_refunds_state_means_this(status: str, expected: ResultStatus, reason: str) -> None:
    refund = Refund("re_1", "refund", status, 500, "eur", failure_reason="expired_or_canceled_card")  # type: ignore[arg-type]
    result = outcomes.of_refund(refund)
    assert (result.status, result.failure_reason, result.amount_minor, result.currency) == (
        expected, reason, 500, "EUR",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("status", "expected", "reason"),
    [
        ("paid", R.SUCCEEDED, ""),
        ("pending", R.PENDING, ""),
        ("in_transit", R.PENDING, ""),
        ("failed", R.FAILED, "ACCOUNT_CLOSED"),
        ("canceled", R.FAILED, "PAYOUT_CANCELED"),
    ],
)
def test_a_payouts_state_means_this(status: str, expected: ResultStatus, reason: str) -> None:
    payout = Payout("po_1", "payout", True, status, 500, "eur", failure_code="account_closed")  # type: ignore[arg-type]
    result = outcomes.of_payout(payout)
    assert (result.status, result.failure_reason, result.amount_minor) == (expected, reason, 500)


@given(st.sampled_from(sorted(EXPONENT)), st.integers(min_value=0, max_value=AMOUNT_MINOR_MAX))
def test_an_amount_survives_the_way_to_stripe_and_back_or_is_refused(currency: str, amount_minor: int) -> None:
    try:
        amount = to_stripe(amount_minor, currency)
    except Unrepresentable:
        assert currency == "MGA"
        assert amount_minor % 100
        return
    assert to_minor(amount, currency.lower()) == amount_minor


def test_currencies_that_stripe_counts_otherwise() -> None:
    assert to_stripe(500, "JPY") == 500
    assert to_stripe(500, "ISK") == to_stripe(500, "UGX") == 50_000
    assert to_stripe(500, "MGA") == 5
    assert to_minor(50_000, "isk") == 500
    for amount, currency in ((50_001, "isk"), (1, "zzz")):
        with pytest.raises(Unrepresentable):
            to_minor(amount, currency)


SAID = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(SAID, st.integers(100, 599))
def test_nothing_that_a_provider_answers_raises(body: Any, status: int) -> None:
    for of in (order("CHARGE"), order("CAPTURE"), order("REFUND")):
        assert outcomes.of_refusal(of, True, status, {"error": body}).status in set(R)
        assert outcomes.of_refusal(of, True, status, body) == outcomes.UNKNOWN or isinstance(body, dict)
