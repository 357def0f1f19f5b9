"""What is wrong between a channel order and the statement lines that name it. Pure, and told by all lines of the order
together: whatever came first, and however often it is judged, the same lines give the same judgement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from enum import StrEnum

import msgspec

from recon.matching import BreakType
from recon.tables import RecordedOrder, StatementLine

# Kinds of channel orders that move money, and which way, seen from the account at the provider.
SIGN: Mapping[str, int] = {"CHARGE": 1, "CAPTURE": 1, "REFUND": -1, "PAYOUT": -1}
SUCCEEDED = "SUCCEEDED"
ORDER_PREFIX = "chn_"


class Settlement(StrEnum):
    """What statements say of an order."""

    OPEN = "OPEN"
    AGREED = "AGREED"
    BROKEN = "BROKEN"
    NOT_EXPECTED = "NOT_EXPECTED"


class LineState(StrEnum):
    """Whether a line still counts."""

    CURRENT = "CURRENT"
    REPLACED = "REPLACED"


class Judgement(msgspec.Struct, frozen=True):
    """``differences``: by id of each judged line, what is wrong with it; None where it agrees, or is taken back.

    ``settlement`` and ``line_id`` are the order's, where there is one.
    """

    differences: dict[str, BreakType | None]
    settlement: Settlement = Settlement.OPEN
    line_id: str | None = None


def expected_minor(order: RecordedOrder) -> int | None:
    """What the order moved on the account; None where no statement should have a line for it."""
    sign = SIGN.get(order.kind)
    return None if sign is None or order.state != SUCCEEDED else sign * order.amount_minor


def judge(
    order: RecordedOrder | None, lines: Sequence[StatementLine], grace_days: int, by_reference: bool = False
) -> Judgement:
    """``lines``: the current movements that name the order. ``order`` is None where we have none.

    ``by_reference``: a line of its channel that names another of the provider's orders than the one we know is about
    that other one, which nobody asked for, even where no other line is there.
    """
    ordered = sorted(lines, key=lambda line: (line.business_date, line.line_no, line.id))
    standing, undone, baseless = _cancelled(ordered)
    differences: dict[str, BreakType | None] = {line.id: None for line in ordered}
    for line in baseless:
        differences[line.id] = BreakType.UNEXPLAINED
    if order is None:
        for line in standing:
            names_order = line.match_ref.startswith(ORDER_PREFIX)
            differences[line.id] = BreakType.MISSING_HERE if names_order else BreakType.UNEXPLAINED
        return Judgement(differences)
    wanted_minor = expected_minor(order)
    own = [line for line in standing if line.channel == order.channel]
    for line in standing:
        if line.channel != order.channel:
            differences[line.id] = BreakType.STATUS_MISMATCH if wanted_minor is None else BreakType.DUPLICATE
    if wanted_minor is None:
        return _unexpected(own, differences)
    for line in own:
        differences[line.id] = BreakType.DUPLICATE
    if by_reference:
        own = [line for line in own if not is_another(line, order)]
        undone = [(line, back) for line, back in undone if not is_another(line, order)]
    if not own:
        return _silent(order, undone, differences)
    settled = min(own, key=lambda line: (not _agrees(line, order, wanted_minor), is_another(line, order)))
    wrong = differences[settled.id] = _difference(settled, order, wanted_minor, ordered, grace_days)
    return Judgement(differences, Settlement.AGREED if wrong is None else Settlement.BROKEN, settled.id)


_Undone = list[tuple[StatementLine, StatementLine]]  # lines that were taken back, each with its reversal


def _cancelled(lines: Sequence[StatementLine]) -> tuple[list[StatementLine], _Undone, list[StatementLine]]:
    """The lines that still stand once each reversal has taken one back, those that do not, and reversals of nothing.

    Of the lines that fit the one that the reversal names is taken back, else the last: of a charge that was booked
    twice, the second.
    """
    standing: list[StatementLine] = [line for line in lines if not line.is_reversal]
    undone: _Undone = []
    baseless = []
    for reversal in (line for line in lines if line.is_reversal):
        key = (reversal.channel, reversal.account, reversal.currency, -reversal.amount_minor)
        fits = [line for line in standing if (line.channel, line.account, line.currency, line.amount_minor) == key]
        if fits:
            named = [line for line in fits if line.provider_reference == reversal.provider_reference]
            taken = (named or fits)[-1]
            standing.remove(taken)
            undone.append((taken, reversal))
        else:
            baseless.append(reversal)
    return standing, undone, baseless


def _unexpected(own: Sequence[StatementLine], differences: dict[str, BreakType | None]) -> Judgement:
    for line in own:
        differences[line.id] = BreakType.STATUS_MISMATCH
    if not own:
        return Judgement(differences, Settlement.NOT_EXPECTED)
    return Judgement(differences, Settlement.BROKEN, own[0].id)


def _silent(order: RecordedOrder, undone: _Undone, differences: dict[str, BreakType | None]) -> Judgement:
    """No line of the order stands on its channel. Where one did and was taken back, the provider says it is undone."""
    taken_back = [back for _, back in undone if back.channel == order.channel]
    if taken_back:
        differences[taken_back[-1].id] = BreakType.STATUS_MISMATCH
        return Judgement(differences, Settlement.BROKEN, taken_back[-1].id)
    reported = order.settlement == Settlement.BROKEN and order.statement_line_id is None
    return Judgement(differences, Settlement.BROKEN if reported else Settlement.OPEN)


def _agrees(line: StatementLine, order: RecordedOrder, wanted_minor: int) -> bool:
    return line.currency == order.currency and line.amount_minor == wanted_minor


def is_another(line: StatementLine, order: RecordedOrder) -> bool:
    """Whether it names another of the provider's orders than the one that is known."""
    return bool(order.provider_reference) and line.provider_reference not in ("", order.provider_reference)


def _difference(
    line: StatementLine,
    order: RecordedOrder,
    wanted_minor: int,
    lines: Sequence[StatementLine],
    grace_days: int,
) -> BreakType | None:
    if line.currency != order.currency:
        return BreakType.CURRENCY_MISMATCH
    if line.amount_minor != wanted_minor:
        return BreakType.AMOUNT_MISMATCH
    # Its absence was a break already: that it came late after all is what explains it.
    was_missing = order.break_id is not None and order.break_id not in {one.break_id for one in lines}
    if not was_missing and days_between(order.business_date, line.business_date) > grace_days:
        return BreakType.LATE
    return None


def days_between(earlier: str, later: str) -> int:
    """Days from one date to another, both as "2026-11-29"."""
    return (date.fromisoformat(later) - date.fromisoformat(earlier)).days


def difference_minor(wrong: BreakType, order: RecordedOrder | None, line: StatementLine | None) -> int:
    """By how much more came in at the provider than in our books; 0 where that is not told by one number."""
    if line is None:
        assert order is not None
        return -(expected_minor(order) or 0)
    match wrong:
        case BreakType.LATE | BreakType.CURRENCY_MISMATCH:
            return 0
        case BreakType.AMOUNT_MISMATCH:
            assert order is not None
            return line.amount_minor - (expected_minor(order) or 0)
        case _:
            return line.amount_minor


def at_risk(wrong: BreakType, order: RecordedOrder | None, line: StatementLine | None) -> tuple[int, str]:
    """The amount at risk (minor units) and its currency."""
    if line is None or wrong is BreakType.CURRENCY_MISMATCH:
        assert order is not None
        return order.amount_minor, order.currency
    difference = difference_minor(wrong, order, line)
    return abs(difference or line.amount_minor), line.currency
