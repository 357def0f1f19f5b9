"""How a pay attempt ends, and what its trade makes of that. Each step is pure, over ``Work``."""

from __future__ import annotations

from typing import Any

from paykit.store.command import Work
from trade_core import trade as domain
from trade_core import wire
from trade_core.part_commands import part_paid, parts_paid_with, parts_released
from trade_core.part_rows import is_late
from trade_core.parts import paid_fields
from trade_core.payments import PaymentResult, return_call
from trade_core.refunds import give_back
from trade_core.steps import TRADE_CLOSED, TRADE_FAILED, TRADE_PAID, Policy, after_attempt, tell_changed
from trade_core.tables import PayAttempt, Trade
from trade_core.trade import ATTEMPT, AttemptState, Purpose, TradeState
from trade_core.types import TOGETHER, LateSuccess, Operation, Settlement, TradeType, TradeTypeSpec
from trade_core.wire import TradeView

VOIDED = "VOIDED"
_SERVED = frozenset({TradeState.PAID, TradeState.AUTHORIZED, TradeState.SETTLING, TradeState.PARTIALLY_PAID})


def is_wanted(work: Work, policy: Policy, trade: Trade, attempt: PayAttempt, settlement: Settlement) -> bool:
    """Whether a trade takes what an attempt under way brings: it is unpaid, costs that much, and its order goes on."""
    if domain.asked_for(trade, attempt) != trade.amount_minor or is_late(work, policy, trade):
        return False
    if trade.state == TradeState.PAYING:
        return True
    reopens = policy.catalogue.spec(trade.trade_type).late_success is LateSuccess.REOPEN
    return trade.state == TradeState.CLOSED and reopens and settlement is Settlement.IMMEDIATE


def pay(work: Work, policy: Policy, trade: Trade, attempt: PayAttempt, result: PaymentResult) -> TradeView:
    """The attempt is EFFECTIVE and the trade PAID, with whatever follows for its parts or the trade it gives back."""
    spec = policy.catalogue.spec(trade.trade_type)
    paid = after_attempt(
        work, policy, trade, attempt, TradeState.PAID, **_paid_fields(work, spec, trade, attempt, result)
    )
    attempt = work.update(
        ATTEMPT.move(
            attempt,
            AttemptState.EFFECTIVE,
            payment_id=result.payment_id,
            finished_at_ms=work.now_ms,
            payment_version=result.version,
        ),
        parent_id=trade.id,
    )
    trade = work.update(paid)
    if spec.operation is Operation.REFUND:
        _settle_refund(work, trade)
    elif spec.parts in TOGETHER:
        parts_paid_with(work, policy, trade, attempt)
    work.publish(TRADE_PAID, wire.event(trade, attempt))
    if policy.catalogue.is_separate_part(trade.trade_type):
        part_paid(work, trade)
    return TradeView(trade, attempts=[attempt])


def _paid_fields(
    work: Work, spec: TradeTypeSpec, trade: Trade, attempt: PayAttempt, result: PaymentResult
) -> dict[str, Any]:
    may_be_refunded = TradeType.REFUND in spec.follow_ups
    fields = paid_fields(spec, trade, may_be_refunded)
    if spec.settlement is not Settlement.IMMEDIATE:  # less than the whole may have been captured
        captured = result.captured_minor
        fields = {"paid_minor": captured, "refundable_minor": captured if may_be_refunded else 0}
    fields["paid_at_ms"] = work.now_ms
    fields["attempt_id"] = attempt.id
    fields["reason"], fields["ask_count"], fields["hold_expires_at_ms"] = "", 0, None
    return fields


def _settle_refund(work: Work, refund: Trade) -> None:
    """Counts a refund that is done on the trade it gives back; a repair gives back what that trade never had."""
    if refund.repairs_attempt_id:
        return
    parent = _parent(work, refund)
    settled = domain.settle_refund(parent, refund.amount_minor)
    tell_changed(work, work.update(settled, note=f"refund of {refund.amount_minor} done"))


def _parent(work: Work, refund: Trade) -> Trade:
    parent = work.get(Trade, refund.parent_trade_id)
    assert parent is not None, f"{refund.id} gives back a trade that does not exist"
    return parent


