"""1, what is kept for somebody: holds, escrow, coupons that are advanced, points, and what came too much."""

from __future__ import annotations

from collections import Counter

from meshctl.invariants.base import Invariant, Tally
from meshctl.invariants.world import Slice
from pay_core.adjustment import ADJUST
from pay_core.chart import POINTS_UNIT, AccountKind
from pay_core.holds import HOLD, kept_minor
from pay_core.payment import ESCROW, Action, InstructionState, is_terminal, plan_of
from pay_core.tables import Account, Adjustment, Hold, Instruction, Payment, PaymentCase


def held_is_what_holds_keep(world: Slice, tally: Tally) -> None:
    """``account.held_minor`` is the sum of what ACTIVE holds on it still keep, in the account's own unit."""
    kept: Counter[str] = Counter()
    for hold in world.rows(Hold):
        if not HOLD.is_terminal(hold.state):
            kept[hold.account_id] += kept_minor(hold)
    for account in world.rows(Account):
        tally.count()
        found_minor = kept.pop(account.id, 0)
        tally.expect(account.held_minor == found_minor, account.id, f"held {account.held_minor}, holds {found_minor}")
    for account_id in kept:
        tally.violate(account_id, "holds name this account, which does not exist")


def holds_follow_their_payment(world: Slice, tally: Tally) -> None:
    """A hold keeps no less than nothing, and nothing once it is over; what it gave up is what its payment collected; a
    payment that is over has none that is ACTIVE."""
    taken: Counter[str] = Counter()
    for ins in world.rows(Instruction):
        if ins.reserve_id and ins.action == Action.COLLECT and ins.state == InstructionState.SUCCEEDED:
            taken[ins.reserve_id] += _units(ins)
    for hold in world.rows(Hold):
        tally.count()
        kept, is_over = kept_minor(hold), HOLD.is_terminal(hold.state)
        tally.expect(kept >= 0 and (kept == 0) == is_over, hold.id, f"{hold.state}, and keeps {kept}")
        payment, reserve = world.payments.get(hold.payment_id), world.instructions.get(hold.instruction_id)
        if payment is None or reserve is None or reserve.payment_id != payment.id:
            tally.violate(hold.id, f"was placed by {hold.instruction_id} of {hold.payment_id}, which does not exist")
            continue
        is_left = not is_over and is_terminal(payment)
        tally.expect(not is_left, hold.id, f"ACTIVE, and {payment.id} is {payment.state}")
        told = (hold.amount_minor, hold.captured_minor)
        due = (_units(reserve), taken[reserve.id])
        tally.expect(told == due, hold.id, f"held and captured {told}, its payment says {due}")


def _units(ins: Instruction) -> int:
    return ins.unit_count if ins.tool == "points" else ins.amount_minor


def escrow_is_owed(world: Slice, tally: Tally) -> None:
    """What lies in ESCROW is, payment by payment, what its chain put there; at rest what is still to be captured."""
    left = world.left_in(AccountKind.ESCROW)
    tally.count(sum(1 for account in world.rows(Account) if account.kind == AccountKind.ESCROW))
    for payment in world.rows(Payment):
        found_minor = left.pop((payment.id, payment.currency), 0)
        if payment.settlement_mode != "ESCROW":
            tally.expect(not found_minor, payment.id, f"{found_minor} of it is in escrow, where it never was")
            continue
        put_minor = sum(_into_escrow(ins) for ins in world.chains.get(payment.id, []))
        tally.expect(found_minor == put_minor, payment.id, f"{found_minor} in escrow, its chain put {put_minor} there")
        if payment.state == "AUTHORIZED" or is_terminal(payment):
            due_minor = sum(share.amount_minor for share in plan_of(payment).shares)
            tally.expect(found_minor == due_minor, payment.id, f"{payment.state}, {found_minor} of {due_minor} held")
    for (payment_id, currency), found_minor in left.items():
        tally.expect(not found_minor, payment_id or "ESCROW", f"{found_minor} {currency} of no payment is in escrow")


def _into_escrow(ins: Instruction) -> int:
    if ins.tool != ESCROW or ins.state != InstructionState.SUCCEEDED:
        return 0
    return ins.amount_minor if ins.action == Action.DISBURSE else -ins.amount_minor


def advances_are_borne(world: Slice, tally: Tally) -> None:
    """What COUPON advanced for a merchant is borne by that merchant once the payment is over."""
    tally.count(sum(1 for account in world.rows(Account) if account.kind == AccountKind.COUPON))
    for (payment_id, currency), left_minor in world.left_in(AccountKind.COUPON).items():
        payment = world.payments.get(payment_id)
        is_open = payment is not None and not is_terminal(payment)
        tally.expect(not left_minor or is_open, payment_id, f"{left_minor} {currency} of it is left in COUPON")


def points_were_issued(world: Slice, tally: Tally) -> None:
    """All points in users' hands are those that were issued, slot by slot."""
    left: Counter[int] = Counter()
    for account in world.rows(Account):
        if account.currency == POINTS_UNIT:
            tally.count()
            left[account.slot] += account.balance_minor
    for slot, total in left.items():
        tally.expect(not total, f"slot {slot}", f"users have {total} points more than were issued")


def suspense_is_explained(world: Slice, tally: Tally) -> None:
    """What lies in SUSPENSE came too much and waits for a decision, was left there by one, or stands against a
    difference with a provider that a repair has set right."""
    sums: Counter[tuple[int, str]] = Counter()
    for account in world.rows(Account):
        if account.kind == AccountKind.SUSPENSE:
            tally.count()
            sums[account.slot, account.currency] += account.balance_minor
    for case in world.rows(PaymentCase):
        is_kept = case.resolution == "ACCEPT" and case.type != "RELEASE_FAILED"
        if is_kept or (case.state == "OPEN" and case.type == "OVERPAYMENT"):
            sums[case.slot, case.currency] -= case.amount_minor
    for adjustment in world.rows(Adjustment):
        if adjustment.kind == ADJUST:
            sums[adjustment.slot, adjustment.currency] -= adjustment.amount_minor
    for (slot, currency), total in sums.items():
        tally.expect(not total, f"slot {slot}", f"{total} {currency} in SUSPENSE unexplained")


INVARIANTS = (
    Invariant("1i", "what is held is what holds keep", "accounts", held_is_what_holds_keep),
    Invariant("1j", "holds follow their payment", "holds", holds_follow_their_payment),
    Invariant("1k", "escrow holds what is to be captured", "escrow accounts", escrow_is_owed),
    Invariant("1l", "merchants bear their coupons", "coupon accounts", advances_are_borne),
    Invariant("1m", "points in use were issued", "points accounts", points_were_issued),
    Invariant("1n", "suspense is what is explained", "suspense accounts", suspense_is_explained),
)
