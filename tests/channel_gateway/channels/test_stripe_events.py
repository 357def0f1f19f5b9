"""Stripe's webhooks: whose word is taken, and what each event says of which order."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import stripe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from channel_gateway.channel_order import ResultStatus
from channel_gateway.channels.base import NotificationInvalid, NotificationIrrelevant, ReceivedNotification
from channel_gateway.channels.stripe_events import read_event, verify
from channel_gateway.signature import SignatureInvalid
from tests.channel_gateway.channels.stripe_webhooks import sign
from tests.channel_gateway.orders import make_order

R = ResultStatus
NOW_S = 1_700_000_000
BODY = b'{"id": "evt_1"}'
ORDER, CAPTURE = make_order().id, make_order(kind="CAPTURE").id
PI = "pi_3MtwBwLkdIwHu7ix28a3tqPa"


def check(header: str, body: bytes = BODY, secrets: tuple[str, ...] = ("whsec_old", "whsec_new")) -> None:
    verify(header, body, secrets, NOW_S, 300)


def test_a_body_signed_with_either_secret_is_taken_with_what_else_the_header_carries() -> None:
    for signed in (["whsec_old"], ["whsec_new"], ["whsec_new", "whsec_old"], ["whsec_unknown", "whsec_new"]):
        check(sign(BODY, signed, NOW_S))
    check(stripe.WebhookSignature.generate_signature_header(BODY.decode(), "whsec_new", NOW_S))


def test_a_rolled_secret_is_not_taken_any_more_once_it_is_removed() -> None:
    with pytest.raises(SignatureInvalid):
        check(sign(BODY, ["whsec_old"], NOW_S), secrets=("whsec_new",))


@pytest.mark.parametrize("off_s", [-301, 301, 10**9])
def test_what_was_signed_too_long_ago_or_in_the_future_is_refused(off_s: int) -> None:
    with pytest.raises(SignatureInvalid, match="window"):
        check(sign(BODY, ["whsec_new"], NOW_S + off_s))
    for inside_s in (-300, 300):
        check(sign(BODY, ["whsec_new"], NOW_S + inside_s))


_GOOD = sign(BODY, ["whsec_new"], NOW_S)
_DIGEST = _GOOD.split("v1=")[1].split(",")[0]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "t=",
        _DIGEST,
        f"t={NOW_S}",
        f"v1={_DIGEST}",
        f"t={NOW_S},v0={_DIGEST}",  # another scheme, with what v1 would be
        f"t={NOW_S},v1={_DIGEST[:-1]}",
        f"t={NOW_S},v1={_DIGEST.upper()}",
        f"t={NOW_S - 1},v1={_DIGEST}",
        f"t={NOW_S},t={NOW_S - 1},v1={_DIGEST}",  # which of them was signed is not for the sender to say twice
        f"t={NOW_S - 1},t={NOW_S},v1={_DIGEST}",
        f"t={NOW_S}.0,v1={_DIGEST}",
        f"t=-{NOW_S},v1={_DIGEST}",
        f"t={NOW_S}, v1={_DIGEST}",
        f"t={NOW_S},v1={_DIGEST},",
        f"t={NOW_S},v1=é{_DIGEST}",
        f"t={NOW_S},v1={_DIGEST}\n",
        f"t={NOW_S}" + f",v1={_DIGEST}" * 20,
        f"t={'9' * 13},v1={_DIGEST}",
    ],
)
def test_a_header_of_another_form_or_with_another_digest_is_refused(header: str) -> None:
    with pytest.raises(SignatureInvalid):
        check(header)


def test_another_body_is_refused() -> None:
    for body in (BODY + b" ", BODY[:-1], b""):
        with pytest.raises(SignatureInvalid):
            check(_GOOD, body)


def event(type_: str, about: dict[str, Any], **changes: Any) -> bytes:
    said = {"id": "evt_1", "object": "event", "type": type_, "livemode": True, "data": {"object": about}}
    return json.dumps(said | changes).encode()


def intent(kind: str = "CHARGE", **changes: Any) -> dict[str, Any]:
    return {
        "id": PI,
        "object": "payment_intent",
        "livemode": True,
        "status": "succeeded",
        "capture_method": "automatic" if kind == "CHARGE" else "manual",
        "amount": 1_000,
        "amount_received": 1_000,
        "amount_capturable": 0,
        "currency": "eur",
        "metadata": {"channel_order_id": ORDER, "channel_order_kind": kind},
    } | changes


def refund(**changes: Any) -> dict[str, Any]:
    return {
        "id": "re_1",
        "object": "refund",
        "status": "succeeded",
        "amount": 400,
        "currency": "eur",
        "metadata": {"channel_order_id": ORDER},
    } | changes


def payout(status: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": "po_1",
        "object": "payout",
        "livemode": True,
        "status": status,
        "amount": 400,
        "currency": "eur",
        "metadata": {"channel_order_id": ORDER},
    } | changes


def told(type_: str, about: dict[str, Any]) -> ReceivedNotification:
    return read_event(event(type_, about), True, "")


DECLINED = {"type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds"}
CAPTURED = {"channel_order_id": ORDER, "channel_order_kind": "AUTHORIZE", CAPTURE: "600"}


@pytest.mark.parametrize(
    ("type_", "about", "order_id", "status", "amount_minor", "reason"),
    [
        ("payment_intent.succeeded", intent(), ORDER, R.SUCCEEDED, 1_000, ""),
        ("payment_intent.succeeded", intent(amount_received=999), ORDER, R.SUCCEEDED, 999, ""),
        (
            "payment_intent.succeeded",
            intent("AUTHORIZE", metadata=CAPTURED, amount_received=600),
            CAPTURE, R.SUCCEEDED, 600, "",
        ),
        (
            "payment_intent.amount_capturable_updated",
            intent("AUTHORIZE", status="requires_capture", amount_received=0, amount_capturable=1_000),
            ORDER, R.SUCCEEDED, 1_000, "",
        ),
        (
            "payment_intent.amount_capturable_updated",
            intent("AUTHORIZE", status="requires_capture", amount_received=400, amount_capturable=600),
            ORDER, R.SUCCEEDED, 1_000, "",
        ),
        (
            "payment_intent.payment_failed",
            intent(status="requires_payment_method", amount_received=0, last_payment_error=DECLINED),
            ORDER, R.FAILED, 1_000, "INSUFFICIENT_FUNDS",
        ),
        ("payment_intent.canceled", intent(status="canceled"), ORDER, R.FAILED, 1_000, "PAYMENT_CANCELED"),
        ("refund.created", refund(status="pending"), ORDER, R.PENDING, 400, ""),
        ("refund.updated", refund(), ORDER, R.SUCCEEDED, 400, ""),
        ("refund.failed", refund(status="failed", failure_reason="declined"), ORDER, R.FAILED, 400, "DECLINED"),
        (
            "charge.refunded",
            {"id": "ch_1", "object": "charge", "refunds": {"object": "list", "data": [refund(), refund(id="re_0")]}},
            ORDER, R.SUCCEEDED, 400, "",
        ),
        ("payout.paid", payout("paid"), ORDER, R.SUCCEEDED, 400, ""),
        ("payout.failed", payout("failed", failure_code="no_account"), ORDER, R.FAILED, 400, "NO_ACCOUNT"),
    ],
    ids=itertools.count(),  # the orders' own differ from process to process
)  # fmt: skip
def test_an_event_says_this_of_the_order_that_its_metadata_names(
    type_: str, about: dict[str, Any], order_id: str, status: ResultStatus, amount_minor: int, reason: str
) -> None:
    received = told(type_, about)
    assert (received.notification_id, received.channel_order_id) == ("evt_1", order_id)
    result = received.result
    assert (result.status, result.amount_minor, result.currency) == (status, amount_minor, "EUR")
    [named] = about.get("refunds", {"data": [about]})["data"][:1]
    assert (result.failure_reason, result.provider_reference) == (reason, named["id"])


@pytest.mark.parametrize(
    ("type_", "about"),
    [
        ("customer.created", {"object": "customer"}),
        ("payment_intent.created", intent(status="requires_confirmation")),
        ("payment_intent.succeeded", intent(metadata={})),  # made by hand
        ("payment_intent.succeeded", intent(metadata={"channel_order_kind": "CHARGE", "channel_order_id": "chn_1"})),
        ("payment_intent.succeeded", intent("AUTHORIZE")),  # captured by hand
        ("payment_intent.succeeded", intent("AUTHORIZE", metadata=CAPTURED | {make_order().id: "300"})),
        ("payment_intent.canceled", intent("AUTHORIZE", status="canceled")),  # a void, which it does not name
        ("payment_intent.amount_capturable_updated", intent("AUTHORIZE")),
        ("charge.refunded", {"id": "ch_1", "object": "charge"}),
        ("charge.refunded", {"id": "ch_1", "object": "charge", "refunds": {"data": []}}),
        ("refund.updated", refund(metadata={})),
        ("payout.paid", payout("paid", metadata={})),
    ],
)
def test_an_event_that_is_of_no_order_of_ours_is_irrelevant(type_: str, about: dict[str, Any]) -> None:
    with pytest.raises(NotificationIrrelevant):
        told(type_, about)


@pytest.mark.parametrize(
    ("type_", "about"),
    [
        ("payment_intent.succeeded", {}),
        ("payment_intent.succeeded", intent(status="processing")),
        ("payment_intent.succeeded", intent(status="perhaps")),
        ("payment_intent.succeeded", intent(amount_received="1000")),
        ("payment_intent.succeeded", intent(amount_received=-1)),
        ("payment_intent.succeeded", intent(currency="zzz")),
        ("payment_intent.payment_failed", intent()),
        ("payment_intent.payment_failed", intent(status="requires_payment_method")),
        ("refund.updated", refund(object="charge")),
        ("payout.paid", payout("lost")),
    ],
)
def test_an_event_whose_object_is_not_of_its_form_is_invalid(type_: str, about: dict[str, Any]) -> None:
    with pytest.raises(NotificationInvalid):
        told(type_, about)


def test_an_event_of_the_other_mode_is_invalid() -> None:
    body = event("payment_intent.succeeded", intent())
    with pytest.raises(NotificationInvalid):
        read_event(body, False, "")


def test_an_event_tells_its_account_where_one_is_acted_for_and_connected_ones_are_not_listened_to_else() -> None:
    body = event("payment_intent.succeeded", intent())
    assert read_event(body, True, "").result.merchant is None
    assert read_event(body, True, "acct_ours").result.merchant == ""
    # A connected account can write into its own metadata what it likes.
    with pytest.raises(NotificationIrrelevant):
        read_event(event("payment_intent.succeeded", intent(), account="acct_theirs"), True, "")
    theirs = event("payment_intent.succeeded", intent(), account="acct_theirs")
    assert read_event(theirs, True, "acct_ours").result.merchant == "acct_theirs"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    "id",
    "object",
    "status",
    "amount",
    "amount_received",
    "currency",
    "metadata",
    "last_payment_error",
    "refunds",
]
TYPES = [
    "payment_intent.succeeded",
    "payment_intent.payment_failed",
    "charge.refunded",
    "refund.updated",
    "payout.paid",
]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(TYPES), st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=4))
def test_whatever_an_event_holds_it_is_read_or_refused(type_: str, changes: dict[str, Any]) -> None:
    for about in (intent(), refund(), payout("paid")):
        try:
            received = told(type_, about | changes)
        except (NotificationInvalid, NotificationIrrelevant):
            continue
        assert received.channel_order_id == ORDER


@given(st.text(max_size=200), st.binary(max_size=50))
def test_whatever_a_header_holds_it_signs_nothing(header: str, body: bytes) -> None:
    for text in (header, f"t={NOW_S},v1={header}", f"t={header},v1={_DIGEST}"):
        with pytest.raises(SignatureInvalid):
            check(text, body + b" ")
