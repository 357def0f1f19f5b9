"""Every format reads what it writes, in whatever pieces it comes, and nothing makes a reader fail but by saying so."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import date, timedelta
from typing import BinaryIO, cast
from xml.sax.saxutils import escape

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paykit.money import EXPONENT
from recon.statements.formats import reader_of
from recon.statements.model import Balance, Declared, Format, Item, Line, LineKind, Problem
from recon.statements.settings import ChannelStatements, CsvSettings, Mt940Settings
from tests.recon.statements.support import DAY, Dribble

DECLARED = Declared("acct", DAY)
CSV = CsvSettings(
    delimiter=";",
    decimal_mark=",",
    group_mark=".",
    dates=("%d.%m.%Y", "%Y-%m-%d"),
    columns={
        "account": "konto",
        "line_id": "id",
        "kind": "art",
        "reference": "unsere",
        "provider_reference": "ihre",
        "amount": "betrag",
        "direction": "seite",
        "fee": "gebühr",
        "currency": "währung",
        "date": "tag",
        "reversal": "storno",
    },
    kinds={"UMSATZ": "MOVEMENT", "ENTGELT": "FEE", "ABZUG": "TRANSFER", "EGAL": "IGNORED"},
)
CHANNEL = ChannelStatements(
    csv=CSV, mt940=Mt940Settings(details="SLASH", provider_reference_parts=("PREF",), bank_reference="LINE")
)
FORMATS = [Format.CSV, Format.CAMT053, Format.MT940, Format.STRIPE]

_REFERENCES = st.text("abcdefghijklmnopqrstuvwxyz0123456789_-", min_size=1, max_size=30)
_DATES = st.dates(date(2020, 1, 1), date(2030, 12, 31)).map(lambda day: day.isoformat())
_AMOUNTS = st.integers(-(10**13), 10**13)


@st.composite
def lines(draw: st.DrawFn, currency: str = "") -> Line:
    """A line that every format can say."""
    return Line(
        line_no=0,
        account="acct",
        line_id=draw(st.text("ABCDEFGHIJ0123456789", min_size=1, max_size=16)),
        kind=draw(st.sampled_from([LineKind.MOVEMENT, LineKind.FEE])),
        reference=draw(_REFERENCES.filter(lambda text: text.strip("-_") == text)),
        provider_reference=draw(_REFERENCES.filter(lambda text: text.strip("-_") == text)),
        amount_minor=draw(_AMOUNTS.filter(bool)),
        fee_minor=0,
        currency=currency or draw(st.sampled_from(["EUR", "USD", "JPY", "KWD"])),
        business_date=draw(_DATES),
    )


def decimal(amount_minor: int, currency: str, mark: str = ".", group: str = "") -> str:
    """An unsigned amount."""
    exponent = EXPONENT[currency]
    whole, part = divmod(abs(amount_minor), 10**exponent)
    text = f"{whole:,}".replace(",", group)
    return f"{text}{mark}{part:0{exponent}d}" if exponent else text


def write_csv(found: list[Line]) -> bytes:
    rows = ["ohne;id;unsere;ihre;betrag;seite;währung;tag;art;gebühr;konto;storno"]
    for line in found:
        day = date.fromisoformat(line.business_date)
        amount = decimal(line.amount_minor, line.currency, ",", ".")
        side = "C" if line.amount_minor > 0 else "d"
        kind = "Umsatz" if line.kind is LineKind.MOVEMENT else "ENTGELT"
        names = f'"a;\n""b""";{line.line_id};{line.reference};{line.provider_reference}'
        rows.append(f"{names};{amount};{side};{line.currency};{day:%d.%m.%Y};{kind};;{line.account};")
    return "\r\n".join(rows).encode()


