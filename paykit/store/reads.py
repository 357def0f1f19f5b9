"""Reads that decide nothing: what they give, and snapshots, in which several of them see one state of a shard."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from paykit.errors import Unavailable
from paykit.store.engines import read_errors
from paykit.store.guard import transaction_open
from paykit.store.queries import Query
from paykit.store.row import RowT
from paykit.store.statements import as_rows


def as_tuples(found: Iterable[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """Records of any columns. Sums of integers are integers: MySQL calls them DECIMAL."""
    return [tuple([_plain(value) for value in record]) for record in found]


def _plain(value: Any) -> Any:
    return int(value) if type(value) is Decimal and value.as_tuple().exponent == 0 else value


class Snapshot:
    """One state of a shard, as it was at the first read: all reads see it, whatever is committed meanwhile.

    It locks nothing and lasts no longer than a statement may. Reads run one after another.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()  # a connection carries one statement at a time

    async def fetch(self, row_type: type[RowT], statement: Select[Any]) -> list[RowT]:
        """Rows. ``statement`` selects all columns of the row's table. Unavailable where the shard is away."""
        return as_rows(row_type, await self._read(statement))

    async def rows(self, statement: Select[Any]) -> list[tuple[Any, ...]]:
        """Tuples of whatever ``statement`` selects (counts, sums: integers). Unavailable where the shard is away."""
        return as_tuples(await self._read(statement))

    async def query(self, query: Query, *values: Sequence[str]) -> Sequence[Sequence[Any]]:
        """The records that ``query`` finds for its lists of values. Unavailable where the shard is away."""
        with read_errors():
            async with self._turn:
                return await self._connection.run_sync(query.read, *values)

    async def _read(self, statement: Select[Any]) -> Sequence[Any]:
        with read_errors():
            async with self._turn:
                found: Sequence[Any] = (await self._connection.execute(statement)).all()
                return found


@contextlib.asynccontextmanager
async def open_snapshot(engine: AsyncEngine, timeout_s: float) -> AsyncIterator[Snapshot]:
    """A snapshot that ends with the block, or after ``timeout_s``: then the block is left with Unavailable.

    As in any transaction, no call to the outside may be made in it: the connection is one of few, and what it sees
    keeps the server from dropping old versions of rows.
    """
    bound = asyncio.timeout(timeout_s)
    try:
        async with bound, _connected(engine, timeout_s) as connection:
            with transaction_open():
                yield Snapshot(connection)
    except TimeoutError as error:
        if not bound.expired():
            raise  # the caller's own
        raise Unavailable("the shard cannot be read in time now", retry_after_ms=500) from error


@contextlib.asynccontextmanager
async def _connected(engine: AsyncEngine, timeout_s: float) -> AsyncIterator[AsyncConnection]:
    connection = engine.connect()
    with read_errors():
        await connection.start()
    try:
        yield connection
    finally:
        # Ends the transaction. Bounded by itself: the time of the block may be up, and the server silent.
        with read_errors():
            async with asyncio.timeout(timeout_s):
                await connection.close()
