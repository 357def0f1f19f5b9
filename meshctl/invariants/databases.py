"""Reads the databases of all services, each as it was at one moment, in pages; nothing is ever written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import Select, bindparam, event, func, make_url, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from paykit.errors import ConfigurationError
from paykit.store.row import Row
from paykit.store.system import ShardEpoch

PAGE_ROWS = 1000
CONNECT_TIMEOUT_S = 5
BUSY_TIMEOUT_S = 10


def reading_engine(url: str) -> AsyncEngine:
    """An engine that cannot write; ConfigurationError where a SQLite file does not exist (it would be made)."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        arguments = {
            "charset": "utf8mb4",
            "connect_timeout": CONNECT_TIMEOUT_S,
            "init_command": "SET SESSION TRANSACTION READ ONLY",
        }
        return create_async_engine(url, poolclass=NullPool, isolation_level="REPEATABLE READ", connect_args=arguments)
    if parsed.database is None or not Path(parsed.database).is_file():
        raise ConfigurationError(f"database {parsed.render_as_string()} does not exist")
    # Without isolation_level=None the driver would begin no transaction for a SELECT: every page another moment.
    arguments = {"isolation_level": None, "timeout": BUSY_TIMEOUT_S}
    engine = create_async_engine(url, poolclass=NullPool, connect_args=arguments)

    def prepare(dbapi_connection: Any, record: Any) -> None:
        cursor = dbapi_connection.cursor()
        cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    event.listen(engine.sync_engine, "connect", prepare)
    event.listen(engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


class Snapshot:
    """One database in one read-only transaction: whatever is read is from the moment of ``open``."""

    def __init__(self, service: str, shard: str, mode: str, url: str) -> None:
        self.service, self.shard, self.mode = service, shard, mode
        self._engine = reading_engine(url)
        self._address = make_url(url).render_as_string(hide_password=True)
        self._connection: AsyncConnection | None = None

    async def open(self) -> None:
        """Fixes the moment; ConfigurationError names a database that cannot be read or has no schema."""
        try:
            self._connection = await self._engine.connect()
            await self._connection.execute(select(ShardEpoch.__table__))
        except (DBAPIError, OSError) as error:
            cause = getattr(error, "orig", error)
            raise ConfigurationError(f"database {self._address} cannot be read: {cause}") from error

    async def close(self) -> None:
        """Ends the transaction."""
        if self._connection is not None:
            await self._connection.close()
        await self._engine.dispose()

    async def counts(self, row_types: Sequence[type[Row]]) -> dict[type[Row], int]:
        """How many rows each of these tables has."""
        counts = [select(func.count()).select_from(row_type.__table__).scalar_subquery() for row_type in row_types]
        found = (await self._open_connection.execute(select(*counts))).one()
        return dict(zip(row_types, found, strict=True))

    async def rows(self, row_type: type[Row]) -> AsyncIterator[Row]:
        """All rows of a table by id, a page at a time."""
        names, after = row_type.__columns__, ""
        while True:
            found = await self._open_connection.execute(_page(row_type), {"after": after})
            page = [row_type(**dict(zip(names, record, strict=True))) for record in found]
            for row in page:
                yield row
            if len(page) < PAGE_ROWS:
                return
            after = page[-1].id

    @property
    def _open_connection(self) -> AsyncConnection:
        assert self._connection is not None, "the snapshot is not open"
        return self._connection


@lru_cache(maxsize=64)
def _page(row_type: type[Row]) -> Select[Any]:
    table = row_type.__table__
    return select(table).where(table.c.id > bindparam("after")).order_by(table.c.id).limit(PAGE_ROWS)
