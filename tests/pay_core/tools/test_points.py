"""The points tool: in whatever parts points are taken and given back, none is made or lost."""

from __future__ import annotations

import math

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pay_core import benefits
from pay_core.chart import POINTS_UNIT
from pay_core.ledger import ACCOUNT_FROZEN, AccountKind
from pay_core.payment import Action, Step
from pay_core.points import INSUFFICIENT_POINTS
from pay_core.tables import Account, Hold, Instruction, Journal, Payment
from pay_core.tools.points import PointsTool
from tests.pay_core.tools.bench import NOW_MS, OWNER, Bench, Carry, instruction, origin, payment, step

TOOL = PointsTool()


def granted(point_count: int) -> Bench:
    """Ann has points."""
    bench = Bench(TOOL)
    bench.run(benefits.GrantPoints(origin(), OWNER, point_count, "WELCOME"))
    return bench


def prepared(bench: Bench, action: Action, amount_minor: int) -> Step:
    """A step as intake makes it."""
    return bench.prepare(step(action, TOOL, amount_minor))


def points(bench: Bench) -> int:
    """What ann has."""
    return bench.balance(AccountKind.POINTS, POINTS_UNIT)


def held(bench: Bench) -> int:
    """What is kept of it."""
    return sum(account.held_minor for account in bench.all(Account))


def test_takes_points_and_brings_money_in_one_journal() -> None:
    bench, paid = granted(1000), payment()
    collect = prepared(bench, Action.COLLECT, 100)
    assert (collect.owner_id, collect.unit_count) == (OWNER, 234)  # 7 points are 3 cents: 233.3, rounded up
    bench.carry(paid, collect)
    assert (points(bench), bench.balance(AccountKind.POINTS_ISSUED, POINTS_UNIT)) == (766, -766)
    assert (bench.balance(AccountKind.MARKETING), bench.balance(AccountKind.CLEARING)) == (-100, 100)
    assert len(bench.all(Journal)) == 2  # the grant's, and one for money and points together
    bench.check()


def test_takes_none_where_there_are_too_few() -> None:
    for bench in (granted(233), Bench(TOOL)):
        before = points(bench)
        for action in (Action.COLLECT, Action.RESERVE):
            bench.carry(payment(), prepared(bench, action, 100), reason=INSUFFICIENT_POINTS)
        assert points(bench) == before
        assert bench.balance(AccountKind.MARKETING) == 0
        assert not bench.all(Hold)


def test_two_takes_in_one_journal_do_not_take_the_same_points() -> None:
    bench, paid = granted(300), payment()
    collects = [instruction(paid, prepared(bench, Action.COLLECT, 100)) for _ in range(2)]
    ((first, second),) = bench.run(Carry(TOOL, paid, collects))
    assert (first.failure_reason, second.failure_reason) == ("", INSUFFICIENT_POINTS)
    assert points(bench) == 66


def test_what_is_reserved_cannot_be_taken_by_another() -> None:
    bench, paid = granted(300), payment(expires_at_ms=NOW_MS + 5)
    (reserve,) = bench.carry(paid, prepared(bench, Action.RESERVE, 100))
    (hold,) = bench.all(Hold)
    assert (hold.amount_minor, hold.currency, hold.expires_at_ms) == (234, POINTS_UNIT, NOW_MS + 5)
    assert (points(bench), held(bench)) == (300, 234)
    bench.carry(payment(), prepared(bench, Action.COLLECT, 100), reason=INSUFFICIENT_POINTS)
    bench.carry(paid, TOOL.take(reserve, 100, 0, 0))
    assert (points(bench), held(bench)) == (66, 0)
    bench.check()


