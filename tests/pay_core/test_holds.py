"""Holds: what they keep is what the account says is held, whatever happens in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from pay_core import holds, ledger
from pay_core.bookkeeping import FreezeAccount, UnfreezeAccount
from pay_core.holds import HOLD, HoldState
from pay_core.ledger import Draft, Leg
from pay_core.tables import Account, Hold
from paykit.errors import FailedPrecondition
from paykit.store.command import Work
from paymesh.pay.v1 import ledger_service_pb2
from tests.pay_core.ledger_desk import ANN, FEES, Decide, Desk, Post, origin

CLEARING = ledger.internal(ANN.slot, ledger.AccountKind.CLEARING, "EUR")
PAYMENT_ID = "pay_1"


class Held:
    """Ann's account and its holds, changed by one decision each."""

    def __init__(self, balance_minor: int = 0) -> None:
        self.desk = Desk()
        if balance_minor:
            self.desk.deposit(ANN, balance_minor)
        self._count = 0

    @property
    def account(self) -> Account:
        (found,) = [row for row in self.desk.all(Account) if row.account_key == ANN.account_key]
        assert isinstance(found, Account)
        return found

    def hold(self, instruction_id: str) -> Hold:
        (found,) = [row for row in self.desk.all(Hold) if row.instruction_id == instruction_id]
        assert isinstance(found, Hold)
        return found

    def place(self, amount_minor: int) -> Hold | str:
        self._count += 1
        instruction_id = f"ins_{self._count}"

        def decide(work: Work) -> Hold | str:
            draft = Draft(ANN.slot, "EUR")
            return holds.place(work, ANN, amount_minor, PAYMENT_ID, instruction_id, None, draft)

        placed: Hold | str = self.desk.run(Decide([ANN], decide))
        return placed

    def capture(self, instruction_id: str, amount_minor: int) -> Hold | str:
        def decide(work: Work) -> Hold | str:
            hold = holds.hold_of(work, instruction_id)
            assert hold is not None
            captured = holds.capture(work, hold, amount_minor)
            if isinstance(captured, Hold):
                draft = Draft(ANN.slot, "EUR")
                draft.book("ins_c", amount_minor, Leg.LOCAL, ANN, -amount_minor)
                ledger.post(work, draft, PAYMENT_ID)
            return captured

        captured: Hold | str = self.desk.run(Decide([ANN, CLEARING], decide, [holds.hold_key(instruction_id)]))
        return captured

    def release(self, instruction_id: str, *, is_expiry: bool = False) -> Hold:
        def decide(work: Work) -> Hold:
            hold = holds.hold_of(work, instruction_id)
            assert hold is not None
            return holds.release(work, hold, is_expiry=is_expiry)

        released: Hold = self.desk.run(Decide([ANN], decide, [holds.hold_key(instruction_id)]))
        return released


def test_has_the_states_of_the_contract() -> None:
    names = {name.removeprefix("HOLD_STATE_") for name in ledger_service_pb2.HoldState.keys()}  # noqa: SIM118
    assert {state.value for state in HoldState} == names - {"UNSPECIFIED"}
    assert HOLD.terminal == {HoldState.CAPTURED, HoldState.RELEASED, HoldState.EXPIRED}


def test_keeps_money_from_being_spent() -> None:
    held = Held(1000)
    assert isinstance(held.place(700), Hold)
    with pytest.raises(FailedPrecondition):
        held.desk.run(Post(ANN, FEES, 301))
    held.desk.run(Post(ANN, FEES, 300))
    assert (held.account.balance_minor, held.account.held_minor) == (700, 700)


def test_is_refused_where_the_money_is_not_there() -> None:
    held = Held(1000)
    held.place(700)
    assert held.place(301) == ledger.INSUFFICIENT_FUNDS
    assert Held().place(1) == ledger.INSUFFICIENT_FUNDS


def test_is_captured_part_by_part_until_nothing_is_kept() -> None:
    held = Held(1000)
    held.place(700)
    held.capture("ins_1", 200)
    assert (held.hold("ins_1").state, held.account.held_minor, held.account.balance_minor) == ("ACTIVE", 500, 800)
    held.capture("ins_1", 500)
    assert (held.hold("ins_1").state, held.account.held_minor, held.account.balance_minor) == ("CAPTURED", 0, 300)


def test_never_captures_more_than_it_keeps() -> None:
    held = Held(1000)
    held.place(700)
    held.capture("ins_1", 600)
    with pytest.raises(AssertionError):
        held.capture("ins_1", 101)
    assert held.account.held_minor == 100


