"""What the databases alone could take: a bare script that writes the rows of real purchases, and nothing else.

``sample`` lets real purchases happen on a fresh stack and takes the rows that they wrote, in all tables of all
services. Run as a module, this writes copies of them with new ids into scratch databases of the same schema on the
same servers, with the multi-row INSERTs that the services write, 64 purchases in a transaction of each database. Copies
are made before the clock runs: what is measured is formatting, sending, writing and committing.

Accounts, books and the like are left out: purchases change them, and seldom add one. A row that a purchase writes and
later changes is written once, as it was in the end.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import re
import secrets
import time
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import create_engine, make_url, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from bench import children, purchases
from bench.counters import settle
from bench.measure import Sample, sample_of
from meshctl.servers import create_database
from meshctl.settings import SERVICES
from meshctl.stack import Stack
from pay_core.tables import Account, Book, LimitUsage, RuleVersion
from paykit.clock import SystemClock
from paykit.ids import new_id, slot_in, slot_of
from paykit.rpc import loop
from paykit.settings import ShardSettings
from paykit.store import system
from paykit.store.migrate import migrate
from paykit.store.row import Row
from paykit.store.shard_map import ShardMap
from paykit.store.statements import insert_rows

MODULE = "bench.bare"
PER_TRANSACTION = 64  # purchases of one shard
ROUNDS_AHEAD = 4  # copies made before the clock runs, each of PER_TRANSACTION purchases a shard

_CLOCK = SystemClock()
_ID = re.compile(r"[a-z]{3}_[0-9a-hjkmnp-tv-z]{26}")
_DIGEST = re.compile(r"[0-9a-f]{32}")
_KEPT_OUT = (Account, Book, LimitUsage, RuleVersion, system.ShardEpoch)

Values = tuple[Any, ...]


class Rows(msgspec.Struct, frozen=True):
    """The rows of one table of one database."""

    table: str
    rows: list[Values]


class Database(msgspec.Struct, frozen=True):
    """What purchases wrote into one database, and where copies of it go."""

    service: str
    shard: str
    scratch_url: str
    tables: list[Rows]


class Sampled(msgspec.Struct, frozen=True):
    """``purchases`` and every row that they wrote."""

    purchases: int
    databases: list[Database]

    def rows_per_purchase(self) -> float:
        """How many rows a purchase wrote, over all databases."""
        return sum(len(part.rows) for database in self.databases for part in database.tables) / self.purchases


class Load(msgspec.Struct, frozen=True):
    """Copies of what ``sampled`` (a file) holds, for ``seconds``."""

    sampled: str
    seconds: float


def sample(stack: Stack) -> Sampled:
    """Lets PER_TRANSACTION purchases of each shard happen on a stack that has none yet, and takes their rows."""
    shards = stack.settings.service(SERVICES[0]).shards
    purchases.buy(stack, _buyers(ShardMap(shards, 1)))
    settle(stack)
    return Sampled(
        PER_TRANSACTION * len(shards),
        [
            Database(service, shard, scratch_url(service, shard, settings.live), _rows_in(service, settings.live))
            for service in SERVICES
            for shard, settings in stack.settings.service(service).shards.items()
        ],
    )


def _buyers(shards: ShardMap) -> list[str]:
    """As many buyers of each shard."""
    chosen: dict[str, list[str]] = {name: [] for name in shards.names}
    for name in (f"sampled{number}" for number in itertools.count()):
        home = chosen[shards.shard_of(slot_of(name))]
        if len(home) < PER_TRANSACTION:
            home.append(name)
        if all(len(names) == PER_TRANSACTION for names in chosen.values()):
            break
    return [name for names in chosen.values() for name in names]


def _row_types(service: str) -> dict[str, type[Row]]:
    modules = (importlib.import_module(f"{service}.tables"), system)
    found = [kind for module in modules for kind in vars(module).values() if isinstance(kind, type)]
    rows = [kind for kind in found if issubclass(kind, Row) and kind is not Row]
    return {kind.__entity__: kind for kind in rows if kind not in _KEPT_OUT}


def _rows_in(service: str, url: str) -> list[Rows]:
    engine = create_engine(make_url(url).set(drivername="mysql+pymysql"), poolclass=NullPool)
    with engine.connect() as connection:
        found = [
            Rows(name, [tuple(row) for row in connection.execute(select(kind.__table__))])
            for name, kind in _row_types(service).items()
        ]
    return [part for part in found if part.rows]


def scratch_url(service: str, shard: str, live_url: str) -> str:
    """The URL of the scratch database beside a live one."""
    return make_url(live_url).set(database=f"bare_{service}_{shard}").render_as_string(hide_password=False)


async def make_scratch(sampled: Sampled) -> None:
    """Makes the scratch databases, with the schema of the live ones."""
    for database in sampled.databases:
        url = make_url(database.scratch_url)
        assert url.database is not None
        create_database(url.set(database="").render_as_string(hide_password=False), url.database)
        await migrate(database.service, {database.shard: ShardSettings(live=database.scratch_url)}, 1)


def _renew(value: str, ids: dict[str, str], now_ms: int) -> str:
    def fresh(match: re.Match[str]) -> str:
        old = match.group()
        if old not in ids:
            ids[old] = new_id(old[:3], slot_in(old), now_ms) if old[3] == "_" else secrets.token_hex(16)
        return ids[old]

    return _DIGEST.sub(fresh, value) if _DIGEST.fullmatch(value) else _ID.sub(fresh, value)


class Copier:
    """Makes copies of one table's rows: every id in them becomes a new one, the same for the same."""

    def __init__(self, kind: type[Row], rows: list[Values]) -> None:
        self.kind = kind
        self._rows = rows
        # A blob with an old id in it weighs the same.
        self._renewed = [[i for i, value in enumerate(row) if _holds_id(value)] for row in rows]
        for i, column in enumerate(kind.__columns__):
            assert column not in kind.__unique__ or all(i in renewed for renewed in self._renewed), (kind, column)

    def copy(self, ids: dict[str, str], now_ms: int) -> list[Row]:
        """New rows."""
        copies = []
        for row, renewed in zip(self._rows, self._renewed, strict=True):
            values = list(row)
            for i in renewed:
                values[i] = _renew(values[i], ids, now_ms)
            copies.append(self.kind(**dict(zip(self.kind.__columns__, values, strict=True))))
        return copies


