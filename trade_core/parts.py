"""Orders with parts: what makes parts fit their order, what an order's state follows from, what may be paid of it.

Parts are paid *together* by their parent's one payment (MERGED, SPLIT) or *separately*, each by its own (INSTALMENT,
PART_PAYMENT). Pure: no I/O, no clock. Amounts are minor units of the parent's currency.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from paykit.errors import FailedPrecondition, FieldViolation, InvalidArgument
from paykit.ids import slot_in, slot_of
from trade_core.tables import Trade
from trade_core.trade import OVER, TRADE, PayMethod, RelationKind, TradeState, is_expired, order_key
from trade_core.types import TOGETHER, Operation, Parts, PayeeKind, TradeTypeSpec

PARTS_MIN = 2
PARTS_MAX = {Parts.MERGED: 16, Parts.SPLIT: 16, Parts.INSTALMENT: 60}  # one payment has 16 payees at most
PART_PAYMENTS_MAX = 60  # of one trade, failed ones counted
MERGES_MAX = 20  # merged payments that one trade was ever in
DUE_AHEAD_MS_MIN = 1_000
DUE_AHEAD_MS_MAX = 5 * 366 * 86_400_000

PART_RELATIONS = frozenset({RelationKind.MERGED, RelationKind.SPLIT, RelationKind.INSTALMENT_OF})
_MADE_WITH = frozenset({Parts.SPLIT, Parts.INSTALMENT})
_PAYABLE_IN_PARTS = frozenset({TradeState.CREATED, TradeState.PARTIALLY_PAID})
_NAMED_MAX = 60  # ids in the metadata of an error


class PartInput(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a new order. ``payee_id``: of a split; ``due_at_ms``: of an instalment; empty and None otherwise."""

    amount_minor: int
    currency: str
    payee_id: str = ""
    merchant_order_no: str = ""
    due_at_ms: int | None = None


class PartPayee(msgspec.Struct, frozen=True):
    """Who is paid for one part by its parent's payment; ``reference`` is the part's id, by which it is refunded."""

    owner_id: str
    kind: PayeeKind
    amount_minor: int
    reference: str


# New parts


def part_violations(
    spec: TradeTypeSpec,
    payee_id: str,
    currency: str,
    amount_minor: int,
    parts: Sequence[PartInput],
    merchant_order_no: str = "",
) -> list[FieldViolation]:
    """What is wrong with the ``parts`` of a new order of this type, whatever the time. Fields are ``parts[i]…``.

    The other arguments are the order's own.
    """
    if spec.parts not in _MADE_WITH:
        return [FieldViolation("parts", f"{spec.trade_type} has no parts")] if parts else []
    found = _count_violations("parts", len(parts), PARTS_MAX[spec.parts])
    for i, part in enumerate(parts):
        under = f"parts[{i}]"
        if part.currency != currency:
            found.append(FieldViolation(f"{under}.amount.currency_code", f"must be {currency}, the order's"))
        if part.amount_minor <= 0:
            found.append(FieldViolation(f"{under}.amount.amount_minor", "must be greater than zero"))
        if spec.parts is Parts.SPLIT and not part.payee_id:
            found.append(FieldViolation(f"{under}.payee_id", "required"))
        if spec.parts is not Parts.SPLIT and part.payee_id:
            found.append(FieldViolation(f"{under}.payee_id", "is the order's"))
    total = sum(part.amount_minor for part in parts)
    if not found and total != amount_minor:
        found.append(FieldViolation("parts", f"must add up to the order's amount, {amount_minor}, not {total}"))
    found += _due_violations(spec, parts)
    found += _number_violations(payee_id, merchant_order_no, parts)
    return found


def _count_violations(field: str, count: int, most: int) -> list[FieldViolation]:
    if PARTS_MIN <= count <= most:
        return []
    return [FieldViolation(field, f"must have {PARTS_MIN} to {most} elements, not {count}")]


