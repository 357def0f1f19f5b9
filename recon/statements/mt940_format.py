"""SWIFT MT940, one or several messages in a file, with or without the blocks of the envelope.

The library mt-940 knows the grammar of each field; it reads a file whole and keeps no line numbers, so what divides the
file into fields, one at a time, stands here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

import msgspec
from mt940 import tags

from recon.statements import model
from recon.statements.model import Balance, BalanceKind, Declared, Item, Line, LineKind, Problem, Unreadable
from recon.statements.settings import Mt940Settings

_FIELD = re.compile(r":(\d{2}[A-Z]?):(.*)", re.DOTALL)
_ENVELOPE = re.compile(r"(\{[1235]:.*)|(-(\}.*)?)")  # a line that begins or ends a message
_BLOCK_4 = re.compile(r"\{4:$")
_FIELD_LINES_MAX = 100
_STATEMENT = re.compile(tags.Statement.pattern, tags.Tag.RE_FLAGS)
_BALANCE = re.compile(tags.BalanceBase.pattern + "$", tags.Tag.RE_FLAGS)
_OPENING, _CLOSING = ("60F",), ("62F",)  # 60M and 62M stand between the pages of a statement
_QUESTION_PART = re.compile(r"\?(\d{2})")
_SLASH_PART = re.compile(r"/([A-Z]{4})/")
_ORDER_ID = re.compile(r"chn_[0-9a-hjkmnp-tv-z]{26}")
_CODE_PART = re.compile(r"([A-Z]{4})[+:]")


class _Field(NamedTuple):
    line_no: int
    tag: str
    text: str


def read(stream: BinaryIO, declared: Declared, settings: Mt940Settings) -> Iterator[Item]:
    """The items of an MT940 file. After what cannot be divided into fields nothing more is read."""
    number = 0
    messages = _Messages(declared, settings)
    try:
        for field in _fields(stream, settings.encoding):
            number = field.line_no
            yield from messages.take(field)
        yield from messages.end()
        if not messages.count:
            yield Problem(max(1, number), "has no statement: no field 60F")
    except UnicodeDecodeError:
        yield Problem(number + 1, f"is not {settings.encoding}")
    except Unreadable as error:
        yield Problem(number + 1, str(error))


def _fields(stream: BinaryIO, encoding: str) -> Iterator[_Field]:
    """The fields in order: one begins with ``:20:`` and goes on over the lines that do not begin another."""
    begun: tuple[int, str] | None = None
    parts: list[str] = []
    for number, raw in model.text_lines(stream):
        line = raw.decode(encoding)
        if number == 1:
            line = line.removeprefix("\ufeff")
        if line.startswith("{") and _BLOCK_4.search(line):
            line = ""
        found = _FIELD.fullmatch(line)
        if found is None and _ENVELOPE.fullmatch(line) is None and begun is not None and line:
            parts.append(line)
            if len(parts) > _FIELD_LINES_MAX:
                raise Unreadable(f"a field has more than {_FIELD_LINES_MAX} lines")
            continue
        if found is None and line.strip() and _ENVELOPE.fullmatch(line) is None:
            raise Unreadable("text that belongs to no field")
        if found is None and not line.strip():
            continue
        if begun is not None:
            yield _Field(*begun, "\n".join(parts))
        begun, parts = ((number, found[1]), [found[2]]) if found is not None else (None, [])
    if begun is not None:
        yield _Field(*begun, "\n".join(parts))


class _Messages:
    """Makes items of fields. A line waits for the field 86 behind it."""

    def __init__(self, declared: Declared, settings: Mt940Settings) -> None:
        self.count = 0
        self._declared, self._settings = declared, settings
        self._account = declared.account
        self._currency = ""
        self._waiting: Line | None = None

    def take(self, field: _Field) -> Iterator[Item]:
        """The items that are complete once ``field`` is known."""
        try:
            if field.tag == "86":
                if self._waiting is not None:
                    line, self._waiting = self._waiting, None
                    yield self._detailed(line, field.text)
                return
            yield from self.end()
            if field.tag == "25":
                named = model.reference_of(field.text.split("\n")[0])
                self._account = named or self._declared.account
            elif field.tag in _OPENING:
                self.count += 1
                yield self._balance(field, BalanceKind.OPENING)
            elif field.tag in _CLOSING:
                yield self._balance(field, BalanceKind.CLOSING)
            elif field.tag == "61":
                self._waiting = self._line(field)
        except Unreadable as error:
            yield Problem(field.line_no, f"field {field.tag}: {error}")

    def end(self) -> Iterator[Item]:
        """The line that still waited."""
        if self._waiting is not None:
            line, self._waiting = self._waiting, None
            yield line

    def _balance(self, field: _Field, kind: BalanceKind) -> Balance:
        found = _BALANCE.match(field.text)
        if found is None:
            raise Unreadable("is not a balance")
        currency = self._currency = model.currency_of(found["currency"])
        amount_minor = model.decimal_of(found["amount"], currency, ",")
        sign = 1 if found["status"].upper() == "C" else -1
        day = _day(found["year"], found["month"], found["day"])
        return Balance(field.line_no, self._account, kind, sign * amount_minor, currency, day)

    def _line(self, field: _Field) -> Line:
        found = _STATEMENT.match(field.text)
        if found is None:
            raise Unreadable("is not a statement line")
        if not self._currency:
            raise Unreadable("stands before the opening balance, which tells the currency")
        status = found["status"].upper()
        code = (found["id"] or "").strip().upper()
        sign = 1 if status in ("C", "RD") else -1  # the reversal of a debit comes in
        reference = _reference(found["customer_reference"])
        bank_reference = _reference(found["bank_reference"])
        names_line = self._settings.bank_reference == "LINE"
        return Line(
            line_no=field.line_no,
            account=self._account,
            line_id=bank_reference if names_line else "",  # a bank's references need not be unique
            kind=self._kind(code),
            reference=reference,
            provider_reference=reference if names_line else bank_reference or reference,
            amount_minor=sign * model.decimal_of(found["amount"], self._currency, ","),
            fee_minor=0,
            currency=self._currency,
            business_date=_entry_day(found),
            is_reversal=status.startswith("R"),
        )

    def _kind(self, code: str) -> LineKind:
        if code in self._settings.fee_codes:
            return LineKind.FEE
        return LineKind.TRANSFER if code in self._settings.transfer_codes else LineKind.MOVEMENT

    def _detailed(self, line: Line, text: str) -> Line:
        """The line with the references that the field 86 tells."""
        settings = self._settings
        joined = text.replace("\n", "")
        if settings.details == "PLAIN":
            found = _ORDER_ID.search(joined)
            return msgspec.structs.replace(line, reference=found[0]) if found else line
        parts = _question_parts(joined) if settings.details == "QUESTION" else _slash_parts(joined)
        reference = _named(parts, settings.reference_parts) or line.reference
        provider_reference = _named(parts, settings.provider_reference_parts) or line.provider_reference
        return msgspec.structs.replace(line, reference=reference, provider_reference=provider_reference)


def _question_parts(text: str) -> dict[str, str]:
    """``166?00TRANSFER?20EREF+chn_…?21…``: by number, and by code where the parts 20 to 29, 60 to 63 tell codes."""
    pieces = _QUESTION_PART.split(text)
    parts: dict[str, str] = {}
    purpose = ""
    for number, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        parts.setdefault(number, piece)
        purpose += piece if number[0] == "2" or "60" <= number <= "63" else ""
    return parts | _coded(_CODE_PART, purpose)


def _slash_parts(text: str) -> dict[str, str]:
    """``/EREF/chn_…/REMI/…``: by code."""
    return {code: piece.strip("/") for code, piece in _coded(_SLASH_PART, text).items()}


def _coded(mark: re.Pattern[str], text: str) -> dict[str, str]:
    pieces = mark.split(text)
    parts: dict[str, str] = {}
    for code, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        parts.setdefault(code, piece)
    return parts


def _named(parts: dict[str, str], wanted: tuple[str, ...]) -> str:
    return next((found for part in wanted if (found := _reference(parts.get(part)))), "")


def _reference(text: str | None) -> str:
    found = model.reference_of((text or "").replace("\n", ""))
    return "" if found in ("NONREF", "NOTPROVIDED") else found


def _entry_day(found: Any) -> str:
    """The day a line was booked: the entry date, in the year nearest to the value date; else the value date."""
    value_day = _day(found["year"], found["month"], found["day"])
    month, day = found["entry_month"], found["entry_day"]
    if not (month and day and month.strip() and day.strip()):
        return value_day
    value = date.fromisoformat(value_day)
    near = []
    for year in (value.year - 1, value.year, value.year + 1):
        try:
            near.append(date(year, int(month), int(day)))
        except ValueError:
            continue  # the 29th of February of another year, or no day at all
    if not near:
        raise Unreadable("has no such entry date")
    return min(near, key=lambda one: abs(one - value)).isoformat()


@lru_cache(maxsize=4096)
def _day(year: str, month: str, day: str) -> str:
    try:
        return date(2000 + int(year), int(month), int(day)).isoformat()
    except ValueError:
        raise Unreadable("has no such date") from None
