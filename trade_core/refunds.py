"""Money that goes back: refunds a caller asks for, and those that nobody asked for, which are tried until done."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from paykit.errors import FailedPrecondition, FieldViolation, InvalidArgument
from paykit.ids import slot_in
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key
from trade_core import trade as domain
from trade_core.part_rows import refund_keys, refund_target
from trade_core.payments import refund_call
from trade_core.steps import Policy, begin_attempt, new_row, required, tell_changed
from trade_core.tables import PayAttempt, Trade, TradeRelation
from trade_core.trade import TRADE, Purpose, RelationKind, TradeState
from trade_core.types import TradeType
from trade_core.wire import TradeView

_RELATION = {
    Purpose.DUPLICATE.value: RelationKind.DUPLICATE_OF,
    Purpose.LATE.value: RelationKind.REPAIR_OF,
}


class RefundTrade(Command[TradeView]):
    """Gives a paid trade's money back: reserves it, and makes the refund and the call that moves it, at once."""

    result_type = TradeView

    def __init__(
        self, origin: Origin, policy: Policy, trade_id: str, currency: str, amount_minor: int | None, note: str
    ) -> None:
        """``amount_minor`` None gives back all that is left; ``currency`` is empty then."""
        super().__init__(slot_in(trade_id), origin)
        self.policy = policy
        self.trade_id = trade_id
        self.currency = currency
        self.amount_minor = amount_minor
        self.note = note

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Trade, self.trade_id)
        parent = rows.get(Trade, self.trade_id)
        if parent is not None:
            yield from refund_keys(rows, parent)

    def decide(self, work: Work) -> TradeView:
        parent = required(work, self.trade_id)
        self._check(parent)
        paid_by, payee_reference = refund_target(work, parent)
        self._check_type(parent)
        amount_minor = domain.refund_amount(parent, self.amount_minor)
        return refund(work, self.policy, parent, amount_minor, paid_by, payee_reference, note=self.note)

    def _check(self, parent: Trade) -> None:
        if parent.state not in (TradeState.PAID, TradeState.PARTIALLY_PAID):
            raise FailedPrecondition(
                f"trade {parent.id} is {parent.state} and cannot be refunded",
                subject=parent.id,
                metadata={"state": parent.state, "entity": TRADE.entity},
            )
        if self.amount_minor is not None and self.currency != parent.currency:
            raise InvalidArgument([FieldViolation("amount.currency_code", f"must be {parent.currency}, the trade's")])

    def _check_type(self, parent: Trade) -> None:
        spec = self.policy.catalogue.spec(parent.trade_type)
        if TradeType.REFUND not in spec.follow_ups:
            raise FailedPrecondition(
                f"a trade of type {parent.trade_type} cannot be refunded",
                reason="REFUND_NOT_ALLOWED",
                subject=parent.id,
                metadata={"trade_type": parent.trade_type},
            )
        if parent.follow_up_count >= spec.follow_ups_max:
            raise FailedPrecondition(
                f"trade {parent.id} was refunded {parent.follow_up_count} times",
                reason="TOO_MANY_REFUNDS",
                subject=parent.id,
            )


class RetryRefund(Command[TradeView | None]):
    """Tries a refund that nobody asked for again; None where it is not waiting for that (any more)."""

    def __init__(self, origin: Origin, policy: Policy, trade_id: str) -> None:
        super().__init__(slot_in(trade_id), origin)
        self.policy = policy
        self.trade_id = trade_id

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Trade, self.trade_id)
        refund = rows.get(Trade, self.trade_id)
        if refund is None:
            return
        if refund.repairs_attempt_id:
            yield key(PayAttempt, refund.repairs_attempt_id)
            return
        yield key(Trade, refund.parent_trade_id)
        parent = rows.get(Trade, refund.parent_trade_id)
        if parent is not None:
            yield from refund_keys(rows, parent)

    def decide(self, work: Work) -> TradeView | None:
        refund = required(work, self.trade_id)
        is_due = refund.due_at_ms is not None and refund.due_at_ms <= work.now_ms
        if refund.state != TradeState.CREATED or not refund.purpose or not is_due:
            return None
        paid_by, payee_reference = self._target(work, refund)
        refund, attempt = begin_attempt(work, self.policy, refund)
        work.call(*refund_call(refund, paid_by, attempt.id, payee_reference))
        return TradeView(refund, attempts=[attempt])

    def _target(self, work: Work, refund: Trade) -> tuple[PayAttempt, str]:
        if not refund.repairs_attempt_id:
            return refund_target(work, required(work, refund.parent_trade_id))
        paid_by = work.get(PayAttempt, refund.repairs_attempt_id)
        assert paid_by is not None, f"{refund.id} repairs an attempt that does not exist"
        return paid_by, ""


def refund(
    work: Work,
    policy: Policy,
    parent: Trade,
    amount_minor: int,
    paid_by: PayAttempt,
    payee_reference: str,
    *,
    note: str = "",
    purpose: str = "",
) -> TradeView:
    """Begins to give ``amount_minor`` of a paid trade back, which falls from what is refundable at once."""
    reserved = domain.reserve_refund(parent, amount_minor)
    reserved = msgspec.structs.replace(reserved, follow_up_count=parent.follow_up_count + 1)
    parent = work.update(reserved, note=f"refund of {amount_minor} begun")
    tell_changed(work, parent)
    row = _refund_of(work, parent, amount_minor, note=note, purpose=purpose)
    return _begin(work, policy, parent, row, RelationKind.REFUND_OF, paid_by, payee_reference)


def give_back(
    work: Work, policy: Policy, parent: Trade, amount_minor: int, attempt: PayAttempt, purpose: Purpose
) -> TradeView:
    """Begins to give a payment back that did not pay its trade. The trade's own sums have nothing to do with it."""
    row = _refund_of(work, parent, amount_minor, purpose=purpose.value, repairs_attempt_id=attempt.id)
    return _begin(work, policy, parent, row, _RELATION[purpose.value], attempt, "")


def _refund_of(
    work: Work, parent: Trade, amount_minor: int, *, note: str = "", purpose: str = "", repairs_attempt_id: str = ""
) -> Trade:
    return new_row(
        work,
        parent.slot,
        biz_id=parent.biz_id,
        trade_type=TradeType.REFUND,
        buyer_id=parent.buyer_id,
        payee_id=parent.payee_id,
        parent_trade_id=parent.id,
        scene=parent.scene,
        currency=parent.currency,
        amount_minor=amount_minor,
        note=note,
        purpose=purpose,
        repairs_attempt_id=repairs_attempt_id,
    )


def _begin(
    work: Work,
    policy: Policy,
    parent: Trade,
    row: Trade,
    kind: RelationKind,
    paid_by: PayAttempt,
    payee_reference: str,
) -> TradeView:
    refund = work.insert(row, parent_id=parent.id)
    relation = work.insert(
        TradeRelation(
            id=work.new_id("rel"),
            slot=parent.slot,
            biz_id=refund.biz_id,
            root_trade_id=parent.parent_trade_id or parent.id,
            parent_trade_id=parent.id,
            child_trade_id=refund.id,
            kind=kind.value,
        ),
        audit=False,
    )
    refund, attempt = begin_attempt(work, policy, refund)
    work.call(*refund_call(refund, paid_by, attempt.id, payee_reference))
    return TradeView(refund, attempts=[attempt], relations=[relation])