class Scratch:
    """One scratch database and what is to be written into it."""

    def __init__(self, database: Database) -> None:
        kinds = _row_types(database.service)
        self.engine: AsyncEngine = create_async_engine(database.scratch_url, isolation_level="READ COMMITTED")
        self._copiers = [Copier(kinds[part.table], part.rows) for part in database.tables]

    def prepare(self, ids: dict[str, str], now_ms: int) -> list[tuple[type[Row], list[Row]]]:
        """The rows of one transaction, by table."""
        return [(copier.kind, copier.copy(ids, now_ms)) for copier in self._copiers]

    async def write(self, tables: list[tuple[type[Row], list[Row]]]) -> None:
        """One transaction, a statement for each table."""
        async with self.engine.begin() as connection:
            for kind, rows in tables:
                await connection.run_sync(insert_rows, kind, rows)


def _holds_id(value: Any) -> bool:
    return isinstance(value, str) and bool(_ID.search(value) or _DIGEST.fullmatch(value))


async def run(sampled: Sampled, seconds: float) -> Sample:
    """Writes copies; the rate is in purchases a second, a latency that of one transaction in every database."""
    scratches = [Scratch(database) for database in sampled.databases]
    latencies_s: list[float] = []
    elapsed_s = 0.0
    while elapsed_s < seconds:
        rounds = []
        for _ in range(ROUNDS_AHEAD):
            ids: dict[str, str] = {}
            now_ms = _CLOCK.now_ms()
            rounds.append([scratch.prepare(ids, now_ms) for scratch in scratches])
        begun_s = time.perf_counter()
        for prepared in rounds:
            round_begun_s = time.perf_counter()
            await asyncio.gather(*(scratch.write(tables) for scratch, tables in zip(scratches, prepared, strict=True)))
            latencies_s.append(time.perf_counter() - round_begun_s)
        elapsed_s += time.perf_counter() - begun_s
    for scratch in scratches:
        await scratch.engine.dispose()
    return sample_of(latencies_s, elapsed_s, sampled.purchases * len(latencies_s))


def measure(sampled: Path, seconds: float) -> Sample:
    """Writes copies of what the file holds for ``seconds``, in a process of its own."""
    return children.result(children.start(MODULE, Load(str(sampled), seconds)), Sample, seconds)


if __name__ == "__main__":
    load = children.argument(Load)
    rows = msgspec.msgpack.decode(Path(load.sampled).read_bytes(), type=Sampled)
    children.answer(loop.run(run(rows, load.seconds)))
