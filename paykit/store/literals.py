"""Values as SQL literals, for the bulk statements of the hot path.

A batch writes hundreds of values a statement. Drivers escape them one by one through layers of dispatch, which cost
more than the decisions did; here each column has its one function. What makes that safe: a value can only be of its
column's type, integers are formatted as integers, bytes are written in hexadecimal, and strings are escaped by the
driver's own function (the server's sql_mode is asserted at start to have backslash escapes).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pymysql.converters import escape_string
from sqlalchemy import Dialect, Integer, LargeBinary, String
from sqlalchemy.types import TypeEngine

Literal = Callable[[Any], str]

_SHORT_CHARS_MAX = 64


_integer: Literal = int.__repr__  # takes nothing but integers


def _binary(value: bytes) -> str:
    return f"x'{value.hex()}'"


@lru_cache(maxsize=8192)
def _escaped(value: str) -> str:
    return f"'{escape_string(value)}'"


def _mysql_string(value: str) -> str:
    # Most are ids and states: letters, digits and underscores need no escaping, and this is the quickest way to know.
    if value.isidentifier():
        return f"'{value}'"
    if not value:
        return "''"
    # What is short comes again and again: dates, names of accounts.
    return _escaped(value) if len(value) <= _SHORT_CHARS_MAX else f"'{escape_string(value)}'"


def _sqlite_string(value: str) -> str:
    if "\0" in value:  # a statement ends at one
        return f"CAST(x'{value.encode().hex()}' AS TEXT)"
    return "'" + value.replace("'", "''") + "'"


def literal_of(kind: TypeEngine[Any], dialect: Dialect, *, nullable: bool) -> Literal:
    """The function that writes values of a column's type; None, where the column is ``nullable``, as NULL."""
    literal = _of_type(kind, dialect)
    return _or_null(literal) if nullable else literal


def _of_type(kind: TypeEngine[Any], dialect: Dialect) -> Literal:
    if isinstance(kind, Integer):
        return _integer
    if isinstance(kind, LargeBinary):
        return _binary
    assert isinstance(kind, String), f"no literal for columns of type {kind}"
    return _sqlite_string if dialect.name == "sqlite" else _mysql_string


def _or_null(literal: Literal) -> Literal:
    def write(value: Any) -> str:
        return "NULL" if value is None else literal(value)

    return write
