"""4: whatever was accepted ends, or stands in an open break; while an outcome is unknown nothing else is tried."""

from __future__ import annotations

from channel_gateway.channel_order import PROVIDER_NOT_FOUND
from channel_gateway.tables import ChannelOrder
from meshctl.invariants.base import Invariant, Tally
from meshctl.invariants.world import Slice
from pay_core.payment import is_terminal
from pay_core.tables import Payment
from trade_core.tables import Trade

_UNKNOWN_ORDER = ("SENDING", "PENDING", "UNKNOWN")


def trades_end(world: Slice, tally: Tally) -> None:
    """A trade that is being paid or settled, or whose time is up, is younger than the stated time."""
    scope = world.scope
    for trade in world.rows(Trade):
        tally.count()
        if trade.state in ("PAYING", "SETTLING"):
            attempts = [row for row in world.attempts_of.get(trade.id, []) if row.state in ("PAYING", "AUTHORIZED")]
            payments = [payment.id for row in attempts for payment in world.payments_for.get(row.id, [])]
            since_ms = max([row.created_at_ms for row in attempts], default=trade.created_at_ms)
            if trade.state == "SETTLING":
                since_ms = world.moved_at_ms.get(trade.id, since_ms)
            elif attempts and all(row.awaits_customer for row in attempts):
                since_ms = max(since_ms, trade.expires_at_ms or 0)  # the customer may take as long as the order lives
            ends = scope.may_be_open(since_ms) or any(world.is_held_up(payment_id) for payment_id in payments)
            tally.expect(ends, trade.id, f"{trade.state} {_age(world, since_ms)}")
        elif (ends_at_ms := _end_ms(trade)) is not None:
            late_ms = scope.now_ms - ends_at_ms
            tally.expect(late_ms <= scope.stated_ms, trade.id, f"{trade.state}, over since {late_ms / 1000:.0f} s")


def _end_ms(trade: Trade) -> int | None:
    """When a trade that is not over ends by itself; None where others end it, or it is tried until it is done."""
    if trade.state == "AUTHORIZED":
        return trade.hold_expires_at_ms
    is_unpaid = trade.state in ("CREATED", "PARTIALLY_PAID") and not trade.group_trade_id
    return trade.expires_at_ms if is_unpaid else None


def payments_end(world: Slice, tally: Tally) -> None:
    """A payment under way is younger than the stated time, and one that keeps money past its time by no more."""
    for payment in world.rows(Payment):
        tally.count()
        if payment.state == "AUTHORIZED":
            since_ms = payment.expires_at_ms or payment.created_at_ms
            late_ms = world.scope.now_ms - since_ms
            tally.expect(late_ms <= world.scope.stated_ms, payment.id, f"AUTHORIZED {_age(world, since_ms)}")
        elif not is_terminal(payment):
            # A capture or void begins anew.
            since_ms = max(payment.created_at_ms, world.moved_at_ms.get(payment.id, 0))
            ends = world.scope.may_be_open(since_ms) or world.is_held_up(payment.id)
            tally.expect(ends, payment.id, f"{payment.state} {_age(world, since_ms)}")


def orders_end(world: Slice, tally: Tally) -> None:
    """A channel order that has not ended is younger than the stated time. Of those that have, a provider is only asked
    about what it did not know."""
    for order in world.rows(ChannelOrder):
        tally.count()
        is_due = order.due_at_ms is not None
        if order.state not in ("SUCCEEDED", "FAILED"):
            is_explained = world.is_explained(order.id, order.instruction_id, order.payment_id)
            ends = world.scope.may_be_open(order.created_at_ms) or is_explained
            tally.expect(ends, order.id, f"{order.state} {_age(world, order.created_at_ms)}")
            tally.expect(is_due, order.id, f"{order.state}, and nothing goes on with it")
        elif (order.state, order.failure_reason) != ("FAILED", PROVIDER_NOT_FOUND):
            tally.expect(not is_due, order.id, f"{order.state}, and due")


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
            is_alone = not others or bool(attempt.awaits_customer)
            tally.expect(is_alone, order.id, f"{order.state}, and {trade.id} is tried again by {others}")
            is_open = attempt.state in ("PAYING", "AUTHORIZED", "RETURNED")
            tally.expect(is_open, order.id, f"{order.state}, its attempt {attempt.state}")


def _age(world: Slice, since_ms: int) -> str:
    return f"for {(world.scope.now_ms - since_ms) / 1000:.0f} s, and no open break names it"


INVARIANTS = (
    Invariant("4a", "each trade ends in time", "trades", trades_end),
    Invariant("4b", "each payment ends in time", "payments", payments_end),
    Invariant("4c", "each channel order ends in time", "channel orders", orders_end),
    Invariant("4d", "an unknown outcome holds everything still", "open channel orders", unknown_holds_still),
)
