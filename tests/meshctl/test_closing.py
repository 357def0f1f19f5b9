"""The trial balance as people read it."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from meshctl.closing import trial_balance
from paymesh.pay.v1 import payment_pb2
from paymesh.pay.v1.ledger_service_pb2 import GetTrialBalanceResponse, TrialBalanceLine


def _line(unit: str, kind: payment_pb2.AccountKind.ValueType, credit_minor: int, debit_minor: int) -> TrialBalanceLine:
    return TrialBalanceLine(
        currency_code=unit,
        account_kind=kind,
        account_count=2,
        credit_minor=credit_minor,
        debit_minor=debit_minor,
        balance_minor=credit_minor - debit_minor,
    )


def test_each_kind_of_account_has_a_line_in_its_own_unit() -> None:
    lines = [
        _line("EUR", payment_pb2.ACCOUNT_KIND_USER, 1050, 2000),
        _line("JPY", payment_pb2.ACCOUNT_KIND_MERCHANT, 1050, 0),
        _line("PTS", payment_pb2.ACCOUNT_KIND_POINTS, 700, 0),
    ]
    console = Console(file=StringIO(), width=120)
    console.print(trial_balance(GetTrialBalanceResponse(lines=lines)))
    assert isinstance(console.file, StringIO)
    shown = [line.split() for line in console.file.getvalue().splitlines()]
    assert shown == [
        ["accounts", "credits", "debits", "balance"],
        ["USER", "2", "10.50", "EUR", "20.00", "EUR", "-9.50", "EUR"],
        ["MERCHANT", "2", "1050", "JPY", "0", "JPY", "1050", "JPY"],
        ["POINTS", "2", "700", "PTS", "0", "PTS", "700", "PTS"],
    ]
