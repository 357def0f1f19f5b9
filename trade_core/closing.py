"""How unpaid orders end: with their parts, and with the attempts that are still under way."""

from __future__ import annotations

import msgspec

from paykit.errors import FailedPrecondition
from paykit.store.command import Work
from trade_core import trade as domain
from trade_core.part_commands import Unwound, expire_partly_paid, parts_released, unpaid_in_time
from trade_core.part_rows import refund_target
from trade_core.parts import check_ungrouped, closes_by_parts, is_part, part_of_order
from trade_core.refunds import refund
from trade_core.steps import EXPIRED, Policy, close, open_attempts
from trade_core.tables import Trade
from trade_core.trade import TRADE, Purpose, TradeState
from trade_core.types import TOGETHER
from trade_core.wire import TradeView


def check_closable(policy: Policy, trade: Trade) -> None:
    """That a caller may close the trade by itself. FailedPrecondition; the transition itself refuses what is over."""
    check_ungrouped(trade)
    if trade.state in (TradeState.AUTHORIZED, TradeState.SETTLING):
        raise FailedPrecondition(
            f"trade {trade.id} is {trade.state}: its money must be let go",
            subject=trade.id,
            metadata={"state": trade.state, "entity": TRADE.entity},
        )
    spec = policy.catalogue.spec(trade.trade_type)
    if spec.is_closable:
        return
    if is_part(spec, trade):
        raise part_of_order(trade)
    raise FailedPrecondition(
        f"a trade of type {trade.trade_type} is not closed",
        reason="CLOSE_NOT_ALLOWED",
        subject=trade.id,
        metadata={"trade_type": trade.trade_type},
    )


def close_order(work: Work, policy: Policy, trade: Trade, reason: str, note: str = "") -> Trade:
    """Closes an unpaid or partly paid order with all its parts; what was paid of it goes back by itself."""
    spec = policy.catalogue.spec(trade.trade_type)
    if closes_by_parts(spec, trade):
        return _unwind(work, policy, expire_partly_paid(work, policy, trade, reason, note))
    trade = close(work, policy, trade, reason, note)
    if spec.parts in TOGETHER:
        parts_released(work, policy, trade)
    return trade


def expire(work: Work, policy: Policy, trade: Trade) -> TradeView | None:
    """Closes an order whose time is up; None where it must be waited for what is under way."""
    if trade.group_trade_id:
        # The end of the merged payment sets its due time again.
        work.update(msgspec.structs.replace(trade, due_at_ms=None))
        return None
    waiting = open_attempts(work, trade)
    if trade.state == TradeState.PAYING and not domain.is_waiting_for_customer(waiting):
        return None
    unwound = unpaid_in_time(work, policy, trade)
    if unwound is None:
        return TradeView(close_order(work, policy, trade, EXPIRED))
    _unwind(work, policy, unwound)
    ended = work.get(Trade, trade.id)
    assert ended is not None
    return TradeView(ended)


def _unwind(work: Work, policy: Policy, unwound: Unwound) -> Trade:
    """Gives back what parts of a closed order were paid; each refund is tried until it is done."""
    for part in unwound.to_refund:
        paid_by, payee_reference = refund_target(work, part)
        amount_minor = part.refundable_minor
        refund(work, policy, part, amount_minor, paid_by, payee_reference, purpose=Purpose.LATE.value)
    return unwound.parent
