"""Accounting dates: a book has one date open, drains the one before, and never opens a closed one again."""

from __future__ import annotations

import datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pay_core import closing
from pay_core.closing import BOOK, CLOSING, BookState, ClosingState, KindTotal, Move
from pay_core.tables import Book, Closing
from tests.pay_core.ledger_desk import DAY_MS, NOON_MS, TODAY, TOMORROW

DATES = st.dates(datetime.date(2023, 11, 1), datetime.date(2023, 12, 20)).map(datetime.date.isoformat)


def new_book(*, used_date: str = TODAY) -> Book:
    return Book(
        id="bok_1",
        slot=7,
        book_key="7/EUR",
        currency="EUR",
        state="OPEN",
        open_date=TODAY,
        closed_through="2023-11-14",
        drain_until_ms=None,
        due_at_ms=closing.end_ms(TODAY),
        context=b"",
        created_at_ms=0,
        used_date=used_date,
    )


def new_closing() -> Closing:
    return Closing(
        id="cls_1",
        slot=7,
        closing_key=f"7/EUR/{TODAY}",
        currency="EUR",
        accounting_date=TODAY,
        state="PENDING",
        journal_count=0,
        debit_minor=0,
        credit_minor=0,
        carried_payment_count=0,
        due_at_ms=0,
        context=b"",
        created_at_ms=0,
    )


def test_has_machines_all_of_whose_states_are_reached() -> None:
    assert BOOK.allows("OPEN", BookState.CLOSING)
    assert BOOK.allows("CLOSING", BookState.OPEN)
    assert CLOSING.allows("PENDING", ClosingState.DONE)
    assert CLOSING.terminal == {ClosingState.DONE}
    assert not BOOK.terminal


def test_begins_and_ends_dates_at_midnight_utc() -> None:
    end = closing.end_ms(TODAY)
    assert (closing.date_at(end - 1), closing.date_at(end)) == (TODAY, TOMORROW)


@given(st.integers(0, 4_000_000_000_000))
def test_dates_every_moment_before_the_end_of_its_date(ms: int) -> None:
    date = closing.date_at(ms)
    assert closing.is_date(date)
    assert closing.end_ms(date) - DAY_MS <= ms < closing.end_ms(date)
    assert closing.days_after(date, 1) == closing.date_at(ms + DAY_MS)


@pytest.mark.parametrize("text", ["", "2023-11-31", "20231115", "2023-W46-3", "2023-11-15T00:00", "tomorrow"])
def test_knows_what_is_no_date(text: str) -> None:
    assert not closing.is_date(text)


def test_does_not_roll_before_the_date_is_over() -> None:
    book = new_book()
    assert closing.roll(book, closing.end_ms(TODAY) - 1, 1000) is book


def test_opens_the_next_date_at_once_and_drains_the_old_one() -> None:
    now_ms = closing.end_ms(TODAY)
    rolled = closing.roll(new_book(), now_ms, 1000)
    assert (rolled.state, rolled.open_date, rolled.closing_date) == ("CLOSING", TOMORROW, TODAY)
    assert (rolled.closed_through, rolled.drain_until_ms, rolled.due_at_ms) == ("2023-11-14", now_ms + 1000, now_ms)
    closed = closing.close(rolled, now_ms + 5, "cls_1")
    assert (closed.state, closed.closed_through, closed.closing_date, closed.due_at_ms) == (
        "OPEN",
        TODAY,
        "",
        closing.end_ms(TOMORROW),
    )


def test_rolls_a_book_that_was_not_used_straight_to_today() -> None:
    rolled = closing.roll(new_book(used_date="2023-11-10"), NOON_MS + 9 * DAY_MS, 1000)
    assert (rolled.state, rolled.open_date, rolled.closed_through) == ("OPEN", "2023-11-24", "2023-11-23")
    assert rolled.due_at_ms == closing.end_ms("2023-11-24")


