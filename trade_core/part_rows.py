"""The rows of an order with parts: which ones a command on one of them must read, and what they say together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from paykit.store.command import Rows, Work
from paykit.store.row import Key, key
from trade_core import parts as laws
from trade_core.parts import PartPayee
from trade_core.steps import NewTrade, Policy
from trade_core.tables import PayAttempt, Trade, TradeRelation
from trade_core.trade import OVER, AttemptState, RelationKind, TradeState
from trade_core.types import TOGETHER, Parts

_REFUND_OF = RelationKind.REFUND_OF

# What to read


def new_part_keys(new: NewTrade) -> Iterable[Key]:
    """What the command that makes an order with parts reads: who has their numbers, and the trades to merge."""
    for part in new.parts:
        order_key = laws.part_order_key(new.buyer_id, new.payee_id, part)
        if order_key:
            yield key(Trade, order_key, "order_key")
    for trade_id in new.merged_trade_ids:
        yield key(Trade, trade_id)
        yield key(TradeRelation, trade_id, "child_trade_id")


def part_keys(rows: Rows, trade: Trade) -> Iterable[Key]:
    """What a command reads beside ``trade``: the parts of a parent, the parent of a part (or of a refund)."""
    if trade.part_count:
        yield key(TradeRelation, trade.id, "parent_trade_id")
        for relation in _part_relations(rows, trade):
            yield key(Trade, relation.child_trade_id)
    if trade.parent_trade_id:
        yield key(Trade, trade.parent_trade_id)


def closing_keys(rows: Rows, trade: Trade) -> Iterable[Key]:
    """What a command reads beside ``trade`` that may close its whole order: by the caller's wish, or as time is up."""
    yield from part_keys(rows, trade)
    if trade.parent_trade_id:
        yield key(TradeRelation, trade.parent_trade_id, "parent_trade_id")  # with the parent, not after it
    whole = rows.get(Trade, trade.parent_trade_id) if trade.parent_trade_id else trade
    if whole is None or whole.state in OVER:
        return
    yield from part_keys(rows, whole)
    for part in parts_of(rows, whole):
        if part.state in (TradeState.PAYING, TradeState.PAID):
            yield key(PayAttempt, part.id, "trade_id")
        if _has_refund_under_way(part):
            yield key(TradeRelation, part.id, "parent_trade_id")
            for relation in rows.many(TradeRelation, "parent_trade_id", part.id):
                yield key(Trade, relation.child_trade_id)


def _has_refund_under_way(part: Trade) -> bool:
    return part.refunded_minor + part.refundable_minor < part.paid_minor


def refunds_under_way(work: Work, part: Trade) -> list[Trade]:
    """The refunds of a paid part that are not done yet."""
    if not _has_refund_under_way(part):
        return []
    relations = work.many(TradeRelation, "parent_trade_id", part.id)
    refunds = [work.get(Trade, relation.child_trade_id) for relation in relations if relation.kind == _REFUND_OF]
    return [refund for refund in refunds if refund is not None and refund.state not in OVER]


def refund_keys(rows: Rows, trade: Trade) -> Iterable[Key]:
    """What the command that gives money of ``trade`` back reads beside it."""
    yield from part_keys(rows, trade)
    yield key(PayAttempt, trade.id, "trade_id")
    if trade.attempt_id:
        yield key(PayAttempt, trade.attempt_id)


def _part_relations(rows: Rows, parent: Trade) -> list[TradeRelation]:
    relations = rows.many(TradeRelation, "parent_trade_id", parent.id)
    return [relation for relation in relations if relation.kind in laws.PART_RELATIONS]


def parts_of(rows: Rows, parent: Trade) -> list[Trade]:
    """The parts of a trade, by id; empty where it has none."""
    if not parent.part_count:
        return []
    found = [rows.get(Trade, relation.child_trade_id) for relation in _part_relations(rows, parent)]
    return sorted((part for part in found if part is not None), key=lambda part: part.id)


# What they say


def check_payable(work: Work, policy: Policy, trade: Trade) -> None:
    """That a trade may be paid whole and by itself; FailedPrecondition otherwise.

    TRADE_GROUPED: a merged payment pays it. PART_OF_ORDER: it is paid with its order. PAY_BY_PART: its instalments
    are paid. PAID_IN_PARTS: a part of it is paid or under way, so the rest is paid as a part as well.
    """
    laws.check_ungrouped(trade)
    spec = policy.catalogue.spec(trade.trade_type)
    if laws.is_part(spec, trade) and not policy.catalogue.is_separate_part(trade.trade_type):
        raise laws.part_of_order(trade)
    if trade.state in OVER:
        return  # refused by the transition itself
    parts = parts_of(work, trade)
    if spec.parts is Parts.INSTALMENT:
        raise laws.named_by_part(trade, parts, "PAY_BY_PART")
    if laws.closes_by_parts(spec, trade) and (trade.paid_minor or laws.open_minor(parts)):
        raise laws.named_by_part(trade, parts, "PAID_IN_PARTS")


def payees_of(policy: Policy, parent: Trade, parts: Sequence[Trade]) -> list[PartPayee]:
    """Who is paid by the one payment of a parent whose parts are paid together: they add up to its amount.

    Empty for any other trade, and for one that is over, whose parts have gone their own ways.
    """
    if parent.state in OVER or policy.catalogue.spec(parent.trade_type).parts not in TOGETHER:
        return []
    payees = [
        PartPayee(part.payee_id, policy.catalogue.spec(part.trade_type).payee, part.amount_minor, part.id)
        for part in parts
    ]
    assert sum(payee.amount_minor for payee in payees) == parent.amount_minor, f"{parent.id} is not its parts"
    return payees


def is_late(work: Work, policy: Policy, part: Trade) -> bool:
    """Whether the order of a part that is paid on its own is over, so that what is paid now is given back."""
    if not policy.catalogue.is_separate_part(part.trade_type):
        return False
    return parent_of(work, part).state in OVER


def parent_of(work: Work, part: Trade) -> Trade:
    """The order a part belongs to."""
    parent = work.get(Trade, part.parent_trade_id)
    assert parent is not None, f"{part.id} is a part of a trade that does not exist"
    return parent


def check_refundable(work: Work, trade: Trade) -> None:
    """That money of the trade is given back by naming it, not its parts; REFUND_BY_PART otherwise."""
    if laws.has_parts_paid(trade):
        raise laws.named_by_part(trade, parts_of(work, trade), "REFUND_BY_PART")


def refund_target(work: Work, trade: Trade) -> tuple[PayAttempt, str]:
    """The attempt whose payment a refund of a paid trade goes against, and the payee reference that narrows it.

    The reference is empty where the payment was for this trade alone.
    """
    check_refundable(work, trade)
    paid_by = work.get(PayAttempt, trade.attempt_id)
    if paid_by is None or paid_by.state != AttemptState.EFFECTIVE:  # a later attempt came to nothing
        own = work.many(PayAttempt, "trade_id", trade.id)
        paid_by = next((attempt for attempt in own if attempt.state == AttemptState.EFFECTIVE), None)
    assert paid_by is not None, f"{trade.id} is paid by no attempt"
    return paid_by, "" if paid_by.trade_id == trade.id else trade.id
