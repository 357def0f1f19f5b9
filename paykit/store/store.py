"""The store of one service: routes commands and reads to the shard of their slot, live or shadow."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Executable, Select, select
from sqlalchemy.exc import DBAPIError

from paykit.clock import Clock
from paykit.errors import ConfigurationError, FailedPrecondition, Unavailable
from paykit.settings import ExecutorSettings, ShardSettings
from paykit.store.command import Command, Previewed, R
from paykit.store.engines import ShardEngines, read_errors
from paykit.store.executor import ShardExecutor
from paykit.store.finder import Finder
from paykit.store.queries import Query
from paykit.store.reads import Snapshot, as_tuples, open_snapshot
from paykit.store.row import RowT
from paykit.store.shard_map import ShardMap
from paykit.store.statements import as_rows
from paykit.store.system import Outbox, ShardEpoch

CommitCallback = Callable[[str, str, list[Outbox]], None]

_OUTBOX_GRACE_MS = 5_000  # a fresh outbox row belongs to the relay of the process that wrote it


class Store:
    """All shards of one service."""

    def __init__(
        self,
        service: str,
        shards: Mapping[str, ShardSettings],
        epoch: int,
        clock: Clock,
        settings: ExecutorSettings,
    ) -> None:
        self.service = service
        self.clock = clock
        self.map = ShardMap(shards, epoch)
        self._shards = dict(shards)
        self._settings = settings
        self._executors: dict[tuple[str, str], ShardExecutor] = {}
        self._callbacks: list[CommitCallback] = []
        self._finder = Finder(self._query)

    async def start(self) -> None:
        """Opens every shard; ConfigurationError where one is unreachable, wrongly set, or not the one it should be."""
        for name, shard in self._shards.items():
            for mode, url in (("live", shard.live), ("shadow", shard.shadow)):
                if url is not None:
                    await self._open(mode, name, url)

    async def _open(self, mode: str, name: str, url: str) -> None:
        engines = ShardEngines(url, self._settings)
        try:
            await engines.assert_settings()
            await self._assert_identity(engines, mode, name)
        except BaseException:
            await engines.dispose()
            raise
        self._executors[mode, name] = ShardExecutor(
            mode, name, engines, self.map.epoch, self.clock, self._settings, self._committed, _OUTBOX_GRACE_MS
        )

    async def _assert_identity(self, engines: ShardEngines, mode: str, name: str) -> None:
        try:
            async with engines.reader.connect() as connection:
                found = (await connection.execute(select(ShardEpoch.__table__))).first()
        except DBAPIError as error:
            raise ConfigurationError(f"database {engines.address} has no schema: run the migrations first") from error
        wanted = (self.service, name, mode, self.map.epoch)
        if found is None or (found.service, found.shard, found.mode, found.epoch) != wanted:
            held = "nothing" if found is None else f"{found.mode} {found.service}/{found.shard} epoch {found.epoch}"
            raise ConfigurationError(
                f"database {engines.address} holds {held}; the configuration says {mode} {self.service}/{name} "
                f"epoch {self.map.epoch}"
            )

    async def stop(self) -> None:
        """Carries out what waits and closes everything."""
        await asyncio.gather(*(executor.stop() for executor in self._executors.values()))
        self._executors.clear()

    def subscribe(self, callback: CommitCallback) -> None:
        """``callback(mode, shard, outbox_rows)`` runs after each commit that wrote outbox rows; it must not block."""
        self._callbacks.append(callback)

    def _committed(self, mode: str, shard: str, rows: list[Outbox]) -> None:
        for callback in self._callbacks:
            callback(mode, shard, rows)

    def modes(self) -> list[str]:
        """The sides that exist: "live", and "shadow" where every shard has one."""
        return [mode for mode in ("live", "shadow") if all((mode, name) in self._executors for name in self.map.names)]

    def shards(self, mode: str) -> list[str]:
        """The names of the shards of a side."""
        return [name for name in self.map.names if (mode, name) in self._executors]

    def executor(self, mode: str, shard: str) -> ShardExecutor:
        """The executor of one shard; FailedPrecondition (SHADOW_UNAVAILABLE) where the side does not exist."""
        found = self._executors.get((mode, shard))
        if found is None:
            if mode == "shadow":
                raise FailedPrecondition("this service has no shadow databases", reason="SHADOW_UNAVAILABLE")
            raise Unavailable("the store is not open", reason="STOPPING", retry_after_ms=500)
        return found

    async def run(self, command: Command[R]) -> R:
        """Carries out a command on the shard of its slot; its result once committed, or its error."""
        return await self.submit(command)

    def submit(self, command: Command[R]) -> asyncio.Future[R]:
        """As ``run``, for who has many: no task waits for each. Raises at once where it cannot be queued."""
        return self.executor(command.origin.context.mode, self.map.shard_of(command.slot)).submit(command)

    async def preview(self, command: Command[R]) -> Previewed[R]:
        """What ``run`` would decide now, without any effect; or its error.

        It is decided on the same locked rows, after the commands before it, and discarded. A recorded first result
        neither answers nor blocks it, and it leaves no record.
        """
        mode = command.origin.context.mode
        previewed: Previewed[R] = await self.executor(mode, self.map.shard_of(command.slot)).preview(command)
        return previewed

    async def fetch(self, row_type: type[RowT], statement: Select[Any], *, slot: int, shadow: bool) -> list[RowT]:
        """Rows of one shard that decide nothing. ``statement`` selects all columns of the row's table."""
        return await self.fetch_shard(row_type, statement, "shadow" if shadow else "live", self.map.shard_of(slot))

    async def fetch_shard(self, row_type: type[RowT], statement: Select[Any], mode: str, shard: str) -> list[RowT]:
        """As ``fetch``, by the shard's name."""
        return as_rows(row_type, await self._read(statement, mode, shard))

    async def _read(self, statement: Select[Any], mode: str, shard: str) -> Sequence[Any]:
        executor = self.executor(mode, shard)
        with read_errors():
            async with asyncio.timeout(self._settings.statement_timeout_s):
                async with executor.engines.reader.connect() as connection:
                    found: Sequence[Any] = (await connection.execute(statement)).all()
                    return found

    async def fetch_everywhere(self, row_type: type[RowT], statement: Select[Any], *, shadow: bool) -> list[RowT]:
        """As ``fetch``, from all shards of a side, in the order of the shards."""
        mode = "shadow" if shadow else "live"
        parts = await asyncio.gather(
            *(self.fetch_shard(row_type, statement, mode, shard) for shard in self.shards(mode))
        )
        return [row for part in parts for row in part]

    async def get(
        self, row_type: type[RowT], value: str, column: str = "id", *, slot: int, shadow: bool
    ) -> RowT | None:
        """The row whose id or other unique key is ``value``; it decides nothing. Many share a read."""
        return await self._finder.find(row_type, column, value, "shadow" if shadow else "live", self.map.shard_of(slot))

    async def query_everywhere(self, query: Query, *values: Sequence[str], shadow: bool) -> list[Sequence[Any]]:
        """The records that ``query`` finds for its lists of values on all shards of a side; they decide nothing."""
        mode = "shadow" if shadow else "live"
        parts = await asyncio.gather(
            *(self._query(query, *values, mode=mode, shard=shard) for shard in self.shards(mode))
        )
        return [record for part in parts for record in part]

    async def _query(self, query: Query, *values: Sequence[str], mode: str, shard: str) -> Sequence[Sequence[Any]]:
        executor = self.executor(mode, shard)
        with read_errors():
            async with asyncio.timeout(self._settings.statement_timeout_s):
                async with executor.engines.reader.connect() as connection:
                    return await connection.run_sync(query.read, *values)

    async def aggregate(self, mode: str, shard: str, statement: Select[Any]) -> list[tuple[Any, ...]]:
        """Tuples of whatever ``statement`` selects from one shard (counts, sums: integers); it decides nothing."""
        return as_tuples(await self._read(statement, mode, shard))

    def snapshot(self, slot: int, *, shadow: bool) -> contextlib.AbstractAsyncContextManager[Snapshot]:
        """For reads that decide nothing but must agree: ``async with store.snapshot(slot, shadow=…) as snapshot``.

        All reads of the block see one state of the slot's shard. It locks nothing, and no call to the outside may be
        made in it. Unavailable where the shard is away, too busy, or the block lasts longer than a statement may.
        """
        executor = self.executor("shadow" if shadow else "live", self.map.shard_of(slot))
        return open_snapshot(executor.engines.snapshots, self._settings.statement_timeout_s)

    async def housekeep(self, mode: str, shard: str, statement: Executable, parameters: Any = None) -> int:
        """One bulk statement (acknowledging, pruning) in a transaction of its own; the rows it matched."""
        return await self.executor(mode, shard).housekeep(statement, parameters)
