"""Two breaks about one difference: what a channel says when it is asked, and what its statement says. Pure.

Each has a repair of its own, and one of them is enough: what was set right, or given back, twice would be wrong again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from recon.matching import BreakState, BreakType, MatchKind
from recon.repair import ASKING, RepairKind, remedy_of
from recon.tables import Break

_T = BreakType
# What a channel stands by when it is asked -> what its statement shows of the same.
_SHOWN_AS: dict[str, frozenset[str]] = {
    _T.LATE: frozenset({_T.STATUS_MISMATCH, _T.DUPLICATE}),
    _T.DUPLICATE: frozenset({_T.DUPLICATE, _T.STATUS_MISMATCH}),
    _T.STATUS_MISMATCH: frozenset({_T.STATUS_MISMATCH, _T.MISSING_THERE}),
    _T.AMOUNT_MISMATCH: frozenset({_T.AMOUNT_MISMATCH}),
    _T.CURRENCY_MISMATCH: frozenset({_T.CURRENCY_MISMATCH}),
}


def is_same_difference(one: Break, other: Break) -> bool:
    """Whether one of two breaks is what a channel says of an order, and the other what its statement says of that."""
    if one.kind == MatchKind.STATEMENT:
        one, other = other, one
    return (
        (one.kind, other.kind) == (MatchKind.PAY_CHANNEL, MatchKind.STATEMENT)
        and bool(one.channel_order_id)
        and other.type in _SHOWN_AS.get(one.type, ())
        and (one.channel_order_id, one.channel) == (other.channel_order_id, other.channel)
        and (one.amount_minor, one.currency) == (other.amount_minor, other.currency)
    )


def moves_money(kind: str) -> bool:
    """Whether a kind of repair moves or posts money, and does not only ask."""
    return RepairKind(kind) not in ASKING


def repaired_by(broken: Break, others: Iterable[Break]) -> str:
    """The repair that has made the difference of a break good already, for another one; empty where none has.

    ``others``: all breaks of its channel order. A repair stands for one break beside its own.
    """
    known = [other for other in others if other.id != broken.id]
    for other in known:
        if not other.repair_id or not is_same_difference(broken, other):
            continue
        is_own = moves_money(remedy_of(other.type, other.kind).kind)
        if is_own and not any(third.repair_id == other.repair_id for third in known if third is not other):
            return other.repair_id
    return ""


def made_good_with(broken: Break, others: Sequence[Break]) -> Break | None:
    """The open break whose difference goes with that of ``broken``, once that is repaired; None where there is none."""
    return next(
        (other for other in others if other.state == BreakState.OPEN and is_same_difference(broken, other)), None
    )
