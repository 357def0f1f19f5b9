"""5: what a client was told is there at the end, and came about once."""

from __future__ import annotations

from meshctl.invariants.base import Invariant, Tally
from meshctl.invariants.world import Flaw, Slice
from pay_core.tables import Instruction, Payment
from paykit.ids import is_id
from paykit.store.system import CommandRecord
from trade_core.tables import PayAttempt, Trade


def paid_trades_are_paid(world: Slice, tally: Tally) -> None:
    """A trade is PAID by exactly one EFFECTIVE attempt, and that by a SUCCEEDED payment of the same amount."""
    for trade in world.rows(Trade):
        tally.count()
        attempts = world.attempts_of.get(trade.id, [])
        effective = [attempt for attempt in attempts if attempt.state == "EFFECTIVE"]
        wanted = 1 if trade.state == "PAID" else 0
        tally.expect(len(effective) == wanted, trade.id, f"{trade.state}, with {len(effective)} EFFECTIVE attempts")
        for attempt in effective:
            payment = world.payments.get(attempt.payment_id)
            if payment is None:
                tally.violate(trade.id, f"paid by {attempt.payment_id or 'no payment'}, which does not exist")
                continue
            said = (payment.state, payment.source_id, payment.amount_minor, payment.currency)
            due = ("SUCCEEDED", attempt.id, trade.amount_minor, trade.currency)
            tally.expect(said == due, trade.id, f"{payment.id} is {said}, the trade needs {due}")


def succeeded_payments_pay(world: Slice, tally: Tally) -> None:
    """A payment made for an attempt that ended has ended its attempt the same way."""
    for payment in world.rows(Payment):
        if not is_id(payment.source_id, "att"):
            continue
        tally.count()
        attempt = world.attempts.get(payment.source_id)
        if attempt is None:
            lags = world.scope.may_be_unseen(payment.created_at_ms)
            tally.expect(lags, payment.id, f"made for attempt {payment.source_id}, which does not exist")
            continue
        expected = {"SUCCEEDED": "EFFECTIVE", "FAILED": "FAILED"}.get(payment.state, "PAYING")
        if attempt.state != expected:
            since_ms = payment.finished_at_ms or payment.created_at_ms
            lags = attempt.state == "PAYING" and world.may_lag(since_ms, payment.id, attempt.id)
            tally.expect(lags, payment.id, f"is {payment.state}, attempt {attempt.id} is {attempt.state}")


def succeeded_payments_are_done(world: Slice, tally: Tally) -> None:
    """A SUCCEEDED payment's FORWARD instructions all SUCCEEDED; what they collect and disburse is its amount."""
    for payment in world.rows(Payment):
        tally.count()
        chain = [ins for ins in world.chains.get(payment.id, []) if ins.direction == "FORWARD"]
        for action in ("COLLECT", "DISBURSE"):
            total = sum(ins.amount_minor for ins in chain if ins.action == action)
            tally.expect(
                total == payment.amount_minor, payment.id, f"{action} {total} of a payment of {payment.amount_minor}"
            )
        if payment.state == "SUCCEEDED":
            undone = [f"{ins.id} {ins.state}" for ins in chain if ins.state != "SUCCEEDED"]
            tally.expect(not undone, payment.id, f"SUCCEEDED, but {undone}")
    known = world.payments
    orphans = {payment_id for payment_id in world.chains if payment_id not in known}
    for payment_id in sorted(orphans):
        tally.violate(payment_id, "instructions name this payment, which does not exist")


def instructions_are_booked_once(world: Slice, tally: Tally) -> None:
    """A SUCCEEDED instruction is booked by exactly one journal (LOCAL, or SENT into transit); no other one is."""
    for instruction in world.rows(Instruction):
        tally.count()
        legs = [leg for leg in world.legs.get(instruction.id, []) if leg.leg != "RECEIVED"]
        booked = [(leg.amount_minor, leg.currency) for leg in legs]
        due = (instruction.amount_minor, instruction.currency)
        if instruction.state == "SUCCEEDED":
            tally.expect(booked == [due], instruction.id, f"SUCCEEDED with {due}, booked {booked}")
        else:
            # What is drawn from another slot is sent there before the instruction hears of it.
            is_drawn = instruction.state == "PROCESSING" and [leg.leg for leg in legs] == ["SENT"]
            tally.expect(not legs or is_drawn, instruction.id, f"{instruction.state}, booked {booked}")
    for instruction_id, legs in world.legs.items():
        if instruction_id not in world.instructions:
            lags = all(world.scope.may_be_unseen(leg.posted_at_ms) for leg in legs)
            tally.expect(lags, instruction_id, f"booked by {legs[0].journal_id}, and does not exist")
    for flaw in world.rows(Flaw):
        if flaw.what == "BOOKINGS":
            tally.violate(flaw.id, "the bookings of this journal cannot be read")


def first_results_are_kept(world: Slice, tally: Tally) -> None:
    """Every first result on record can be given again."""
    tally.count(sum(1 for record in world.rows(CommandRecord) if record.trigger == "rpc"))
    for flaw in world.rows(Flaw):
        if flaw.what == "RESULT":
            tally.violate(flaw.id, "the recorded result cannot be read")


def attempts_end_with_their_trade(world: Slice, tally: Tally) -> None:
    """Only the latest attempt of a trade being paid is under way."""
    for attempt in world.rows(PayAttempt):
        tally.count()
        trade = world.trades.get(attempt.trade_id)
        if trade is None:
            tally.violate(attempt.id, f"belongs to {attempt.trade_id}, which does not exist")
        elif attempt.state == "PAYING":
            is_current = trade.state == "PAYING" and trade.attempt_id == attempt.id
            tally.expect(is_current, attempt.id, f"PAYING, but {trade.id} is {trade.state} by {trade.attempt_id}")


INVARIANTS = (
    Invariant("5a", "a paid trade is paid once, in full", "trades", paid_trades_are_paid),
    Invariant("5b", "payments end their attempts", "payments of attempts", succeeded_payments_pay),
    Invariant("5c", "succeeded payments are done in full", "payments", succeeded_payments_are_done),
    Invariant("5d", "succeeded instructions are booked once", "instructions", instructions_are_booked_once),
    Invariant("5e", "only current attempts are under way", "attempts", attempts_end_with_their_trade),
    Invariant("5f", "first results can be given again", "requests", first_results_are_kept),
)