def write_camt(found: list[Line]) -> bytes:
    entries = []
    for line in found:
        amount = f'<Amt Ccy="{line.currency}">{decimal(line.amount_minor, line.currency)}</Amt>'
        side = "CRDT" if line.amount_minor > 0 else "DBIT"
        code = "CHRG" if line.kind is LineKind.FEE else "PMNT"
        entries.append(
            f"<Ntry>{amount}<CdtDbtInd>{side}</CdtDbtInd><Sts><Cd>BOOK</Cd></Sts>"
            f"<BookgDt><Dt>{line.business_date}</Dt></BookgDt><AcctSvcrRef>{line.line_id}</AcctSvcrRef>"
            f"<BkTxCd><Prtry><Cd>{code}</Cd></Prtry></BkTxCd><NtryDtls><TxDtls><Refs>"
            f"<AcctSvcrRef>{escape(line.provider_reference)}</AcctSvcrRef>"
            f"<EndToEndId>{escape(line.reference)}</EndToEndId></Refs></TxDtls></NtryDtls></Ntry>"
        )
    return (
        '<?xml version="1.0"?><Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.10"><BkToCstmrStmt><Stmt>'
        f"<Acct><Id><Othr><Id>acct</Id></Othr></Id></Acct>{''.join(entries)}</Stmt></BkToCstmrStmt></Document>"
    ).encode()


def write_mt940(found: list[Line]) -> bytes:
    currency = found[0].currency if found else "EUR"
    text = f":20:X\r\n:25:acct\r\n:28C:1/1\r\n:60F:C200101{currency}0,\r\n"
    for line in found:
        day = date.fromisoformat(line.business_date)
        amount = decimal(line.amount_minor, currency, ",")
        code = "NCHG" if line.kind is LineKind.FEE else "NTRF"
        text += f":61:{day:%y%m%d}{day:%m%d}{'C' if line.amount_minor > 0 else 'D'}"
        text += f"{amount if ',' in amount else amount + ','}{code}NONREF//{line.line_id}\r\n"
        text += f":86:/EREF/{line.reference}\r\n/PREF/{line.provider_reference}\r\n/TYPE/X\r\n"
    return f"{text}-\r\n".encode()


def write_stripe(found: list[Line]) -> bytes:
    rows = []
    for line in found:
        days = (date.fromisoformat(line.business_date) - date(1970, 1, 1)) // timedelta(days=1)
        source = {"id": line.provider_reference, "metadata": {"channel_order_id": line.reference}}
        rows.append(
            json.dumps(
                {
                    "id": line.line_id,
                    "object": "balance_transaction",
                    "type": "stripe_fee" if line.kind is LineKind.FEE else "charge",
                    "amount": line.amount_minor,
                    "fee": 0,
                    "net": line.amount_minor,
                    "currency": line.currency.lower(),
                    "created": days * 86_400 + 5,
                    "source": source,
                }
            )
        )
    return "\n".join(rows).encode()


WRITERS: dict[Format, Callable[[list[Line]], bytes]] = {
    Format.CSV: write_csv,
    Format.CAMT053: write_camt,
    Format.MT940: write_mt940,
    Format.STRIPE: write_stripe,
}


def read(format_: Format, data: bytes, sizes: list[int] | None = None) -> list[Item]:
    """All items of a file, which comes in pieces of these sizes."""
    reader = reader_of(format_, CHANNEL, "c")
    raw: BinaryIO = io.BytesIO(data) if sizes is None else cast(BinaryIO, io.BufferedReader(Dribble(data, sizes), 16))
    return list(reader(raw, DECLARED))


def said(items: list[Item]) -> list[Item]:
    """Lines and problems without the numbers of lines, which each format counts in its own way."""
    return [
        msgspec.structs.replace(item, line_no=0) if isinstance(item, Line) else item
        for item in items
        if not isinstance(item, Balance)
    ]


