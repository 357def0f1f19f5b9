"""The calls that orders become: exactly what is sent, and what is signed of it."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_gateway.channels.signed_json_keys import Scheme, SecretEncoding, signing_key
from channel_gateway.channels.signed_json_requests import CallMaker, ReferenceMissing
from channel_gateway.channels.signed_json_settings import SignedJsonChannelSettings
from channel_gateway.tables import ChannelOrder
from paykit.errors import ConfigurationError
from tests.channel_gateway.channels.bank_rig import SECRETS
from tests.channel_gateway.channels.page import channels_of_page, with_secrets
from tests.channel_gateway.orders import NOW_MS, make_sending

BANK: dict[str, Any] = with_secrets(channels_of_page()["harbour_bank"], SECRETS)
KEY = SECRETS["harbour_requests"]
SIGN = signing_key(Scheme.HMAC_SHA256, KEY, SecretEncoding.TEXT, "key")


def maker(name: str, **changes: Any) -> CallMaker:
    settings = SignedJsonChannelSettings.model_validate(BANK | changes)
    return CallMaker(settings, settings, settings.calls[name], SIGN, "/pay")


def with_call(name: str, **changes: Any) -> dict[str, Any]:
    """The bank's calls with one of them changed."""
    return {"calls": BANK["calls"] | {name: BANK["calls"][name] | changes}}


def refund_of(reference: str, **changes: Any) -> ChannelOrder:
    return make_sending(kind="REFUND", token="", original_provider_reference=reference, **changes)


def test_a_call_is_what_the_settings_say_of_the_order() -> None:
    order = make_sending(amount_minor=1_050)
    call = maker("CHARGE").make(order, NOW_MS, "nonce1")
    assert (call.method, call.target) == ("POST", "/pay/v2/payments")
    assert call.body is not None
    assert json.loads(call.body) == {
        "order": {
            "reference": order.id,
            "amount": {"value": "10.50", "currency": "EUR"},
            "created": "2023-11-14T22:13:20Z",
        },
        "source": {"token": order.token},
    }
    digest = hashlib.sha256(call.body).hexdigest()
    signed = f"POST\n/pay/v2/payments\n2023-11-14T22:13:20Z\nnonce1\n{digest}"
    assert call.headers == {
        "X-Key-Id": "paymesh-1",
        "X-Timestamp": "2023-11-14T22:13:20Z",
        "X-Nonce": "nonce1",
        "X-Signature": "v1=" + hmac.new(KEY.encode(), signed.encode(), "sha256").hexdigest(),
        "Idempotency-Key": order.id,
        "Content-Type": "application/json",
    }


def test_the_same_order_again_has_the_same_body() -> None:
    order = make_sending()
    first, again = (maker("CHARGE").make(order, at_ms, n) for at_ms, n in ((NOW_MS, "a"), (NOW_MS + 90_000, "b")))
    assert first.body == again.body
    assert first.headers["X-Signature"] != again.headers["X-Signature"]


def test_a_query_has_no_body_and_names_the_order_in_its_path() -> None:
    order = make_sending()
    call = maker("QUERY").make(order, NOW_MS, "n")
    assert (call.method, call.target, call.body) == ("GET", f"/pay/v2/orders/{order.id}", None)
    assert "Content-Type" not in call.headers


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))
def test_no_value_becomes_more_than_one_part_of_a_path(reference: str) -> None:
    call = _REFUND.make(refund_of(reference), NOW_MS, "n")
    assert call.target.startswith("/pay/v2/payments/")
    part = call.target.removeprefix("/pay/v2/payments/").removesuffix("/refunds")
    assert unquote(part, errors="strict") == reference
    assert not set(part) & set("/?#&= ")


_REFUND = maker("REFUND")


def test_what_the_provider_never_told_cannot_be_named() -> None:
    with pytest.raises(ReferenceMissing):
        maker("REFUND").make(refund_of(""), NOW_MS, "n")
    in_body = with_call(
        "REFUND",
        path="/v2/refunds",
        body=BANK["calls"]["REFUND"]["body"] | {"original": "{original_provider_reference}"},
    )
    with pytest.raises(ReferenceMissing):
        maker("REFUND", **in_body).make(refund_of(""), NOW_MS, "n")
    assert b'"original":"p1"' in (maker("REFUND", **in_body).make(refund_of("p1"), NOW_MS, "n").body or b"")


def test_an_empty_text_is_left_out_and_constants_stay_as_they_are() -> None:
    body = BANK["calls"]["CHARGE"]["body"] | {
        "known": "{provider_reference}",
        "note": "",
        "capture": True,
        "count": 3,
        "text": "pay {order_id}!",
    }
    order = make_sending()
    call = maker("CHARGE", **with_call("CHARGE", body=body)).make(order, NOW_MS, "n")
    said = json.loads(call.body or b"")
    assert {key: said.get(key) for key in ("known", "note", "capture", "count", "text")} == {
        "known": None,
        "note": "",
        "capture": True,
        "count": 3,
        "text": f"pay {order.id}!",
    }


@pytest.mark.parametrize(
    ("amount_format", "shown"),
    [("minor", b":1050,"), ("minor_text", b':"1050",'), ("decimal", b':"10.50",'), ("decimal_number", b":10.50,")],
)
def test_an_amount_is_written_as_the_provider_wants_it(amount_format: str, shown: bytes) -> None:
    call = maker("CHARGE", amount_format=amount_format).make(make_sending(amount_minor=1_050), NOW_MS, "n")
    assert b'"value"' + shown in (call.body or b"")


def test_a_bearer_of_a_secret_needs_no_signature() -> None:
    headers = {"Authorization": "Bearer {secrets.token}", "Idempotency-Key": "{order_id}"}
    secret = {"secrets": {"token": {"value": "t0k3n"}}, "shadow": None}
    bearer = secret | {"headers": headers, "request_signature": None}
    call = maker("CHARGE", **bearer).make(make_sending(), NOW_MS, "n")
    assert call.headers["Authorization"] == "Bearer t0k3n"
    with pytest.raises(ConfigurationError, match=r"secrets\.token"):
        maker("CHARGE", **bearer | {"secrets": {"token": {"value": "two\nlines"}}})
