"""Bulk statements: one per table and batch. Built by SQLAlchemy Core once per shape, kept as driver SQL."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Connection, Dialect, Select, bindparam, case, insert, select, update

from paykit.store.row import Row, RowT


class StaleRow(Exception):
    """A compare-and-set matched fewer rows than it should: somebody else changed one."""


@lru_cache(maxsize=1024)
def _select(row_type: type[Row], column: str, lock: bool) -> Select[Any]:
    table = row_type.__table__
    by = table.c[column]
    statement = select(table).where(by.in_(bindparam("values", expanding=True))).order_by(table.c.id)
    return statement.with_for_update() if lock else statement


def load(connection: Connection, row_type: type[RowT], column: str, values: Sequence[str], lock: bool) -> list[RowT]:
    """The rows whose ``column`` is one of ``values``, locked for the transaction where ``lock`` says so."""
    names = row_type.__columns__
    found = connection.execute(_select(row_type, column, lock), {"values": values})
    return [row_type(**dict(zip(names, record, strict=True))) for record in found.cursor.fetchall()]


@lru_cache(maxsize=256)
def _insert(row_type: type[Row], dialect: Dialect) -> str:
    return str(insert(row_type.__table__).compile(dialect=dialect))


def insert_rows(connection: Connection, row_type: type[Row], rows: Sequence[Row]) -> None:
    """Inserts all rows with one multi-row statement."""
    sql = _insert(row_type, connection.dialect)
    connection.exec_driver_sql(sql, [msgspec.structs.astuple(row) for row in rows])


@lru_cache(maxsize=2048)
def _update(row_type: type[Row], columns: tuple[str, ...], count: int, dialect: Dialect) -> tuple[str, tuple[str, ...]]:
    """The statement and the order of its parameters for ``count`` rows: ids k0…, versions v0…, values <column>.0…"""
    table = row_type.__table__
    keys = [bindparam(f"k{i}", type_=table.c.id.type) for i in range(count)]

    def by_id(column: str, name: str) -> Any:
        kind = table.c[column].type
        return case(*[(keys[i], bindparam(f"{name}{i}", type_=kind)) for i in range(count)], value=table.c.id)

    statement = (
        update(table)
        .values({column: by_id(column, f"{column}_") for column in columns} | {"version": by_id("version", "w")})
        # The ids alone first: the tuple of id and version would not use the primary key on every server.
        .where(table.c.id.in_(keys), table.c.version == by_id("version", "v"))
    )
    compiled = statement.compile(dialect=dialect)
    assert compiled.positiontup is not None
    return str(compiled), tuple(compiled.positiontup)


def update_rows(connection: Connection, row_type: type[Row], changes: Sequence[tuple[Row, Row]]) -> None:
    """Compare-and-set of all (before, after) pairs with one statement; StaleRow where any was changed meanwhile."""
    columns = changed_columns(row_type, changes)
    count = 1 << (len(changes) - 1).bit_length()  # few shapes: padded to a power of two by repeating the last pair
    sql, order = _update(row_type, columns, count, connection.dialect)
    values: dict[str, Any] = {}
    for i in range(count):
        before, after = changes[min(i, len(changes) - 1)]
        values[f"k{i}"] = after.id
        values[f"v{i}"] = before.version
        values[f"w{i}"] = after.version
        for column in columns:
            values[f"{column}_{i}"] = getattr(after, column)
    matched = connection.exec_driver_sql(sql, tuple([values[name] for name in order])).rowcount
    if matched != len(changes):
        raise StaleRow(f"{row_type.__table__.name}: {matched} of {len(changes)} rows matched")


def changed_columns(row_type: type[Row], changes: Sequence[tuple[Row, Row]]) -> tuple[str, ...]:
    """The columns, but for the version, in which any pair differs."""
    return tuple(
        column
        for column in row_type.__columns__
        if column != "version" and any(getattr(before, column) != getattr(after, column) for before, after in changes)
    )
