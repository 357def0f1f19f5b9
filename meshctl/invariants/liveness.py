"""4: whatever was accepted ends, or stands in an open break; while an outcome is unknown nothing else is tried."""

from __future__ import annotations

from channel_gateway.tables import ChannelOrder
from meshctl.invariants.base import Invariant, Tally
from meshctl.invariants.world import Slice
from pay_core.tables import Payment
from trade_core.tables import Trade

_UNKNOWN_ORDER = ("SENDING", "PENDING", "UNKNOWN")


def trades_end(world: Slice, tally: Tally) -> None:
    """A trade being paid, or past its expiry, is younger than the stated time."""
    for trade in world.rows(Trade):
        tally.count()
        if trade.state == "PAYING":
            attempt = world.attempts.get(trade.attempt_id)
            payments = [payment.id for payment in world.payments_for.get(trade.attempt_id, [])]
            since_ms = trade.created_at_ms if attempt is None else attempt.created_at_ms
            is_explained = world.is_explained(*payments, *_instructions(world, payments))
            ends = world.scope.may_be_open(since_ms) or is_explained
            tally.expect(ends, trade.id, f"PAYING {_age(world, since_ms)}")
        elif trade.state == "CREATED" and trade.expires_at_ms is not None:
            late_ms = world.scope.now_ms - trade.expires_at_ms
            tally.expect(late_ms <= world.scope.stated_ms, trade.id, f"unpaid, expired {late_ms / 1000:.0f} s ago")


def payments_end(world: Slice, tally: Tally) -> None:
    """A payment that has not ended is younger than the stated time."""
    for payment in world.rows(Payment):
        tally.count()
        if payment.state not in ("SUCCEEDED", "FAILED"):
            is_explained = world.is_explained(payment.id, *_instructions(world, [payment.id]))
            ends = world.scope.may_be_open(payment.created_at_ms) or is_explained
            tally.expect(ends, payment.id, f"{payment.state} {_age(world, payment.created_at_ms)}")


def orders_end(world: Slice, tally: Tally) -> None:
    """A channel order that has not ended is younger than the stated time."""
    for order in world.rows(ChannelOrder):
        tally.count()
        if order.state not in ("SUCCEEDED", "FAILED"):
            is_explained = world.is_explained(order.id, order.instruction_id, order.payment_id)
            ends = world.scope.may_be_open(order.created_at_ms) or is_explained
            tally.expect(ends, order.id, f"{order.state} {_age(world, order.created_at_ms)}")


def unknown_holds_still(world: Slice, tally: Tally) -> None:
    """While a provider's answer is unknown its instruction is PROCESSING, nothing is undone, no other attempt begun."""
    for order in world.rows(ChannelOrder):
        if order.state not in _UNKNOWN_ORDER or world.scope.may_be_unseen(order.created_at_ms):
            continue
        tally.count()
        instruction = world.instructions.get(order.instruction_id)
        payment = world.payments.get(order.payment_id)
        if instruction is None or payment is None:
            continue  # told by 2d
        tally.expect(instruction.state == "PROCESSING", order.id, f"{order.state}, its instruction {instruction.state}")
        tally.expect(
            payment.state in ("PROCESSING", "REVERSING"), order.id, f"{order.state}, its payment {payment.state}"
        )
        chain = world.chains.get(payment.id, [])
        undoing = [ins.id for ins in chain if ins.direction == "REVERSE" and ins.reverses_id == instruction.id]
        tally.expect(not undoing, order.id, f"{order.state}, and being undone by {undoing}")
        attempt = world.attempts.get(payment.source_id)
        trade = None if attempt is None else world.trades.get(attempt.trade_id)
        if attempt is not None and trade is not None:
            others = [a.id for a in world.attempts_of.get(trade.id, []) if a.attempt_no > attempt.attempt_no]
            tally.expect(not others, order.id, f"{order.state}, and {trade.id} is tried again by {others}")
            tally.expect(attempt.state == "PAYING", order.id, f"{order.state}, its attempt {attempt.state}")


def _instructions(world: Slice, payment_ids: list[str]) -> list[str]:
    return [ins.id for payment_id in payment_ids for ins in world.chains.get(payment_id, [])]


def _age(world: Slice, since_ms: int) -> str:
    return f"for {(world.scope.now_ms - since_ms) / 1000:.0f} s, and no open break names it"


INVARIANTS = (
    Invariant("4a", "each trade ends in time", "trades", trades_end),
    Invariant("4b", "each payment ends in time", "payments", payments_end),
    Invariant("4c", "each channel order ends in time", "channel orders", orders_end),
    Invariant("4d", "an unknown outcome holds everything still", "open channel orders", unknown_holds_still),
)
