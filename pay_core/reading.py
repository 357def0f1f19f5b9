"""Which rows a command reads to begin a payment or to go on with one."""

from __future__ import annotations

from collections.abc import Iterable

from pay_core import ledger
from pay_core.chart import AccountKind
from pay_core.payment import Direction, Operation, Step, plan_of
from pay_core.tables import Instruction, LimitUsage, Payment
from pay_core.tools import TOOLS
from paykit.store.command import Rows
from paykit.store.row import Key, key


def step_keys(rows: Rows, slot: int, currency: str, steps: Iterable[Step | Instruction]) -> list[Key]:
    """What carrying out ``steps`` on a slot may need."""
    keys = ledger.account_keys([ledger.internal(slot, AccountKind.CLEARING, currency)])
    for step in steps:
        keys += TOOLS[step.tool].reads(slot, currency, step, rows)
    return keys


def chain_of(rows: Rows, payment_id: str) -> list[Instruction]:
    """The instructions of a payment, by seq: ties of what is split go to the earlier."""
    return sorted(rows.many(Instruction, "payment_id", payment_id), key=lambda ins: ins.seq)


def payment_keys(rows: Rows, payment_id: str) -> list[Key]:
    """All that going on with a payment may need: its chain and what that touches, and the payment it refunds."""
    keys = [key(Payment, payment_id), key(Instruction, payment_id, "payment_id")]
    payment = rows.get(Payment, payment_id)
    if payment is None:
        return keys
    if payment.original_payment_id is not None:
        original_id = payment.original_payment_id
        keys += [key(Payment, original_id), key(Instruction, original_id, "payment_id")]
    if payment.plan is not None:
        keys += [key(LimitUsage, name, "usage_key") for name in plan_of(payment).usages]
    chain = rows.many(Instruction, "payment_id", payment_id)
    if payment.operation == Operation.REFUND or any(ins.direction == Direction.REVERSE for ins in chain):
        # Where money goes that its route refuses.
        keys += ledger.account_keys([ledger.owned(payment.payer_id, AccountKind.USER, payment.currency)])
    return keys + step_keys(rows, payment.slot, payment.currency, chain)
