"""What follows the intake of a payment: captures, voids, the undoing of what failed, and refunds.

All of it is in proportion to what is left of each part (``allocate``: largest remainder, ties to the earlier one), so
that parts of any size add up to the whole exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pay_core.coupon import Pot, paired
from pay_core.payment import (
    BALANCE,
    CHANNEL,
    COUPON_ACCOUNT,
    ESCROW,
    FEES,
    SKIPPED,
    Action,
    InstructionState,
    Plan,
    Step,
    collected_minor,
    did,
    is_payer_fee,
    left_minor,
)
from pay_core.tables import Instruction
from pay_core.tools import TOOLS
from paykit.errors import FailedPrecondition
from paykit.money import allocate


class Phase(NamedTuple):
    """What a capture or a void appends: FORWARD steps, REVERSE steps behind them, and the shares still to come."""

    forward: list[Step]
    reverse: list[Step]
    shares: tuple[Step, ...]


def capturable_minor(plan: Plan) -> int:
    """How much of the amount can still be captured."""
    return sum([share.amount_minor for share in plan.shares if not is_payer_fee(share)])


def capture(done: list[Instruction], plan: Plan, amount_minor: int, keep_rest: bool) -> Phase:
    """Takes ``amount_minor`` of what is reserved or in escrow to the shares, in proportion to what is left of each.

    The payer's fee is taken whole with the first capture. FailedPrecondition: CAPTURE_EXCEEDS_PAYMENT;
    KEEP_REST_NOT_POSSIBLE where a tool that collects once from a reserve would keep a rest of it.
    """
    open_minor = capturable_minor(plan)
    if amount_minor > open_minor:
        raise FailedPrecondition(
            f"{amount_minor} is more than the {open_minor} left to capture", reason="CAPTURE_EXCEEDS_PAYMENT"
        )
    weights = [0 if is_payer_fee(share) else share.amount_minor for share in plan.shares]
    parts = allocate(amount_minor, weights)
    taken, rest = [], []
    for share, part in zip(plan.shares, parts, strict=True):
        now_minor = share.amount_minor if is_payer_fee(share) else part
        if now_minor:
            taken.append(share._replace(amount_minor=now_minor))
        if share.amount_minor > now_minor:
            rest.append(share._replace(amount_minor=share.amount_minor - now_minor))
    total_minor = sum([share.amount_minor for share in taken])
    if is_escrowed(done):
        collects = [Step(Action.COLLECT, ESCROW, total_minor)]
        # Named by the whole plan: of a coupon that is borne in full nothing is given back, though a share be rounded.
        reverse = [] if keep_rest else _out_of_escrow(done, rest, _borne_ids([*plan.shares, *done]))
    else:
        collects, reverse = _from_reserves(done, plan.shares, taken, total_minor, keep_rest)
    return Phase(collects + taken, reverse, tuple(rest) if keep_rest else ())


def void(done: list[Instruction], plan: Plan) -> Phase:
    """Gives up all that is still reserved, or gives all that is in escrow back."""
    if not is_escrowed(done):
        return Phase([], release(done), ())
    return Phase([], _out_of_escrow(done, list(plan.shares), _borne_ids([*plan.shares, *done])), ())


def is_escrowed(done: list[Instruction]) -> bool:
    """Whether a payment's money went to escrow."""
    return any(ins.tool == ESCROW and ins.action == Action.DISBURSE for ins in done)