@pytest.mark.parametrize("format_", FORMATS)
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_what_a_file_says_is_read(format_: Format, data: st.DataObject) -> None:
    currency = data.draw(st.sampled_from(["EUR", "JPY", "KWD"])) if format_ is Format.MT940 else ""
    found = data.draw(st.lists(lines(currency), min_size=1, max_size=8))
    file = WRITERS[format_](found)
    items = read(format_, file)
    assert said(items) == found
    sizes = data.draw(st.lists(st.integers(1, 50), min_size=1, max_size=5))
    assert read(format_, file, sizes) == items


@pytest.mark.parametrize("format_", FORMATS)
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_bytes_make_a_reader_fail(format_: Format, data: st.DataObject) -> None:
    file = bytearray(WRITERS[format_](data.draw(st.lists(lines("EUR"), min_size=1, max_size=3))))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(file)))
        file[at : at + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
    for item in read(format_, bytes(file)):
        assert item.line_no >= 1 or format_ is Format.CSV
        if isinstance(item, Problem):
            assert item.reason
    for item in read(format_, data.draw(st.binary(max_size=200))):
        assert isinstance(item, Problem | Line | Balance)


CAMT_HEAD = '<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.02"><BkToCstmrStmt>'
ENTRY = """<Ntry><Amt Ccy="EUR">30.00</Amt><CdtDbtInd>CRDT</CdtDbtInd>{more}<Sts>BOOK</Sts>
<BookgDt><DtTm>2026-11-29T10:00:00</DtTm></BookgDt><AcctSvcrRef>E1</AcctSvcrRef><NtryDtls>{details}</NtryDtls></Ntry>"""


def camt(entries: str) -> list[Item]:
    text = f"{CAMT_HEAD}<Stmt><Acct><Id><IBAN>DE89</IBAN></Id></Acct>{entries}</Stmt></BkToCstmrStmt></Document>"
    return read(Format.CAMT053, text.encode())


def detail(amount: str, reference: str) -> str:
    return (
        f"<TxDtls><Refs><EndToEndId>{reference}</EndToEndId></Refs>"
        f'<AmtDtls><TxAmt><Amt Ccy="EUR">{amount}</Amt></TxAmt></AmtDtls></TxDtls>'
    )


def test_a_batch_entry_becomes_a_line_for_each_of_its_transactions() -> None:
    items = camt(ENTRY.format(more="", details=detail("10.00", "a") + detail("20.00", "b")))
    assert [
        (item.reference, item.amount_minor, item.line_id, item.account) for item in items if isinstance(item, Line)
    ] == [
        ("a", 1000, "E1/1", "DE89"),
        ("b", 2000, "E1/2", "DE89"),
    ]
    wrong = camt(ENTRY.format(more="", details=detail("10.00", "a") + detail("20.01", "b")))
    assert [type(item) for item in wrong] == [Problem]
    assert "do not add up" in cast(Problem, wrong[0]).reason


def test_a_reversed_entry_takes_a_line_back_and_a_pending_one_does_not_count() -> None:
    (line,) = camt(ENTRY.format(more="<RvslInd>true</RvslInd>", details=""))
    assert isinstance(line, Line)
    assert (line.is_reversal, line.provider_reference) == (True, "E1")
    assert camt(ENTRY.format(more="", details="").replace("BOOK<", "PDNG<")) == []


def test_the_problem_of_an_entry_names_the_line_it_begins_on() -> None:
    entries = ENTRY.format(more="", details="") + "\n" + ENTRY.format(more="", details="").replace("30.00", "30.001")
    problem = camt(entries)[1]
    assert isinstance(problem, Problem)
    assert (problem.line_no, problem.reason) == (3, "an amount has more than the 2 places of EUR")


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE d [<!ENTITY a "b">]><Document/>',
        '<!DOCTYPE d SYSTEM "http://example.test/d.dtd"><Document/>',
        "<Document/>",
        f"{CAMT_HEAD}<Stmt>",
        f"{CAMT_HEAD}</BkToCstmrStmt></Document>",
        CAMT_HEAD + "<a>" * 100,
        f"{CAMT_HEAD}<Stmt><Id>{'x' * 20_000}</Id></Stmt></BkToCstmrStmt></Document>",
        '<?xml version="1.0" encoding="utf-7"?><Document/>',
        "",
    ],
)
def test_documents_that_are_no_statement_are_refused(text: str) -> None:
    items = read(Format.CAMT053, text.encode())
    assert [type(item) for item in items] == [Problem]


