"""A copied schema is the migrated one."""

from __future__ import annotations

from paykit.settings import ExecutorSettings, ShardSettings
from paykit.store.engines import ShardEngines
from paykit.store.migrate import migrate
from tests import schema
from tests.conftest import MakeShards


async def made(shard: ShardSettings) -> schema.Schema:
    """The schema of a database."""
    engines = ShardEngines(shard.live, ExecutorSettings())
    try:
        async with engines.writer.connect() as connection:
            return await connection.run_sync(schema.read)
    finally:
        await engines.dispose()


async def test_a_copy_is_what_the_migrations_make(make_shards: MakeShards) -> None:
    by_migration, by_copy = make_shards(1, ("live",)), make_shards(3, ("live",))
    await migrate("channel_gateway", by_migration, 1)
    await schema.make_schema("channel_gateway", by_copy)  # the first of them may be migrated, the last is a copy
    wanted = await made(by_migration["s0"])
    assert [await made(shard) for shard in by_copy.values()] == [wanted] * 3
    assert wanted.versions.keys() == {"schema_version_paykit", "schema_version_channel_gateway"}
    assert all(wanted.versions.values())