def _due_violations(spec: TradeTypeSpec, parts: Sequence[PartInput]) -> list[FieldViolation]:
    """Due dates stand where they belong, and rise."""
    found = []
    before_ms = -1
    for i, part in enumerate(parts):
        field = f"parts[{i}].due_time"
        if spec.parts is not Parts.INSTALMENT:
            if part.due_at_ms is not None:
                found.append(FieldViolation(field, f"a part of {spec.trade_type} is due with the whole"))
        elif part.due_at_ms is None:
            found.append(FieldViolation(field, "required"))
        elif part.due_at_ms <= before_ms:
            found.append(FieldViolation(field, "must be later than the one before"))
        before_ms = before_ms if part.due_at_ms is None else part.due_at_ms
    return found


def _number_violations(payee_id: str, merchant_order_no: str, parts: Sequence[PartInput]) -> list[FieldViolation]:
    """No payee is given the same number twice, for the order and its parts."""
    found, seen = [], {(payee_id, merchant_order_no)}
    for i, part in enumerate(parts):
        if part.merchant_order_no:
            name = (part.payee_id or payee_id, part.merchant_order_no)
            if name in seen:
                found.append(FieldViolation(f"parts[{i}].merchant_order_no", "given twice for this payee"))
            seen.add(name)
    return found


def merge_violations(spec: TradeTypeSpec, buyer_id: str, trade_ids: Sequence[str]) -> list[FieldViolation]:
    """What is wrong with the ``merged_trade_ids`` (each in the form of an id) of a new order of this type."""
    if spec.parts is not Parts.MERGED:
        return [FieldViolation("merged_trade_ids", f"{spec.trade_type} merges nothing")] if trade_ids else []
    found = _count_violations("merged_trade_ids", len(trade_ids), PARTS_MAX[spec.parts])
    slot, seen = slot_of(buyer_id), set()
    for i, trade_id in enumerate(trade_ids):
        if slot_in(trade_id) != slot:
            found.append(FieldViolation(f"merged_trade_ids[{i}]", "is no trade of this buyer"))
        if trade_id in seen:
            found.append(FieldViolation(f"merged_trade_ids[{i}]", "given twice"))
        seen.add(trade_id)
    return found


def check_due_times(parts: Sequence[PartInput], now_ms: int) -> None:
    """That instalments are due in the future, and in a bounded one; InvalidArgument otherwise."""
    found = [
        FieldViolation(f"parts[{i}].due_time", "must be 1 second to 5 years ahead")
        for i, part in enumerate(parts)
        if part.due_at_ms is not None and not DUE_AHEAD_MS_MIN <= part.due_at_ms - now_ms <= DUE_AHEAD_MS_MAX
    ]
    if found:
        raise InvalidArgument(found)


def part_order_key(buyer_id: str, payee_id: str, part: PartInput) -> str:
    """What makes a part's number unique; empty where it has none. ``payee_id`` is the parent's."""
    if not part.merchant_order_no:
        return ""
    return order_key(buyer_id, part.payee_id or payee_id, part.merchant_order_no)


# Merging


def check_mergeable(merging: TradeTypeSpec, parent: Trade, trade: Trade, merge_count: int, now_ms: int) -> None:
    """That ``parent``, of type ``merging``, may pay ``trade``, which was in ``merge_count`` merged payments before.

    FailedPrecondition TRADE_GROUPED, TRADE_EXPIRED, TOO_MANY_MERGES or NOT_MERGEABLE names the trade and says why.
    """
    check_ungrouped(trade)
    why = _why_not_mergeable(merging, parent, trade)
    if why:
        raise FailedPrecondition(
            f"trade {trade.id} cannot be merged: {why}",
            reason="NOT_MERGEABLE",
            subject=trade.id,
            metadata={"trade_id": trade.id, "state": trade.state},
        )
    if is_expired(trade, now_ms):
        raise expired(trade)
    if merge_count >= MERGES_MAX:
        raise FailedPrecondition(
            f"trade {trade.id} was merged {merge_count} times", reason="TOO_MANY_MERGES", subject=trade.id
        )


