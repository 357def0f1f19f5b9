"""The coupon tool: whatever payments do with a coupon, it pays once, and its funder has what it has not paid."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pay_core import benefits
from pay_core.coupon import (
    COUPON_EXPIRED,
    COUPON_NOT_APPLICABLE,
    COUPON_NOT_AVAILABLE,
    COUPON_NOT_FOUND,
    CouponFunder,
)
from pay_core.ledger import AccountKind
from pay_core.payment import Action, Step
from pay_core.tables import Coupon, Instruction, Journal, Payment
from pay_core.tools.coupon import CouponTool
from paykit.errors import FailedPrecondition, NotFound
from paykit.ids import new_id
from tests.pay_core.tools.bench import INTAKE, NOW_MS, OWNER, SLOT, Bench, Carry, instruction, origin, payment, step

TOOL = CouponTool()
FACE_MINOR = 500
MERCHANT = "shop"


def issued(bench: Bench, funder: CouponFunder = CouponFunder.PLATFORM, ttl_ms: int = 1000) -> Coupon:
    """A coupon of ann's over 5.00 EUR."""
    merchant = MERCHANT if funder == CouponFunder.MERCHANT else ""
    (made,) = bench.run(benefits.IssueCoupon(origin(), OWNER, "EUR", FACE_MINOR, funder, merchant, "", NOW_MS + ttl_ms))
    return made


def now(bench: Bench, coupon: Coupon) -> Coupon:
    """The coupon as it is."""
    row = bench.rows[Coupon][coupon.id]
    assert isinstance(row, Coupon)
    return row


def collect(coupon: Coupon, amount_minor: int = FACE_MINOR, **changes: Any) -> Step:
    """Paying with the coupon."""
    return step(Action.COLLECT, TOOL, amount_minor, token=coupon.id, **changes)


@pytest.mark.parametrize(
    ("funder", "kind"),
    [(CouponFunder.PLATFORM, AccountKind.MARKETING), (CouponFunder.MERCHANT, AccountKind.COUPON)],
)
def test_takes_the_money_from_whoever_funds_it_and_gives_it_back_there(funder: CouponFunder, kind: AccountKind) -> None:
    bench, paid = Bench(TOOL), payment()
    coupon = issued(bench, funder)
    (done,) = bench.carry(paid, collect(coupon, 300))
    assert (now(bench, coupon).state, now(bench, coupon).payment_id) == ("USED", paid.id)
    assert (bench.balance(kind), bench.balance(AccountKind.CLEARING)) == (-300, 300)
    bench.carry(paid, TOOL.give_back(done, 100))
    assert now(bench, coupon).state == "USED"
    bench.carry(paid, TOOL.give_back(done, 200))
    assert (now(bench, coupon).state, now(bench, coupon).payment_id) == ("AVAILABLE", "")
    assert (bench.balance(kind), bench.balance(AccountKind.CLEARING)) == (0, 0)
    bench.check()


def test_a_capture_of_a_part_uses_it_up_and_the_rest_is_forfeited() -> None:
    bench, paid = Bench(TOOL), payment()
    coupon = issued(bench)
    (reserve,) = bench.carry(paid, step(Action.RESERVE, TOOL, FACE_MINOR, token=coupon.id))
    assert (now(bench, coupon).state, now(bench, coupon).payment_id) == ("RESERVED", paid.id)
    assert not bench.all(Journal)
    bench.carry(paid, TOOL.take(reserve, 200, 0, 0))
    assert now(bench, coupon).state == "USED"
    assert bench.balance(AccountKind.MARKETING) == -200
    bench.carry(paid, TOOL.take(reserve, 300, 200, 0), reason=COUPON_NOT_AVAILABLE)
    assert bench.balance(AccountKind.MARKETING) == -200


def test_a_reserve_that_is_given_up_frees_it() -> None:
    bench, paid = Bench(TOOL), payment()
    coupon = issued(bench)
    (reserve,) = bench.carry(paid, step(Action.RESERVE, TOOL, FACE_MINOR, token=coupon.id))
    bench.carry(payment(), collect(coupon), reason=COUPON_NOT_AVAILABLE)
    release = step(Action.RELEASE, TOOL, FACE_MINOR, token=coupon.id, reserve_id=reserve.id)
    bench.carry(payment(), release, reason=COUPON_NOT_AVAILABLE)  # another payment's reserve is none of its business
    bench.carry(paid, release)
    assert (now(bench, coupon).state, now(bench, coupon).payment_id) == ("AVAILABLE", "")
    bench.carry(payment(), collect(coupon))


def test_of_two_payments_at_once_exactly_one_gets_it() -> None:
    for first in (Action.COLLECT, Action.RESERVE):
        bench = Bench(TOOL)
        coupon, pair = issued(bench), (payment(), payment())
        made = [
            instruction(paid, collect(coupon)._replace(action=action))
            for paid, action in zip(pair, (first, Action.COLLECT), strict=True)
        ]
        results = bench.run(*(Carry(TOOL, paid, [each]) for paid, each in zip(pair, made, strict=True)))
        assert [begun.failure_reason for (begun,) in results] == ["", COUPON_NOT_AVAILABLE]
        assert now(bench, coupon).payment_id == pair[0].id


