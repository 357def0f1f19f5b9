"""5: what a client was told is there at the end, and came about once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from meshctl.invariants.base import Invariant, Tally
from meshctl.invariants.world import Flaw, Slice
from pay_core.payment import ESCROW, collected_minor
from pay_core.tables import Adjustment, Instruction, Payment
from paykit.ids import is_id
from paykit.store.system import CommandRecord
from trade_core.tables import PayAttempt, Trade

# What an attempt is when its payment is so. What is held or captured too late is given back: the attempt is RETURNED.
_ATTEMPT_STATES: Mapping[str, frozenset[str]] = {
    "PROCESSING": frozenset({"PAYING", "AUTHORIZED", "RETURNED"}),
    "REVERSING": frozenset({"PAYING", "AUTHORIZED"}),
    "AUTHORIZED": frozenset({"AUTHORIZED", "RETURNED"}),
    "SUCCEEDED": frozenset({"EFFECTIVE", "RETURNED"}),
    "FAILED": frozenset({"FAILED"}),
    "VOIDED": frozenset({"FAILED", "RETURNED"}),
}


def paid_trades_are_paid(world: Slice, tally: Tally) -> None:
    """A trade that is PAID by itself is so by exactly one EFFECTIVE attempt, and that by a SUCCEEDED payment of its
    amount, of which it counts what was captured. One that is paid by its order or by its parts has none."""
    for trade in world.rows(Trade):
        tally.count()
        attempts = world.attempts_of.get(trade.id, [])
        effective = [attempt for attempt in attempts if attempt.state == "EFFECTIVE"]
        wanted = 1 if trade.state == "PAID" and world.is_paid_alone(trade) else 0
        tally.expect(len(effective) == wanted, trade.id, f"{trade.state}, with {len(effective)} EFFECTIVE attempts")
        for attempt in effective:
            payment = world.payments.get(attempt.payment_id)
            if payment is None:
                tally.violate(trade.id, f"paid by {attempt.payment_id or 'no payment'}, which does not exist")
                continue
            paid_minor = payment.amount_minor if payment.settlement_mode == "IMMEDIATE" else payment.captured_minor
            said = (payment.state, payment.source_id, payment.amount_minor, paid_minor, payment.currency)
            due = ("SUCCEEDED", attempt.id, trade.amount_minor, trade.paid_minor, trade.currency)
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
        elif attempt.state not in _ATTEMPT_STATES[payment.state]:
            since_ms = payment.finished_at_ms or payment.created_at_ms
            lags = attempt.state in ("PAYING", "AUTHORIZED") and world.may_lag(since_ms, payment.id, attempt.id)
            tally.expect(lags, payment.id, f"is {payment.state}, attempt {attempt.id} is {attempt.state}")


def succeeded_payments_are_done(world: Slice, tally: Tally) -> None:
    """A SUCCEEDED payment's FORWARD instructions all SUCCEEDED; what they collect and disburse is its amount, with the
    fee that its payer bears on top. Of a payment at rest none is open."""
    for payment in world.rows(Payment):
        tally.count()
        chain = [ins for ins in world.chains.get(payment.id, []) if ins.direction == "FORWARD"]
        chain = [ins for ins in chain if not _is_replaced(ins, chain)]
        for action, is_it in _INTAKE[payment.settlement_mode].items():
            total = sum(ins.amount_minor for ins in chain if ins.action == action and is_it(ins))
            due_minor = payment.amount_minor + payment.payer_fee_minor
            tally.expect(total == due_minor, payment.id, f"{action} {total} of a payment of {due_minor}")
        if payment.state == "SUCCEEDED":
            is_captured = payment.settlement_mode != "IMMEDIATE"
            undone = [f"{ins.id} {ins.state}" for ins in chain if not _is_done(ins, may_fail=is_captured)]
            tally.expect(not undone, payment.id, f"SUCCEEDED, but {undone}")
    known = world.payments
    orphans = {payment_id for payment_id in world.chains if payment_id not in known}
    for payment_id in sorted(orphans):
        tally.violate(payment_id, "instructions name this payment, which does not exist")


# What of a FORWARD chain is asked for at intake, by settlement mode: it adds up to the amount and the fee on top.
_INTAKE: Mapping[str, Mapping[str, Callable[[Instruction], bool]]] = {
    "IMMEDIATE": {"COLLECT": lambda ins: True, "DISBURSE": lambda ins: True},
    "AUTHORIZE": {"RESERVE": lambda ins: True},
    "ESCROW": {"COLLECT": lambda ins: ins.tool != ESCROW, "DISBURSE": lambda ins: ins.tool == ESCROW},
}


def _is_replaced(ins: Instruction, chain: list[Instruction]) -> bool:
    """Whether a step of a refund was refused and another puts its money elsewhere."""
    if ins.state != "FAILED" or ins.action != "DISBURSE" or not ins.reverses_id:
        return False
    return any(later.reverses_id == ins.reverses_id and later.seq > ins.seq for later in chain)


def _is_done(ins: Instruction, *, may_fail: bool) -> bool:
    return ins.state == "SUCCEEDED" or (may_fail and ins.state == "FAILED")


def instructions_are_booked_once(world: Slice, tally: Tally) -> None:
    """A SUCCEEDED instruction is booked once: LOCAL, SENT into transit, or drawn from there. No other one is, nor is
    what only keeps money or lets it go. A journal that a repair has undone books nothing any more."""
    undone = {row.reversed_journal_id for row in world.rows(Adjustment)}
    for instruction in world.rows(Instruction):
        tally.count()
        legs = [leg for leg in world.legs.get(instruction.id, []) if leg.leg != "RECEIVED"]
        legs = [leg for leg in legs if leg.journal_id not in undone]
        booked = [(leg.amount_minor, leg.currency) for leg in legs]
        due = (collected_minor(instruction), instruction.currency)
        if instruction.state == "SUCCEEDED" and instruction.action in ("RESERVE", "RELEASE"):
            tally.expect(not booked, instruction.id, f"moves nothing, booked {booked}")
        elif instruction.state == "SUCCEEDED":
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
    """A trade counts its attempts under way. Several at once, or any of a trade that is not being paid, wait for the
    customer only, but for the latest of them; money is held for a trade by one attempt."""
    for attempt in world.rows(PayAttempt):
        tally.count()
        if attempt.trade_id not in world.trades:
            tally.violate(attempt.id, f"belongs to {attempt.trade_id}, which does not exist")
    for trade in world.rows(Trade):
        attempts = sorted(world.attempts_of.get(trade.id, []), key=lambda attempt: attempt.attempt_no)
        paying = [attempt for attempt in attempts if attempt.state == "PAYING"]
        told = trade.open_attempt_count
        tally.expect(len(paying) == told, trade.id, f"{len(paying)} attempts under way, it counts {told}")
        tally.expect(bool(paying) or trade.state != "PAYING", trade.id, "PAYING by no attempt")
        alone = paying[:-1] if trade.state == "PAYING" else paying
        unknown = [attempt.id for attempt in alone if not attempt.awaits_customer]
        tally.expect(not unknown, trade.id, f"{trade.state}, while more than the customer is awaited by {unknown}")
        holding = [attempt.id for attempt in attempts if attempt.state == "AUTHORIZED"]
        wanted = [trade.attempt_id] if trade.state in ("AUTHORIZED", "SETTLING") else []
        tally.expect(holding == wanted, trade.id, f"{trade.state} by {wanted}, held by {holding}")


INVARIANTS = (
    Invariant("5a", "a paid trade is paid once, in full", "trades", paid_trades_are_paid),
    Invariant("5b", "payments end their attempts", "payments of attempts", succeeded_payments_pay),
    Invariant("5c", "succeeded payments are done in full", "payments", succeeded_payments_are_done),
    Invariant("5d", "succeeded instructions are booked once", "instructions", instructions_are_booked_once),
    Invariant("5e", "only current attempts are under way", "attempts", attempts_end_with_their_trade),
    Invariant("5f", "first results can be given again", "requests", first_results_are_kept),
)