@pytest.mark.parametrize(("is_expiry", "state"), [(False, "RELEASED"), (True, "EXPIRED")])
def test_lets_go_of_all_and_stays_so(is_expiry: bool, state: str) -> None:
    held = Held(1000)
    held.place(700)
    held.release("ins_1", is_expiry=is_expiry)
    held.release("ins_1", is_expiry=not is_expiry)
    hold = held.hold("ins_1")
    assert (hold.state, hold.released_minor, held.account.held_minor) == (state, 700, 0)


@pytest.mark.parametrize("is_expiry", [False, True])
def test_is_captured_when_the_rest_of_it_is_let_go(is_expiry: bool) -> None:
    held = Held(1000)
    held.place(700)
    held.capture("ins_1", 300)
    held.release("ins_1", is_expiry=is_expiry)
    hold = held.hold("ins_1")
    assert (hold.state, hold.captured_minor, hold.released_minor) == ("CAPTURED", 300, 400)
    assert (held.account.balance_minor, held.account.held_minor) == (700, 0)


def test_is_not_captured_while_its_account_is_frozen_but_may_be_let_go() -> None:
    held = Held(1000)
    held.place(700)
    held.desk.run(FreezeAccount(origin(ANN.slot, "f1"), held.account.id, "COURT_ORDER"))
    assert held.capture("ins_1", 100) == ledger.ACCOUNT_FROZEN
    assert held.place(1) == ledger.ACCOUNT_FROZEN
    assert held.account.held_minor == 700
    assert held.release("ins_1").state == HoldState.RELEASED


class HoldsAgainstModel(RuleBasedStateMachine):
    """Places, captures, releases, expires, deposits, spends and freezes, beside a plain model of the account."""

    placed = Bundle("placed")

    def __init__(self) -> None:
        super().__init__()
        self.held = Held(100)
        self.balance = 100
        self.kept: dict[str, int] = {}
        self.is_frozen = False
        self.requests = 0

    @property
    def available(self) -> int:
        return self.balance - sum(self.kept.values())

    @rule(amount=st.integers(1, 120))
    def deposit(self, amount: int) -> None:
        self.held.desk.deposit(ANN, amount)
        self.balance += amount

    @rule(amount=st.integers(1, 120))
    def spend(self, amount: int) -> None:
        if amount <= self.available and not self.is_frozen:
            self.held.desk.run(Post(ANN, FEES, amount))
            self.balance -= amount
        else:
            with pytest.raises(FailedPrecondition):
                self.held.desk.run(Post(ANN, FEES, amount))

    @rule(target=placed, amount=st.integers(1, 120))
    def place(self, amount: int) -> object:
        placed = self.held.place(amount)
        assert isinstance(placed, Hold) == (amount <= self.available and not self.is_frozen)
        if not isinstance(placed, Hold):
            return multiple()
        self.kept[placed.instruction_id] = amount
        return placed.instruction_id

    @rule(instruction_id=placed, part=st.floats(0.01, 1))
    def capture(self, instruction_id: str, part: float) -> None:
        kept = self.kept[instruction_id]
        if not kept:
            return
        amount = max(1, int(kept * part))
        captured = self.held.capture(instruction_id, amount)
        assert isinstance(captured, Hold) != self.is_frozen
        if not self.is_frozen:
            self.kept[instruction_id] -= amount
            self.balance -= amount

    @rule(instruction_id=consumes(placed), is_expiry=st.booleans())
    def release(self, instruction_id: str, is_expiry: bool) -> None:
        self.held.release(instruction_id, is_expiry=is_expiry)
        self.kept[instruction_id] = 0

    @rule()
    def freeze_or_thaw(self) -> None:
        self.requests += 1
        kind = UnfreezeAccount if self.is_frozen else FreezeAccount
        self.held.desk.run(kind(origin(ANN.slot, f"f{self.requests}"), self.held.account.id, "TEST"))
        self.is_frozen = not self.is_frozen

    @invariant()
    def held_is_what_active_holds_keep(self) -> None:
        account, rows = self.held.account, self.held.desk.all(Hold)
        assert account.held_minor == sum(holds.kept_minor(row) for row in rows if row.state == "ACTIVE")
        assert all(holds.kept_minor(row) == 0 for row in rows if row.state != "ACTIVE")
        assert all(holds.kept_minor(row) > 0 for row in rows if row.state == "ACTIVE")
        assert account.held_minor == sum(self.kept.values())
        assert account.balance_minor == self.balance
        assert account.balance_minor - account.held_minor >= 0


TestHoldsAgainstModel = HoldsAgainstModel.TestCase
TestHoldsAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