def test_rolls_a_used_book_that_was_left_for_days_straight_to_today_too() -> None:
    rolled = closing.roll(new_book(), NOON_MS + 9 * DAY_MS, 1000)
    assert (rolled.closing_date, rolled.open_date) == (TODAY, "2023-11-24")
    assert closing.close(rolled, NOON_MS, "cls_1").closed_through == "2023-11-23"


def test_closes_the_current_date_where_somebody_wants_it() -> None:
    wanted = msgspec.structs.replace(new_book(), close_through=TODAY)
    rolled = closing.roll(wanted, NOON_MS, 1000)
    assert (rolled.closing_date, rolled.open_date) == (TODAY, TOMORROW)
    closed = closing.close(rolled, NOON_MS, "cls_1")
    assert closed.due_at_ms == closing.end_ms(TOMORROW)
    assert closing.roll(closed, NOON_MS, 1000) is closed


def test_closes_the_next_date_right_after_where_that_was_wanted_meanwhile() -> None:
    rolled = closing.roll(new_book(), closing.end_ms(TODAY), 1000)
    wanted = msgspec.structs.replace(rolled, close_through=TOMORROW)
    assert closing.close(wanted, 5, "cls_1").due_at_ms == 5


def test_passes_over_no_date_where_another_books_date_was_ahead() -> None:
    ahead = new_book(used_date=TOMORROW)
    rolled = closing.roll(ahead, NOON_MS + 9 * DAY_MS, 1000)
    assert (rolled.closing_date, rolled.open_date) == (TODAY, TOMORROW)


@given(DATES, st.sampled_from(["open", "closing"]), st.integers(1, 9), st.booleans())
def test_dates_a_journal_on_a_date_that_is_open(date: str, state: str, days: int, has_date: bool) -> None:
    book = new_book() if state == "open" else closing.roll(new_book(), NOON_MS + days * DAY_MS, 1000)
    dated = closing.dated(book, date if has_date else "")
    assert dated > book.closed_through
    assert dated in (book.open_date, book.closing_date) or dated == date > book.open_date
    assert dated >= date or not has_date
    assert closing.dated(book, dated) == dated


MOVES = st.lists(
    st.builds(
        Move,
        st.sampled_from("abcdef"),
        st.sampled_from(["USER", "FEES"]),
        st.none() | st.integers(-50, 50),
        st.integers(0, 50),
        st.integers(0, 50),
    ),
    max_size=20,
)


@given(MOVES)
def test_adds_up_moves_by_kind(moves: list[Move]) -> None:
    totals: dict[str, KindTotal] = {}
    for move in moves:
        closing.add_move(totals, move, is_new=move.opening_minor is None)
    for kind, total in totals.items():
        of_kind = [move for move in moves if move.kind == kind]
        assert total.balance_minor == sum(move.credit_minor - move.debit_minor for move in of_kind)
        assert total.account_count == sum(move.opening_minor is None for move in of_kind)


def test_is_done_with_the_last_page_and_hands_its_balances_on() -> None:
    totals = {"USER": KindTotal("USER", 1, 30, 50, 20), "FEES": KindTotal("FEES", 1, -30, 20, 50)}
    counted = closing.count_page(new_closing(), totals, 4, "jnl_9", is_last=True)
    assert (counted.state, counted.due_at_ms, counted.journal_count, counted.counted_through) == (
        "DONE",
        None,
        4,
        "jnl_9",
    )
    assert (counted.credit_minor, counted.debit_minor) == (70, 70)
    assert closing.totals_of(counted) == totals
    assert closing.carried_totals(counted)["USER"] == KindTotal("USER", 1, 30, 0, 0)


def test_never_finishes_a_date_that_does_not_balance() -> None:
    with pytest.raises(AssertionError):
        closing.count_page(new_closing(), {"USER": KindTotal("USER", 1, 30, 30, 0)}, 1, "jnl_1", is_last=True)
