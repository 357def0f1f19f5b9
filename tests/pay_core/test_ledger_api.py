"""LedgerService over gRPC: what it answers, what it refuses, and the end of day that the service's timers carry out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import select

from pay_core import closing, holds, ledger
from pay_core.ledger import Draft
from pay_core.tables import Book
from paykit.clock import SystemClock
from paykit.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from paymesh.pay.v1 import ledger_service_pb2 as pb
from paymesh.pay.v1 import payment_pb2
from tests.pay_core.conftest import Running
from tests.pay_core.ledger_books import user
from tests.pay_core.ledger_desk import Decide, Post, outside_of

pytestmark = pytest.mark.usefixtures("context")

ANN = user("ann")
FEES = ledger.internal(ANN.slot, ledger.AccountKind.FEES, "EUR")
MISSING = "acc_00000000000000000000000000"


def today() -> str:
    return closing.date_at(SystemClock().now_ms())


async def deposit(running: Running, amount_minor: int = 1000) -> pb.Account:
    """Money for ann; her account."""
    await running.service.store.run(Post(outside_of(ANN), ANN, amount_minor))
    listed = await running.ledger.ListAccounts(pb.ListAccountsRequest(owner_id="ann"))
    (account,) = listed.accounts
    assert isinstance(account, pb.Account)
    return account


def freeze(account: pb.Account, request_id: str = "f1", reason: str = "COURT_ORDER") -> pb.FreezeAccountRequest:
    return pb.FreezeAccountRequest(request_id=request_id, account_id=account.account_id, reason=reason)


class TestAccounts:
    async def test_shows_floor_freeze_and_age_of_an_account(self, running: Running) -> None:
        account = await deposit(running)
        assert account.HasField("floor_minor")
        assert (account.floor_minor, account.freeze_reason) == (0, "")
        assert account.create_time.seconds > 0
        listed = await running.ledger.ListAccounts(pb.ListAccountsRequest(owner_id=f"internal.{ANN.slot}"))
        assert not listed.accounts[0].HasField("floor_minor")

    async def test_freezes_once_however_often_it_is_asked(self, running: Running) -> None:
        account = await deposit(running)
        first, again = [(await running.ledger.FreezeAccount(freeze(account))).account for _ in range(2)]
        assert first == again
        assert first.freeze_reason == "COURT_ORDER"
        with pytest.raises(AlreadyExists):
            await running.ledger.FreezeAccount(freeze(account, reason="FRAUD"))
        lift = pb.UnfreezeAccountRequest(request_id="u1", account_id=account.account_id, reason="LIFTED")
        assert (await running.ledger.UnfreezeAccount(lift)).account.freeze_reason == ""

    async def test_says_why_an_overdraft_is_not_granted(self, running: Running) -> None:
        account = await deposit(running)
        request = pb.SetOverdraftRequest(
            request_id="o1", account_id=account.account_id, overdraft_minor=5, reason="AGREED"
        )
        with pytest.raises(FailedPrecondition) as refused:
            await running.ledger.SetOverdraft(request)
        assert refused.value.reason == "OVERDRAFT_NOT_ALLOWED"

    @pytest.mark.parametrize(
        ("method", "request_", "field"),
        [
            ("FreezeAccount", pb.FreezeAccountRequest(account_id=MISSING, reason="X"), "request_id"),
            ("FreezeAccount", pb.FreezeAccountRequest(request_id="f", account_id="ann", reason="X"), "account_id"),
            ("UnfreezeAccount", pb.UnfreezeAccountRequest(request_id="f", account_id=MISSING), "reason"),
            (
                "SetOverdraft",
                pb.SetOverdraftRequest(request_id="f", account_id=MISSING, reason="X", overdraft_minor=-1),
                "overdraft_minor",
            ),
            ("CloseDate", pb.CloseDateRequest(request_id="c", accounting_date="2023-11-31"), "accounting_date"),
            ("CloseDate", pb.CloseDateRequest(request_id="c", accounting_date="2999-01-01"), "accounting_date"),
            ("GetTrialBalance", pb.GetTrialBalanceRequest(), "accounting_date"),
            ("ListHolds", pb.ListHoldsRequest(account_id=MISSING, page_token="x"), "page_token"),
            ("GetStatement", pb.GetStatementRequest(account_id=MISSING, to_date="2023-11-01"), "from_date"),
            (
                "GetStatement",
                pb.GetStatementRequest(account_id=MISSING, from_date="2023-11-02", to_date="2023-11-01"),
                "to_date",
            ),
            (
                "GetStatement",
                pb.GetStatementRequest(account_id=MISSING, from_date="2022-11-01", to_date="2023-11-03"),
                "to_date",
            ),
            (
                "GetStatement",
                pb.GetStatementRequest(account_id=MISSING, from_date="9999-12-31", to_date="9999-12-30"),
                "to_date",
            ),
        ],
    )
    async def test_names_the_field_that_is_wrong(
        self, running: Running, method: str, request_: Any, field: str
    ) -> None:
        with pytest.raises(InvalidArgument) as refused:
            await getattr(running.ledger, method)(request_)
        assert [violation.field for violation in refused.value.violations] == [field]

    async def test_knows_no_account_that_is_not_there(self, running: Running) -> None:
        with pytest.raises(NotFound):
            await running.ledger.FreezeAccount(pb.FreezeAccountRequest(request_id="f", account_id=MISSING, reason="X"))
        with pytest.raises(NotFound):
            await running.ledger.GetStatement(
                pb.GetStatementRequest(account_id=MISSING, from_date=today(), to_date=today())
            )

    async def test_lists_holds_page_by_page_newest_first(self, running: Running) -> None:
        account = await deposit(running)
        for number in range(3):
            place = self._place(number)
            await running.service.store.run(place)
        first = await running.ledger.ListHolds(pb.ListHoldsRequest(account_id=account.account_id, page_size=2))
        rest = await running.ledger.ListHolds(
            pb.ListHoldsRequest(account_id=account.account_id, page_size=2, page_token=first.next_page_token)
        )
        listed = [*first.holds, *rest.holds]
        assert {hold.instruction_id for hold in listed} == {"ins_0", "ins_1", "ins_2"}
        assert [hold.hold_id for hold in listed] == sorted((hold.hold_id for hold in listed), reverse=True)
        assert {hold.state for hold in listed} == {pb.HOLD_STATE_ACTIVE}
        assert rest.next_page_token == ""

    def _place(self, number: int) -> Decide:
        return Decide(
            [ANN],
            lambda work: holds.place(work, ANN, 10, "pay_1", f"ins_{number}", None, Draft(ANN.slot, "EUR")),
        )


class TestClosing:
    async def test_closes_the_current_date_and_states_it_for_good(self, running: Running) -> None:
        account = await deposit(running)
        await running.service.store.run(Post(ANN, FEES, 300))
        date = today()
        request = pb.CloseDateRequest(request_id="c1", accounting_date=date)
        assert (await running.ledger.CloseDate(request)).pending_book_count == 1
        balance = await self._closed(running, date)
        lines = {line.account_kind: line for line in balance.lines}
        user_line = lines[payment_pb2.ACCOUNT_KIND_USER]
        assert (user_line.balance_minor, user_line.credit_minor, user_line.debit_minor) == (700, 1000, 300)
        assert sum(line.balance_minor for line in balance.lines) == 0
        await running.service.store.run(Post(outside_of(ANN), ANN, 55))
        wanted = pb.GetStatementRequest(account_id=account.account_id, from_date=date, to_date=date)
        statement = await running.ledger.GetStatement(wanted)
        assert (statement.opening_minor, statement.closing_minor, statement.is_final) == (0, 700, True)
        assert statement.account.balance.amount_minor == 755
        assert [entry.accounting_date for entry in statement.entries] == [date, date]

    async def test_pages_entries_newest_date_first(self, running: Running) -> None:
        account = await deposit(running)
        await running.ledger.CloseDate(pb.CloseDateRequest(request_id="c1", accounting_date=today()))
        await self._closed(running, today())
        for _ in range(2):
            await deposit(running, 7)
        wanted = pb.ListEntriesRequest(account_id=account.account_id, page_size=2)
        first = await running.ledger.ListEntries(wanted)
        wanted.page_token = first.next_page_token
        rest = await running.ledger.ListEntries(wanted)
        dates = [entry.accounting_date for entry in (*first.entries, *rest.entries)]
        assert dates == [closing.days_after(today(), 1)] * 2 + [today()]
        assert rest.next_page_token == ""

    async def test_takes_the_same_request_again_while_it_closes(self, running: Running) -> None:
        await deposit(running)
        request = pb.CloseDateRequest(request_id="c1", accounting_date=today())
        await asyncio.gather(*(running.ledger.CloseDate(request) for _ in range(5)))
        await self._closed(running, request.accounting_date)
        assert (await running.ledger.CloseDate(request)).pending_book_count == 0
        books = await running.service.store.fetch_everywhere(Book, select(Book.__table__), shadow=False)
        assert {book.open_date for book in books} == {closing.days_after(request.accounting_date, 1)}

    async def _closed(self, running: Running, date: str) -> pb.GetTrialBalanceResponse:
        """The trial balance once every book has closed the date."""
        async with asyncio.timeout(30):
            while True:
                balance = await running.ledger.GetTrialBalance(pb.GetTrialBalanceRequest(accounting_date=date))
                if balance.pending_book_count == 0:
                    assert isinstance(balance, pb.GetTrialBalanceResponse)
                    return balance
                await asyncio.sleep(0.05)