def test_nothing_leaves_a_frozen_account_and_what_comes_back_lands() -> None:
    bench, paid = granted(1000), payment()
    (done,) = bench.carry(paid, prepared(bench, Action.COLLECT, 100))
    (reserve,) = bench.carry(paid, prepared(bench, Action.RESERVE, 100))
    for account in bench.all(Account):
        if account.kind == AccountKind.POINTS:
            bench.rows[Account][account.id] = msgspec.structs.replace(account, freeze_reason="COURT_ORDER")
    bench.carry(paid, TOOL.take(reserve, 100, 0, 0), reason=ACCOUNT_FROZEN)
    bench.carry(payment(), prepared(bench, Action.COLLECT, 1), reason=ACCOUNT_FROZEN)
    bench.carry(paid, TOOL.give_back(done, 100))
    bench.carry(paid, step(Action.RELEASE, TOOL, 100, reserve_id=reserve.id))
    assert (points(bench), held(bench)) == (1000, 0)


class PointsHistory(RuleBasedStateMachine):
    """One payment is captured in parts and given back in parts, beside grants; at the end everything is given back."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = granted(10_000)
        self.granted = 10_000
        self.payment: Payment = payment()
        self.taken: list[Instruction] = []
        self.is_released = False

    @initialize(amount_minor=st.integers(1, 4000))
    def set_aside(self, amount_minor: int) -> None:
        (self.reserve,) = self.bench.carry(self.payment, prepared(self.bench, Action.RESERVE, amount_minor))
        self.whole_units = self.reserve.unit_count
        assert self.whole_units == math.ceil(amount_minor * 7 / 3)

    @property
    def taken_minor(self) -> int:
        return sum(each.amount_minor for each in self.taken)

    @property
    def taken_units(self) -> int:
        return sum(each.unit_count for each in self.taken)

    @precondition(lambda self: not self.is_released and self.taken_minor < self.reserve.amount_minor)
    @rule(data=st.data())
    def capture(self, data: st.DataObject) -> None:
        amount_minor = data.draw(st.integers(1, self.reserve.amount_minor - self.taken_minor))
        taken = TOOL.take(self.reserve, amount_minor, self.taken_minor, self.taken_units)
        self.taken += self.bench.carry(self.payment, taken)
        if self.taken_minor == self.reserve.amount_minor:
            assert self.taken_units == self.whole_units

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.taken) - 1))
        left_minor = self.taken[at].amount_minor - self.taken[at].refunded_minor
        if left_minor:
            self._give_back(at, data.draw(st.integers(1, left_minor)))

    def _give_back(self, at: int, amount_minor: int) -> None:
        done = self.taken[at]
        back = TOOL.give_back(done, amount_minor)
        self.bench.carry(payment(operation="REFUND"), back)
        self.taken[at] = msgspec.structs.replace(
            done,
            refunded_minor=done.refunded_minor + amount_minor,
            refunded_unit_count=done.refunded_unit_count + back.unit_count,
        )

    @rule(point_count=st.integers(1, 100))
    def grant(self, point_count: int) -> None:
        self.bench.run(benefits.GrantPoints(origin(), OWNER, point_count, "LUCK"))
        self.granted += point_count

    @precondition(lambda self: not self.is_released)
    @rule()
    def let_go_of_the_rest(self) -> None:
        release = step(Action.RELEASE, TOOL, self.reserve.amount_minor, reserve_id=self.reserve.id)
        self.bench.carry(self.payment, release)
        self.is_released = True

    @invariant()
    def adds_up(self) -> None:
        out_units = sum(each.unit_count - each.refunded_unit_count for each in self.taken)
        out_minor = sum(each.amount_minor - each.refunded_minor for each in self.taken)
        assert points(self.bench) == self.granted - out_units
        assert self.bench.balance(AccountKind.POINTS_ISSUED, POINTS_UNIT) == -points(self.bench)
        assert self.bench.balance(AccountKind.MARKETING) == -out_minor
        kept = 0 if self.is_released or not hasattr(self, "reserve") else self.whole_units - self.taken_units
        assert held(self.bench) == kept
        self.bench.check()

    def teardown(self) -> None:
        for at, each in enumerate(self.taken):
            if each.refunded_minor < each.amount_minor:
                self._give_back(at, each.amount_minor - each.refunded_minor)
        assert points(self.bench) == self.granted


TestPointsHistory = PointsHistory.TestCase