def test_mt940_reads_balances_reversals_and_codes_of_structured_details() -> None:
    text = (
        "{1:F01BANK}{2:I940BANK}{4:\r\n:20:X\r\n:25:DE89\r\n:28C:1/1\r\n:60F:D261128EUR1,5\r\n"
        ":61:2612310101RD12,NMSC1234//BR1\r\nmore\r\n:86:166?00TRANSFER?20EREF+chn_?21abc?22SVWZ+text\r\n"
        ":61:261129C1,NTRFNONREF\r\n:62F:C261129EUR11,5\r\n-}\r\n"
    )
    channel = ChannelStatements(mt940=Mt940Settings(details="QUESTION"))
    items = list(reader_of(Format.MT940, channel, "c")(io.BytesIO(text.encode()), DECLARED))
    opening, taken, plain, closing = items
    assert isinstance(opening, Balance)
    assert (opening.amount_minor, opening.account) == (-150, "DE89")
    assert isinstance(taken, Line)
    assert (taken.is_reversal, taken.amount_minor, taken.reference) == (True, 1200, "chn_abc")
    assert (taken.provider_reference, taken.business_date, taken.line_no) == ("BR1", "2027-01-01", 6)
    assert isinstance(plain, Line)
    assert (plain.amount_minor, plain.reference, plain.provider_reference) == (100, "", "")
    assert isinstance(closing, Balance)
    assert (closing.amount_minor, closing.line_no) == (1150, 10)


def test_stripe_reads_its_own_lists_with_fees_and_says_what_it_cannot_add_up() -> None:
    transaction = {
        "id": "txn_1",
        "type": "charge",
        "amount": 1000,
        "fee": 59,
        "net": 941,
        "currency": "eur",
        "created": 0,
    }
    document = json.dumps({"object": "list", "data": [transaction, transaction | {"net": 940}]}, indent=1)
    line, problem = read(Format.STRIPE, document.encode())
    assert isinstance(line, Line)
    assert (line.amount_minor, line.fee_minor, line.business_date) == (1000, 59, "1970-01-01")
    assert problem == Problem(2, "net is not amount less fee")
    payouts = [
        transaction | {"type": "payout"},
        transaction | {"type": "payout", "metadata": {"channel_order_id": "o"}},
    ]
    kinds = [
        item.kind
        for item in read(Format.STRIPE, "\n".join(map(json.dumps, payouts)).encode())
        if isinstance(item, Line)
    ]
    assert kinds == [LineKind.TRANSFER, LineKind.MOVEMENT]


def test_csv_names_the_line_of_each_problem() -> None:
    rows = [
        "type,amount,currency",
        "A,1.00,EUR",
        "",
        "B,1.00,EUR",
        'A,"1\n.00",EUR',
        "A,1.00",
        "A,1.00,XXX",
        "A,1.001,EUR",
    ]
    channel = ChannelStatements(
        csv=CsvSettings(columns={"kind": "type", "amount": "amount", "currency": "currency"}, kinds={"A": "MOVEMENT"})
    )
    items = list(reader_of(Format.CSV, channel, "c")(io.BytesIO("\n".join(rows).encode()), DECLARED))
    assert [(item.line_no, getattr(item, "reason", "")) for item in items] == [
        (2, ""),
        (4, "a kind of line is not one of those that the settings name"),
        (5, "an amount is not a decimal number"),
        (7, "has 2 columns, the heading has 3"),
        (8, "a currency is not an active ISO 4217 code"),
        (9, "an amount has more than the 2 places of EUR"),
    ]
