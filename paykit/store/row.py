"""Rows: immutable typed records, each class mapped to one SQLAlchemy Core table.

The class is the one place where a table's columns stand: ``mapped`` derives the Table from its annotations. A row is
never changed in place; a decision replaces it (``msgspec.structs.replace``) and hands the new one to ``Work.update``.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

import msgspec
from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine


def ascii_string(length: int) -> TypeEngine[str]:
    """A string of ASCII compared byte by byte: ids, states, codes."""
    variant = mysql.VARCHAR(length, charset="ascii", collation="ascii_bin")
    return String(length).with_variant(variant, "mysql", "mariadb")


def utf8_string(length: int) -> TypeEngine[str]:
    """A string for people."""
    variant = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return String(length).with_variant(variant, "mysql", "mariadb")


Id = Annotated[str, ascii_string(32)]
Code = Annotated[str, ascii_string(32)]  # a state, kind or reason constant
Name = Annotated[str, ascii_string(64)]  # an owner, a request id, a reference
LongName = Annotated[str, ascii_string(160)]  # a composed key
Title = Annotated[str, utf8_string(255)]
LongText = Annotated[str, Text().with_variant(mysql.MEDIUMTEXT(charset="utf8mb4"), "mysql", "mariadb")]
Blob = Annotated[bytes, LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")]
Millis = Annotated[int, BigInteger()]  # Unix milliseconds
Minor = Annotated[int, BigInteger()]  # minor units of a currency
Small = Annotated[int, Integer()]


class Row(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What every row has. ``version`` starts at 1 and steps by one with every change; the executor keeps it.

    Stored results hold rows as arrays: a new column goes to the end of its class and has a default.
    """

    __entity__: ClassVar[str]  # the table's name
    __table__: ClassVar[Table]
    __columns__: ClassVar[tuple[str, ...]]
    __unique__: ClassVar[frozenset[str]]

    id: Id
    slot: Small
    version: Millis = 1


RowT = TypeVar("RowT", bound=Row)


def mapped(
    metadata: MetaData, name: str, *, unique: Sequence[str] = (), index: Sequence[tuple[str, ...]] = ()
) -> Callable[[type[RowT]], type[RowT]]:
    """Derives the table ``name`` from the annotations of a Row class.

    ``unique``: columns that are unique keys by themselves. ``index``: column tuples to index. Both are given names
    that migrations can refer to (``uq_<table>_<column>``, ``ix_<table>_<columns>``).
    """

    def decorate(cls: type[RowT]) -> type[RowT]:
        hints = typing.get_type_hints(cls, include_extras=True)
        fields = msgspec.structs.fields(cls)
        columns = [_column(field.name, hints[field.name]) for field in fields]
        indexes = [Index(f"uq_{name}_{column}", column, unique=True) for column in unique]
        indexes += [Index(f"ix_{name}_{'_'.join(names)}", *names) for names in index]
        cls.__table__ = Table(name, metadata, *columns, *indexes, mysql_engine="InnoDB", mysql_charset="utf8mb4")
        cls.__entity__ = name
        cls.__columns__ = tuple(field.name for field in fields)
        cls.__unique__ = frozenset(unique) | {"id"}
        return cls

    return decorate


def _column(name: str, hint: Any) -> Column[Any]:
    nullable = False
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        (hint,) = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        nullable = True
    assert typing.get_origin(hint) is Annotated, f"column {name} needs an annotated column type, not {hint}"
    return Column(name, typing.get_args(hint)[1], nullable=nullable, primary_key=name == "id", autoincrement=False)


class Key(NamedTuple):
    """Rows that a command reads and locks: those of ``row_type`` whose ``column`` equals ``value``.

    The column is the id, a unique key, or an indexed reference to a parent row. Reading by reference is sound only
    when the parent is read too: its lock is what keeps other commands from adding children.
    """

    row_type: type[Row]
    column: str
    value: str


def key(row_type: type[Row], value: str, column: str = "id") -> Key:
    """The key of rows of ``row_type`` whose ``column`` is ``value``."""
    return Key(row_type, column, value)
