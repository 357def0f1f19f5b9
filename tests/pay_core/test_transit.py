"""Money between slots: both ends carry the payment's date, and nothing is drawn that may not leave."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pay_core import closing, ledger
from pay_core.bookkeeping import FreezeAccount
from pay_core.ledger import AccountKind
from pay_core.tables import Account, Book, Journal
from pay_core.transit import DrawTransit, MoveTransit, ReceiveTransit
from paykit.errors import InvalidArgument
from paymesh.pay.v1 import ledger_service_pb2
from tests.pay_core.ledger_desk import ANN, DAY_MS, TODAY, TOMORROW, Desk, origin


def move(kind: type[MoveTransit], amount_minor: int, *, number: int = 1, date: str = TODAY) -> Any:
    instruction_id = f"ins_{number}"
    called = origin(ANN.slot, f"{kind.__name__} {instruction_id}")
    return kind(called, instruction_id, "pay_1", "ann", AccountKind.USER, "EUR", amount_minor, date)


def balances(desk: Desk) -> dict[str, int]:
    return {row.kind: row.balance_minor for row in desk.all(Account)}


def answer(desk: Desk) -> ledger_service_pb2.SettleTransitRequest:
    (call,) = [row for row in desk.messages if row.kind == "call"]
    return ledger_service_pb2.SettleTransitRequest.FromString(call.body)


def freeze(desk: Desk) -> None:
    (account,) = [row for row in desk.all(Account) if row.account_key == ANN.account_key]
    desk.run(FreezeAccount(origin(ANN.slot, "f1"), account.id, "COURT_ORDER"))


def test_arrives_in_an_account_that_is_made_for_it() -> None:
    desk = Desk()
    desk.run(move(ReceiveTransit, 700))
    assert balances(desk) == {"USER": 700, "IN_TRANSIT": -700}
    (journal,) = desk.all(Journal)
    assert msgspec.json.decode(journal.bookings) == [["ins_1", 700, "RECEIVED"]]


def test_arrives_in_a_frozen_account() -> None:
    desk = Desk()
    desk.deposit(ANN, 1)
    freeze(desk)
    assert desk.run(move(ReceiveTransit, 700))
    assert balances(desk)["USER"] == 701


def test_is_drawn_and_answered_for() -> None:
    desk = Desk()
    desk.deposit(ANN, 1000)
    assert desk.run(move(DrawTransit, 700))
    assert (answer(desk).drawn, answer(desk).failure_reason) == (True, "")
    assert balances(desk)["USER"] == 300


@pytest.mark.parametrize(
    ("is_frozen", "amount_minor", "reason"),
    [(False, 1001, ledger.INSUFFICIENT_FUNDS), (True, 1, ledger.ACCOUNT_FROZEN)],
)
def test_is_not_drawn_where_it_may_not_leave(is_frozen: bool, amount_minor: int, reason: str) -> None:
    desk = Desk()
    desk.deposit(ANN, 1000)
    if is_frozen:
        freeze(desk)
    assert desk.run(move(DrawTransit, amount_minor)) == ""
    assert (answer(desk).drawn, answer(desk).failure_reason) == (False, reason)
    assert balances(desk)["USER"] == 1000


@pytest.mark.parametrize(
    ("date", "dated"),
    [(TODAY, TODAY), (TOMORROW, TOMORROW), ("", TOMORROW), ("2023-11-01", TODAY)],
)
def test_is_dated_with_its_payment_as_far_as_the_book_has_that_date_open(date: str, dated: str) -> None:
    desk = Desk()
    desk.deposit(ANN, 1)
    (book,) = desk.all(Book)
    desk.rows[Book][book.id] = closing.roll(book, desk.now_ms + DAY_MS, 60_000)
    journal_id = desk.run(move(ReceiveTransit, 700, date=date))
    (journal,) = [row for row in desk.all(Journal) if row.id == journal_id]
    assert journal.accounting_date == dated


def test_may_be_dated_ahead_of_the_book_by_a_date_that_was_closed_early() -> None:
    desk = Desk()
    journal_id = desk.run(move(ReceiveTransit, 700, date=TOMORROW))
    (journal,) = [row for row in desk.all(Journal) if row.id == journal_id]
    assert journal.accounting_date == TOMORROW


@pytest.mark.parametrize("kind", [ReceiveTransit, DrawTransit])
def test_is_refused_with_a_date_that_no_payment_can_have(kind: type[MoveTransit]) -> None:
    desk = Desk()
    with pytest.raises(InvalidArgument):
        desk.run(move(kind, 700, date="2023-11-17"))
    assert desk.all(Journal) == []
