"""Stripe's webhooks: verified by its SDK, and read for what they say of an order of ours.

An order is named by the metadata that was sent with it. Events on what was made by hand, or of types that are not
needed, are irrelevant: they are acknowledged and not stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec
import stripe

from channel_gateway.channel_order import ChannelOrderKind, ProviderResult, ResultStatus
from channel_gateway.channels.base import NotificationInvalid, NotificationIrrelevant, ReceivedNotification
from channel_gateway.channels.stripe_objects import (
    KIND_KEY,
    ORDER_KEY,
    Charge,
    Event,
    Intent,
    Payout,
    Refund,
    T,
    Unrepresentable,
    read,
    to_minor,
)
from channel_gateway.channels.stripe_outcomes import captures_of, of_payout, of_refund, reason_of
from channel_gateway.signature import SignatureInvalid
from paykit.ids import is_id

HEADER = "Stripe-Signature"

_HEADER_CHARS_MAX = 1_024
_HEADER = re.compile(r"[a-z0-9_]{1,16}=[A-Za-z0-9]{1,128}(?:,[a-z0-9_]{1,16}=[A-Za-z0-9]{1,128}){1,15}")
_TIMESTAMP = re.compile(r"(?:^|,)t=([0-9]{1,12})(?=,|$)")
_K = ChannelOrderKind


def verify(header: str, body: bytes, secrets: Iterable[str], now_s: float, tolerance_s: float) -> None:
    """SignatureInvalid unless one of ``secrets`` signed ``body`` not longer ago, nor later, than ``tolerance_s``.

    The header may carry several signatures while the endpoint's secret is rolled. Which of the secrets it was cannot
    be told from the time that this takes. The SDK compares; the clock is ours, and looks both ways.
    """
    stamps = _TIMESTAMP.findall(header)
    if len(header) > _HEADER_CHARS_MAX or not _HEADER.fullmatch(header) or len(stamps) != 1:
        raise SignatureInvalid("malformed signature header")
    signed = [_is_signed(header, body, secret) for secret in secrets]  # all of them, always
    if True not in signed:
        raise SignatureInvalid("signature does not match")
    if abs(now_s - int(stamps[0])) > tolerance_s:
        raise SignatureInvalid("timestamp outside the window")


def _is_signed(header: str, body: bytes, secret: str) -> bool:
    try:
        stripe.WebhookSignature.verify_header(body, header, secret)
    except (stripe.SignatureVerificationError, UnicodeDecodeError):
        return False  # Stripe signs text
    return True


def read_event(body: bytes, livemode: bool, merchant_id: str) -> ReceivedNotification:
    """What a verified event says; NotificationInvalid, NotificationIrrelevant.

    ``merchant_id``: the connected account that is acted for. Where there is none, events of connected accounts are not
    listened to: they can write into their metadata what they like.
    """
    try:
        event = msgspec.json.decode(body, type=Event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotificationInvalid("not an event") from None
    if event.livemode is not livemode:
        raise NotificationInvalid("signed for the other mode")
    if event.account and not merchant_id:
        raise NotificationIrrelevant("of a connected account")
    about = _ABOUT.get(event.type)
    if about is None:
        raise NotificationIrrelevant("a type of event that is not needed")
    order_id, result = about(event.data.object)
    if not is_id(order_id, "chn"):
        raise NotificationIrrelevant("names no channel order")
    if merchant_id:
        result = msgspec.structs.replace(result, merchant=event.account or "")
    return ReceivedNotification(notification_id=event.id, channel_order_id=order_id, result=result)


def _object(said: dict[str, Any], type_: type[T]) -> T:
    found = read(said, type_)
    if found is None:
        raise NotificationInvalid("its object is not of the form its type has")
    return found


def _intent_succeeded(said: dict[str, Any]) -> tuple[str, ProviderResult]:
    """Of a charge; or of a capture, where it is the only one."""
    intent = _object(said, Intent)
    if intent.status != "succeeded":
        raise NotificationInvalid("its status is not the one of its type")
    result = _told(intent, ResultStatus.SUCCEEDED, intent.amount_received)
    if intent.metadata.get(KIND_KEY) == _K.CHARGE:
        return intent.metadata.get(ORDER_KEY, ""), result
    captures = list(captures_of(intent))
    if len(captures) != 1:
        raise NotificationIrrelevant("which of the captures it means is not said")
    return captures[0], result


def _intent_capturable(said: dict[str, Any]) -> tuple[str, ProviderResult]:
    """Of an authorisation; captures and a void of it do not change that it succeeded."""
    intent = _object(said, Intent)
    if intent.status != "requires_capture" or intent.metadata.get(KIND_KEY) != _K.AUTHORIZE:
        raise NotificationIrrelevant("not of an authorisation that is open")
    result = _told(intent, ResultStatus.SUCCEEDED, intent.amount_capturable + intent.amount_received)
    return intent.metadata.get(ORDER_KEY, ""), result


def _intent_failed(said: dict[str, Any]) -> tuple[str, ProviderResult]:
    intent = _object(said, Intent)
    error = intent.last_payment_error
    if error is None or intent.status not in ("requires_payment_method", "canceled"):
        raise NotificationInvalid("its status is not the one of its type")
    reason = reason_of(intent.metadata.get(KIND_KEY, ""), error)
    return intent.metadata.get(ORDER_KEY, ""), _told(intent, ResultStatus.FAILED, intent.amount, reason)


def _intent_canceled(said: dict[str, Any]) -> tuple[str, ProviderResult]:
    """Of a charge. An authorisation that is given up has succeeded before, and the event does not name the void."""
    intent = _object(said, Intent)
    if intent.status != "canceled" or intent.metadata.get(KIND_KEY) != _K.CHARGE:
        raise NotificationIrrelevant("not of a charge")
    error = intent.last_payment_error
    reason = "PAYMENT_CANCELED" if error is None else reason_of(_K.CHARGE, error)
    return intent.metadata.get(ORDER_KEY, ""), _told(intent, ResultStatus.FAILED, intent.amount, reason)


def _charge_refunded(said: dict[str, Any]) -> tuple[str, ProviderResult]:
    """Older versions of the API put the refunds into it, the newest first; later ones have an event of each refund."""
    refunds = _object(said, Charge).refunds
    listed = refunds.get("data") if isinstance(refunds, dict) else None
    if not isinstance(listed, list) or not listed:
        raise NotificationIrrelevant("names no refund")
    return _refund_changed(listed[0])


def _refund_changed(said: dict[str, Any]) -> tuple[str, ProviderResult]:
    refund = _object(said, Refund)
    return refund.metadata.get(ORDER_KEY, ""), of_refund(refund)


def _payout_changed(said: dict[str, Any]) -> tuple[str, ProviderResult]:
    payout = _object(said, Payout)
    return payout.metadata.get(ORDER_KEY, ""), of_payout(payout)


_ABOUT = {
    "payment_intent.succeeded": _intent_succeeded,
    "payment_intent.amount_capturable_updated": _intent_capturable,
    "payment_intent.payment_failed": _intent_failed,
    "payment_intent.canceled": _intent_canceled,
    "charge.refunded": _charge_refunded,
    "charge.refund.updated": _refund_changed,
    "refund.created": _refund_changed,
    "refund.updated": _refund_changed,
    "refund.failed": _refund_changed,
    "payout.paid": _payout_changed,
    "payout.failed": _payout_changed,
    "payout.canceled": _payout_changed,
}


def _told(intent: Intent, status: ResultStatus, amount: int, reason: str = "") -> ProviderResult:
    try:
        amount_minor = to_minor(amount, intent.currency)
    except Unrepresentable:
        raise NotificationInvalid("an amount that is no whole number of minor units") from None
    return ProviderResult(
        status=status,
        provider_reference=intent.id,
        failure_reason=reason,
        amount_minor=amount_minor,
        currency=intent.currency.upper(),
    )