def test_one_that_expires_while_its_payment_is_under_way_still_pays() -> None:
    bench = Bench(TOOL)
    coupon = issued(bench, ttl_ms=1)
    bench.carry(payment(id=new_id("pay", SLOT, NOW_MS + 1)), collect(coupon), reason=COUPON_EXPIRED)
    paid = payment(id=new_id("pay", SLOT, NOW_MS))
    (reserve,) = bench.carry(paid, step(Action.RESERVE, TOOL, FACE_MINOR, token=coupon.id))
    bench.rows[Coupon][coupon.id] = msgspec.structs.replace(now(bench, coupon), expires_at_ms=NOW_MS - 1)
    bench.carry(paid, TOOL.take(reserve, FACE_MINOR, 0, 0))
    assert now(bench, coupon).state == "USED"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"token": new_id("cpn", SLOT, NOW_MS)}, COUPON_NOT_FOUND),
        ({"owner_id": "bob"}, COUPON_NOT_FOUND),
        ({"amount_minor": FACE_MINOR + 1}, COUPON_NOT_APPLICABLE),
    ],
)
def test_says_why_it_does_not_pay_and_books_nothing(changes: dict[str, Any], reason: str) -> None:
    bench = Bench(TOOL)
    coupon = issued(bench)
    bench.carry(payment(), collect(coupon)._replace(**changes), reason=reason)
    assert not bench.all(Journal)
    assert now(bench, coupon).state == "AVAILABLE"


@pytest.mark.parametrize(
    ("funder", "merchants", "amount_minor", "bearer", "reason"),
    [
        (CouponFunder.PLATFORM, (), FACE_MINOR, "", ""),
        (CouponFunder.MERCHANT, ("mall", MERCHANT), 1, MERCHANT, ""),
        (CouponFunder.MERCHANT, ("mall",), FACE_MINOR, "", COUPON_NOT_APPLICABLE),
        (CouponFunder.PLATFORM, (), FACE_MINOR + 1, "", COUPON_NOT_APPLICABLE),
    ],
)
def test_is_checked_at_intake_and_told_who_bears_it(
    funder: CouponFunder, merchants: tuple[str, ...], amount_minor: int, bearer: str, reason: str
) -> None:
    bench = Bench(TOOL)
    coupon = issued(bench, funder)
    intake = INTAKE._replace(merchants=frozenset(merchants))
    asked = collect(coupon, amount_minor)
    if reason:
        with pytest.raises(FailedPrecondition) as caught:
            bench.prepare(asked, intake)
        assert caught.value.reason == reason
        return
    prepared = bench.prepare(asked, intake)
    assert (prepared.owner_id, prepared.bearer_id) == (OWNER, bearer)
    assert prepared.account_kind == ("COUPON" if bearer else "MARKETING")
    with pytest.raises(NotFound) as missing:
        bench.prepare(asked, intake._replace(payer_id="bob"))
    assert missing.value.reason == COUPON_NOT_FOUND


class CouponHistory(RuleBasedStateMachine):
    """Payments that pay, set aside, capture, let go and give back in any order, and somebody who voids."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(TOOL)
        self.coupon = issued(self.bench)
        self.payment: Payment = payment()
        self.paid: Instruction | None = None
        self.reserve: Instruction | None = None
        self.left_minor = 0  # paid and not given back
        self.given_minor = 0
        self.is_void = False

    @property
    def is_free(self) -> bool:
        return not self.is_void and self.reserve is None and self.paid is None

    @rule(amount_minor=st.integers(1, FACE_MINOR), action=st.sampled_from((Action.COLLECT, Action.RESERVE)))
    def pay(self, amount_minor: int, action: Action) -> None:
        reason = "" if self.is_free else COUPON_NOT_AVAILABLE
        paid = payment()
        (made,) = self.bench.carry(paid, collect(self.coupon, amount_minor)._replace(action=action), reason=reason)
        if not reason:
            self.payment = paid
            if action == Action.COLLECT:
                self.paid, self.left_minor, self.given_minor = made, amount_minor, 0
            else:
                self.reserve = made

    @precondition(lambda self: self.reserve is not None)
    @rule(data=st.data())
    def capture(self, data: st.DataObject) -> None:
        assert self.reserve is not None
        amount_minor = data.draw(st.integers(1, self.reserve.amount_minor))
        (self.paid,) = self.bench.carry(self.payment, TOOL.take(self.reserve, amount_minor, 0, 0))
        self.reserve, self.left_minor, self.given_minor = None, amount_minor, 0

    @precondition(lambda self: self.reserve is not None)
    @rule()
    def let_go(self) -> None:
        assert self.reserve is not None
        amount_minor = self.reserve.amount_minor
        release = step(Action.RELEASE, TOOL, amount_minor, token=self.coupon.id, reserve_id=self.reserve.id)
        self.bench.carry(self.payment, release)
        self.reserve = None

    @precondition(lambda self: self.paid is not None)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        assert self.paid is not None
        amount_minor = data.draw(st.integers(1, self.left_minor))
        self.bench.carry(payment(operation="REFUND"), TOOL.give_back(self.paid, amount_minor))
        self.left_minor -= amount_minor
        if not self.left_minor:
            self.paid = None

    @rule()
    def void(self) -> None:
        command = benefits.VoidCoupon(origin(), self.coupon.id)
        if self.is_free:
            self.bench.run(command)
            self.is_void = True
            return
        with pytest.raises(FailedPrecondition) as caught:
            self.bench.run(command)
        assert caught.value.reason == COUPON_NOT_AVAILABLE

    @invariant()
    def is_what_was_done_to_it(self) -> None:
        coupon = now(self.bench, self.coupon)
        if self.is_free:
            expected = ("AVAILABLE", "")
        elif self.is_void:
            expected = ("VOIDED", "")
        else:
            expected = ("RESERVED" if self.reserve else "USED", self.payment.id)
        assert (coupon.state, coupon.payment_id) == expected
        assert coupon.paid_minor == self.left_minor
        assert self.bench.balance(AccountKind.MARKETING) == -self.left_minor
        self.bench.check()


TestCouponHistory = CouponHistory.TestCase