def _why_not_mergeable(merging: TradeTypeSpec, parent: Trade, trade: Trade) -> str:
    if trade.buyer_id != parent.buyer_id:
        return "it has another buyer"
    if trade.currency != parent.currency:
        return f"it is in {trade.currency}"
    if trade.trade_type not in merging.merges:
        return f"a trade of type {trade.trade_type} is paid in its own way"
    if trade.state != TradeState.CREATED or trade.open_attempt_count:
        return f"it is {trade.state}"
    if trade.part_count:
        return "it is paid in parts"
    return ""


def check_merged_amount(parent: Trade, trades: Iterable[Trade]) -> None:
    """That the merged trades add up to the payment; FailedPrecondition MERGED_AMOUNT_MISMATCH otherwise."""
    total = sum(trade.amount_minor for trade in trades)
    if total != parent.amount_minor:
        raise FailedPrecondition(
            f"the merged trades add up to {total} {parent.currency} (minor units), not {parent.amount_minor}",
            reason="MERGED_AMOUNT_MISMATCH",
            subject=parent.id,
            metadata={"total_minor": str(total), "currency_code": parent.currency},
        )


# What a trade with parts, or a part, allows


def is_part(spec: TradeTypeSpec, trade: Trade) -> bool:
    """Whether a trade of type ``spec`` was made as a part of another, which its ``parent_trade_id`` names."""
    return bool(trade.parent_trade_id) and spec.operation is not Operation.REFUND


def has_parts_paid(trade: Trade) -> bool:
    """Whether any of its parts is paid: then its money is given back part by part."""
    return trade.part_paid_count > 0


def check_ungrouped(trade: Trade) -> None:
    """That no merged payment is paying it just now; FailedPrecondition TRADE_GROUPED otherwise."""
    if trade.group_trade_id:
        raise FailedPrecondition(
            f"trade {trade.id} is being paid by {trade.group_trade_id}",
            reason="TRADE_GROUPED",
            subject=trade.id,
            metadata={"group_trade_id": trade.group_trade_id},
        )


def check_alone(spec: TradeTypeSpec, trade: Trade) -> None:
    """That its price is nobody else's concern: no part, no parts, not grouped. Else TRADE_GROUPED or PART_OF_ORDER."""
    check_ungrouped(trade)
    if is_part(spec, trade) or trade.part_count:
        raise part_of_order(trade)


def closes_by_parts(spec: TradeTypeSpec, trade: Trade) -> bool:
    """Whether closing it means to close its parts, and to give back those that are paid."""
    return trade.part_count > 0 and spec.parts not in TOGETHER


def expired(trade: Trade) -> FailedPrecondition:
    """What is told of a trade whose time is up."""
    return FailedPrecondition(f"trade {trade.id} has expired", reason="TRADE_EXPIRED", subject=trade.id)


def part_of_order(trade: Trade) -> FailedPrecondition:
    """What is told of a trade that cannot be handled without the rest of its order."""
    return FailedPrecondition(
        f"trade {trade.id} stands and falls with its order",
        reason="PART_OF_ORDER",
        subject=trade.id,
        metadata={"parent_trade_id": trade.parent_trade_id},
    )


def named_by_part(trade: Trade, parts: Iterable[Trade], reason: str) -> FailedPrecondition:
    """What is told of a parent whose parts must be named instead: PAY_BY_PART, REFUND_BY_PART."""
    ids = [part.id for part in parts]
    named = ",".join(ids[:_NAMED_MAX])
    return FailedPrecondition(
        f"trade {trade.id} has {len(ids)} parts: name one of them",
        reason=reason,
        subject=trade.id,
        metadata={"part_trade_ids": named, "part_count": str(len(ids))},
    )


# Paying in parts


def open_minor(parts: Iterable[Trade]) -> int:
    """What parts may still bring."""
    return sum(part.amount_minor for part in parts if part.state not in OVER)