def _from_reserves(
    done: list[Instruction], planned: Iterable[Step], taken: list[Step], total_minor: int, keep_rest: bool
) -> tuple[list[Step], list[Step]]:
    reserves = [ins for ins in did(done, Action.RESERVE) if kept_minor(done, ins)]
    borne_ids = _borne_ids(planned)
    pots = [Pot(kept_minor(done, ins), ins.token if ins.token in borne_ids else "") for ins in reserves]
    collects, rests = [], []
    for ins, part_minor in zip(reserves, paired(total_minor, pots, _borne(taken)), strict=True):
        tool, kept = TOOLS[ins.tool], kept_minor(done, ins)
        if part_minor:
            before = [one for one in did(done, Action.COLLECT) if one.reserve_id == ins.id]
            taken_minor, taken_units = sum([b.amount_minor for b in before]), sum([b.unit_count for b in before])
            collects.append(tool.take(ins, part_minor, taken_minor, taken_units))
        if part_minor == kept:
            continue
        if keep_rest and part_minor and tool.capabilities.captures_max == 1:
            raise FailedPrecondition(
                f"{ins.tool} can be captured once: a rest of it cannot be kept",
                reason="KEEP_REST_NOT_POSSIBLE",
                metadata={"tool": ins.tool, "instruction_id": ins.id},
            )
        if not keep_rest and not (part_minor and tool.capabilities.captures_max == 1):
            rests.append(_release(ins, kept - part_minor))
    return collects, rests


def kept_minor(done: list[Instruction], reserve: Instruction) -> int:
    """What a RESERVE still keeps: what was not collected from it, nothing once it was released."""
    taken = [ins for ins in done if ins.reserve_id == reserve.id and ins.state != InstructionState.FAILED]
    releases = [ins for ins in done if ins.reserve_id == reserve.id and ins.action == Action.RELEASE]
    if any(ins.failure_reason != SKIPPED for ins in releases) or (
        taken and TOOLS[reserve.tool].capabilities.captures_max == 1
    ):
        return 0
    return reserve.amount_minor - sum([ins.amount_minor for ins in taken])


def release(done: list[Instruction]) -> list[Step]:
    """Gives up every reserve that still keeps something."""
    return [_release(ins, kept) for ins in did(done, Action.RESERVE) if (kept := kept_minor(done, ins))]


def _release(reserve: Instruction, amount_minor: int) -> Step:
    step = TOOLS[reserve.tool].take(reserve, amount_minor, 0, 0)
    return step._replace(action=Action.RELEASE, unit_count=0)


def _out_of_escrow(done: list[Instruction], shares: list[Step], borne_ids: set[str]) -> list[Step]:
    """What ``shares`` would have got goes back to the fundings; a coupon gets what its bearer has not borne."""
    total_minor = sum([share.amount_minor for share in shares])
    if not total_minor:
        return []
    collects = [ins for ins in did(done, Action.COLLECT) if ins.tool != ESCROW]
    pots = [Pot(left_minor(ins), ins.token if ins.token in borne_ids else "") for ins in collects]
    given = paired(total_minor, pots, _borne(shares))
    back = [_give_back(ins, part) for ins, part in zip(collects, given, strict=True) if part]
    return [Step(Action.COLLECT, ESCROW, total_minor), *back]


# Undoing, and giving back


def reversal(done: list[Instruction], since_seq: int) -> list[Step]:
    """What undoes a phase that failed: each COLLECT goes back to its tool, the last first; reserves are given up."""
    collects = did(done, Action.COLLECT, since_seq=since_seq)
    back = [_give_back(ins, left_minor(ins)) for ins in reversed(collects) if left_minor(ins)]
    return back + release(done)


class Refunded(NamedTuple):
    """What a refund asks for."""

    amount_minor: int
    payee_reference: str  # empty: of all payees
    return_fees: bool  # whether the platform gives its fees back, or their bearers pay them


