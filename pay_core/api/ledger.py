"""LedgerService: checks fields, translates, decides nothing."""

from __future__ import annotations

from typing import Any

from pay_core import queries
from pay_core.convert import account_proto, entry_proto
from paykit import context as business_context
from paykit.rpc.checks import Fields, encode_page_token
from paykit.store.store import Store
from paymesh.pay.v1 import ledger_service_pb2, ledger_service_pb2_grpc


class LedgerApi(ledger_service_pb2_grpc.LedgerServiceServicer):
    """Reads of the ledger."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def GetAccount(self, request: Any, context: Any) -> Any:
        fields = Fields()
        account_id = fields.id("account_id", request.account_id, "acc")
        fields.raise_if_any()
        account = await queries.account_by_id(self._store, account_id, shadow=business_context.current().shadow)
        return ledger_service_pb2.GetAccountResponse(account=account_proto(account))

    async def ListAccounts(self, request: Any, context: Any) -> Any:
        fields = Fields()
        owner_id = fields.name("owner_id", request.owner_id)
        size = fields.page_size(request.page_size)
        scope = f"accounts {owner_id}"
        after_id = fields.page_token(request.page_token, scope, str)
        fields.raise_if_any()
        shadow = business_context.current().shadow
        rows = await queries.accounts_of(self._store, owner_id, after_id, size + 1, shadow=shadow)
        token = encode_page_token(scope, rows[size - 1].id) if len(rows) > size else ""
        accounts = [account_proto(row) for row in rows[:size]]
        return ledger_service_pb2.ListAccountsResponse(accounts=accounts, next_page_token=token)

    async def ListEntries(self, request: Any, context: Any) -> Any:
        fields = Fields()
        account_id = fields.id("account_id", request.account_id, "acc")
        size = fields.page_size(request.page_size)
        scope = f"entries {account_id}"
        before_id = fields.page_token(request.page_token, scope, str)
        fields.raise_if_any()
        shadow = business_context.current().shadow
        rows = await queries.entries_of(self._store, account_id, before_id, size + 1, shadow=shadow)
        token = encode_page_token(scope, rows[size - 1].id) if len(rows) > size else ""
        entries = [entry_proto(row) for row in rows[:size]]
        return ledger_service_pb2.ListEntriesResponse(entries=entries, next_page_token=token)
