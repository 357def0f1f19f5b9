"""What is read of Stripe's objects, and its amounts. Whatever does not have these forms is not understood. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from paykit.money import EXPONENT

# metadata of what is sent: the order it was sent for
ORDER_KEY = "channel_order_id"
KIND_KEY = "channel_order_kind"
PAYMENT_KEY = "payment_id"

T = TypeVar("T")

_Id = Annotated[str, msgspec.Meta(min_length=4, max_length=64, pattern=r"^[A-Za-z0-9_]+$")]
_Currency = Annotated[str, msgspec.Meta(pattern=r"^[a-z]{3}$")]
_Amount = Annotated[int, msgspec.Meta(ge=0, le=10**15)]

# Where Stripe counts in other units than ISO 4217 has: kept so by it for those who integrated before a change.
_STRIPE_EXPONENT = {"ISK": 2, "UGX": 2, "MGA": 0}


class Unrepresentable(Exception):
    """An amount that is no whole number of the other side's units, or not of a known currency."""


def to_stripe(amount_minor: int, currency: str) -> int:
    """An amount in Stripe's units; Unrepresentable."""
    return _shifted(amount_minor, _exponent(currency) - EXPONENT[currency])


def to_minor(amount: int, currency: str) -> int:
    """An amount of Stripe in ISO 4217 minor units; ``currency`` in either case. Unrepresentable."""
    currency = currency.upper()
    return _shifted(amount, EXPONENT.get(currency, 0) - _exponent(currency))


def _exponent(currency: str) -> int:
    if currency not in EXPONENT:
        raise Unrepresentable(f"currency {currency}")
    return _STRIPE_EXPONENT.get(currency, EXPONENT[currency])


def _shifted(amount: int, digits: int) -> int:
    unit: int = 10 ** abs(digits)
    if digits >= 0:
        return amount * unit
    whole, rest = divmod(amount, unit)
    if rest:
        raise Unrepresentable(f"{rest} beyond the last digit")
    return whole


class ErrorDetail(msgspec.Struct, frozen=True):
    """Why something was refused: of an error, or the last one of a payment intent."""

    type: str = ""
    code: str | None = None
    decline_code: str | None = None
    param: str | None = None
    payment_intent: Any = None


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of an answer that is not 2xx."""

    error: ErrorDetail


class Intent(msgspec.Struct, frozen=True):
    """A payment intent: a charge, or an authorisation with what was captured of it."""

    id: _Id
    object: Literal["payment_intent"]
    livemode: bool
    status: Literal[
        "requires_payment_method", "requires_confirmation", "requires_action", "processing", "requires_capture",
        "canceled", "succeeded",
    ]  # fmt: skip
    capture_method: str
    amount: _Amount
    currency: _Currency
    amount_capturable: _Amount = 0
    amount_received: _Amount = 0
    metadata: dict[str, str] = {}
    latest_charge: _Id | None = None
    last_payment_error: ErrorDetail | None = None
    cancellation_reason: str | None = None


class Refund(msgspec.Struct, frozen=True):
    """A refund."""

    id: _Id
    object: Literal["refund"]
    status: Literal["pending", "requires_action", "succeeded", "failed", "canceled"]
    amount: _Amount
    currency: _Currency
    metadata: dict[str, str] = {}
    payment_intent: _Id | None = None
    failure_reason: str | None = None


class Payout(msgspec.Struct, frozen=True):
    """A payout to an external account."""

    id: _Id
    object: Literal["payout"]
    livemode: bool
    status: Literal["paid", "pending", "in_transit", "canceled", "failed"]
    amount: _Amount
    currency: _Currency
    metadata: dict[str, str] = {}
    failure_code: str | None = None


class Charge(msgspec.Struct, frozen=True):
    """A charge, of which only its refunds are of interest."""

    id: _Id
    object: Literal["charge"]
    refunds: Any = None


class EventData(msgspec.Struct, frozen=True):
    """What an event is about, as it then was."""

    object: dict[str, Any]


class Event(msgspec.Struct, frozen=True):
    """The body of a webhook."""

    id: Annotated[str, msgspec.Meta(min_length=4, max_length=96, pattern=r"^[A-Za-z0-9_]+$")]
    object: Literal["event"]
    type: Annotated[str, msgspec.Meta(max_length=96)]
    livemode: bool
    data: EventData
    account: str | None = None


class Page(msgspec.Struct, frozen=True):
    """A page of a list or search."""

    data: list[dict[str, Any]]
    has_more: bool


def read(said: Any, type_: type[T]) -> T | None:
    """What Stripe said as ``type_``; None where it is not of that form."""
    try:
        return msgspec.convert(said, type_)
    except msgspec.ValidationError:
        return None
