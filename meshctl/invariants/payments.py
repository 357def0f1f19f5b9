"""5, of payments: the money of each is somewhere, what was captured reached its payees, coupons and rules are known."""

from __future__ import annotations

from collections import Counter

from meshctl.invariants.base import Invariant, Tally
from meshctl.invariants.world import Slice
from pay_core.chart import AccountKind
from pay_core.payment import COUPON, ESCROW, Action, Direction, collected_minor, did, is_terminal
from pay_core.tables import Coupon, Instruction, Payment, RuleVersion


def money_is_somewhere(world: Slice, tally: Tally) -> None:
    """What a payment has collected it has disbursed, or has in clearing, to the cent and at any moment."""
    left = world.left_in(AccountKind.CLEARING)
    for payment in world.rows(Payment):
        tally.count()
        chain = world.chains.get(payment.id, [])
        came_minor = sum(collected_minor(ins) for way in Direction for ins in did(chain, Action.COLLECT, way))
        went_minor = sum(ins.amount_minor for way in Direction for ins in did(chain, Action.DISBURSE, way))
        left_minor = left[payment.id, payment.currency]
        detail = f"collected {came_minor}, disbursed {went_minor}, and {left_minor} is in clearing"
        tally.expect(came_minor - went_minor == left_minor, payment.id, detail)


def captures_reach_payees(world: Slice, tally: Tally) -> None:
    """What a payment that keeps money first has captured is what its payees got, with the payer's fee on top."""
    for payment in world.rows(Payment):
        if payment.settlement_mode == "IMMEDIATE":
            tally.expect(not payment.captured_minor, payment.id, f"captured {payment.captured_minor} of nothing kept")
            continue
        tally.count()
        tally.expect(
            payment.captured_minor <= payment.amount_minor,
            payment.id,
            f"captured {payment.captured_minor} of {payment.amount_minor}",
        )
        if payment.state == "AUTHORIZED" or is_terminal(payment):
            chain = world.chains.get(payment.id, [])
            got_minor = sum(ins.amount_minor for ins in did(chain, Action.DISBURSE) if ins.tool != ESCROW)
            due_minor = payment.captured_minor + (payment.payer_fee_minor if payment.captured_minor else 0)
            tally.expect(got_minor == due_minor, payment.id, f"captured {due_minor}, its payees got {got_minor}")


def coupons_follow_their_payment(world: Slice, tally: Tally) -> None:
    """A coupon that names a payment is kept or used by it, for what it paid less what was given back; one that names
    none is neither."""
    paid: Counter[tuple[str, str]] = Counter()
    kept: Counter[tuple[str, str]] = Counter()
    for ins in world.rows(Instruction):
        if ins.tool == COUPON and ins.state == "SUCCEEDED":
            _count_coupon(world, ins, paid, kept)
    for coupon in world.rows(Coupon):
        tally.count()
        key = (coupon.id, coupon.payment_id)
        if coupon.payment_id:
            tally.expect(coupon.payment_id in world.payments, coupon.id, f"names {coupon.payment_id}, no payment")
        told = (coupon.state == "RESERVED", coupon.state == "USED", coupon.paid_minor)
        due = (kept[key] > 0, paid[key] > 0, paid[key])
        tally.expect(told == due, coupon.id, f"{coupon.state}, paid {coupon.paid_minor}; its payment says {due}")
        tally.expect(paid[key] <= coupon.face_value_minor, coupon.id, f"paid {paid[key]} of {coupon.face_value_minor}")


def _count_coupon(
    world: Slice, ins: Instruction, paid: Counter[tuple[str, str]], kept: Counter[tuple[str, str]]
) -> None:
    """(coupon, payment) -> what it has paid and not got back; whether it is reserved."""
    key = (ins.token, ins.payment_id)
    if ins.action == Action.RESERVE:
        kept[key] += 1
    elif ins.action == Action.RELEASE:
        kept[key] -= 1
    elif ins.action == Action.COLLECT:
        paid[key] += ins.amount_minor
        kept[key] -= 1 if ins.reserve_id else 0
    else:
        source = world.instructions.get(ins.reverses_id or "")
        paid[ins.token, "" if source is None else source.payment_id] -= ins.amount_minor


def rules_are_known(world: Slice, tally: Tally) -> None:
    """The version of the rules that each payment was decided by is kept."""
    for payment in world.rows(Payment):
        tally.count()
        tally.sums["used", world.mode, str(payment.rules_version)] += 1
    for version in world.rows(RuleVersion):
        tally.sums["kept", world.mode, str(version.rules_version)] += 1


def every_version_is_kept(tally: Tally) -> None:
    """Kept once, wherever it is used."""
    for what, mode, version in list(tally.sums):
        number = tally.sums["kept", mode, version]
        tally.expect(number == 1, f"rules {version}", f"{what} in {mode}, and kept {number} times")


INVARIANTS = (
    Invariant("5g", "money collected is somewhere", "payments", money_is_somewhere),
    Invariant("5h", "captures reach the payees", "payments kept first", captures_reach_payees),
    Invariant("5i", "coupons follow their payment", "coupons", coupons_follow_their_payment),
    Invariant("5j", "the rules of each payment are kept", "payments", rules_are_known, every_version_is_kept),
)
