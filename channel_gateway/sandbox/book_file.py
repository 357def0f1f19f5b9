"""The book's file: opening it, and reading and writing entries. Runs on the book's own thread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Column, Connection, RowMapping, create_engine, event, insert, inspect
from sqlalchemy.pool import NullPool

from channel_gateway.sandbox.book_tables import (
    ENTRY_FIELDS,
    FIND,
    FIND_PROVIDERS,
    REPLACED_INDEXES,
    WAITING,
    deed_table,
    entry_table,
    metadata,
    notification_table,
)
from channel_gateway.sandbox.entries import Decision, Deed, Entry, Notification


def open_book(path: Path) -> Connection:
    """A connection to the file, made or extended as this version needs it."""
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool, connect_args={"isolation_level": None})

    @event.listens_for(engine, "connect")
    def _prepare(dbapi_connection: Any, _record: Any) -> None:
        cursor = dbapi_connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA busy_timeout=5000")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    connection = engine.connect()
    with connection.begin():
        metadata.create_all(connection)
        _extend(connection)
    return connection


def _extend(connection: Connection) -> None:
    """Gives a book of an earlier version the columns and indexes that it lacks; what must be gone, goes."""
    operations = Operations(MigrationContext.configure(connection))
    for table in metadata.tables.values():
        known = {column["name"] for column in inspect(connection).get_columns(table.name)}
        for column in table.columns:
            if column.name not in known:
                operations.add_column(
                    table.name,
                    Column(column.name, column.type, nullable=column.nullable, server_default=column.server_default),
                )
    for name in REPLACED_INDEXES:
        operations.drop_index(name, if_exists=True)
    for index in entry_table.indexes:
        index.create(connection, checkfirst=True)


def as_entry(row: Sequence[Any]) -> Entry:
    """The entry that a row of ENTRY_FIELDS is."""
    return Entry(**dict(zip(ENTRY_FIELDS, row, strict=True)))


def as_deed(row: RowMapping) -> Deed:
    """The deed that a row is."""
    return msgspec.convert({name: row[name] for name in Deed.__struct_fields__}, Deed)


def load_entries(connection: Connection, statement: Any, values: set[str]) -> list[Entry]:
    """What a statement over ``values`` finds; nothing is asked where there are none."""
    if not values:
        return []
    return [as_entry(row) for row in connection.execute(statement, {"values": sorted(values)})]


def by_reference(connection: Connection, references: set[str]) -> dict[tuple[str, str], Entry]:
    """Entries by (account, reference)."""
    return {(entry.account, entry.reference): entry for entry in load_entries(connection, FIND, references)}


def by_provider_reference(connection: Connection, references: set[str]) -> dict[tuple[str, str], Entry]:
    """Entries by (account, provider reference): of what was booked twice, each."""
    return {
        (entry.account, entry.provider_reference): entry
        for entry in load_entries(connection, FIND_PROVIDERS, references)
    }


def write(connection: Connection, decisions: Sequence[Decision]) -> None:
    """Adds what was decided: entries, and the notifications that wait."""
    if decisions:
        entries = [entry for d in decisions for entry in (d.entry, d.again) if entry is not None]
        connection.execute(insert(entry_table), [msgspec.structs.asdict(entry) for entry in entries])
    write_notifications(connection, [n for decision in decisions for n in decision.notifications])


def write_notifications(connection: Connection, notifications: Sequence[Notification]) -> None:
    """Adds notifications that wait."""
    if notifications:
        rows = [msgspec.structs.asdict(n) | {"state": WAITING} for n in notifications]
        connection.execute(insert(notification_table), rows)


def write_deeds(connection: Connection, deeds: Sequence[Deed]) -> None:
    """Adds what was done to calls."""
    if deeds:
        connection.execute(insert(deed_table), [msgspec.structs.asdict(deed) for deed in deeds])