def give_back_unwanted(
    work: Work, policy: Policy, trade: Trade, attempt: PayAttempt, result: PaymentResult
) -> TradeView:
    """A payment succeeded that its trade does not take (any more): a refund of its own gives it back."""
    purpose = _purpose(trade)
    trade, attempt = _returned(work, policy, trade, attempt, result, purpose)
    give_back(work, policy, trade, result.captured_minor, attempt, purpose)
    return TradeView(trade, attempts=[attempt])


def let_go_unwanted(work: Work, policy: Policy, trade: Trade, attempt: PayAttempt, result: PaymentResult) -> TradeView:
    """Money is held for a trade that does not want it (any more): it is let go."""
    purpose = _purpose(trade)
    trade, attempt = _returned(work, policy, trade, attempt, result, purpose)
    work.call(*return_call(attempt, purpose.value))
    return TradeView(trade, attempts=[attempt])


def _purpose(trade: Trade) -> Purpose:
    return Purpose.DUPLICATE if trade.state in _SERVED else Purpose.LATE


def _returned(
    work: Work, policy: Policy, trade: Trade, attempt: PayAttempt, result: PaymentResult, purpose: Purpose
) -> tuple[Trade, PayAttempt]:
    state, changes = TradeState(trade.state), dict[str, Any]()
    if state is TradeState.PAYING and trade.open_attempt_count <= 1:
        # It may be paid at its present price; a part of an order that is over may not.
        state = TradeState.CLOSED if is_late(work, policy, trade) else TradeState.CREATED
        changes["reason"] = purpose.value
    changed = after_attempt(work, policy, trade, attempt, state, **changes)
    attempt = work.update(
        ATTEMPT.move(
            attempt,
            AttemptState.RETURNED,
            payment_id=result.payment_id,
            failure_reason=purpose.value,
            finished_at_ms=work.now_ms,
            payment_version=result.version,
        ),
        parent_id=trade.id,
        note=purpose.value,
    )
    trade = work.update(changed, note=f"{attempt.id} is given back")
    if changes and state is TradeState.CLOSED:
        work.publish(TRADE_CLOSED, wire.event(trade, attempt))
    elif changes:
        tell_changed(work, trade, attempt)
    return trade, attempt


def fail(
    work: Work,
    policy: Policy,
    trade: Trade,
    attempt: PayAttempt,
    *,
    payment_id: str,
    reason: str,
    version: int = 0,
    is_voided: bool = False,
) -> TradeView:
    """Ends an attempt that took nothing, or gave all back (``is_voided``: because nobody captured it in time).

    With the last one under way a trade may be paid again, where its type says so; any other fails with it.
    """
    spec = policy.catalogue.spec(trade.trade_type)
    reason = reason[:64]
    state, changes = TradeState(trade.state), dict[str, Any]()
    if state is TradeState.PAYING and trade.open_attempt_count <= 1:
        state = TradeState.FAILED
        if is_voided:
            state = TradeState.CLOSED
        elif spec.is_retryable or trade.purpose:
            state = TradeState.CREATED
        changes["reason"] = reason
    changed = after_attempt(work, policy, trade, attempt, state, **changes)
    failed = ATTEMPT.move(
        attempt,
        AttemptState.FAILED,
        payment_id=payment_id,
        failure_reason=reason,
        finished_at_ms=work.now_ms,
        payment_version=version,
    )
    attempt = work.update(failed, parent_id=trade.id, note=reason)
    trade = work.update(changed, note=reason)
    if changes:
        _tell_ended(work, policy, spec, trade, attempt)
    return TradeView(trade, attempts=[attempt])


def _tell_ended(work: Work, policy: Policy, spec: TradeTypeSpec, trade: Trade, attempt: PayAttempt) -> None:
    if trade.state == TradeState.CREATED:
        tell_changed(work, trade, attempt)
        return
    if spec.operation is Operation.REFUND:
        released = domain.release_refund(_parent(work, trade), trade.amount_minor)
        tell_changed(work, work.update(released, note=f"refund of {trade.amount_minor} failed"))
    elif spec.parts in TOGETHER:
        parts_released(work, policy, trade)
    work.publish(TRADE_FAILED if trade.state == TradeState.FAILED else TRADE_CLOSED, wire.event(trade, attempt))
