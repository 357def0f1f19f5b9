"""What holds for every payment tool: it moves what it was asked to, once, gives it back, and keeps what it declares."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pay_core import benefits, ledger
from pay_core.chart import AccountKind
from pay_core.coupon import CouponFunder
from pay_core.ledger import Draft, Leg
from pay_core.payment import BALANCE, CHANNEL, COUPON, COUPON_ACCOUNT, ESCROW, FEES, POINTS, SUSPENSE, Action, Step
from pay_core.tables import Account, Entry, Hold, Instruction, Journal
from pay_core.tools import TOOLS
from pay_core.tools.base import PaymentTool
from paykit.store.command import Command, Rows, Work
from paykit.store.row import Key
from tests.pay_core.tools.bench import NOW_MS, OWNER, RULES, SLOT, Bench, Carry, instruction, origin, payment

AMOUNT_MINOR = 1000
REASON = re.compile(r"[A-Z][A-Z_]{2,31}")


class _Fill(Command[None]):
    """Money for an account, from outside."""

    def __init__(self, ref: ledger.AccountRef) -> None:
        super().__init__(SLOT, origin())
        self.to = ref
        self.outside = ledger.internal(SLOT, AccountKind.EXTERNAL, "EUR", "source")

    def reads(self, rows: Rows) -> list[Key]:
        return ledger.account_keys([self.to, self.outside])

    def decide(self, work: Work) -> None:
        draft = Draft(SLOT, "EUR")
        draft.move("ins_source", AMOUNT_MINOR, Leg.LOCAL, self.outside, self.to)
        ledger.post(work, draft, "")


def _balance(bench: Bench) -> Step:
    bench.run(_Fill(ledger.owned(OWNER, AccountKind.USER, "EUR")))
    return Step(Action.COLLECT, BALANCE, AMOUNT_MINOR, owner_id=OWNER, account_kind="USER")


def _channel(bench: Bench) -> Step:
    return Step(Action.COLLECT, CHANNEL, AMOUNT_MINOR, channel="card", token="tok_ok", instrument="CARD")


def _coupon(bench: Bench) -> Step:
    command = benefits.IssueCoupon(
        origin(), OWNER, "EUR", AMOUNT_MINOR, CouponFunder.PLATFORM, "", "", NOW_MS + 1_000_000
    )
    (coupon,) = bench.run(command)
    return Step(Action.COLLECT, COUPON, AMOUNT_MINOR, owner_id=OWNER, token=coupon.id)


def _points(bench: Bench) -> Step:
    bench.run(benefits.GrantPoints(origin(), OWNER, RULES.points_for(AMOUNT_MINOR), "WELCOME"))
    return Step(Action.COLLECT, POINTS, AMOUNT_MINOR, owner_id=OWNER)


class Setup(NamedTuple):
    """How a tool gets exactly 10.00 EUR to collect, and whether it can have too little."""

    fund: Callable[[Bench], Step]
    may_lack: bool = True


def _internal(name: str, kind: AccountKind) -> Setup:
    def fund(bench: Bench) -> Step:
        bench.run(_Fill(ledger.internal(SLOT, kind, "EUR")))
        return Step(Action.COLLECT, name, AMOUNT_MINOR)

    return Setup(fund, may_lack=False)


SETUPS = {
    BALANCE: Setup(_balance),
    CHANNEL: Setup(_channel, may_lack=False),
    COUPON: Setup(_coupon),
    POINTS: Setup(_points),
    FEES: _internal(FEES, AccountKind.FEES),
    ESCROW: _internal(ESCROW, AccountKind.ESCROW),
    SUSPENSE: _internal(SUSPENSE, AccountKind.SUSPENSE),
    COUPON_ACCOUNT: _internal(COUPON_ACCOUNT, AccountKind.COUPON),
}

every_tool = pytest.mark.parametrize("tool", [pytest.param(tool, id=name) for name, tool in sorted(TOOLS.items())])
every_tool_that_reserves = pytest.mark.parametrize(
    "tool",
    [pytest.param(t, id=name) for name, t in sorted(TOOLS.items()) if Action.RESERVE in t.capabilities.actions],
)
every_tool_that_may_lack = pytest.mark.parametrize(
    "tool", [pytest.param(t, id=name) for name, t in sorted(TOOLS.items()) if SETUPS[name].may_lack]
)


class Scene:
    """A tool that has exactly the amount, and what was there before."""

    def __init__(self, tool: PaymentTool) -> None:
        self.tool, self.bench, self.payment = tool, Bench(tool), payment()
        self.collect = self.bench.prepare(SETUPS[tool.name].fund(self.bench))
        self.before = self.balances()

    def balances(self) -> dict[str, tuple[int, int]]:
        """What every account that has anything has, and what of it is held."""
        rows = self.bench.all(Account)
        return {r.account_key: (r.balance_minor, r.held_minor) for r in rows if r.balance_minor or r.held_minor}

    def carry(self, *steps: Step, reason: str = "") -> list[Instruction]:
        """Carries out steps of the payment, and checks the books."""
        made = self.bench.carry(self.payment, *steps, reason=reason)
        self.bench.check()
        return made

    def clearing(self) -> int:
        """What has come into the payment's clearing account."""
        return self.bench.balance(AccountKind.CLEARING)

    def give_back(self, done: Instruction, amount_minor: int) -> Instruction:
        """Gives back a part; the instruction with what was given back counted, as the orchestration does."""
        back = self.tool.give_back(done, amount_minor)
        assert (back.action, back.tool, back.amount_minor) == (Action.DISBURSE, self.tool.name, amount_minor)
        assert (back.reverses_id, back.reserve_id) == (done.id, None)
        self.carry(back)
        return msgspec.structs.replace(
            done,
            refunded_minor=done.refunded_minor + amount_minor,
            refunded_unit_count=done.refunded_unit_count + back.unit_count,
        )

    def take(self, reserve: Instruction, amount_minor: int, taken: list[Instruction]) -> Step:
        """The step that collects a part of a reserve."""
        taken_minor, taken_units = sum(t.amount_minor for t in taken), sum(t.unit_count for t in taken)
        step = self.tool.take(reserve, amount_minor, taken_minor, taken_units)
        assert (step.action, step.tool, step.amount_minor) == (Action.COLLECT, self.tool.name, amount_minor)
        assert (step.reserve_id, step.reverses_id) == (reserve.id, None)
        return step


