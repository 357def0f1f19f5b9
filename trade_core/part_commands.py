"""What commands do to the parts of an order, and to an order for its parts. Hooks over Work, on the buyer's slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from paykit.errors import AlreadyExists
from paykit.store.command import Work
from trade_core import parts as laws
from trade_core import steps, wire
from trade_core import trade as domain
from trade_core.part_rows import parent_of, parts_of, refunds_under_way
from trade_core.parts import PartInput
from trade_core.steps import TRADE_CREATED, TRADE_PAID, NewTrade, Policy
from trade_core.tables import PayAttempt, Trade, TradeRelation
from trade_core.trade import OVER, TRADE, PayMethod, Purpose, RelationKind, TradeState
from trade_core.types import Parts, TradeType

INSTALMENT_UNPAID = "INSTALMENT_UNPAID"


class NewParts(NamedTuple):
    """A parent as it is with its new parts, those, and how they relate."""

    parent: Trade
    parts: list[Trade]
    relations: list[TradeRelation]


class BegunPart(NamedTuple):
    """A part that is being paid, and the parent it belongs to."""

    parent: Trade
    part: Trade
    attempt: PayAttempt
    relation: TradeRelation


class Unwound(NamedTuple):
    """A closed parent, what was closed with it, and the paid parts whose refundable money the caller must give back."""

    parent: Trade
    closed: list[Trade]
    to_refund: list[Trade]


# Making parts


def insert_parts(work: Work, policy: Policy, parent: Trade, new: NewTrade) -> NewParts:
    """Makes the parts of a new order, or takes the trades that it merges."""
    spec = policy.catalogue.spec(parent.trade_type)
    if spec.parts is Parts.MERGED:
        return _merge(work, policy, parent, new.merged_trade_ids)
    if spec.part_type is None or not new.parts:
        return NewParts(parent, [], [])
    laws.check_due_times(new.parts, work.now_ms)
    kind = RelationKind.INSTALMENT_OF if spec.parts is Parts.INSTALMENT else RelationKind.SPLIT
    parts = [_insert_part(work, parent, spec.part_type, part) for part in new.parts]
    for made in parts:
        work.publish(TRADE_CREATED, wire.event(made))
    relations = [_relate(work, parent, part, kind) for part in parts]
    changed = msgspec.structs.replace(parent, part_count=len(parts))
    if spec.parts is Parts.INSTALMENT:
        # Its instalments have the due times: one under way when time is up is waited for.
        last_ms = max(part.expires_at_ms or 0 for part in parts)
        changed = msgspec.structs.replace(changed, expires_at_ms=last_ms, due_at_ms=None)
    return NewParts(work.update(changed), parts, relations)


def _insert_part(work: Work, parent: Trade, trade_type: TradeType, part: PartInput) -> Trade:
    order_key = laws.part_order_key(parent.buyer_id, parent.payee_id, part)
    existing = work.get(Trade, order_key, "order_key") if order_key else None
    if existing is not None:
        raise AlreadyExists(
            f"trade {existing.id} has this merchant_order_no",
            reason="ORDER_EXISTS",
            metadata={"trade_id": existing.id, "merchant_order_no": part.merchant_order_no},
        )
    row = steps.new_row(
        work,
        parent.slot,
        biz_id=parent.biz_id,
        trade_type=trade_type,
        buyer_id=parent.buyer_id,
        currency=parent.currency,
        amount_minor=part.amount_minor,
        order_key=order_key,
        expires_at_ms=parent.expires_at_ms if part.due_at_ms is None else part.due_at_ms,
        due_at_ms=part.due_at_ms,  # of a part paid with its parent: none, the parent's counts
        payee_id=part.payee_id or parent.payee_id,
        merchant_order_no=part.merchant_order_no,
        parent_trade_id=parent.id,
        scene=parent.scene,
    )
    return work.insert(row, parent_id=parent.id)


def _relate(work: Work, parent: Trade, part: Trade, kind: RelationKind) -> TradeRelation:
    relation = TradeRelation(
        id=work.new_id("rel"),
        slot=parent.slot,
        biz_id=parent.biz_id,
        root_trade_id=parent.id,
        parent_trade_id=parent.id,
        child_trade_id=part.id,
        kind=kind.value,
    )
    return work.insert(relation, audit=False)


def _merge(work: Work, policy: Policy, parent: Trade, trade_ids: Sequence[str]) -> NewParts:
    """Takes the trades that a merged payment pays: until it is over they are paid and closed by it alone."""
    spec = policy.catalogue.spec(parent.trade_type)
    trades = []
    for trade_id in trade_ids:
        trade = work.get(Trade, trade_id)
        if trade is None:
            raise domain.no_such_trade(trade_id)
        merge_count = len(work.many(TradeRelation, "child_trade_id", trade_id))
        laws.check_mergeable(spec, parent, trade, merge_count, work.now_ms)
        trades.append(trade)
    laws.check_merged_amount(parent, trades)
    # Their own time stands still: the merged payment's counts.
    taken = [
        work.update(
            msgspec.structs.replace(trade, group_trade_id=parent.id, due_at_ms=None),
            parent_id=parent.id,
            note=f"is paid by {parent.id}",
        )
        for trade in trades
    ]
    relations = [_relate(work, parent, trade, RelationKind.MERGED) for trade in taken]
    return NewParts(work.update(msgspec.structs.replace(parent, part_count=len(taken))), taken, relations)


# Parts that are paid together


def parts_paid_with(work: Work, policy: Policy, parent: Trade, attempt: PayAttempt) -> list[Trade]:
    """Parts turn PAID with their parent. ``attempt`` is the parent's that paid: refunds of a part go against it.

    What the parent itself counts is ``parts.paid_fields``.
    """
    is_merge = policy.catalogue.spec(parent.trade_type).parts is Parts.MERGED
    paid = []
    for part in parts_of(work, parent):
        assert part.group_trade_id == (parent.id if is_merge else ""), f"{part.id} is paid by {part.group_trade_id}"
        spec = policy.catalogue.spec(part.trade_type)
        moved = TRADE.move(
            part,
            TradeState.PAID,
            reason="",
            attempt_id=attempt.id,
            group_trade_id="",
            paid_minor=part.amount_minor,
            refundable_minor=part.amount_minor if TradeType.REFUND in spec.follow_ups else 0,
            paid_at_ms=work.now_ms,
            due_at_ms=None,
        )
        part = work.update(moved, parent_id=parent.id)
        work.adopt(part.biz_id)  # a merged order is told of under its own
        work.publish(TRADE_PAID, wire.event(part))
        paid.append(part)
    work.adopt(parent.biz_id)
    return paid


def parts_released(work: Work, policy: Policy, parent: Trade) -> list[Trade]:
    """What becomes of parts when the parent that would have paid them is over without payment.

    Merged trades live on as they were: where their time is up meanwhile they are due at once. Parts that were made
    with the parent are CLOSED for its reason.
    """
    is_merge = policy.catalogue.spec(parent.trade_type).parts is Parts.MERGED
    released = []
    for part in parts_of(work, parent):
        if is_merge and part.group_trade_id == parent.id:
            freed = msgspec.structs.replace(part, group_trade_id="", due_at_ms=part.expires_at_ms)
            released.append(work.update(freed, parent_id=parent.id, note=f"is not paid by {parent.id}"))
        elif not is_merge and part.state == TradeState.CREATED:
            released.append(steps.close(work, policy, part, parent.reason))
    return released


# Parts that are paid separately


def pay_part(work: Work, policy: Policy, parent: Trade, methods: Sequence[PayMethod]) -> BegunPart:
    """Makes the part of a trade that ``methods`` pay, and begins to pay it. The parent stays as it is meanwhile.

    FailedPrecondition where the type is not paid in parts (PARTS_NOT_ALLOWED), the trade is grouped, over, expired or
    being paid whole, or the amounts come to more than is neither paid nor under way.
    """
    spec = policy.catalogue.spec(parent.trade_type)
    laws.check_partial(spec, parent, work.now_ms)
    amount_minor = laws.partial_amount(parent, parts_of(work, parent), methods)
    assert spec.part_type is not None
    part = _insert_part(work, parent, spec.part_type, PartInput(amount_minor=amount_minor, currency=parent.currency))
    relation = _relate(work, parent, part, RelationKind.SPLIT)
    counted = msgspec.structs.replace(parent, part_count=parent.part_count + 1)
    parent = work.update(counted, note=f"part of {amount_minor} begun")
    part, attempt = steps.begin_payment(work, policy, part, methods)
    return BegunPart(parent, part, attempt, relation)


def part_paid(work: Work, part: Trade) -> Trade:
    """Counts a part that was paid on its own, and turned PAID, with its parent; the parent as it is then."""
    assert part.state == TradeState.PAID, f"{part.id} is {part.state}"
    parent = parent_of(work, part)
    counted = laws.with_part_paid(parent, part.amount_minor, work.now_ms)
    parent = work.update(counted, note=f"part {part.id} of {part.amount_minor} paid")
    if parent.state == TradeState.PAID:
        work.publish(TRADE_PAID, wire.event(parent))
    else:
        steps.tell_changed(work, parent)
    return parent


def unpaid_in_time(work: Work, policy: Policy, part: Trade) -> Unwound | None:
    """An instalment was not paid in time: its whole plan is closed. None where the part is closed by itself."""
    if not policy.catalogue.is_separate_part(part.trade_type):
        return None
    parent = parent_of(work, part)
    if parent.state in OVER or policy.catalogue.spec(parent.trade_type).parts is not Parts.INSTALMENT:
        return None
    return expire_partly_paid(work, policy, parent, INSTALMENT_UNPAID)


def expire_partly_paid(work: Work, policy: Policy, parent: Trade, reason: str, note: str = "") -> Unwound:
    """Closes a parent whose parts are paid separately, paid in part or not at all, and its open parts with it.

    A part whose payment is unknown is left to its result, and ends with that: ``is_late`` says what becomes of a
    success; after a failure its time is up.
    """
    parent = steps.close(work, policy, parent, reason, note)
    closed, to_refund = [], []
    for part in parts_of(work, parent):
        if part.state == TradeState.PAID:
            _insist(work, part)
            to_refund += [part] if part.refundable_minor else []
        elif part.state in OVER:
            continue
        elif _is_unknown(work, part):
            work.update(msgspec.structs.replace(part, expires_at_ms=work.now_ms), parent_id=parent.id)
        else:
            closed.append(steps.close(work, policy, part, reason))
    return Unwound(parent, closed, to_refund)


def _insist(work: Work, part: Trade) -> None:
    """Refunds of a paid part that a caller began are tried until they are done, now that its order is over."""
    for refund in refunds_under_way(work, part):
        if not refund.purpose:
            late = msgspec.structs.replace(refund, purpose=Purpose.LATE.value)
            work.update(late, parent_id=part.id, note=Purpose.LATE.value)


def _is_unknown(work: Work, part: Trade) -> bool:
    if part.state != TradeState.PAYING:
        return False
    return not domain.is_waiting_for_customer(domain.open_among(work.many(PayAttempt, "trade_id", part.id)))