def refund_chain(done: list[Instruction], asked: Refunded) -> list[Step]:
    """Money of a TRANSFER back by its original route.

    It is taken from who was paid in proportion to what is left of each, and given back to the tools in proportion to
    what is left of each but for the payer's fee, coupons that payees bore with them. Channels before the others: a
    provider may still refuse.
    FailedPrecondition: REFUND_EXCEEDS_PAYMENT, PAYEE_NOT_FOUND.
    """
    paid = [ins for ins in did(done, Action.DISBURSE) if ins.tool != ESCROW and not is_payer_fee(ins)]
    sources = [ins for ins in paid if not asked.payee_reference or ins.reference == asked.payee_reference]
    if not sources:
        raise FailedPrecondition(f"nobody was paid as {asked.payee_reference}", reason="PAYEE_NOT_FOUND")
    left = [left_minor(ins) for ins in sources]
    if asked.amount_minor > sum(left):
        raise FailedPrecondition(
            f"{asked.amount_minor} is more than the {sum(left)} left to refund", reason="REFUND_EXCEEDS_PAYMENT"
        )
    taken = [
        _take_back(ins, part, asked.return_fees)
        for ins, part in zip(sources, allocate(asked.amount_minor, left), strict=True)
        if part
    ]
    collects = [ins for ins in did(done, Action.COLLECT) if ins.tool != ESCROW]
    fee_minor = sum([ins.amount_minor for ins in did(done, Action.DISBURSE) if is_payer_fee(ins)])
    given = paired(asked.amount_minor, _pots(collects, _borne_ids(paid), fee_minor), _borne(taken))
    targets = [_give_back(ins, part) for ins, part in zip(collects, given, strict=True) if part]
    return taken + sorted(targets, key=lambda step: step.tool != CHANNEL)


def _pots(collects: list[Instruction], borne_ids: set[str], fee_minor: int) -> list[Pot]:
    """What of each COLLECT can be given back.

    The payer's fee never is: it stays in the money that was collected last, so that a coupon or points that paid none
    of it come back whole with the last of the amount.
    """
    left = [left_minor(ins) for ins in collects]
    by_turn = sorted(range(len(left)), key=lambda i: (collects[i].tool not in (BALANCE, CHANNEL), -i))
    for i in [i for i in by_turn if collects[i].token not in borne_ids]:
        kept_minor = min(left[i], fee_minor)
        left[i], fee_minor = left[i] - kept_minor, fee_minor - kept_minor
    return [Pot(minor, ins.token if ins.token in borne_ids else "") for ins, minor in zip(collects, left, strict=True)]


def _take_back(ins: Instruction, amount_minor: int, return_fees: bool) -> Step:
    tool = BALANCE if ins.tool == FEES and not return_fees else ins.tool
    return Step(
        Action.COLLECT,
        tool,
        amount_minor,
        owner_id=ins.owner_id,
        account_kind=ins.account_kind,
        token=ins.token,
        reference=ins.reference,
        reverses_id=ins.id,
    )


def _give_back(ins: Instruction, amount_minor: int) -> Step:
    assert 0 < amount_minor <= collected_minor(ins)
    return TOOLS[ins.tool].give_back(ins, amount_minor)


def _borne_ids(steps: Iterable[Step | Instruction]) -> set[str]:
    return {step.token for step in steps if step.tool == COUPON_ACCOUNT}


def _borne(steps: Iterable[Step]) -> dict[str, int]:
    """What payees bear of each coupon."""
    result: dict[str, int] = {}
    for step in steps:
        if step.tool == COUPON_ACCOUNT:
            result[step.token] = result.get(step.token, 0) + step.amount_minor
    return result


def copy_of(ins: Instruction, attempt_no: int, not_before_ms: int | None) -> Step:
    """The same step again, as another attempt."""
    return Step(
        Action(ins.action),
        ins.tool,
        ins.amount_minor,
        owner_id=ins.owner_id,
        account_kind=ins.account_kind,
        channel=ins.channel,
        token=ins.token,
        original_channel_order_id=ins.original_channel_order_id,
        reverses_id=ins.reverses_id,
        reserve_id=ins.reserve_id,
        reference=ins.reference,
        instrument=ins.instrument,
        unit_count=ins.unit_count,
        attempt_no=attempt_no,
        not_before_ms=not_before_ms,
    )