def test_every_tool_is_under_its_name_and_in_this_suite() -> None:
    assert [tool.name for tool in TOOLS.values()] == list(TOOLS)
    assert set(TOOLS) == set(SETUPS)


@every_tool
def test_declares_what_makes_sense(tool: PaymentTool) -> None:
    can = tool.capabilities
    assert {Action.COLLECT, Action.DISBURSE} <= can.actions
    assert (Action.RESERVE in can.actions) == (Action.RELEASE in can.actions)
    assert can.captures_max is None or can.captures_max >= 1
    assert not (can.is_immediate and can.amount_may_differ)


@every_tool
def test_collects_what_it_is_asked_to_and_books_it_once(tool: PaymentTool) -> None:
    scene = Scene(tool)
    journals = len(scene.bench.all(Journal))
    (done,) = scene.carry(scene.collect)
    assert scene.clearing() == AMOUNT_MINOR
    (journal,) = scene.bench.all(Journal)[journals:]
    assert msgspec.json.decode(journal.bookings) == [[done.id, AMOUNT_MINOR, "LOCAL"]]
    assert bool(done.unit_count) == bool(tool.capabilities.unit)


@every_tool
@settings(max_examples=20)
@given(data=st.data())
def test_what_is_given_back_in_any_parts_restores_what_was(tool: PaymentTool, data: st.DataObject) -> None:
    scene = Scene(tool)
    (done,) = scene.carry(scene.collect)
    for _ in range(data.draw(st.integers(0, 3))):
        left_minor = done.amount_minor - done.refunded_minor
        if left_minor > 1:
            done = scene.give_back(done, data.draw(st.integers(1, left_minor - 1)))
            assert scene.clearing() == AMOUNT_MINOR - done.refunded_minor
    scene.give_back(done, done.amount_minor - done.refunded_minor)
    assert scene.balances() == scene.before
    if not tool.capabilities.amount_may_differ:  # what lies outside was never counted here
        scene.carry(scene.collect)


