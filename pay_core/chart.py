"""The chart of accounts: every kind of account, as data."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

POINTS_UNIT = "PTS"  # of accounts that hold points: exponent 0, and no currency


class AccountKind(StrEnum):
    """What an account is for. The names are those of the proto."""

    USER = "USER"
    MERCHANT = "MERCHANT"
    EXTERNAL = "EXTERNAL"
    CLEARING = "CLEARING"
    IN_TRANSIT = "IN_TRANSIT"
    FEES = "FEES"
    SUSPENSE = "SUSPENSE"
    ESCROW = "ESCROW"
    MARKETING = "MARKETING"
    COUPON = "COUPON"
    POINTS = "POINTS"
    POINTS_ISSUED = "POINTS_ISSUED"


class KindRules(NamedTuple):
    """What holds for all accounts of a kind.

    ``is_owned``: a customer's, on the customer's slot; the others are the platform's own, one per slot.
    ``floor_minor``: what balance less holds never goes below, at first; None for none.
    """

    is_owned: bool
    floor_minor: int | None
    may_overdraw: bool = False  # whether an overdraft may be granted
    may_freeze: bool = False
    is_in_points: bool = False  # its unit is POINTS_UNIT, not a currency


_OWN = KindRules(is_owned=False, floor_minor=None)

CHART: dict[AccountKind, KindRules] = {
    AccountKind.USER: KindRules(is_owned=True, floor_minor=0, may_freeze=True),
    # A merchant that was paid out may still owe refunds: that is what an overdraft is granted for.
    AccountKind.MERCHANT: KindRules(is_owned=True, floor_minor=0, may_freeze=True, may_overdraw=True),
    AccountKind.EXTERNAL: _OWN,
    AccountKind.CLEARING: _OWN,
    AccountKind.IN_TRANSIT: _OWN,
    AccountKind.FEES: _OWN,
    AccountKind.SUSPENSE: _OWN,
    AccountKind.ESCROW: KindRules(is_owned=False, floor_minor=0),  # payers' money: no more goes out than came in
    AccountKind.MARKETING: _OWN,
    AccountKind.COUPON: _OWN,
    AccountKind.POINTS: KindRules(is_owned=True, floor_minor=0, may_freeze=True, is_in_points=True),
    AccountKind.POINTS_ISSUED: KindRules(is_owned=False, floor_minor=None, is_in_points=True),
}


def fits(kind: AccountKind, unit: str) -> bool:
    """Whether accounts of a kind may hold ``unit``: a currency code, or POINTS_UNIT."""
    return CHART[kind].is_in_points == (unit == POINTS_UNIT)
