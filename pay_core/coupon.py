"""Coupons: their states, who may pay with one, and who bears what a merchant-funded one pays.

A coupon pays at most its face value and is used up by it, whatever of it was not needed. It is AVAILABLE again once
all that it paid was given back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from pay_core.rules.model import Share, ShareKind
from pay_core.tables import Coupon
from paykit.errors import FailedPrecondition, NotFound
from paykit.money import allocate
from paykit.state_machine import StateMachine

COUPON_NOT_FOUND = "COUPON_NOT_FOUND"  # or somebody else's: nobody is told which coupons others have
COUPON_NOT_AVAILABLE = "COUPON_NOT_AVAILABLE"  # reserved, used or voided
COUPON_EXPIRED = "COUPON_EXPIRED"
COUPON_NOT_APPLICABLE = "COUPON_NOT_APPLICABLE"  # other currency, too much, or its merchant is not paid so much


class CouponFunder(StrEnum):
    """Who pays for a coupon. The names are those of the proto."""

    PLATFORM = "PLATFORM"
    MERCHANT = "MERCHANT"


class CouponState(StrEnum):
    """Where a coupon is. The names are those of the proto."""

    AVAILABLE = "AVAILABLE"
    RESERVED = "RESERVED"
    USED = "USED"
    VOIDED = "VOIDED"


COUPON = StateMachine(
    "coupon",
    CouponState,
    CouponState.AVAILABLE,
    {
        CouponState.AVAILABLE: frozenset({CouponState.RESERVED, CouponState.USED, CouponState.VOIDED}),
        CouponState.RESERVED: frozenset({CouponState.USED, CouponState.AVAILABLE}),
        CouponState.USED: frozenset({CouponState.AVAILABLE}),
        CouponState.VOIDED: frozenset(),
    },
)

_MESSAGES = {
    COUPON_NOT_AVAILABLE: "is not AVAILABLE",
    COUPON_EXPIRED: "has expired",
    COUPON_NOT_APPLICABLE: "cannot pay this much of this payment",
}


# Who may pay with it


def refusal(coupon: Coupon | None, owner_id: str, currency: str, amount_minor: int, intake_ms: int) -> str:
    """Why ``owner_id`` cannot pay ``amount_minor`` with a coupon, as a reason constant; empty where nothing is wrong.

    ``intake_ms`` is when the payment was accepted: one that expires while its payment is under way still counts.
    """
    if coupon is None or coupon.owner_id != owner_id:
        return COUPON_NOT_FOUND
    if coupon.state != CouponState.AVAILABLE:
        return COUPON_NOT_AVAILABLE
    if coupon.expires_at_ms <= intake_ms:
        return COUPON_EXPIRED
    if coupon.currency != currency or not 0 < amount_minor <= coupon.face_value_minor:
        return COUPON_NOT_APPLICABLE
    return ""


def require(
    coupon: Coupon | None,
    coupon_id: str,
    owner_id: str,
    currency: str,
    amount_minor: int,
    merchants: Collection[str],
    intake_ms: int,
) -> Coupon:
    """The coupon, where its owner can pay ``amount_minor`` to ``merchants`` (the payees) with it.

    NotFound (COUPON_NOT_FOUND); FailedPrecondition (COUPON_NOT_AVAILABLE, COUPON_EXPIRED, COUPON_NOT_APPLICABLE).
    """
    reason = refusal(coupon, owner_id, currency, amount_minor, intake_ms)
    if coupon is None or reason == COUPON_NOT_FOUND:
        raise NotFound(f"no coupon {coupon_id} of {owner_id}", reason=COUPON_NOT_FOUND)
    if not reason and coupon.funder == CouponFunder.MERCHANT and coupon.merchant_id not in merchants:
        reason = COUPON_NOT_APPLICABLE
    if reason:
        raise FailedPrecondition(f"coupon {coupon_id} {_MESSAGES[reason]}", reason=reason, subject=coupon_id)
    return coupon


# What becomes of it


def reserved(coupon: Coupon, payment_id: str) -> Coupon:
    """Set aside for an authorised payment."""
    return COUPON.move(coupon, CouponState.RESERVED, payment_id=payment_id)


def released(coupon: Coupon) -> Coupon:
    """Given up by the payment that had set it aside."""
    return COUPON.move(coupon, CouponState.AVAILABLE, payment_id="")


def used(coupon: Coupon, payment_id: str, amount_minor: int) -> Coupon:
    """Paid with: ``amount_minor``, at most its face value."""
    assert 0 < amount_minor <= coupon.face_value_minor
    return COUPON.move(coupon, CouponState.USED, payment_id=payment_id, paid_minor=amount_minor)


def given_back(coupon: Coupon, amount_minor: int) -> Coupon:
    """A part of what it paid was given back; with the last part it is AVAILABLE again."""
    assert coupon.state == CouponState.USED
    assert 0 < amount_minor <= coupon.paid_minor
    left: dict[str, Any] = {"paid_minor": coupon.paid_minor - amount_minor}
    if left["paid_minor"]:
        return msgspec.structs.replace(coupon, **left)
    return COUPON.move(coupon, CouponState.AVAILABLE, payment_id="", **left)


def voided(coupon: Coupon) -> Coupon:
    """Taken back from its owner; FailedPrecondition (COUPON_NOT_AVAILABLE) where it is not AVAILABLE."""
    if coupon.state != CouponState.AVAILABLE:
        raise FailedPrecondition(
            f"coupon {coupon.id} is {coupon.state}", reason=COUPON_NOT_AVAILABLE, subject=coupon.id
        )
    return COUPON.move(coupon, CouponState.VOIDED)


# Who bears it


class MerchantCoupon(NamedTuple):
    """A merchant-funded coupon and what it pays in one payment."""

    coupon_id: str
    merchant_id: str
    amount_minor: int


class Absorbed(NamedTuple):
    """What a merchant bears of its coupon: a DISBURSE to the coupon tool, with the payee's ``reference``."""

    coupon_id: str
    merchant_id: str
    amount_minor: int
    reference: str


