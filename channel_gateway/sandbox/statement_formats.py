"""The formats of the provider's statement files, each from one account's sections to pieces of text, a line or so each.

A file holds a section for each currency. All times are UTC, amounts have the decimals of their currency (ISO 4217), and
``line_id`` is the provider's own name for a line: the same line has the same one whenever, and in whatever format, the
file is asked for. ``reference`` is ours (the channel order, "chn_…"), ``provider_reference`` the provider's.

**csv**: UTF-8, comma, quotes where needed, "\\n". The first line is the header
``type,line_id,date,amount,currency,reference,provider_reference,original_reference,merchant``.
``type``: OPENING (the balance, in front of a section), CHARGE, CAPTURE, REFUND, PAYOUT, FEE, and CLOSING (behind it).
``amount``: what the account gained, signed, with a point. ``date``: 2026-11-29. A fee names the order it was taken for.

**camt053**: ISO 20022 camt.053.001.08. A Stmt a section, with OPBD and CLBD, the number and sums of its entries, and an
Ntry a line: Amt, CdtDbtInd, Sts BOOK, BookgDt, ValDt, AcctSvcrRef (line_id), BkTxCd/Prtry/Cd (the type as in csv), and
in NtryDtls/TxDtls/Refs: AcctSvcrRef (provider_reference), EndToEndId (reference), Prtry ORIGINAL (original_reference).

**mt940**: a message a section, each ended by "-", lines ended by CRLF: :20: :25: :28C: :60F: :61: :86: :62F:. In :61:
the type is NCHG for a fee, else NTRF, the owner's reference NONREF, the bank's (behind //) the line_id. :86: is
structured, a code word a line: /EREF/reference, /PREF/provider_reference, /OREF/original_reference, /TYPE/ as in csv.
Ids keep their underscore, as banks that pass references through do, though SWIFT's character set x has none.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import date, timedelta
from typing import Literal
from xml.sax.saxutils import escape

import msgspec

from channel_gateway.sandbox.statement import FEE, Line
from paykit.money import EXPONENT

StatementFormat = Literal["csv", "camt053", "mt940"]

CSV_HEADER = (
    "type",
    "line_id",
    "date",
    "amount",
    "currency",
    "reference",
    "provider_reference",
    "original_reference",
    "merchant",
)
_NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"
_NOT_SWIFT = re.compile(r"[^A-Za-z0-9/\-?:().,'+ _]")
_ACCOUNT_LENGTH_MAX = 34  # of camt's Othr/Id; SWIFT's :25: has one more
_TEXT_LENGTH_MAX = 35  # ISO 20022 Max35Text
_SWIFT_LINE_LENGTH_MAX = 65
_CRLF = "\r\n"


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """Of which account and day a file is."""

    account: str
    merchant: str
    day: date


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """One currency of a file. ``lines`` may be gone through as often as a format needs; ``closing_error_minor`` is
    what the closing balance is wrong by."""

    currency: str
    opening_minor: int
    lines: Callable[[], Iterable[Line]]
    closing_error_minor: int = 0


class Format(msgspec.Struct, frozen=True):
    """A format: how a file of it is written, and what it is called."""

    write: Callable[[Head, Iterable[Section]], Iterator[str]]
    content_type: str
    extension: str


def as_csv(head: Head, sections: Iterable[Section]) -> Iterator[str]:
    """The file as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")

    def row(*values: str) -> str:
        writer.writerow(values)
        text = buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
        return text

    day = head.day.isoformat()
    yield row(*CSV_HEADER)
    for section in sections:
        currency, balance_minor = section.currency, section.opening_minor
        yield row("OPENING", "", day, decimal(balance_minor, currency), currency, "", "", "", head.merchant)
        for line in section.lines():
            balance_minor += line.amount_minor
            yield row(
                line.kind,
                line.line_id,
                line.booked_on.isoformat(),
                decimal(line.amount_minor, currency),
                currency,
                line.reference,
                line.provider_reference,
                line.original_reference,
                head.merchant,
            )
        balance_minor += section.closing_error_minor
        yield row("CLOSING", "", day, decimal(balance_minor, currency), currency, "", "", "", head.merchant)


def as_camt053(head: Head, sections: Iterable[Section]) -> Iterator[str]:
    """The file as ISO 20022 camt.053.001.08."""
    name = escape(f"{head.account[:20]}-{head.day:%Y%m%d}")
    # As of the end of its day, whenever it is asked for: the same file has the same bytes.
    made = f"{(head.day + timedelta(days=1)).isoformat()}T00:00:00Z"
    yield (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Document xmlns="{_NAMESPACE}">\n<BkToCstmrStmt>\n'
        f"<GrpHdr><MsgId>{name}</MsgId><CreDtTm>{made}</CreDtTm></GrpHdr>\n"
    )
    for section in sections:
        currency = section.currency
        counts, sums = {1: 0, -1: 0}, {1: 0, -1: 0}
        for line in section.lines():
            sign = 1 if line.amount_minor >= 0 else -1
            counts[sign] += 1
            sums[sign] += abs(line.amount_minor)
        closing_minor = section.opening_minor + sums[1] - sums[-1] + section.closing_error_minor
        yield (
            f"<Stmt><Id>{name}-{currency}</Id><CreDtTm>{made}</CreDtTm>"
            f"<FrToDt><FrDtTm>{head.day.isoformat()}T00:00:00Z</FrDtTm>"
            f"<ToDtTm>{head.day.isoformat()}T23:59:59Z</ToDtTm></FrToDt>"
            f"<Acct><Id><Othr><Id>{escape(head.account[:_ACCOUNT_LENGTH_MAX])}</Id></Othr></Id>"
            f"<Ccy>{currency}</Ccy></Acct>\n"
        )
        yield _balance("OPBD", section.opening_minor, currency, head.day)
        yield _balance("CLBD", closing_minor, currency, head.day)
        yield (
            f"<TxsSummry><TtlNtries><NbOfNtries>{counts[1] + counts[-1]}</NbOfNtries></TtlNtries>"
            f"<TtlCdtNtries>{_total(counts[1], sums[1], currency)}</TtlCdtNtries>"
            f"<TtlDbtNtries>{_total(counts[-1], sums[-1], currency)}</TtlDbtNtries></TxsSummry>\n"
        )
        for line in section.lines():
            yield _entry(line, currency)
        yield "</Stmt>\n"
    yield "</BkToCstmrStmt>\n</Document>\n"


