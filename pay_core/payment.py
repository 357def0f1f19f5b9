"""Payments as data: operations, states, and the steps that instructions are made from."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from pay_core.chart import AccountKind
from pay_core.tables import Instruction, Payment
from paykit.state_machine import StateMachine


class Operation(StrEnum):
    """The four operations. The names are those of the proto."""

    RECHARGE = "RECHARGE"
    WITHDRAW = "WITHDRAW"
    TRANSFER = "TRANSFER"
    REFUND = "REFUND"


class SettlementMode(StrEnum):
    """When a transfer's money reaches its payees. The names are those of the proto."""

    IMMEDIATE = "IMMEDIATE"
    AUTHORIZE = "AUTHORIZE"
    ESCROW = "ESCROW"


class Instrument(StrEnum):
    """What kind of thing outside a channel moves money from or to. The names are those of the proto."""

    CARD = "CARD"
    BANK_ACCOUNT = "BANK_ACCOUNT"
    WALLET = "WALLET"


class PaymentState(StrEnum):
    """Where a payment is."""

    PROCESSING = "PROCESSING"
    REVERSING = "REVERSING"
    AUTHORIZED = "AUTHORIZED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    VOIDED = "VOIDED"


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
        PaymentState.PROCESSING: frozenset(
            {
                PaymentState.SUCCEEDED,
                PaymentState.REVERSING,
                PaymentState.FAILED,
                PaymentState.AUTHORIZED,
                PaymentState.VOIDED,
            }
        ),
        PaymentState.AUTHORIZED: frozenset({PaymentState.PROCESSING}),
        PaymentState.REVERSING: frozenset({PaymentState.FAILED}),
        PaymentState.SUCCEEDED: frozenset(),
        PaymentState.FAILED: frozenset(),
        PaymentState.VOIDED: frozenset(),
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

# Reasons an instruction FAILED for without its tool having said so.
SKIPPED = "SKIPPED"  # one before it failed
ACCEPTED = "ACCEPTED"  # a RELEASE that a person has given up
UNDERPAID = "UNDERPAID"  # of a payment: less came in than was asked for


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
    route: str | None = None  # tool channel: as Instruction.route


class Funding(NamedTuple):
    """What pays, or is paid into: a tool and how much. ``token`` of a coupon is its id.

    ``channel`` may be empty where ``instrument`` is said: the rules choose one. ``takes_rest``: the one whose amount
    was left out, which also pays what comes on top.
    """

    amount_minor: int
    tool: str = BALANCE
    channel: str = ""
    token: str = ""
    instrument: str = ""
    takes_rest: bool = False


class Payee(NamedTuple):
    """Who is paid, into which kind of account, how much, and the caller's name for it."""

    owner_id: str
    account_kind: AccountKind
    amount_minor: int
    reference: str = ""


class Plan(msgspec.Struct, frozen=True, array_like=True):
    """What a payment still has ahead, stored with it.

    ``shares``: of AUTHORIZE and ESCROW, what is still to be disbursed by captures. ``usages``: the keys of the limits
    it is counted on. ``phase_seq``: the first instruction of what is under way: intake, a capture, or a void.
    ``capturing_minor``: of the capture under way. ``void_reason``: of the void under way.
    """

    shares: tuple[Step, ...] = ()
    usages: tuple[str, ...] = ()
    phase_seq: int = 1
    capturing_minor: int = 0
    void_reason: str = ""


_EMPTY = Plan()
_decode_plan = msgspec.json.Decoder(Plan).decode


def plan_of(payment: Payment) -> Plan:
    """The plan of a payment; an empty one where none is stored."""
    return _EMPTY if payment.plan is None else _decode_plan(payment.plan)


def stored(plan: Plan) -> str | None:
    """A plan as ``Payment.plan`` stores it."""
    return None if plan == _EMPTY else msgspec.json.encode(plan).decode()


def is_terminal(payment: Payment) -> bool:
    """Whether nothing more will happen to a payment."""
    return PAYMENT.is_terminal(payment.state)


def collected_minor(instruction: Instruction) -> int:
    """What a COLLECT that SUCCEEDED brought into clearing: what came, but not more than was asked for."""
    if not instruction.moved_minor:
        return instruction.amount_minor
    return min(instruction.moved_minor, instruction.amount_minor)


def left_minor(instruction: Instruction) -> int:
    """What was not given back of an instruction that SUCCEEDED."""
    return collected_minor(instruction) - instruction.refunded_minor


def is_payer_fee(step: Step | Instruction) -> bool:
    """Whether a DISBURSE is a fee on top of the amount: nobody but the payer bears it, and it is kept."""
    return step.tool == FEES and not step.owner_id


def did(
    chain: list[Instruction], action: Action, direction: Direction = Direction.FORWARD, *, since_seq: int = 1
) -> list[Instruction]:
    """The instructions of a chain that SUCCEEDED, of one action and direction."""
    return [
        ins
        for ins in chain
        if ins.action == action
        and ins.direction == direction
        and ins.state == InstructionState.SUCCEEDED
        and ins.seq >= since_seq
    ]


def to_balance(owner_id: str, amount_minor: int, kind: str = AccountKind.USER.value, **changes: Any) -> Step:
    """A DISBURSE to a customer's balance."""
    return Step(Action.DISBURSE, BALANCE, amount_minor, owner_id=owner_id, account_kind=kind)._replace(**changes)
