"""What Stripe's answers mean for an order of ours. Pure: no I/O, no clock.

A definite outcome is believed only from an answer of Stripe's form that names our order; all else is UNKNOWN.
"""

from __future__ import annotations

import re
from typing import Any

from channel_gateway.channel_order import ChannelOrderKind, ProviderResult, ResultStatus
from channel_gateway.channels.stripe_objects import (
    ORDER_KEY,
    ErrorBody,
    ErrorDetail,
    Intent,
    Payout,
    Refund,
    Unrepresentable,
    read,
    to_minor,
    to_stripe,
)
from channel_gateway.tables import ChannelOrder

PROVIDER_REFUSED = "PROVIDER_REFUSED"  # it called the request itself wrong, and said no more
PROVIDER_DECLINED = "PROVIDER_DECLINED"  # it gave no code that could be passed on
AMOUNT_UNREPRESENTABLE = "AMOUNT_UNREPRESENTABLE"
AUTH_NOT_OPEN = "AUTH_NOT_OPEN"
AUTH_EXPIRED = "AUTH_EXPIRED"
AUTHENTICATION_REQUIRED = "AUTHENTICATION_REQUIRED"
GIVEN_UP = "abandoned"  # the cancellation reason of what is given up because its customer is not there

UNKNOWN = ProviderResult(status=ResultStatus.UNKNOWN)
NOT_SENT = ProviderResult(status=ResultStatus.NOT_SENT)
NOT_FOUND = ProviderResult(status=ResultStatus.NOT_FOUND)

_K = ChannelOrderKind
_CODE = re.compile(r"[a-z0-9_]{1,32}")
# Codes that other channels have another name for; the others are passed on as constants.
_REASONS = {
    "generic_decline": "CARD_DECLINED",
    "expired_card": "CARD_EXPIRED",
    "expired_or_canceled_card": "CARD_EXPIRED",
    "charge_already_refunded": "REFUND_EXCEEDS_CHARGE",
    "charge_expired_for_capture": AUTH_EXPIRED,
    "capture_charge_authorization_expired": AUTH_EXPIRED,
    "payment_intent_authentication_failure": "AUTHENTICATION_FAILED",
}
_TOO_MUCH = {_K.CAPTURE.value: "CAPTURE_EXCEEDS_AUTH", _K.REFUND.value: "REFUND_EXCEEDS_CHARGE"}
_EXPIRED = frozenset({"automatic", "expired"})
_DEFINITE_TYPES = frozenset({"card_error", "invalid_request_error"})
# The request was turned away before anything was done: the key, its rights, the rate, an object that was locked.
_TURNED_AWAY = frozenset({401, 403, 429})
_TURNED_AWAY_CODES = frozenset({"rate_limit", "lock_timeout"})
_IN_USE_CODES = frozenset({"idempotency_key_in_use"})
_MOVED = frozenset({"processing", "requires_capture", "succeeded"})
_REFUND = {
    "succeeded": ResultStatus.SUCCEEDED,
    "pending": ResultStatus.PENDING,
    "requires_action": ResultStatus.PENDING,
    "failed": ResultStatus.FAILED,
    "canceled": ResultStatus.FAILED,
}
_PAYOUT = {
    "paid": ResultStatus.SUCCEEDED,
    "pending": ResultStatus.PENDING,
    "in_transit": ResultStatus.PENDING,
    "failed": ResultStatus.FAILED,
    "canceled": ResultStatus.FAILED,
}


def reason_of(kind: str, detail: ErrorDetail) -> str:
    """A refusal of an order of ``kind`` as a reason constant: the decline code, else the code."""
    code = detail.decline_code or detail.code or ""
    if code == "amount_too_large" or (not code and detail.param == "amount"):
        return _TOO_MUCH.get(kind, "AMOUNT_TOO_LARGE")
    if detail.type != "card_error" and not code:
        return PROVIDER_REFUSED
    return _reason(code)


def _reason(code: str | None) -> str:
    code = code or ""
    return _REASONS.get(code) or (code.upper() if _CODE.fullmatch(code) else PROVIDER_DECLINED)


def failed(reason: str, provider_reference: str = "") -> ProviderResult:
    """Definitely not done."""
    return ProviderResult(status=ResultStatus.FAILED, failure_reason=reason, provider_reference=provider_reference)


def of_refusal(order: ChannelOrder, livemode: bool, http_status: int | None, body: Any) -> ProviderResult:
    """What an answer that is not 2xx means for ``order``, which it was sent for."""
    refusal = read(body, ErrorBody)
    if refusal is None or http_status is None:
        return UNKNOWN
    detail = refusal.error
    if detail.code in _IN_USE_CODES or detail.type == "idempotency_error":
        # The key, which is the order's id, is in use or was used for something else: something is, or was, done.
        return UNKNOWN
    if http_status in _TURNED_AWAY or (http_status == 400 and detail.code in _TURNED_AWAY_CODES):
        return NOT_SENT
    if http_status not in (400, 402, 404) or detail.type not in _DEFINITE_TYPES:
        return UNKNOWN
    if detail.payment_intent is None or order.kind in (_K.REFUND, _K.PAYOUT):
        return failed(reason_of(order.kind, detail))
    intent = read(detail.payment_intent, Intent)
    is_following = order.kind in (_K.CAPTURE, _K.VOID)
    if intent is None or intent.livemode is not livemode or not _is_of(order, intent, is_following):
        return UNKNOWN
    if is_following:
        return _of_refused_following(order, intent, detail)
    if intent.status in _MOVED:
        # Refused, and yet under way: only asking settles it.
        return ProviderResult(status=ResultStatus.UNKNOWN, provider_reference=intent.id)
    return failed(reason_of(order.kind, detail), intent.id)


