"""Points: how many of them belong to a part of what they paid. Whole points only; every rounding is named.

How many pay a whole amount is the rules' (``RuleSet.points_for``). Parts are counted from the beginning, not one by
one: whatever the parts are, together they come to the whole, and no rounding adds up on the way.
"""

from __future__ import annotations

from typing import NamedTuple

from pay_core.rules.amounts import Rounding, divided

INSUFFICIENT_POINTS = "INSUFFICIENT_POINTS"
POINT_COUNT_MAX = 10**12  # of one grant


class Worth(NamedTuple):
    """An amount and the points that pay it."""

    amount_minor: int
    unit_count: int


def taken_with(whole: Worth, done: Worth, part_minor: int) -> int:
    """Points to take with ``part_minor`` of a reserve of which ``done`` was taken; the last part takes the rest.

    Rounding: UP, as for the whole: no amount is paid with less than it is worth.
    """
    return _up_to(whole, done, part_minor, Rounding.UP)


def given_back_with(whole: Worth, done: Worth, part_minor: int) -> int:
    """Points to give back with ``part_minor`` of a payment of which ``done`` was given back; the last brings the rest.

    Rounding: DOWN: nobody has more points than the money that was given back is worth.
    """
    return _up_to(whole, done, part_minor, Rounding.DOWN)


def _up_to(whole: Worth, done: Worth, part_minor: int, rounding: Rounding) -> int:
    assert 0 < part_minor <= whole.amount_minor - done.amount_minor
    assert 0 <= done.unit_count <= whole.unit_count
    due = divided(whole.unit_count * (done.amount_minor + part_minor), whole.amount_minor, rounding)
    # Where a part between was taken back, what is counted as done may lie beside its proportion.
    return max(due - done.unit_count, 0)
