"""The schema that migrations make is the one that tables.py declares."""

from __future__ import annotations

from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from paykit.store.migrate import migrate
from recon.tables import metadata
from tests.conftest import MakeShards


def _differences(connection: Connection) -> list[Any]:
    def is_ours(item: Any, name: str | None, type_: str, is_reflected: bool, compared: Any) -> bool:
        return not (type_ == "table" and is_reflected and compared is None)  # paykit's own tables

    context = MigrationContext.configure(connection, opts={"include_object": is_ours, "compare_type": True})
    return list(compare_metadata(context, metadata))


async def test_migrations_make_what_the_tables_declare(make_shards: MakeShards) -> None:
    shards = make_shards(1, modes=("live",))
    await migrate("recon", shards, 1)
    engine = create_async_engine(shards["s0"].live)
    try:
        async with engine.connect() as connection:
            assert await connection.run_sync(_differences) == []
    finally:
        await engine.dispose()
