"""Statements out of the book's file: read in one snapshot, beside the thread that writes, in bounded memory.

Everything here blocks, and belongs on a thread of its own.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Connection, create_engine, event, func, select
from sqlalchemy.pool import NullPool

from channel_gateway.sandbox.behaviour import MARK, other_currency, roll
from channel_gateway.sandbox.book_tables import entry_table
from channel_gateway.sandbox.statement import (
    NO_FEE,
    SIGN,
    Difference,
    Line,
    Movement,
    Teller,
    day_start_ms,
    told_in,
)
from channel_gateway.sandbox.statement_formats import FORMATS, Head, Section, StatementFormat

CHUNK_BYTES = 65_536
_ROWS_AT_ONCE = 1_000

_entry = entry_table.c
# What a settled order moved: another amount than was asked for where it says so.
_MOVED = func.coalesce(func.nullif(_entry.moved_minor, 0, type_=BigInteger), _entry.amount_minor, type_=BigInteger)
_FIELDS = (
    _entry.sequence,
    _entry.kind,
    _MOVED,
    _entry.currency,
    _entry.reference,
    _entry.provider_reference,
    _entry.original_reference,
    _entry.token,
    _entry.copy_no,
    _entry.settle_at_ms,
)
_MOVEMENT_FIELDS = [field.name for field in msgspec.structs.fields(Movement)]


class StatementRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One account's file of one UTC day, as things stand at ``now_ms``: a section in ``base_currency`` at least."""

    teller: Teller
    merchant: str
    day: date
    format: StatementFormat
    base_currency: str
    now_ms: int


def read_statement(path: Path, request: StatementRequest) -> Generator[bytes]:
    """The file, a chunk at a time. sqlalchemy.exc.DBAPIError where the book cannot be read."""
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool, connect_args={"isolation_level": None})

    @event.listens_for(engine, "connect")
    def _only_read(dbapi_connection: Any, _record: Any) -> None:
        dbapi_connection.execute("PRAGMA query_only=1")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    with engine.connect() as connection, connection.begin():
        yield from _chunks(_Statement(connection, request).pieces())


def _chunks(pieces: Iterable[str]) -> Iterator[bytes]:
    waiting: list[str] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= CHUNK_BYTES:
            yield "".join(waiting).encode()
            waiting, size = [], 0
    if waiting:
        yield "".join(waiting).encode()


class _Statement:
    """A file in the making."""

    def __init__(self, connection: Connection, request: StatementRequest) -> None:
        self._connection = connection
        self._request = request
        self._teller = request.teller
        self._start_ms = day_start_ms(request.day)
        self._end_ms = day_start_ms(request.day + timedelta(days=1))
        self._of_account = (
            (_entry.account == self._teller.account)
            & (_entry.outcome == "succeeded")
            & (_entry.settle_at_ms <= request.now_ms)
            & _entry.kind.in_(tuple(SIGN))
        )

    def pieces(self) -> Iterator[str]:
        """The text, cut off where the script says so."""
        request, teller = self._request, self._teller
        head = Head(account=teller.account, merchant=request.merchant, day=request.day)
        pieces = FORMATS[request.format].write(head, self._sections())
        if not teller.differs(Difference.TRUNCATED, request.day):
            yield from pieces
            return
        share = roll(teller.seed, "statement", "cut", teller.account, request.day.isoformat())
        whole = int(share * self._count())
        for number, piece in enumerate(pieces):
            if number > whole:
                yield piece[: len(piece) // 2]
                return
            yield piece

    def _sections(self) -> Iterator[Section]:
        teller, day = self._teller, self._request.day
        openings = self._openings()
        currencies = {*openings, *self._currencies_of_day(), self._request.base_currency}
        if self._happens(Difference.WRONG_CURRENCY, self._of_day()):
            currencies |= {other_currency(currency) for currency in currencies}
        put_off = self._happens(Difference.NEXT_DAY, self._of_day_before())
        for currency in sorted(currencies):
            sources = told_in(currency, currencies)
            before_minor = sum(line.amount_minor for line in self._put_off(currency)) if put_off else 0
            error = roll(teller.seed, "statement", "closing", teller.account, day.isoformat(), currency)
            is_wrong = teller.differs(Difference.WRONG_CLOSING, day)
            yield Section(
                currency=currency,
                opening_minor=openings.get(currency, 0) - before_minor,
                lines=partial(self.lines, currency, sources, put_off),
                closing_error_minor=1 + int(error * 500) if is_wrong else 0,
            )

    def lines(self, currency: str, sources: list[str], put_off: bool) -> Iterator[Line]:
        """The lines told in a currency: those put off from the day before, then the day's own."""
        if put_off:
            yield from self._put_off(currency)
        for movement in self._movements(self._of_day() & _entry.currency.in_(sources)):
            for line in self._teller.lines(movement):
                if line.currency == currency and line.booked_on == self._request.day:
                    yield line

    def _put_off(self, currency: str) -> Iterator[Line]:
        for movement in self._movements(self._of_day_before() & (_entry.currency == currency)):
            for line in self._teller.lines(movement):
                if line.booked_on == self._request.day:
                    yield line

    def _movements(self, condition: ColumnElement[bool]) -> Iterator[Movement]:
        statement = select(*_FIELDS).where(condition).order_by(_entry.settle_at_ms, _entry.sequence)
        rows = self._connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(statement)
        for row in rows:
            yield Movement(**dict(zip(_MOVEMENT_FIELDS, row, strict=True)))

    def _of_day(self) -> ColumnElement[bool]:
        return self._of_account & (_entry.settle_at_ms >= self._start_ms) & (_entry.settle_at_ms < self._end_ms)

    def _of_day_before(self) -> ColumnElement[bool]:
        before_ms = day_start_ms(self._request.day - timedelta(days=1))
        return self._of_account & (_entry.settle_at_ms >= before_ms) & (_entry.settle_at_ms < self._start_ms)

    def _happens(self, difference: Difference, condition: ColumnElement[bool]) -> bool:
        if self._teller.script.rates.get(difference):
            return True
        marked = _entry.token.contains(f"{MARK}statement_{difference.value}", autoescape=True)
        return self._connection.execute(select(_entry.sequence).where(condition & marked).limit(1)).first() is not None

    def _currencies_of_day(self) -> list[str]:
        return list(self._connection.execute(select(_entry.currency).where(self._of_day()).distinct()).scalars())

    def _count(self) -> int:
        statement = select(func.count()).where(self._of_day())
        return int(self._connection.execute(statement).scalar_one())

    def _openings(self) -> dict[str, int]:
        """What the account had when the day began, fees taken off, by currency."""
        openings: dict[str, int] = {}
        for kind, sign in SIGN.items():
            fee = self._teller.fees.get(kind, NO_FEE)
            # As Fee.of, in two parts, so that no product is larger than an integer may be.
            share = _MOVED // 10_000 * fee.basis_points + (_MOVED % 10_000 * fee.basis_points + 5_000) // 10_000
            statement = (
                select(_entry.currency, func.count(), func.sum(_MOVED), func.sum(share))
                .where(self._of_account, _entry.kind == kind, _entry.settle_at_ms < self._start_ms)
                .group_by(_entry.currency)
            )
            for currency, count, moved_minor, share_minor in self._connection.execute(statement):
                gained_minor = sign * moved_minor - share_minor - count * fee.fixed_minor
                openings[currency] = openings.get(currency, 0) + gained_minor
        return openings