@every_tool_that_may_lack
def test_lacking_money_fails_with_a_reason_and_leaves_nothing(tool: PaymentTool) -> None:
    scene = Scene(tool)
    more = scene.collect._replace(amount_minor=AMOUNT_MINOR + 1)
    if tool.capabilities.unit:
        more = more._replace(unit_count=more.unit_count + 1)
    for action in (Action.COLLECT, Action.RESERVE):
        made = instruction(scene.payment, more._replace(action=action))
        ((begun,),) = scene.bench.run(Carry(tool, scene.payment, [made]))
        assert begun.state == "FAILED"
        assert REASON.fullmatch(begun.failure_reason)
    assert scene.balances() == scene.before
    assert not scene.bench.all(Hold)


@every_tool_that_reserves
def test_a_reserve_moves_nothing_keeps_all_from_others_and_can_be_taken_whole(tool: PaymentTool) -> None:
    scene = Scene(tool)
    entries = len(scene.bench.all(Entry))
    (reserve,) = scene.carry(scene.collect._replace(action=Action.RESERVE))
    assert len(scene.bench.all(Entry)) == entries
    if SETUPS[tool.name].may_lack:
        other = instruction(payment(), scene.collect)
        ((begun,),) = scene.bench.run(Carry(tool, payment(id=other.payment_id), [other]))
        assert begun.state == "FAILED"
    scene.carry(scene.take(reserve, AMOUNT_MINOR, []))
    assert scene.clearing() == AMOUNT_MINOR
    assert not any(account.held_minor for account in scene.bench.all(Account))


@every_tool_that_reserves
def test_a_reserve_that_is_released_is_as_if_it_had_never_been(tool: PaymentTool) -> None:
    scene = Scene(tool)
    (reserve,) = scene.carry(scene.collect._replace(action=Action.RESERVE))
    release = scene.take(reserve, AMOUNT_MINOR, [])._replace(action=Action.RELEASE, unit_count=0)
    scene.carry(release)
    assert scene.balances() == scene.before
    scene.payment = payment()
    scene.carry(scene.collect)
    assert scene.clearing() == AMOUNT_MINOR


@every_tool_that_reserves
@settings(max_examples=20)
@given(data=st.data())
def test_a_reserve_is_taken_as_often_as_declared_and_comes_back_whole(tool: PaymentTool, data: st.DataObject) -> None:
    scene = Scene(tool)
    (reserve,) = scene.carry(scene.collect._replace(action=Action.RESERVE))
    taken: list[Instruction] = []
    times = data.draw(st.integers(1, tool.capabilities.captures_max or 4))
    for _ in range(times):
        left_minor = AMOUNT_MINOR - sum(each.amount_minor for each in taken)
        if left_minor:
            taken += scene.carry(scene.take(reserve, data.draw(st.integers(1, left_minor)), taken))
    taken_minor = sum(each.amount_minor for each in taken)
    assert scene.clearing() == taken_minor
    if tool.capabilities.captures_max != 1 and taken_minor < AMOUNT_MINOR:
        rest = scene.take(reserve, AMOUNT_MINOR - taken_minor, taken)
        scene.carry(rest._replace(action=Action.RELEASE, unit_count=0))
    for each in taken:
        scene.give_back(each, each.amount_minor)
    assert scene.balances() == scene.before


@every_tool
def test_asks_for_what_it_cannot_know_and_nothing_else(tool: PaymentTool) -> None:
    scene = Scene(tool)
    question = tool.query(instruction(scene.payment, scene.collect))
    if tool.capabilities.is_immediate:
        assert question is None
    elif question is not None:
        assert re.fullmatch(r"/paymesh\.[a-z]+\.v1\.\w+/\w+", question.method)
        assert question.service
