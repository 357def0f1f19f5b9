"""Payments as data: states, and the chain of fund instructions each operation becomes."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from pay_core.ledger import AccountKind
from pay_core.tables import Instruction, Payment
from paykit.errors import FailedPrecondition
from paykit.money import allocate
from paykit.state_machine import StateMachine


class Operation(StrEnum):
    """The four operations. The names are those of the proto."""

    RECHARGE = "RECHARGE"
    WITHDRAW = "WITHDRAW"
    TRANSFER = "TRANSFER"
    REFUND = "REFUND"


class PaymentState(StrEnum):
    """Where a payment is."""

    PROCESSING = "PROCESSING"
    REVERSING = "REVERSING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


class InstructionState(StrEnum):
    """Where an instruction is."""

    INIT = "INIT"
    PROCESSING = "PROCESSING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


class Direction(StrEnum):
    """Part of the operation, or undoing a part of it."""

    FORWARD = "FORWARD"
    REVERSE = "REVERSE"


class Action(StrEnum):
    """What an instruction does, seen from the payment's clearing account. The names are those of the proto."""

    COLLECT = "COLLECT"
    DISBURSE = "DISBURSE"
    RESERVE = "RESERVE"
    RELEASE = "RELEASE"


PAYMENT = StateMachine(
    "payment",
    PaymentState,
    PaymentState.PROCESSING,
    {
        PaymentState.PROCESSING: frozenset({PaymentState.SUCCEEDED, PaymentState.REVERSING, PaymentState.FAILED}),
        PaymentState.REVERSING: frozenset({PaymentState.FAILED}),
        PaymentState.SUCCEEDED: frozenset(),
        PaymentState.FAILED: frozenset(),
    },
)

INSTRUCTION = StateMachine(
    "instruction",
    InstructionState,
    InstructionState.INIT,
    {
        InstructionState.INIT: frozenset(
            {InstructionState.PROCESSING, InstructionState.SUCCEEDED, InstructionState.FAILED}
        ),
        InstructionState.PROCESSING: frozenset({InstructionState.SUCCEEDED, InstructionState.FAILED}),
        InstructionState.SUCCEEDED: frozenset(),
        InstructionState.FAILED: frozenset(),
    },
)

BALANCE = "balance"
CHANNEL = "channel"
COUPON = "coupon"
POINTS = "points"
# Tools that are accounts of the platform, see pay_core.tools.internal.
FEES = "fees"
ESCROW = "escrow"
SUSPENSE = "suspense"
COUPON_ACCOUNT = "coupon_account"  # a payee bears its coupon: closes what the coupon tool opened


class Step(NamedTuple):
    """An instruction to be: what the chain of an operation is declared as."""

    action: Action
    tool: str
    amount_minor: int
    owner_id: str = ""
    account_kind: str = ""
    channel: str = ""
    token: str = ""
    original_channel_order_id: str | None = None
    reverses_id: str | None = None
    reserve_id: str | None = None
    reference: str = ""
    instrument: str = ""
    unit_count: int = 0
    attempt_no: int = 1
    not_before_ms: int | None = None
    bearer_id: str = ""  # of a funding: the payee whose shares bear it; known at intake only


class Funding(NamedTuple):
    """What pays, or is paid into: a tool and how much. ``channel`` is empty for the balance."""

    amount_minor: int
    channel: str = ""
    token: str = ""


class Payee(NamedTuple):
    """Who is paid, into which kind of account, and how much."""

    owner_id: str
    account_kind: AccountKind
    amount_minor: int


def recharge_chain(owner_id: str, funding: Funding) -> list[Step]:
    """Outside to the owner's balance."""
    return [_collect(owner_id, funding), _to_balance(owner_id, AccountKind.USER, funding.amount_minor)]


def withdraw_chain(owner_id: str, destination: Funding) -> list[Step]:
    """The owner's balance to outside: taken first, so that nobody can spend it twice while the bank is asked."""
    return [
        _collect(owner_id, Funding(destination.amount_minor)),
        Step(
            Action.DISBURSE,
            CHANNEL,
            destination.amount_minor,
            channel=destination.channel,
            token=destination.token,
        ),
    ]


