"""The end of an accounting date, as an operator asks for it, and its trial balance."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from rich.table import Table

from pay_core.chart import POINTS_UNIT
from paykit.money import format_minor
from paykit.rpc.channels import Channels
from paymesh.pay.v1 import ledger_service_pb2, ledger_service_pb2_grpc, payment_pb2

CALL_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 60.0
POLL_INTERVAL_S = 0.1

_KIND: Any = payment_pb2.AccountKind  # the stubs show the classes, not the wrappers that have Name


async def close_date(channels: Channels, accounting_date: str) -> ledger_service_pb2.GetTrialBalanceResponse:
    """Closes all dates up to ``accounting_date`` in every book, and waits for the snapshots; the trial balance then.

    TimeoutError where a book is still pending after ``CLOSE_TIMEOUT_S``.
    """
    ledger = ledger_service_pb2_grpc.LedgerServiceStub(channels.get("pay_core"))
    closing = ledger_service_pb2.CloseDateRequest(
        request_id=f"close-{secrets.token_hex(8)}", accounting_date=accounting_date
    )
    await ledger.CloseDate(closing, timeout=CALL_TIMEOUT_S)
    asked = ledger_service_pb2.GetTrialBalanceRequest(accounting_date=accounting_date)
    async with asyncio.timeout(CLOSE_TIMEOUT_S):
        while True:
            balance = await ledger.GetTrialBalance(asked, timeout=CALL_TIMEOUT_S)
            if not balance.pending_book_count:
                return balance
            await asyncio.sleep(POLL_INTERVAL_S)


def trial_balance(balance: ledger_service_pb2.GetTrialBalanceResponse) -> Table:
    """A line per kind of account and currency, in major units: what it holds, and what came and went on the date."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("accounts", "", "credits", "debits", "balance"):
        table.add_column(column, justify="left" if column == "accounts" else "right")
    for line in balance.lines:
        kind = _KIND.Name(line.account_kind).removeprefix("ACCOUNT_KIND_")
        amounts = (line.credit_minor, line.debit_minor, line.balance_minor)
        table.add_row(kind, str(line.account_count), *(_amount(minor, line.currency_code) for minor in amounts))
    return table


def _amount(minor: int, unit: str) -> str:
    return f"{minor} {unit}" if unit == POINTS_UNIT else format_minor(minor, unit)