def absorb(shares: Sequence[Share], coupons: Sequence[MerchantCoupon]) -> tuple[list[Share], list[Absorbed]]:
    """The shares lowered by the coupons of those who get them, and what each bears; together they add up as before.

    A merchant's own shares bear (those of kind PAYEE), in proportion to what is left of each (``allocate``); a share
    that nothing is left of goes. FailedPrecondition (COUPON_NOT_APPLICABLE) where a merchant gets less than its
    coupons pay.
    """
    left = [share.amount_minor for share in shares]
    absorbed: list[Absorbed] = []
    for coupon in coupons:
        own = [i for i, share in enumerate(shares) if _bears(share, coupon.merchant_id)]
        if sum(left[i] for i in own) < coupon.amount_minor:
            raise FailedPrecondition(
                f"coupon {coupon.coupon_id} pays {coupon.amount_minor}, more than {coupon.merchant_id} gets",
                reason=COUPON_NOT_APPLICABLE,
                subject=coupon.coupon_id,
            )
        for i, part_minor in zip(own, allocate(coupon.amount_minor, [left[i] for i in own]), strict=True):
            left[i] -= part_minor
            if part_minor:
                absorbed.append(Absorbed(coupon.coupon_id, coupon.merchant_id, part_minor, shares[i].reference))
    lowered = [share._replace(amount_minor=minor) for share, minor in zip(shares, left, strict=True) if minor]
    return lowered, absorbed


def _bears(share: Share, merchant_id: str) -> bool:
    return share.kind == ShareKind.PAYEE and share.account_kind == "MERCHANT" and share.owner_id == merchant_id


class Pot(NamedTuple):
    """What one tool paid, or has reserved, and how much of it is left. ``coupon_id`` of a merchant-funded coupon."""

    left_minor: int
    coupon_id: str = ""


def paired(amount_minor: int, pots: Sequence[Pot], borne: Mapping[str, int]) -> list[int]:
    """How much of ``amount_minor`` goes to, or comes from, each pot.

    ``borne`` is what merchants bear of it per coupon: each of those coupons has exactly that, so that COUPON is zero
    again when the payment is over; a merchant-funded coupon that is not named has none. The others share the rest in
    proportion to what is left of each (``allocate``). Nothing is asked that is not there: ``amount_minor`` less what
    is borne is at most what the others have left.
    """
    parts = [borne.get(pot.coupon_id, 0) if pot.coupon_id else 0 for pot in pots]
    rest_minor = amount_minor - sum(parts)
    weights = [0 if pot.coupon_id else pot.left_minor for pot in pots]
    assert all(part <= pot.left_minor for part, pot in zip(parts, pots, strict=True))
    assert 0 <= rest_minor <= sum(weights)
    if rest_minor:
        parts = [part + more for part, more in zip(parts, allocate(rest_minor, weights), strict=True)]
    return parts
