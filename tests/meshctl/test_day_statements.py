"""The development system reads its provider's files in every format, as the settings it is given declare them."""

from __future__ import annotations

import io
from datetime import date
from pathlib import Path

import msgspec
import pytest

from channel_gateway.sandbox import statement as sandbox
from channel_gateway.sandbox.statement_formats import FORMATS, Head, Section, StatementFormat
from meshctl.layout import Ports, configuration
from meshctl.settings import MeshSettings
from paykit.ids import new_id
from recon.statements.checks import Checker
from recon.statements.formats import reader_of
from recon.statements.model import Declared, Format, Line, LineKind, StatementInvalid

DAY = date(2026, 11, 29)
NOW_MS = 1_795_910_400_000
CHANNEL = "sandbox_card"
READ_AS: dict[StatementFormat, Format] = {"csv": Format.CSV, "camt053": Format.CAMT053, "mt940": Format.MT940}


def told() -> list[sandbox.Line]:
    """A day's lines: a charge and its fee, a refund of it, a capture, and a payout."""
    orders = [new_id("chn", slot, NOW_MS) for slot in range(4)]

    def line(number: int, kind: str, amount_minor: int, order: str, original: str = "") -> sandbox.Line:
        return sandbox.Line(
            line_id=f"L{number}{'F' if kind == 'FEE' else ''}",
            kind=kind,
            amount_minor=amount_minor,
            currency="EUR",
            reference=order,
            provider_reference=f"sbx_{kind.lower()}_{number:08x}",
            original_reference=original,
            booked_on=DAY,
            settle_at_ms=NOW_MS,
        )

    return [
        line(1, "CHARGE", 12_345, orders[0]),
        line(1, "FEE", -45, orders[0]),
        line(2, "REFUND", -345, orders[1], orders[0]),
        line(3, "CAPTURE", 100, orders[2]),
        line(4, "PAYOUT", -5_000, orders[3]),
    ]


def read(format_: StatementFormat, lines: list[sandbox.Line], error_minor: int = 0) -> list[Line]:
    """What recon reads of a file in which ``lines`` are told, and a currency in which nothing moved."""
    settings = MeshSettings.model_validate(
        configuration(
            lambda *_: "sqlite+aiosqlite:///unused.db", {}, Ports.choose(preferred=False), Path("book.sqlite")
        )
    )
    assert settings.recon is not None
    head = Head(account="sandbox_card_live", merchant="shop", day=DAY)
    sections = [
        Section(currency="EUR", opening_minor=-700, lines=lambda: lines, closing_error_minor=error_minor),
        Section(currency="JPY", opening_minor=31, lines=list),
    ]
    data = "".join(FORMATS[format_].write(head, sections)).encode()
    channel = settings.recon.statements.channels[CHANNEL]
    declared = Declared("sandbox_card_live", DAY.isoformat())
    checker = Checker(declared)
    found = list(checker.lines(reader_of(READ_AS[format_], channel, CHANNEL)(io.BytesIO(data), declared)))
    balances = {(one.account, one.currency): (one.opening_minor, one.closing_minor) for one in checker.told()}
    closing_minor = -700 + sum(line.amount_minor for line in lines)
    assert balances == {
        ("sandbox_card_live", "EUR"): (-700, closing_minor),
        ("sandbox_card_live", "JPY"): (31, 31),
    }
    return found


@pytest.mark.parametrize("format_", list(READ_AS))
def test_every_format_of_the_provider_is_read(format_: StatementFormat) -> None:
    lines = told()
    assert [msgspec.structs.replace(line, line_no=0, account="") for line in read(format_, lines)] == [
        Line(
            line_no=0,
            account="",
            line_id=line.line_id,
            kind=LineKind.FEE if line.kind == "FEE" else LineKind.MOVEMENT,
            reference=line.reference,
            provider_reference=line.provider_reference,
            amount_minor=line.amount_minor,
            fee_minor=0,
            currency="EUR",
            business_date=DAY.isoformat(),
        )
        for line in lines
    ]


@pytest.mark.parametrize("format_", list(READ_AS))
def test_a_wrong_closing_balance_refuses_the_file(format_: StatementFormat) -> None:
    with pytest.raises(StatementInvalid) as caught:
        read(format_, told(), error_minor=1)
    (problem,) = caught.value.problems
    assert "closes with 6356 EUR (minor units), the opening balance and the lines give 6355" in problem.reason