def _is_of(order: ChannelOrder, intent: Intent, is_following: bool) -> bool:
    if is_following:
        return intent.id == order.original_provider_reference
    return intent.metadata.get(ORDER_KEY) == order.id


def _of_refused_following(order: ChannelOrder, intent: Intent, detail: ErrorDetail) -> ProviderResult:
    """A capture or void that the state of the authorisation did not allow: perhaps because it was done before."""
    if detail.code != "payment_intent_unexpected_state":
        return failed(reason_of(order.kind, detail), intent.id)
    result = of_following(order, intent)
    return failed(AUTH_NOT_OPEN, intent.id) if result.status is ResultStatus.NOT_FOUND else result


def of_intent(order: ChannelOrder, intent: Intent) -> ProviderResult | None:
    """What a payment intent means for the charge or authorisation it was made for.

    None: it is open, and nobody will carry it on; it has to be given up before anything is certain.
    """
    is_charge = order.kind == _K.CHARGE
    if (intent.capture_method == "manual") is is_charge:
        return UNKNOWN
    if intent.status == "processing":
        return ProviderResult(status=ResultStatus.PENDING, provider_reference=intent.id)
    if intent.status == "succeeded":
        return _succeeded(intent, intent.amount_received if is_charge else intent.amount)
    if intent.status == "requires_capture":
        return UNKNOWN if is_charge else _succeeded(intent, intent.amount_capturable + intent.amount_received)
    error = intent.last_payment_error
    if intent.status == "canceled":
        if not is_charge and intent.latest_charge is not None and error is None:
            return _succeeded(intent, intent.amount)  # it was reserved, and given up since
        if error is not None:
            return failed(reason_of(order.kind, error), intent.id)
        given_up = intent.cancellation_reason == GIVEN_UP
        return failed(AUTHENTICATION_REQUIRED if given_up else "PAYMENT_CANCELED", intent.id)
    if intent.status == "requires_payment_method" and error is not None:
        return failed(reason_of(order.kind, error), intent.id)
    return None


def of_following(order: ChannelOrder, intent: Intent) -> ProviderResult:
    """What the payment intent of an authorisation means for a capture or void of it."""
    return _of_capture(order, intent) if order.kind == _K.CAPTURE else _of_void(order, intent)


def _of_capture(order: ChannelOrder, intent: Intent) -> ProviderResult:
    """A capture leaves its id in the metadata, in the same step that takes the money."""
    if order.id in intent.metadata:
        if intent.status == "processing":
            return ProviderResult(status=ResultStatus.PENDING, provider_reference=intent.id)
        captures = captures_of(intent)
        if order.id not in captures:
            return UNKNOWN
        return _succeeded(intent, intent.amount_received if len(captures) == 1 else captures[order.id])
    if intent.status in ("requires_capture", "processing"):
        return NOT_FOUND
    expired = intent.status == "canceled" and intent.cancellation_reason in _EXPIRED
    return failed(AUTH_EXPIRED if expired else AUTH_NOT_OPEN, intent.id)


def captures_of(intent: Intent) -> dict[str, int]:
    """The captures of an authorisation by channel order id, in Stripe's units."""
    return {
        key: int(value)
        for key, value in intent.metadata.items()
        if key.startswith("chn_") and value.isascii() and value.isdigit() and len(value) <= 16
    }


def _of_void(order: ChannelOrder, intent: Intent) -> ProviderResult:
    """A success where nothing is reserved any more, unless what was to be given up was captured."""
    if intent.status in ("requires_capture", "processing"):
        return NOT_FOUND
    if intent.status not in ("canceled", "succeeded") or intent.capture_method != "manual":
        return failed(AUTH_NOT_OPEN, intent.id)
    try:
        amount = to_stripe(order.amount_minor, order.currency)
    except Unrepresentable:
        return UNKNOWN
    if intent.amount_received + amount > intent.amount:
        return failed(AUTH_NOT_OPEN, intent.id)
    return ProviderResult(status=ResultStatus.SUCCEEDED, provider_reference=intent.id)


def _succeeded(intent: Intent, amount: int) -> ProviderResult:
    return _told(ResultStatus.SUCCEEDED, "", intent.id, amount, intent.currency)


def of_refund(refund: Refund) -> ProviderResult:
    """What a refund's state means for the order it was made for."""
    status = _REFUND[refund.status]
    reason = "REFUND_CANCELED" if refund.status == "canceled" else _reason(refund.failure_reason)
    return _told(status, reason, refund.id, refund.amount, refund.currency)


def of_payout(payout: Payout) -> ProviderResult:
    """What a payout's state means for the order it was made for."""
    status = _PAYOUT[payout.status]
    reason = "PAYOUT_CANCELED" if payout.status == "canceled" else _reason(payout.failure_code)
    return _told(status, reason, payout.id, payout.amount, payout.currency)


def _told(status: ResultStatus, reason: str, reference: str, amount: int, currency: str) -> ProviderResult:
    try:
        amount_minor = to_minor(amount, currency)
    except Unrepresentable:
        return UNKNOWN
    return ProviderResult(
        status=status,
        provider_reference=reference,
        failure_reason=reason if status is ResultStatus.FAILED else "",
        amount_minor=amount_minor,
        currency=currency.upper(),
    )
