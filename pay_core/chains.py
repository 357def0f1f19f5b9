"""The chains: which steps each operation and settlement mode becomes, and what a capture, a void or a failure adds.

Every amount is split in one of two ways: by the rules (shares), or in proportion to what is left of each
(``allocate``: largest remainder, ties to the earlier one), so that parts of any size add up to the whole exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pay_core.chart import AccountKind
from pay_core.coupon import MerchantCoupon, absorb
from pay_core.payment import (
    BALANCE,
    CHANNEL,
    COUPON,
    COUPON_ACCOUNT,
    ESCROW,
    FEES,
    Action,
    Funding,
    Operation,
    Payee,
    SettlementMode,
    Step,
    to_balance,
)
from pay_core.routes import stored
from pay_core.rules.model import Decision, Share, ShareKind
from paykit.errors import FailedPrecondition


class Order(NamedTuple):
    """What a caller asks for: one of the operations that stand alone."""

    operation: Operation
    payer_id: str
    currency: str
    amount_minor: int
    fundings: tuple[Funding, ...]  # of WITHDRAW: where it goes
    payees: tuple[Payee, ...] = ()  # of TRANSFER
    settlement_mode: SettlementMode = SettlementMode.IMMEDIATE
    expires_in_ms: int | None = None  # of AUTHORIZE and ESCROW


class Parts(NamedTuple):
    """What a chain is put together from."""

    order: Order
    decision: Decision
    fundings: list[Step]  # as COLLECT, in the order of collection
    shares: list[Step]  # as DISBURSE; they add up to what the fundings bring


def funding_steps(order: Order, decision: Decision) -> list[Step]:
    """Every funding in its turn as a COLLECT; what the payer bears on top is on one of them."""
    steps: list[Step] = []
    for collect in decision.collects:
        funding = order.fundings[collect.index]
        steps.append(
            Step(
                Action.COLLECT,
                funding.tool,
                funding.amount_minor,
                owner_id="" if funding.tool == CHANNEL else order.payer_id,
                account_kind=AccountKind.USER.value if funding.tool == BALANCE else "",
                channel=collect.channel,
                token=funding.token,
                instrument=funding.instrument,
                route=stored(collect.route),
            )
        )
    if decision.payer_fee_minor and order.operation != Operation.WITHDRAW:
        index = _pays_on_top([order.fundings[collect.index] for collect in decision.collects])
        steps[index] = steps[index]._replace(amount_minor=steps[index].amount_minor + decision.payer_fee_minor)
    return steps


def touched(order: Order, fundings: list[Step], decision: Decision) -> list[Step]:
    """Steps at every tool and account that the chain may have at intake, whatever its amounts."""
    if order.operation == Operation.WITHDRAW:
        return _collect_balance_of(order, order.amount_minor) + fundings + [Step(Action.DISBURSE, FEES, 1)]
    if order.settlement_mode == SettlementMode.AUTHORIZE:
        return fundings
    if order.settlement_mode == SettlementMode.ESCROW:
        return [*fundings, Step(Action.DISBURSE, ESCROW, order.amount_minor)]
    coupons = [Step(Action.DISBURSE, COUPON_ACCOUNT, 1)] if any(step.tool == COUPON for step in fundings) else []
    return fundings + share_steps(order, decision, []) + coupons


def _pays_on_top(fundings: list[Funding]) -> int:
    """Which funding bears the payer's fee: money, the one that takes the rest, else the last to collect."""
    money = [i for i, funding in enumerate(fundings) if funding.tool in (BALANCE, CHANNEL)]
    if not money:
        raise FailedPrecondition("the payer's fee needs a funding that is money", reason="PAYER_FEE_UNFUNDED")
    return next((i for i in money if fundings[i].takes_rest), money[-1])


def share_steps(order: Order, decision: Decision, fundings: list[Step]) -> list[Step]:
    """Who gets how much: payees, splits and fees less the coupons they bear, those coupons, the payer's fee."""
    borne = [
        MerchantCoupon(step.token, step.bearer_id, step.amount_minor)
        for step in fundings
        if step.bearer_id and order.operation != Operation.WITHDRAW
    ]
    lowered, absorbed = absorb(decision.shares, borne) if borne else (list(decision.shares), [])
    steps = [_share_step(share) for share in lowered]
    steps += [
        Step(Action.DISBURSE, COUPON_ACCOUNT, part.amount_minor, token=part.coupon_id, reference=part.reference)
        for part in absorbed
    ]
    if decision.payer_fee_minor:
        steps.append(Step(Action.DISBURSE, FEES, decision.payer_fee_minor))
    return steps


def _share_step(share: Share) -> Step:
    if share.kind == ShareKind.FEE:
        # Named with its bearer, who gives it back with a refund where the platform keeps it.
        return Step(
            Action.DISBURSE,
            FEES,
            share.amount_minor,
            owner_id=share.bearer_id,
            account_kind=share.bearer_kind.value,
            reference=share.reference,
        )
    return to_balance(share.owner_id, share.amount_minor, share.account_kind.value, reference=share.reference)


# The operations


def _collect(parts: Parts) -> list[Step]:
    return parts.fundings


def _reserve(parts: Parts) -> list[Step]:
    return [step._replace(action=Action.RESERVE) for step in parts.fundings]


def _disburse(parts: Parts) -> list[Step]:
    return parts.shares


def _collect_balance(parts: Parts) -> list[Step]:
    return _collect_balance_of(parts.order, sum([share.amount_minor for share in parts.shares]))


def _collect_balance_of(order: Order, amount_minor: int) -> list[Step]:
    kind = AccountKind.USER.value
    return [Step(Action.COLLECT, BALANCE, amount_minor, owner_id=order.payer_id, account_kind=kind)]


def _disburse_outside(parts: Parts) -> list[Step]:
    (target,) = parts.fundings
    payout_minor = sum([share.amount_minor for share in parts.shares if share.tool == BALANCE])
    if not payout_minor:
        raise FailedPrecondition("the fees leave nothing to pay out", reason="FEES_EXCEED_AMOUNT")
    return [target._replace(action=Action.DISBURSE, amount_minor=payout_minor)]


def _disburse_fees(parts: Parts) -> list[Step]:
    return [share for share in parts.shares if share.tool == FEES]


def _disburse_escrow(parts: Parts) -> list[Step]:
    return [Step(Action.DISBURSE, ESCROW, sum([step.amount_minor for step in parts.fundings]))]


_IMMEDIATE = SettlementMode.IMMEDIATE
# What can fail stands first: nothing that was paid out is ever taken back.
CHAINS: dict[tuple[Operation, SettlementMode], tuple[Callable[[Parts], list[Step]], ...]] = {
    (Operation.RECHARGE, _IMMEDIATE): (_collect, _disburse),
    (Operation.WITHDRAW, _IMMEDIATE): (_collect_balance, _disburse_outside, _disburse_fees),
    (Operation.TRANSFER, _IMMEDIATE): (_collect, _disburse),
    (Operation.TRANSFER, SettlementMode.AUTHORIZE): (_reserve,),
    (Operation.TRANSFER, SettlementMode.ESCROW): (_collect, _disburse_escrow),
}


def chain(parts: Parts) -> list[Step]:
    """The steps of an operation."""
    builders = CHAINS[parts.order.operation, parts.order.settlement_mode]
    return [step for build in builders for step in build(parts)]
