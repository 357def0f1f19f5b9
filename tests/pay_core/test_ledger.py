"""The ledger: the chart of accounts, drafts in two units, refusals, and the date a journal gets."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pay_core import closing, ledger
from pay_core.chart import CHART, POINTS_UNIT, AccountKind
from pay_core.ledger import AccountRef, Draft, Leg
from pay_core.tables import Account, Book, Entry, Journal
from paykit.errors import FailedPrecondition
from paykit.store.command import Work
from paymesh.event.v1 import events_pb2
from paymesh.pay.v1 import payment_pb2
from tests.pay_core.ledger_desk import ANN, DAY_MS, FEES, OUTSIDE, TODAY, TOMORROW, Decide, Desk, Post

POINTS = ledger.owned("ann", AccountKind.POINTS, POINTS_UNIT)
ISSUED = ledger.internal(ANN.slot, AccountKind.POINTS_ISSUED, POINTS_UNIT)
SUSPENSE = ledger.internal(ANN.slot, AccountKind.SUSPENSE, "EUR")
CLEARING = ledger.internal(ANN.slot, AccountKind.CLEARING, "EUR")


@pytest.fixture
def desk() -> Desk:
    return Desk()


def account(desk: Desk, ref: AccountRef) -> Account:
    (found,) = [row for row in desk.all(Account) if row.account_key == ref.account_key]
    assert isinstance(found, Account)
    return found


def change(desk: Desk, ref: AccountRef, **changes: Any) -> None:
    """Sets columns of an account."""
    desk.rows[Account][account(desk, ref).id] = msgspec.structs.replace(account(desk, ref), **changes)


def entries_of(desk: Desk) -> list[tuple[str, int, str]]:
    keys = {row.id: row.account_key for row in desk.all(Account)}
    return [(keys[row.account_id], row.amount_minor, row.currency) for row in desk.all(Entry)]


class TestChart:
    def test_names_the_kinds_of_the_contract(self) -> None:
        names = {name.removeprefix("ACCOUNT_KIND_") for name in payment_pb2.AccountKind.keys()}  # noqa: SIM118
        assert set(CHART) == set(AccountKind) == names - {"UNSPECIFIED"}

    def test_gives_every_customers_account_a_floor_of_zero(self) -> None:
        assert {rules.floor_minor for rules in CHART.values() if rules.is_owned} == {0}

    def test_lets_only_customers_accounts_be_frozen_or_overdrawn(self) -> None:
        assert not any(rules.may_freeze or rules.may_overdraw for rules in CHART.values() if not rules.is_owned)

    @pytest.mark.parametrize(
        ("owner", "kind", "unit"),
        [("ann", AccountKind.FEES, "EUR"), ("ann", AccountKind.POINTS, "EUR"), ("ann", AccountKind.USER, POINTS_UNIT)],
    )
    def test_has_no_account_that_it_does_not_describe(self, owner: str, kind: AccountKind, unit: str) -> None:
        with pytest.raises(AssertionError):
            ledger.owned(owner, kind, unit)

    def test_keeps_customers_kinds_from_the_platform(self) -> None:
        with pytest.raises(AssertionError):
            ledger.internal(1, AccountKind.MERCHANT, "EUR")

    def test_makes_accounts_with_the_floor_of_their_kind(self, desk: Desk) -> None:
        desk.deposit(ANN, 1)
        assert (account(desk, ANN).floor_minor, account(desk, OUTSIDE).floor_minor) == (0, None)


class TestDraft:
    def test_splits_what_a_channel_moved_into_the_amount_and_the_excess(self, desk: Desk) -> None:
        def decide(work: Work) -> Journal:
            draft = Draft(ANN.slot, "EUR")
            draft.book_split("ins_1", 1000, Leg.LOCAL, [(OUTSIDE, -1200), (SUSPENSE, 200)])
            return ledger.post(work, draft, work.new_id("pay"))

        journal = desk.run(Decide([OUTSIDE, SUSPENSE, CLEARING], decide))
        assert entries_of(desk) == [
            (OUTSIDE.account_key, -1200, "EUR"),
            (SUSPENSE.account_key, 200, "EUR"),
            (CLEARING.account_key, 1000, "EUR"),
        ]
        assert msgspec.json.decode(journal.bookings) == [["ins_1", 1000, "LOCAL"]]

    def test_refuses_a_split_that_is_not_the_amount(self) -> None:
        with pytest.raises(AssertionError):
            Draft(ANN.slot, "EUR").book_split("ins_1", 1000, Leg.LOCAL, [(OUTSIDE, -1200), (SUSPENSE, 100)])

    def test_moves_points_beside_money_without_touching_clearing(self, desk: Desk) -> None:
        desk.run(Post(ISSUED, POINTS, 500))

        def decide(work: Work) -> Journal:
            draft = Draft(ANN.slot, "EUR")
            draft.book("ins_1", 250, Leg.LOCAL, FEES, -250)
            draft.shift(POINTS, ISSUED, 500)
            return ledger.post(work, draft, work.new_id("pay"))

        journal = desk.run(Decide([FEES, CLEARING, POINTS, ISSUED], decide))
        assert account(desk, POINTS).balance_minor == 0
        sums: dict[str, int] = {}
        for row in desk.all(Entry):
            if row.journal_id == journal.id:
                sums[row.currency] = sums.get(row.currency, 0) + row.amount_minor
        assert sums == {"EUR": 0, POINTS_UNIT: 0}
        event = events_pb2.JournalEvent.FromString(desk.messages[-1].body)
        assert [(booked.instruction_id, booked.amount_minor) for booked in event.instructions] == [("ins_1", 250)]

    def test_refuses_to_move_between_units(self) -> None:
        with pytest.raises(AssertionError):
            Draft(ANN.slot, "EUR").shift(POINTS, FEES, 1)

    @given(st.lists(st.integers(-50, 50).filter(bool), max_size=12), st.lists(st.integers(1, 50), max_size=5))
    def test_sums_to_zero_in_every_unit_whatever_is_drafted(self, credits: list[int], points: list[int]) -> None:
        draft = Draft(ANN.slot, "EUR")
        for minor in credits:
            draft.book("ins_1", abs(minor), Leg.LOCAL, ANN, minor)
        for units in points:
            draft.shift(POINTS, ISSUED, units)
        for unit in ("EUR", POINTS_UNIT):
            assert sum(minor for ref, minor in draft.all_postings() if ref.currency == unit) == 0


class TestRefusal:
    def test_counts_holds_the_floor_and_what_is_drafted_already(self, desk: Desk) -> None:
        desk.deposit(ANN, 1000)
        change(desk, ANN, held_minor=300, floor_minor=-50)

        def decide(work: Work) -> list[str]:
            draft = Draft(ANN.slot, "EUR")
            draft.book("ins_1", 100, Leg.LOCAL, ANN, -100)
            return [ledger.refusal(work, ANN, minor, draft) for minor in (650, 651)]

        assert desk.run(Decide([ANN], decide)) == ["", ledger.INSUFFICIENT_FUNDS]

    def test_has_nothing_in_an_account_that_is_not_there(self, desk: Desk) -> None:
        refused = desk.run(Decide([ANN], lambda work: ledger.refusal(work, ANN, 1, Draft(ANN.slot, "EUR"))))
        assert refused == ledger.INSUFFICIENT_FUNDS

    def test_says_that_an_account_is_frozen_however_much_it_has(self, desk: Desk) -> None:
        desk.deposit(ANN, 1000)
        change(desk, ANN, freeze_reason="COURT_ORDER")
        with pytest.raises(FailedPrecondition) as refused:
            desk.run(Post(ANN, FEES, 1))
        assert refused.value.reason == ledger.ACCOUNT_FROZEN

    def test_lets_credits_land_in_a_frozen_account(self, desk: Desk) -> None:
        desk.deposit(ANN, 1000)
        change(desk, ANN, freeze_reason="COURT_ORDER")
        desk.deposit(ANN, 500)
        assert account(desk, ANN).balance_minor == 1500

    def test_never_posts_a_debit_of_a_frozen_account_that_nobody_asked_about(self, desk: Desk) -> None:
        desk.deposit(ANN, 1000)
        change(desk, ANN, freeze_reason="COURT_ORDER")

        def decide(work: Work) -> Journal:
            draft = Draft(ANN.slot, "EUR")
            draft.shift(ANN, FEES, 1)
            return ledger.post(work, draft, work.new_id("pay"))

        with pytest.raises(AssertionError):
            desk.run(Decide([ANN, FEES], decide))


class TestDates:
    def test_opens_a_book_today_with_the_first_journal(self, desk: Desk) -> None:
        desk.deposit(ANN, 1)
        (book,) = desk.all(Book)
        assert (book.open_date, book.closed_through, book.state) == (TODAY, "2023-11-14", "OPEN")
        assert book.due_at_ms == closing.end_ms(TODAY)
        assert {row.accounting_date for row in (*desk.all(Entry), *desk.all(Journal))} == {TODAY}

    def test_gives_payments_the_open_date_and_marks_the_book_used_once(self, desk: Desk) -> None:
        desk.deposit(ANN, 1)
        version = desk.all(Book)[0].version
        take = Decide([ANN], lambda work: ledger.intake_date(work, ANN.slot, "EUR"))
        assert desk.run(take) == TODAY
        desk.deposit(ANN, 1)
        assert desk.all(Book)[0].version == version

    def test_stays_on_the_open_date_while_nobody_has_rolled_the_book(self, desk: Desk) -> None:
        desk.deposit(ANN, 1)
        desk.now_ms += DAY_MS
        desk.deposit(ANN, 1)
        assert {row.accounting_date for row in desk.all(Journal)} == {TODAY}

    def test_dates_a_journal_with_its_payment_while_that_date_drains(self, desk: Desk) -> None:
        desk.deposit(ANN, 1)
        (book,) = desk.all(Book)
        desk.rows[Book][book.id] = closing.roll(book, desk.now_ms + DAY_MS, 60_000)
        assert [self._date(desk, date) for date in (TODAY, TOMORROW, "")] == [TODAY, TOMORROW, TOMORROW]

    def test_dates_a_journal_the_day_after_where_its_payments_date_is_closed(self, desk: Desk) -> None:
        desk.deposit(ANN, 1)
        (book,) = desk.all(Book)
        rolled = closing.roll(book, desk.now_ms + DAY_MS, 60_000)
        desk.rows[Book][book.id] = closing.close(rolled, desk.now_ms + DAY_MS, "cls_1")
        assert self._date(desk, TODAY) == TOMORROW

    def test_dates_points_and_money_of_a_journal_alike_and_on_no_closed_date(self, desk: Desk) -> None:
        desk.deposit(ANN, 100)
        desk.run(Post(ISSUED, POINTS, 500))
        (points,) = [row for row in desk.all(Book) if row.currency == POINTS_UNIT]
        rolled = closing.roll(points, desk.now_ms + DAY_MS, 60_000)
        desk.rows[Book][points.id] = closing.close(rolled, desk.now_ms + DAY_MS, "cls_1")

        def decide(work: Work) -> str:
            draft = Draft(ANN.slot, "EUR")
            draft.shift(ANN, FEES, 10)
            draft.shift(POINTS, ISSUED, 10)
            return ledger.post(work, draft, work.new_id("pay"), TODAY).id

        journal_id = desk.run(Decide([ANN, FEES, POINTS, ISSUED], decide))
        assert {row.accounting_date for row in desk.all(Entry) if row.journal_id == journal_id} == {TOMORROW}

    def _date(self, desk: Desk, accounting_date: str) -> str:
        journal_id = desk.run(Post(OUTSIDE, ANN, 1, date=accounting_date))
        (journal,) = [row for row in desk.all(Journal) if row.id == journal_id]
        return str(journal.accounting_date)
