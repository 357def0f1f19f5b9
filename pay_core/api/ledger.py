"""LedgerService: checks fields, translates, decides nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.message import Message

from pay_core import closing, ledger_queries
from pay_core.api.fields import accounting_date
from pay_core.bookkeeping import AskToClose, FreezeAccount, SetOverdraft, UnfreezeAccount
from pay_core.convert import account_proto, entry_proto, hold_proto
from pay_core.ledger import KIND_NUMBER, AccountKind
from pay_core.ledger_queries import Position
from paykit import context as business_context
from paykit.money import AMOUNT_MINOR_MAX
from paykit.rpc.checks import Fields, encode_page_token
from paykit.store.command import Origin
from paykit.store.store import Store
from paymesh.pay.v1 import ledger_service_pb2, ledger_service_pb2_grpc

_STATEMENT_DAYS_MAX = 366
_BOOKS_AT_ONCE = 200  # a part of what may wait for a shard


class LedgerApi(ledger_service_pb2_grpc.LedgerServiceServicer):
    """Reads of the ledger, freezes and overdrafts, and the end of day."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def GetAccount(self, request: Any, context: Any) -> Any:
        fields = Fields()
        account_id = fields.id("account_id", request.account_id, "acc")
        fields.raise_if_any()
        account = await ledger_queries.account_by_id(self._store, account_id, shadow=_shadow())
        return ledger_service_pb2.GetAccountResponse(account=account_proto(account))

    async def ListAccounts(self, request: Any, context: Any) -> Any:
        fields = Fields()
        owner_id = fields.name("owner_id", request.owner_id)
        size = fields.page_size(request.page_size)
        scope = f"accounts {owner_id}"
        after_id = fields.page_token(request.page_token, scope, str)
        fields.raise_if_any()
        rows = await ledger_queries.accounts_of(self._store, owner_id, after_id, size + 1, shadow=_shadow())
        token = encode_page_token(scope, rows[size - 1].id) if len(rows) > size else ""
        accounts = [account_proto(row) for row in rows[:size]]
        return ledger_service_pb2.ListAccountsResponse(accounts=accounts, next_page_token=token)

    async def ListEntries(self, request: Any, context: Any) -> Any:
        fields = Fields()
        account_id = fields.id("account_id", request.account_id, "acc")
        size = fields.page_size(request.page_size)
        scope = f"entries {account_id}"
        before = fields.page_token(request.page_token, scope, Position)
        fields.raise_if_any()
        rows = await ledger_queries.entries_of(self._store, account_id, before, size + 1, shadow=_shadow())
        entries = [entry_proto(row) for row in rows[:size]]
        return ledger_service_pb2.ListEntriesResponse(entries=entries, next_page_token=_entry_token(scope, rows, size))

    async def ListHolds(self, request: Any, context: Any) -> Any:
        fields = Fields()
        account_id = fields.id("account_id", request.account_id, "acc")
        size = fields.page_size(request.page_size)
        scope = f"holds {account_id}"
        before_id = fields.page_token(request.page_token, scope, str)
        fields.raise_if_any()
        rows = await ledger_queries.holds_of(self._store, account_id, before_id, size + 1, shadow=_shadow())
        token = encode_page_token(scope, rows[size - 1].id) if len(rows) > size else ""
        return ledger_service_pb2.ListHoldsResponse(
            holds=[hold_proto(row) for row in rows[:size]], next_page_token=token
        )

    async def GetStatement(self, request: Any, context: Any) -> Any:
        fields = Fields()
        account_id = fields.id("account_id", request.account_id, "acc")
        from_date = accounting_date(fields, "from_date", request.from_date)
        to_date = accounting_date(fields, "to_date", request.to_date)
        if not fields.violations and not 0 <= closing.days_between(from_date, to_date) <= _STATEMENT_DAYS_MAX:
            fields.fail("to_date", f"must be from_date, or up to {_STATEMENT_DAYS_MAX} days later")
        size = fields.page_size(request.page_size)
        scope = f"statement {account_id} {from_date} {to_date}"
        after = fields.page_token(request.page_token, scope, Position)
        fields.raise_if_any()
        found = await ledger_queries.statement_of(
            self._store, account_id, from_date, to_date, after, size + 1, shadow=_shadow()
        )
        return ledger_service_pb2.GetStatementResponse(
            account=account_proto(found.account),
            opening_minor=found.opening_minor,
            closing_minor=found.opening_minor + found.credit_minor - found.debit_minor,
            credit_minor=found.credit_minor,
            debit_minor=found.debit_minor,
            entries=[entry_proto(row) for row in found.entries[:size]],
            next_page_token=_entry_token(scope, found.entries, size),
            is_final=found.is_final,
        )

    async def FreezeAccount(self, request: Any, context: Any) -> Any:
        origin, account_id, reason = _account_request(Fields(), "FreezeAccount", request)
        account = await self._store.run(FreezeAccount(origin, account_id, reason))
        return ledger_service_pb2.FreezeAccountResponse(account=account_proto(account))

    async def UnfreezeAccount(self, request: Any, context: Any) -> Any:
        origin, account_id, reason = _account_request(Fields(), "UnfreezeAccount", request)
        account = await self._store.run(UnfreezeAccount(origin, account_id, reason))
        return ledger_service_pb2.UnfreezeAccountResponse(account=account_proto(account))

    async def SetOverdraft(self, request: Any, context: Any) -> Any:
        fields = Fields()
        if not 0 <= request.overdraft_minor <= AMOUNT_MINOR_MAX:
            fields.fail("overdraft_minor", f"must be 0 to {AMOUNT_MINOR_MAX}")
        origin, account_id, reason = _account_request(fields, "SetOverdraft", request)
        account = await self._store.run(SetOverdraft(origin, account_id, reason, request.overdraft_minor))
        return ledger_service_pb2.SetOverdraftResponse(account=account_proto(account))

    async def CloseDate(self, request: Any, context: Any) -> Any:
        fields = Fields()
        request_id = fields.request_id(request.request_id)
        date = accounting_date(fields, "accounting_date", request.accounting_date)
        if not fields.violations and date > closing.date_at(self._store.clock.now_ms()):
            fields.fail("accounting_date", "has not begun")
        fields.raise_if_any()
        shadow, called = _shadow(), business_context.current()
        books = await ledger_queries.books_to_close(self._store, date, shadow=shadow)
        for first in range(0, len(books), _BOOKS_AT_ONCE):
            # Each book has a record of its own: asked again, the ones that were not reached are reached.
            commands = [
                AskToClose(Origin.rpc(called, "CloseDate", book.book_key, request_id, request), book, date)
                for book in books[first : first + _BOOKS_AT_ONCE]
            ]
            await asyncio.gather(*(self._store.run(command) for command in commands))
        count = await ledger_queries.unclosed_count(self._store, date, shadow=shadow)
        return ledger_service_pb2.CloseDateResponse(pending_book_count=count)

    async def GetTrialBalance(self, request: Any, context: Any) -> Any:
        fields = Fields()
        date = accounting_date(fields, "accounting_date", request.accounting_date)
        fields.raise_if_any()
        found = await ledger_queries.trial_balance(self._store, date, shadow=_shadow())
        lines = [
            ledger_service_pb2.TrialBalanceLine(
                currency_code=currency,
                account_kind=KIND_NUMBER[AccountKind(kind)],
                account_count=total.account_count,
                balance_minor=total.balance_minor,
                credit_minor=total.credit_minor,
                debit_minor=total.debit_minor,
            )
            for (currency, kind), total in sorted(found.totals.items())
        ]
        return ledger_service_pb2.GetTrialBalanceResponse(
            closed_book_count=found.closed_count,
            pending_book_count=found.pending_count,
            carried_payment_count=found.carried_count,
            lines=lines,
        )


def _shadow() -> bool:
    return business_context.current().shadow


def _entry_token(scope: str, rows: list[Any], size: int) -> str:
    if len(rows) <= size:
        return ""
    last = rows[size - 1]
    return encode_page_token(scope, Position(last.accounting_date, last.id))


def _account_request(fields: Fields, method: str, request: Any) -> tuple[Origin, str, str]:
    """The origin, account and reason of a request to change an account."""
    request_id = fields.request_id(request.request_id)
    account_id = fields.id("account_id", request.account_id, "acc")
    reason = fields.name("reason", request.reason)
    fields.raise_if_any()
    message: Message = request
    return Origin.rpc(business_context.current(), method, account_id, request_id, message), account_id, reason
