"""Migrations: every chain gives exactly the tables the code has, and may be run again."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData, Table, inspect

from paykit.settings import ExecutorSettings
from paykit.store import system
from paykit.store.engines import ShardEngines
from paykit.store.migrate import migrate
from tests.conftest import MakeShards

SERVICES = ("trade_core", "pay_core", "channel_gateway", "recon")
LEFT_BEHIND = {"recon_match"}  # what a version that is still running may read, and this one does not


def differences(connection: Connection, service: str) -> list[Any]:
    """What Alembic would still change to make the database what the code's tables say."""
    wanted = MetaData()
    for metadata in (system.metadata, importlib.import_module(f"{service}.tables").metadata):
        for table in metadata.tables.values():
            Table.to_metadata(table, wanted)
    context = MigrationContext.configure(
        connection,
        opts={
            "compare_type": True,
            "include_object": lambda _object, name, kind, _reflected, _compared: (
                not (kind == "table" and (name.startswith("schema_version_") or name in LEFT_BEHIND))
            ),
        },
    )
    return list(compare_metadata(context, wanted))


@pytest.mark.parametrize("service", SERVICES)
async def test_gives_every_service_the_tables_of_its_code(service: str, make_shards: MakeShards) -> None:
    shards = make_shards(1, ("live", "shadow"))
    await migrate(service, shards, 1)
    await migrate(service, shards, 1)
    for url in (shards["s0"].live, shards["s0"].shadow):
        assert url is not None
        engines = ShardEngines(url, ExecutorSettings())
        async with engines.reader.connect() as connection:
            assert await connection.run_sync(differences, service) == []
            names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        await engines.dispose()
        assert {"command_record", "outbox", "dead_letter", "shard_epoch"} <= set(names)