def as_mt940(head: Head, sections: Iterable[Section]) -> Iterator[str]:
    """The file as SWIFT MT940, a message for each currency."""
    account = _NOT_SWIFT.sub("?", head.account)[:_ACCOUNT_LENGTH_MAX]
    for section in sections:
        currency, balance_minor = section.currency, section.opening_minor
        yield (
            f":20:{head.day:%y%m%d}{currency}{_CRLF}:25:{account}{_CRLF}"
            f":28C:{head.day.timetuple().tm_yday:05d}/00001{_CRLF}"
            f":60F:{_swift_balance(balance_minor, currency, head.day)}{_CRLF}"
        )
        for line in section.lines():
            balance_minor += line.amount_minor
            yield _swift_line(line, currency)
        balance_minor += section.closing_error_minor
        yield f":62F:{_swift_balance(balance_minor, currency, head.day)}{_CRLF}-{_CRLF}"


FORMATS: dict[StatementFormat, Format] = {
    "csv": Format(as_csv, "text/csv", "csv"),
    "camt053": Format(as_camt053, "application/xml", "xml"),
    "mt940": Format(as_mt940, "text/plain", "sta"),
}


def decimal(amount_minor: int, currency: str, point: str = ".") -> str:
    """An amount with the decimals of its currency: ``decimal(-1050, "EUR") == "-10.50"``."""
    exponent = EXPONENT.get(currency, 2)
    whole, part = divmod(abs(amount_minor), 10**exponent)
    sign = "-" if amount_minor < 0 else ""
    return f"{sign}{whole}{point}{part:0{exponent}d}" if exponent else f"{sign}{whole}"


def _side(amount_minor: int) -> str:
    return "CRDT" if amount_minor >= 0 else "DBIT"


def _balance(code: str, amount_minor: int, currency: str, day: date) -> str:
    return (
        f"<Bal><Tp><CdOrPrtry><Cd>{code}</Cd></CdOrPrtry></Tp>"
        f'<Amt Ccy="{currency}">{decimal(abs(amount_minor), currency)}</Amt>'
        f"<CdtDbtInd>{_side(amount_minor)}</CdtDbtInd><Dt><Dt>{day.isoformat()}</Dt></Dt></Bal>\n"
    )


def _total(count: int, sum_minor: int, currency: str) -> str:
    return f"<NbOfNtries>{count}</NbOfNtries><Sum>{decimal(sum_minor, currency)}</Sum>"


def _entry(line: Line, currency: str) -> str:
    amount = f'<Amt Ccy="{currency}">{decimal(abs(line.amount_minor), currency)}</Amt>'
    side = f"<CdtDbtInd>{_side(line.amount_minor)}</CdtDbtInd>"
    day = f"<Dt>{line.booked_on.isoformat()}</Dt>"
    original = ""
    if line.original_reference:
        reference = _text(line.original_reference)
        original = f"<Prtry><Tp>ORIGINAL</Tp><Ref>{reference}</Ref></Prtry>"
    return (
        f"<Ntry><NtryRef>{line.line_id}</NtryRef>{amount}{side}<Sts><Cd>BOOK</Cd></Sts>"
        f"<BookgDt>{day}</BookgDt><ValDt>{day}</ValDt><AcctSvcrRef>{line.line_id}</AcctSvcrRef>"
        f"<BkTxCd><Prtry><Cd>{line.kind}</Cd><Issr>SANDBOX</Issr></Prtry></BkTxCd>"
        f"<NtryDtls><TxDtls><Refs><AcctSvcrRef>{_text(line.provider_reference)}</AcctSvcrRef>"
        f"<EndToEndId>{_text(line.reference)}</EndToEndId>{original}</Refs>{amount}{side}</TxDtls></NtryDtls></Ntry>\n"
    )


def _text(text: str) -> str:
    return escape(text[:_TEXT_LENGTH_MAX])


def _swift_amount(amount_minor: int, currency: str) -> str:
    amount = decimal(abs(amount_minor), currency, ",")
    return amount if "," in amount else f"{amount},"  # SWIFT wants the comma even where nothing follows it


def _swift_balance(amount_minor: int, currency: str, day: date) -> str:
    return f"{_side(amount_minor)[0]}{day:%y%m%d}{currency}{_swift_amount(amount_minor, currency)}"


def _swift_line(line: Line, currency: str) -> str:
    words = {"EREF": line.reference, "PREF": line.provider_reference, "OREF": line.original_reference}
    details = [f"/{word}/{text}"[:_SWIFT_LINE_LENGTH_MAX] for word, text in words.items() if text]
    type_code = "NCHG" if line.kind == FEE else "NTRF"
    return (
        f":61:{line.booked_on:%y%m%d}{line.booked_on:%m%d}{_side(line.amount_minor)[0]}"
        f"{_swift_amount(line.amount_minor, currency)}{type_code}NONREF//{line.line_id}{_CRLF}"
        f":86:{_CRLF.join([*details, f'/TYPE/{line.kind}'])}{_CRLF}"
    )
