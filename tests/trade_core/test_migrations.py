"""The migrations make exactly the tables that the code declares."""

from __future__ import annotations

from typing import Any

from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect

from tests.trade_core.support import Bench
from trade_core.tables import metadata


def _shape(connection: Connection) -> dict[str, Any]:
    """Columns with type and nullability, primary key and indexes, of each table of trade_core."""
    found = inspect(connection)
    dialect = connection.dialect
    return {
        name: (
            [(c["name"], c["type"].compile(dialect=dialect), c["nullable"]) for c in found.get_columns(name)],
            found.get_pk_constraint(name)["constrained_columns"],
            sorted((i["name"], tuple(i["column_names"]), bool(i["unique"])) for i in found.get_indexes(name)),
            found.get_table_options(name),
        )
        for name in sorted(metadata.tables)
    }


def _rebuild(connection: Connection) -> None:
    metadata.drop_all(connection)
    metadata.create_all(connection)


def _revision(connection: Connection) -> str | None:
    options = {"version_table": "schema_version_trade_core"}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


async def test_migrated_tables_are_the_declared_ones(bench: Bench) -> None:
    engines = bench.store.executor("live", "s0").engines
    async with engines.writer.connect() as connection:
        migrated = await connection.run_sync(_shape)
        assert await connection.run_sync(_revision) == "trade_0005"
        await connection.run_sync(_rebuild)
        await connection.commit()
    async with engines.writer.connect() as connection:
        declared = await connection.run_sync(_shape)
        await connection.rollback()
    assert migrated == declared
    assert set(migrated) == {
        "trade",
        "trade_line",
        "trade_relation",
        "pay_attempt",
        "merchant_trade",
        "compensation",
    }