def transfer_chain(payer_id: str, fundings: list[Funding], payees: list[Payee]) -> list[Step]:
    """The payer's tools to the payees. Balance first: it answers at once and is given back without a provider."""
    ordered = sorted(fundings, key=lambda funding: funding.channel != "")
    collects = [_collect(payer_id, funding) for funding in ordered]
    return collects + [_to_balance(p.owner_id, p.account_kind, p.amount_minor) for p in payees]


def refund_chain(chain: list[Instruction], amount_minor: int) -> list[Step]:
    """Money of a TRANSFER back by its original route.

    It is taken from the payees in proportion to what they got, and given back to the tools in proportion to what
    is left to give back of each (largest remainder, ties to the earlier instruction). Channels before balances: a
    provider may still refuse, a balance cannot. FailedPrecondition where more is asked for than is left.
    """
    forward = [ins for ins in chain if ins.direction == Direction.FORWARD and ins.state == InstructionState.SUCCEEDED]
    collects = [ins for ins in forward if ins.action == Action.COLLECT]
    payees = [ins for ins in forward if ins.action == Action.DISBURSE]
    left = [ins.amount_minor - ins.refunded_minor for ins in collects]
    if amount_minor > sum(left):
        raise FailedPrecondition(
            f"{amount_minor} is more than the {sum(left)} left to refund", reason="REFUND_EXCEEDS_PAYMENT"
        )
    taken = allocate(amount_minor, [ins.amount_minor - ins.refunded_minor for ins in payees])
    given = allocate(amount_minor, left)
    sources = [
        Step(Action.COLLECT, BALANCE, part, owner_id=ins.owner_id, account_kind=ins.account_kind, reverses_id=ins.id)
        for ins, part in zip(payees, taken, strict=True)
        if part
    ]
    targets = [_give_back(ins, part) for ins, part in zip(collects, given, strict=True) if part]
    return sources + sorted(targets, key=lambda step: step.tool != CHANNEL)


def reversal(failed_chain: list[Instruction]) -> list[Step]:
    """What undoes a chain after its failure: every collect from a balance goes back to that balance.

    A channel collect is never followed by a step that can fail (see ``transfer_chain``), so none needs undoing.
    """
    collected = [
        ins
        for ins in failed_chain
        if ins.action == Action.COLLECT
        and ins.direction == Direction.FORWARD
        and ins.state == InstructionState.SUCCEEDED
    ]
    assert all(ins.tool == BALANCE for ins in collected), "a channel collect stands before a step that can fail"
    return [
        Step(
            Action.DISBURSE,
            BALANCE,
            ins.amount_minor,
            owner_id=ins.owner_id,
            account_kind=ins.account_kind,
            reverses_id=ins.id,
        )
        for ins in reversed(collected)
    ]


def _collect(owner_id: str, funding: Funding) -> Step:
    if funding.channel:
        return Step(Action.COLLECT, CHANNEL, funding.amount_minor, channel=funding.channel, token=funding.token)
    kind = AccountKind.USER.value
    return Step(Action.COLLECT, BALANCE, funding.amount_minor, owner_id=owner_id, account_kind=kind)


def _to_balance(owner_id: str, kind: AccountKind, amount_minor: int) -> Step:
    return Step(Action.DISBURSE, BALANCE, amount_minor, owner_id=owner_id, account_kind=kind.value)


def _give_back(ins: Instruction, amount_minor: int) -> Step:
    if ins.tool == BALANCE:
        return Step(
            Action.DISBURSE,
            BALANCE,
            amount_minor,
            owner_id=ins.owner_id,
            account_kind=ins.account_kind,
            reverses_id=ins.id,
        )
    return Step(
        Action.DISBURSE,
        CHANNEL,
        amount_minor,
        channel=ins.channel,
        original_channel_order_id=ins.channel_order_id,
        reverses_id=ins.id,
    )


def is_terminal(payment: Payment) -> bool:
    """Whether nothing more will happen to a payment."""
    return PAYMENT.is_terminal(payment.state)
