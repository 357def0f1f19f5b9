"""What refunds have to do with the payments they give back: what is counted on those, and where refused money goes."""

from __future__ import annotations

import msgspec
import structlog

from pay_core.facts import facts_of
from pay_core.payment import CHANNEL, Action, Direction, InstructionState, Operation, did
from pay_core.reading import chain_of
from pay_core.rules.model import Fallback
from pay_core.rules.rule_set import RuleSet
from pay_core.tables import Instruction, Payment
from paykit.errors import FailedPrecondition
from paykit.store.command import Work

log = structlog.get_logger()


def reserve_original(work: Work, original_id: str, refund: list[Instruction], sign: int) -> None:
    """Counts what a refund's FORWARD chain gives back on the instructions it reverses; sign -1 takes that back."""
    originals = {ins.id: ins for ins in chain_of(work, original_id)}
    counted_ids: set[str] = set()
    for instruction in refund:
        if instruction.direction != Direction.FORWARD or instruction.reverses_id is None:
            continue
        if instruction.reverses_id in counted_ids:
            continue  # it stands in for one that its channel has refused
        counted_ids.add(instruction.reverses_id)
        reversed_one = originals[instruction.reverses_id]
        counted = msgspec.structs.replace(
            reversed_one,
            refunded_minor=reversed_one.refunded_minor + sign * instruction.amount_minor,
            refunded_unit_count=reversed_one.refunded_unit_count + sign * instruction.unit_count,
        )
        assert 0 <= counted.refunded_minor <= counted.amount_minor
        assert 0 <= counted.refunded_unit_count <= counted.unit_count
        originals[counted.id] = work.update(counted, audit=False)


def settle_original(work: Work, refund: Payment, chain: list[Instruction], *, succeeded: bool) -> None:
    """The refund is decided: what was reserved of the original payment is given back, or free again."""
    assert refund.original_payment_id is not None
    original = work.get(Payment, refund.original_payment_id)
    assert original is not None
    # What comes out of suspense was never a part of the original's amount: it reverses no instruction.
    amount_minor = sum(
        ins.amount_minor
        for ins in chain
        if ins.action == Action.COLLECT and ins.direction == Direction.FORWARD and ins.reverses_id is not None
    )
    if not amount_minor:
        return
    settled = msgspec.structs.replace(
        original,
        refunding_minor=original.refunding_minor - amount_minor,
        refunded_minor=original.refunded_minor + (amount_minor if succeeded else 0),
    )
    note = f"refund {refund.id} {'succeeded' if succeeded else 'failed'}"
    work.update(settled, parent_id=settled.source_id, note=note)
    if not succeeded:
        reserve_original(work, original.id, chain, -1)


def falls_back(work: Work, rules: RuleSet, payment: Payment, chain: list[Instruction], failed: Instruction) -> bool:
    """Whether refunded money that a channel has refused for good goes to the payer's balance instead.

    So it does where the rules say so, where the refund repairs something, and where a part of it was paid out
    already: what has begun to be paid out is carried through.
    """
    if payment.operation != Operation.REFUND or failed.action != Action.DISBURSE or failed.tool != CHANNEL:
        return False
    assert failed.state == InstructionState.FAILED
    if payment.is_repair or did(chain, Action.DISBURSE):
        return True
    assert payment.original_payment_id is not None
    original = work.get(Payment, payment.original_payment_id)
    assert original is not None
    facts = facts_of(original, chain_of(work, original.id))
    try:
        return rules.refund_fallback(failed.failure_reason, failed.channel, facts) == Fallback.BALANCE
    except FailedPrecondition as error:
        # Of rules that cannot say it is as of rules that say nothing: a result that is there must be taken.
        log.error("refund_fallback_failed", payment_id=payment.id, rules_version=rules.version, error=error.message)
        return False