def check_partial(spec: TradeTypeSpec, parent: Trade, now_ms: int) -> None:
    """That a trade may be paid in parts now; FailedPrecondition otherwise."""
    check_ungrouped(parent)
    if not spec.is_partial:
        raise FailedPrecondition(
            f"a trade of type {parent.trade_type} is not paid in parts",
            reason="PARTS_NOT_ALLOWED",
            subject=parent.id,
            metadata={"trade_type": parent.trade_type},
        )
    if parent.state not in _PAYABLE_IN_PARTS or parent.open_attempt_count:
        raise FailedPrecondition(
            f"trade {parent.id} is {parent.state} and cannot be paid in parts",
            subject=parent.id,
            metadata={"state": parent.state, "entity": TRADE.entity},
        )
    if is_expired(parent, now_ms):
        raise expired(parent)


def partial_amount(parent: Trade, parts: Sequence[Trade], methods: Sequence[PayMethod]) -> int:
    """What a partial payment by ``methods`` brings: more than nothing, at most what is unpaid and not under way.

    InvalidArgument where a method names no amount or another currency; FailedPrecondition AMOUNT_EXCEEDS_UNPAID,
    TOO_MANY_PARTS.
    """
    violations = []
    for i, method in enumerate(methods):
        if method.amount_minor is None:
            violations.append(FieldViolation(f"pay_methods[{i}].amount", "required in a partial payment"))
        elif method.currency != parent.currency:
            described = f"must be {parent.currency}, the trade's"
            violations.append(FieldViolation(f"pay_methods[{i}].amount.currency_code", described))
    if violations:
        raise InvalidArgument(violations)
    amount_minor = sum(method.amount_minor or 0 for method in methods)
    room_minor = parent.amount_minor - parent.paid_minor - open_minor(parts)
    if not 0 < amount_minor <= room_minor:
        raise FailedPrecondition(
            f"trade {parent.id} has {room_minor} {parent.currency} (minor units) neither paid nor under way",
            reason="AMOUNT_EXCEEDS_UNPAID",
            subject=parent.id,
            metadata={"unpaid_minor": str(room_minor), "currency_code": parent.currency},
        )
    if parent.part_count >= PART_PAYMENTS_MAX:
        raise FailedPrecondition(
            f"trade {parent.id} was paid in {parent.part_count} parts", reason="TOO_MANY_PARTS", subject=parent.id
        )
    return amount_minor


# What follows from parts that are paid


def paid_fields(spec: TradeTypeSpec, trade: Trade, may_be_refunded: bool) -> dict[str, Any]:
    """What a trade paid by its own payment counts: of one whose parts were paid with it, the parts are refunded."""
    if spec.parts in TOGETHER:
        return {"paid_minor": trade.amount_minor, "part_paid_count": trade.part_count, "refundable_minor": 0}
    return {"paid_minor": trade.amount_minor, "refundable_minor": trade.amount_minor if may_be_refunded else 0}


def with_part_paid(parent: Trade, amount_minor: int, now_ms: int) -> Trade:
    """The parent with one more part paid: PAID with the last, PARTIALLY_PAID before."""
    paid_minor = parent.paid_minor + amount_minor
    assert amount_minor > 0, f"{parent.id}: a part of nothing"
    assert paid_minor <= parent.amount_minor, f"{parent.id}: its parts bring more than it costs"
    assert parent.part_paid_count < parent.part_count, f"{parent.id}: more parts paid than it has"
    counted = msgspec.structs.replace(parent, paid_minor=paid_minor, part_paid_count=parent.part_paid_count + 1)
    if paid_minor == parent.amount_minor:
        return TRADE.move(counted, TradeState.PAID, reason="", paid_at_ms=now_ms, due_at_ms=None)
    if counted.state == TradeState.PARTIALLY_PAID:
        return counted
    return TRADE.move(counted, TradeState.PARTIALLY_PAID, reason="")
