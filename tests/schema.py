"""The schema of a service on empty databases, for tests by the hundred: migrated once, copied from then on.

On MariaDB each statement of a migration is made durable by itself: a copy, whose tables have their indexes from the
start, takes a fifth of the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import Connection, TableClause, column, insert, inspect, make_url, select, table, text

from paykit.settings import ExecutorSettings, ShardSettings
from paykit.store.engines import ShardEngines
from paykit.store.migrate import migrate, set_epoch


class Schema(NamedTuple):
    """The statements that make it, and what the migrations noted of how far they came, by table."""

    statements: list[str]
    versions: dict[str, list[str]]


_schemas: dict[tuple[str, str], Schema] = {}  # by service and kind of database


async def make_schema(service: str, shards: Mapping[str, ShardSettings]) -> None:
    """The schema of a service on all its shards, live and shadow, which must be empty; at epoch 1."""
    places = [
        (name, mode, url)
        for name, shard in shards.items()
        for mode, url in (("live", shard.live), ("shadow", shard.shadow))
        if url is not None
    ]
    kind = make_url(places[0][2]).get_backend_name()
    if (service, kind) not in _schemas:
        name, _, url = places.pop(0)  # a live one
        await _learn(service, kind, name, url)
    schema = _schemas[service, kind]
    await asyncio.gather(*(_make(schema, service, name, mode, url) for name, mode, url in places))


async def _make(schema: Schema, service: str, shard: str, mode: str, url: str) -> None:
    engines = ShardEngines(url, ExecutorSettings())
    try:
        async with engines.writer.connect() as connection:
            await connection.run_sync(_copy, schema)
            await connection.run_sync(set_epoch, service, shard, mode, 1)
            await connection.commit()
    finally:
        await engines.dispose()


async def _learn(service: str, kind: str, shard: str, url: str) -> None:
    """Migrates a first database, and keeps what has become of it."""
    await migrate(service, {shard: ShardSettings(live=url)}, 1)
    engines = ShardEngines(url, ExecutorSettings())
    try:
        async with engines.writer.connect() as connection:
            _schemas[service, kind] = await connection.run_sync(read)
    finally:
        await engines.dispose()


def read(connection: Connection) -> Schema:
    """The schema of a database that has been migrated."""
    names = inspect(connection).get_table_names()
    if connection.dialect.name == "sqlite":
        statements = connection.execute(text("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")).scalars().all()
    else:
        quote = connection.dialect.identifier_preparer.quote
        statements = [connection.exec_driver_sql(f"SHOW CREATE TABLE {quote(name)}").one()[1] for name in names]
    noted = [name for name in names if name.startswith("schema_version_")]
    assert noted
    versions = {name: list(connection.execute(select(_noted(name))).scalars()) for name in noted}
    return Schema(list(statements), versions)


def _copy(connection: Connection, schema: Schema) -> None:
    for statement in schema.statements:
        connection.exec_driver_sql(statement)
    for name, versions in schema.versions.items():
        for version in versions:
            connection.execute(insert(_noted(name)).values(version_num=version))


def _noted(name: str) -> TableClause:
    return table(name, column("version_num"))
