"""A small system whose services answer for their records over gRPC, and the sweep that compares them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
from sqlalchemy import delete, event, select

from channel_gateway import records as channel_records
from pay_core import records as pay_records
from paykit import context as business
from paykit.context import use
from paykit.record_api import RecordApi
from paykit.records import RecordKind
from paykit.rpc.channels import Channels
from paykit.rpc.server import Server
from paykit.store.row import Row
from paykit.store.store import Store
from paymesh.ops.v1 import record_service_pb2_grpc
from recon.rules import SweepRules
from recon.sweep import Sweeper
from recon.sweep_commands import sweep_id
from recon.sweep_peers import RecordPeers
from recon.tables import LateRecord, Match, RecordedOrder, Sweep
from tests.meshctl.invariants.small_world import SmallWorld
from tests.recon.support import rules
from trade_core import records as trade_records

SOURCES = {
    "trade_core": trade_records.SOURCES,
    "pay_core": pay_records.SOURCES,
    "channel_gateway": channel_records.SOURCES,
}
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
RULES = SweepRules(
    interval_ms=60_000,
    ages_ms=(15_000, HOUR_MS, DAY_MS),
    span_max_ms=DAY_MS // 2,
    begin_back_ms=HOUR_MS,
    timeout_s=20.0,
    rows_max=2000,
)
ALL = tuple(RecordKind)


class Swept:
    """A small system and its sweep."""

    def __init__(self, world: SmallWorld, channels: Channels) -> None:
        self.world = world
        self.channels = channels
        self.store = world.stores["recon"]
        self.sweeper = self.another()

    def another(self, sweep_rules: SweepRules = RULES, store: Store | None = None) -> Sweeper:
        """A sweeper, as another process has one."""
        return Sweeper(store or self.store, RecordPeers(self.channels), rules(), sweep_rules)

    async def compare(self, *, shadow: bool = False, sweeper: Sweeper | None = None) -> list[RecordKind]:
        """Compares all that ever ended; the kinds for which that could be done."""
        now_ms = self.world.clock.now_ms()
        with use(business.mint(0, now_ms, shadow=shadow, caller="test")):
            return await (sweeper or self.sweeper).compare(ALL, now_ms - DAY_MS // 2, now_ms + 1)

    async def position(self, level: int = 0) -> Sweep:
        """How far an age has come."""
        found = await self.store.get(Sweep, sweep_id(level), slot=0, shadow=False)
        assert found is not None
        return found

    async def fire(self, level: int = 0, sweeper: Sweeper | None = None) -> None:
        """What the timer does for a row that is due."""
        position = await self.position(level)
        with use(business.unpack(position.context)):
            await (sweeper or self.sweeper).fire(position)

    async def forget(self, *row_types: type[Row], where: Any = None, mode: str = "live") -> None:
        """Rows of recon are gone."""
        for row_type in row_types:
            statement = delete(row_type.__table__)
            for shard in self.store.shards(mode):
                await self.store.housekeep(mode, shard, statement if where is None else statement.where(where))

    async def forget_all(self) -> None:
        """recon has never heard of anything: the bus lost every event."""
        for mode in self.store.modes():
            await self.forget(Match, RecordedOrder, LateRecord, mode=mode)

    async def rows(self, row_type: type[Row], *, shadow: bool = False) -> list[Any]:
        """All rows of a table of recon, by id."""
        found = await self.store.fetch_everywhere(row_type, select(row_type.__table__), shadow=shadow)
        return sorted(found, key=lambda row: row.id)


@asynccontextmanager
async def sweeping(world: SmallWorld) -> AsyncIterator[Swept]:
    """Serves the records of all services of an open system."""
    async with AsyncExitStack() as stack:
        addresses = {}
        for name, sources in SOURCES.items():
            server = Server("127.0.0.1:0")
            api = RecordApi(world.stores[name], sources)
            server.add(record_service_pb2_grpc.add_RecordServiceServicer_to_server, api)
            addresses[name] = f"127.0.0.1:{await server.start()}"
            stack.push_async_callback(server.stop, 1.0)
        channels = Channels(addresses)
        stack.push_async_callback(channels.close, 1.0)
        yield Swept(world, channels)


class Statements:
    """Counts what is read from the shards of some stores while it is open."""

    def __init__(self, *stores: Store) -> None:
        self.texts: list[str] = []
        self._engines = [
            store.executor(mode, shard).engines.reader.sync_engine
            for store in stores
            for mode in store.modes()
            for shard in store.shards(mode)
        ]

    def _note(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        self.texts.append(statement)

    def __enter__(self) -> Statements:
        for engine in self._engines:
            event.listen(engine, "before_cursor_execute", self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for engine in self._engines:
            event.remove(engine, "before_cursor_execute", self._note)


def without_times(match: Match) -> Any:
    """A match, but for when things were heard of and how it came to be."""
    return msgspec.structs.replace(match, version=1, sides=b"", waiting_since_ms=None, context=b"", due_at_ms=None)
