"""The coupon tool: pays with one of the payer's coupons, at once.

What a coupon pays comes from the platform (MARKETING), or is advanced for the merchant that funds it (COUPON) until
the same payment lowers what that merchant gets (``pay_core.coupon.absorb``).
"""

from __future__ import annotations

from collections.abc import Iterable

from pay_core import coupon as coupons
from pay_core import ledger
from pay_core.chart import AccountKind
from pay_core.coupon import CouponFunder, CouponState
from pay_core.ledger import AccountRef, Draft, Leg
from pay_core.payment import COUPON, Action, InstructionState, Step
from pay_core.tables import Coupon, Instruction
from pay_core.tools.base import BaseTool, Begun, Capabilities, Intake
from paykit.ids import time_ms_in
from paykit.store.command import Rows, Work
from paykit.store.row import Key, key

_DONE = Begun(InstructionState.SUCCEEDED)
_ACCOUNT = {CouponFunder.PLATFORM: AccountKind.MARKETING, CouponFunder.MERCHANT: AccountKind.COUPON}


class CouponTool(BaseTool):
    """COLLECT uses the coupon up, though it be worth more; DISBURSE gives back, and frees it with the last of it.

    A COLLECT from a reserve uses it up too: what a capture leaves of its amount is not collected, and forfeited.
    ``token`` is the coupon; ``account_kind``, set at intake, where the money comes from.
    """

    name = COUPON
    capabilities = Capabilities(frozenset(Action), captures_max=1)

    def reads(self, slot: int, currency: str, step: Step | Instruction, rows: Rows) -> Iterable[Key]:
        yield key(Coupon, step.token)
        coupon = rows.get(Coupon, step.token)
        if coupon is not None:
            yield from ledger.account_keys([_account(slot, currency, coupon)])

    def prepare(self, rows: Rows, step: Step, intake: Intake) -> Step:
        """NotFound (COUPON_NOT_FOUND); FailedPrecondition (COUPON_NOT_AVAILABLE, _EXPIRED, _NOT_APPLICABLE)."""
        found = rows.get(Coupon, step.token)
        payer_id, merchants, now_ms = intake.payer_id, intake.merchants, intake.now_ms
        coupon = coupons.require(found, step.token, payer_id, intake.currency, step.amount_minor, merchants, now_ms)
        kind = _ACCOUNT[CouponFunder(coupon.funder)]
        return step._replace(owner_id=payer_id, account_kind=kind.value, bearer_id=coupon.merchant_id)

    def begin(self, work: Work, instruction: Instruction, draft: Draft) -> Begun:
        coupon = work.get(Coupon, instruction.token)
        if instruction.action == Action.DISBURSE:
            assert coupon is not None
            return self._give_back(work, coupon, instruction, draft)
        refusal = _refusal(coupon, instruction)
        if coupon is None or refusal:
            return Begun(InstructionState.FAILED, refusal)
        payment_id, amount_minor = instruction.payment_id, instruction.amount_minor
        if instruction.action == Action.RESERVE:
            changed = coupons.reserved(coupon, payment_id)
        elif instruction.action == Action.RELEASE:
            changed = coupons.released(coupon)
        else:
            changed = coupons.used(coupon, payment_id, amount_minor)
            account = _account(draft.slot, draft.currency, coupon)
            draft.book(instruction.id, amount_minor, Leg.LOCAL, account, -amount_minor)
        work.update(changed, parent_id=payment_id)
        return _DONE

    def _give_back(self, work: Work, coupon: Coupon, instruction: Instruction, draft: Draft) -> Begun:
        amount_minor = instruction.amount_minor
        account = _account(draft.slot, draft.currency, coupon)
        draft.book(instruction.id, amount_minor, Leg.LOCAL, account, amount_minor)
        note = f"{amount_minor} {instruction.currency} given back"
        work.update(coupons.given_back(coupon, amount_minor), parent_id=instruction.payment_id, note=note)
        return _DONE


def _refusal(coupon: Coupon | None, instruction: Instruction) -> str:
    """Why the coupon cannot do what is asked; empty where it can."""
    owner_id, payment_id = instruction.owner_id, instruction.payment_id
    if instruction.reserve_id is None:
        intake_ms = time_ms_in(payment_id)
        return coupons.refusal(coupon, owner_id, instruction.currency, instruction.amount_minor, intake_ms)
    if coupon is None:
        return coupons.COUPON_NOT_FOUND
    is_kept = coupon.state == CouponState.RESERVED and coupon.payment_id == payment_id
    return "" if is_kept else coupons.COUPON_NOT_AVAILABLE


def _account(slot: int, currency: str, coupon: Coupon) -> AccountRef:
    return ledger.internal(slot, _ACCOUNT[CouponFunder(coupon.funder)], currency)
