"""Bulk statements: one per table and batch.

SQLAlchemy Core writes each statement once per table and shape, with marks where values go; what remains per batch is to
fill the marks with literals and to send the text.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Connection, Dialect, insert, literal_column, select, update

from paykit.store.literals import Literal, literal_of
from paykit.store.row import Row, RowT

_MARK = "@@"
_UPDATED_AT_ONCE = 128  # rows: the server looks through a CASE for each of them, so the work grows with the square
_STATEMENT_CHARS_MAX = 400_000  # SQLite takes a million bytes, and servers have a packet limit


class StaleRow(Exception):
    """A compare-and-set matched fewer rows than it should: somebody else changed one."""


class Table:
    """What is needed to write statements about the table of a row type for one dialect."""

    def __init__(self, row_type: type[Row], dialect: Dialect) -> None:
        self.table = row_type.__table__
        self.names = row_type.__columns__
        self.literals: dict[str, Literal] = {
            column.name: literal_of(column.type, dialect, nullable=bool(column.nullable))
            for column in self.table.columns
        }
        self._in_order = [self.literals[name] for name in self.names]
        self._dialect = dialect
        self._selects: dict[tuple[str, bool], tuple[str, str]] = {}
        self._updates: dict[tuple[str, ...], list[str]] = {}
        statement = insert(self.table).values({name: literal_column(_MARK) for name in self.names})
        self.insert_head = self._text(statement).partition(f"({_MARK}")[0]

    def _text(self, statement: Any) -> str:
        return str(statement.compile(dialect=self._dialect))

    def row(self, row: Row) -> str:
        """``(1, 'a', NULL)``"""
        values = [literal(value) for literal, value in zip(self._in_order, msgspec.structs.astuple(row), strict=True)]
        return "(" + ",".join(values) + ")"

    def select(self, column: str, values: Sequence[str], lock: bool) -> str:
        """Selects the rows whose ``column`` is one of ``values``, by id."""
        parts = self._selects.get((column, lock))
        if parts is None:
            wanted = self.table.c[column].in_([literal_column(_MARK)])
            statement = select(self.table).where(wanted).order_by(self.table.c.id)
            head, _, tail = self._text(statement.with_for_update() if lock else statement).partition(_MARK)
            parts = self._selects[column, lock] = (head, tail)
        literal = self.literals[column]
        return parts[0] + ",".join([literal(value) for value in values]) + parts[1]

    def update(self, columns: tuple[str, ...], changes: Sequence[tuple[Row, Row]]) -> str:
        """Sets ``columns`` and the version of all rows by ``CASE id``, where every version is still the one read."""
        parts = self._updates.get(columns)
        if parts is None:
            mark: Any = literal_column(_MARK)
            table = self.table
            statement = (
                update(table)
                .values(dict.fromkeys((*columns, "version"), mark))
                # The ids alone first: the version's CASE would not use the primary key.
                .where(table.c.id.in_([mark]), table.c.version == mark)
            )
            parts = self._updates[columns] = self._text(statement).split(_MARK)
            assert len(parts) == len(columns) + 4
        id_literal = self.literals["id"]
        ids = [id_literal(after.id) for _, after in changes]
        # SET lists the columns in the table's order, not in ours.
        ordered = [name for name in self.names if name == "version" or name in columns]
        fills = [_case(ids, [self.literals[name](getattr(after, name)) for _, after in changes]) for name in ordered]
        fills += [",".join(ids), _case(ids, [_version(before) for before, _ in changes])]
        return "".join([piece for pair in zip(parts, fills, strict=False) for piece in pair]) + parts[-1]


def _version(row: Row) -> str:
    return str(row.version)


def _case(ids: list[str], values: list[str]) -> str:
    if values.count(values[0]) == len(values):
        return values[0]  # the same for all of them
    whens = " ".join([f"WHEN {id_} THEN {value}" for id_, value in zip(ids, values, strict=True)])
    return f"CASE id {whens} END"


@lru_cache(maxsize=256)
def _table(row_type: type[Row], dialect: Dialect) -> Table:
    return Table(row_type, dialect)


def load(connection: Connection, row_type: type[RowT], column: str, values: Sequence[str], lock: bool) -> list[RowT]:
    """The rows whose ``column`` is one of ``values``, locked for the transaction where ``lock`` says so."""
    # Columns that rows are looked up by are ASCII: MySQL refuses to compare them with anything else, and none matches.
    values = [value for value in values if value.isascii()]
    if not values:
        return []
    sql = _table(row_type, connection.dialect).select(column, values, lock)
    found = connection.exec_driver_sql(sql).cursor.fetchall()
    return as_rows(row_type, found)


def as_rows(row_type: type[RowT], found: Iterable[Sequence[Any]]) -> list[RowT]:
    """Records that hold all columns of the row's table, in their order."""
    names = row_type.__columns__
    return [row_type(**dict(zip(names, record, strict=True))) for record in found]


def insert_rows(connection: Connection, row_type: type[Row], rows: Sequence[Row]) -> None:
    """Inserts all rows with one multi-row statement, or a few where they are large."""
    table = _table(row_type, connection.dialect)
    for values in _chunks([table.row(row) for row in rows]):
        connection.exec_driver_sql(table.insert_head + values)


def _chunks(rows: list[str]) -> Iterator[str]:
    start, size = 0, 0
    for end, row in enumerate(rows):
        if size + len(row) > _STATEMENT_CHARS_MAX and end > start:
            yield ",".join(rows[start:end])
            start, size = end, 0
        size += len(row) + 1
    yield ",".join(rows[start:])


def update_rows(connection: Connection, row_type: type[Row], changes: Sequence[tuple[Row, Row]]) -> None:
    """Compare-and-set of all (before, after) pairs with one statement, or a few where they are many; StaleRow where
    any was changed meanwhile."""
    columns = changed_columns(row_type, changes)
    for start in range(0, len(changes), _UPDATED_AT_ONCE):
        part = changes[start : start + _UPDATED_AT_ONCE]
        matched = connection.exec_driver_sql(_table(row_type, connection.dialect).update(columns, part)).rowcount
        if matched != len(part):
            raise StaleRow(f"{row_type.__entity__}: {matched} of {len(part)} rows matched")


def changed_columns(row_type: type[Row], changes: Sequence[tuple[Row, Row]]) -> tuple[str, ...]:
    """The columns, but for the version, in which any pair differs."""
    names = row_type.__columns__
    differing: set[str] = set()
    for before, after in changes:
        pair = msgspec.structs.astuple(before), msgspec.structs.astuple(after)
        # What was not replaced is the same object; of what was, some may be equal.
        replaced = itertools.compress(names, map(operator.is_not, *pair))
        differing.update([name for name in replaced if getattr(before, name) != getattr(after, name)])
    differing.discard("version")
    return tuple([name for name in names if name in differing])
