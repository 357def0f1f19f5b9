"""CSV with declared columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any, BinaryIO

from recon.statements import model
from recon.statements.model import Balance, BalanceKind, Declared, Item, Line, LineKind, Problem, Unreadable
from recon.statements.settings import KINDS, CsvSettings


class _Numbered:
    """Text lines for the csv module: counts them, and refuses those that are too long."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.number = 0

    def __iter__(self) -> _Numbered:
        return self

    def __next__(self) -> str:
        line = self._text.readline(model.LINE_BYTES_MAX + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > model.LINE_BYTES_MAX:
            raise Unreadable(f"a line is longer than {model.LINE_BYTES_MAX} characters")
        return line


def read(stream: BinaryIO, declared: Declared, settings: CsvSettings) -> Iterator[Item]:
    """The items of a CSV file. After what cannot be decoded or divided into columns nothing more is read."""
    text = io.TextIOWrapper(stream, encoding=settings.encoding, errors="strict", newline="")
    lines = _Numbered(text)
    try:
        yield from _read(lines, declared, settings)
    except UnicodeError:
        yield Problem(lines.number + 1, f"is not {settings.encoding}")
    except csv.Error:
        yield Problem(max(1, lines.number), "cannot be divided into columns")
    except Unreadable as error:
        yield Problem(max(1, lines.number), str(error))
    finally:
        text.detach()


def _read(lines: _Numbered, declared: Declared, settings: CsvSettings) -> Iterator[Item]:
    for _ in range(settings.lines_before_heading):
        next(lines, None)
    rows = csv.reader(lines, delimiter=settings.delimiter, quotechar=settings.quote, strict=True)
    heading = next(rows, None)
    if heading is None:
        raise Unreadable("there is no heading")
    record = _Record(heading, declared, settings)
    begins = lines.number + 1
    for row in rows:
        number, begins = begins, lines.number + 1
        if not row or not any(row):
            continue
        try:
            item = record.read(row, number)
        except Unreadable as error:
            item = Problem(number, str(error))
        if item is not None:
            yield item


class _Record:
    """Reads one row: which column has what is found once, in the heading."""

    def __init__(self, heading: list[str], declared: Declared, settings: CsvSettings) -> None:
        names = [name.strip() for name in heading]
        if missing := [name for name in settings.columns.values() if name not in names]:
            raise Unreadable(f"the heading has no column {missing[0]!r}")
        if doubled := [name for name in settings.columns.values() if names.count(name) > 1]:
            raise Unreadable(f"the heading has two columns {doubled[0]!r}")
        self._width = len(names)
        self._at: dict[Any, int] = {field: names.index(name) for field, name in settings.columns.items()}
        self._declared = declared
        self._settings = settings
        self._kinds = {word.upper(): KINDS[kind] for word, kind in settings.kinds.items()}
        self._credit = {word.upper() for word in settings.credit_words}
        self._debit = {word.upper() for word in settings.debit_words}
        self._reversal = {word.upper() for word in settings.reversal_words}

    def read(self, row: list[str], number: int) -> Item | None:
        """A line or a balance; None for a row that the settings pass over."""
        if len(row) != self._width:
            raise Unreadable(f"has {len(row)} columns, the heading has {self._width}")
        kind = self._kind(row)
        if kind is None:
            return None
        settings = self._settings
        currency = model.currency_of(self._text(row, "currency") or settings.currency)
        account = model.reference_of(self._text(row, "account")) or self._declared.account
        said = self._text(row, "date")
        day = _day(said, settings.dates) if said else self._declared.business_date
        amount_minor = self._signed(row, currency)
        if isinstance(kind, BalanceKind):
            return Balance(number, account, kind, amount_minor, currency, day)
        fee = self._text(row, "fee")
        fee_minor = self._amount(fee, currency) if fee else 0
        return Line(
            line_no=number,
            account=account,
            line_id=model.reference_of(self._text(row, "line_id")),
            kind=kind,
            reference=model.reference_of(self._text(row, "reference")),
            provider_reference=model.reference_of(self._text(row, "provider_reference")),
            amount_minor=amount_minor,
            fee_minor=-fee_minor if settings.fee_is_negative else fee_minor,
            currency=currency,
            business_date=day,
            is_reversal=self._text(row, "reversal").upper() in self._reversal,
        )

    def _text(self, row: list[str], field: str) -> str:
        at = self._at.get(field)
        return "" if at is None else row[at].strip()

    def _kind(self, row: list[str]) -> LineKind | BalanceKind | None:
        if "kind" not in self._at:
            return LineKind.MOVEMENT
        try:
            return self._kinds[self._text(row, "kind").upper()]
        except KeyError:
            raise Unreadable("a kind of line is not one of those that the settings name") from None

    def _signed(self, row: list[str], currency: str) -> int:
        if "amount" not in self._at:
            credit, debit = self._text(row, "credit"), self._text(row, "debit")
            if bool(credit) == bool(debit):
                raise Unreadable("needs an amount either as credit or as debit")
            return self._amount(credit, currency) if credit else -self._amount(debit, currency)
        amount_minor = self._amount(self._text(row, "amount"), currency)
        if "direction" not in self._at:
            return amount_minor
        word = self._text(row, "direction").upper()
        if word in self._credit:
            return amount_minor
        if word in self._debit:
            return -amount_minor
        raise Unreadable("a direction is neither credit nor debit")

    def _amount(self, text: str, currency: str) -> int:
        settings = self._settings
        if settings.amounts == "minor":
            return model.minor_of(text)
        return model.decimal_of(text, currency, settings.decimal_mark, settings.group_mark)


@lru_cache(maxsize=4096)
def _day(text: str, forms: tuple[str, ...]) -> str:
    for form in forms:
        try:
            return datetime.strptime(text, form).date().isoformat()
        except ValueError:
            continue
    raise Unreadable("a date is of none of the forms that the settings name")
