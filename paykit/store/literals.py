"""Values as SQL literals, for the bulk statements of the hot path.

A batch writes hundreds of values a statement. Drivers escape them one by one through layers of dispatch, which cost
more than the decisions did; here each column has its one function. What makes that safe: a value can only be of its
column's type, integers are formatted as integers, bytes are written in hexadecimal, and strings are escaped by the
driver's own function (the server's sql_mode is asserted at start to have backslash escapes).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pymysql.converters import escape_string
from sqlalchemy import Dialect, Integer, LargeBinary, String
from sqlalchemy.types import TypeEngine

Literal = Callable[[Any], str]


def _integer(value: int | None) -> str:
    return "NULL" if value is None else f"{value:d}"


def _binary(value: bytes | None) -> str:
    return "NULL" if value is None else f"x'{value.hex()}'"


def _mysql_string(value: str | None) -> str:
    if value is None:
        return "NULL"
    # Most are ids and states: letters, digits and underscores need no escaping, and this is the quickest way to know.
    return f"'{value}'" if value.isidentifier() else f"'{escape_string(value)}'"


def _sqlite_string(value: str | None) -> str:
    if value is None:
        return "NULL"
    if "\0" in value:  # a statement ends at one
        return f"CAST(x'{value.encode().hex()}' AS TEXT)"
    return "'" + value.replace("'", "''") + "'"


def literal_of(kind: TypeEngine[Any], dialect: Dialect) -> Literal:
    """The function that writes values of a column's type."""
    if isinstance(kind, Integer):
        return _integer
    if isinstance(kind, LargeBinary):
        return _binary
    assert isinstance(kind, String), f"no literal for columns of type {kind}"
    return _sqlite_string if dialect.name == "sqlite" else _mysql_string
