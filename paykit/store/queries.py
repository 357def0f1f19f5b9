"""Reads of the hot path that decide nothing: selects whose lists of values are filled in as literals.

SQLAlchemy Core writes each statement once per dialect, with a mark where a list of values goes. To compile it, or to
look for it among the compiled ones, costs more than to read a few rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, CompoundSelect, Connection, Dialect, Select, literal_column

from paykit.store.literals import Literal, literal_of

_MARK = "@@"


def among(column: Column[Any]) -> ColumnElement[bool]:
    """``column IN (…)``: one of the values of a list that is given when the query is read."""
    return column.in_([literal_column(_MARK)])


class Query:
    """A select with a list of values for each ``among``, in their order. Made once, where the statement stands."""

    def __init__(self, statement: Select[Any] | CompoundSelect[Any], *lists: Column[Any]) -> None:
        """``lists``: the column of each ``among`` of ``statement``, in the order in which it names them."""
        self._statement = statement
        self._lists = lists
        self._written: dict[str, tuple[list[str], list[Literal]]] = {}

    def text(self, dialect: Dialect, *values: Sequence[str]) -> str:
        """The statement with its values, as many lists as it has, none of them empty."""
        written = self._written.get(dialect.name)
        if written is None:
            written = self._written[dialect.name] = self._write(dialect)
        parts, literals = written
        lists = [",".join([literal(value) for value in found]) for literal, found in zip(literals, values, strict=True)]
        return parts[0] + "".join([listed + part for listed, part in zip(lists, parts[1:], strict=True)])

    def _write(self, dialect: Dialect) -> tuple[list[str], list[Literal]]:
        compiled = self._statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
        parts = str(compiled).split(_MARK)
        assert len(parts) == len(self._lists) + 1, "a query has as many lists as marks"
        return parts, [literal_of(column.type, dialect, nullable=False) for column in self._lists]

    def read(self, connection: Connection, *values: Sequence[str]) -> Sequence[Sequence[Any]]:
        """The records found: those whose columns are among ``values``, a list for each ``among``."""
        # What rows are looked up by is ASCII: MySQL refuses to compare it with anything else, and none matches.
        known = [[value for value in each if value.isascii()] for each in values]
        if not all(known):
            return []
        text = self.text(connection.dialect, *known)
        found: Sequence[Sequence[Any]] = connection.exec_driver_sql(text).cursor.fetchall()
        return found
