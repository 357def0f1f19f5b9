"""The checker reads one moment of a database, and cannot change it."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy import insert, make_url
from sqlalchemy.exc import DBAPIError

from meshctl.invariants import databases
from meshctl.invariants.databases import Snapshot, reading_engine
from paykit.clock import ManualClock
from paykit.errors import ConfigurationError
from paykit.ids import new_id
from paykit.settings import ExecutorSettings
from paykit.store.migrate import migrate
from paykit.store.row import Row
from paykit.store.store import Store
from paykit.store.system import ShardEpoch
from recon.tables import Break
from tests.conftest import MakeShards

NOW_MS = 1_760_000_000_000


def a_break(number: int) -> Break:
    return Break(
        id=new_id("brk", 7, NOW_MS + number),
        slot=7,
        biz_id="",
        type="MISSING_FIRST",
        state="OPEN",
        kind="TRANSIT",
        match_key=f"TRANSIT/{number}",
        amount_minor=1,
        currency="EUR",
        owner="nobody",
        evidence="",
        close_reason="",
        opened_at_ms=NOW_MS,
        closed_at_ms=None,
    )


def values(row: Row) -> dict[str, object]:
    return {name: getattr(row, name) for name in row.__columns__}


async def test_pages_hold_every_row_once_and_nothing_written_since(
    make_shards: MakeShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "PAGE_ROWS", 3)
    databases._page.cache_clear()
    shards = make_shards(1, ("live",))
    await migrate("recon", shards, 1)
    store = Store("recon", shards, 1, ManualClock(NOW_MS), ExecutorSettings())
    await store.start()
    snapshot = Snapshot("recon", "s0", "live", shards["s0"].live)
    try:
        rows = [a_break(number) for number in range(7)]
        await store.housekeep("live", "s0", insert(Break.__table__), [values(row) for row in rows])
        await snapshot.open()
        await store.housekeep("live", "s0", insert(Break.__table__), [values(a_break(100))])
        assert await snapshot.counts((Break, ShardEpoch)) == {Break: 7, ShardEpoch: 1}
        assert [row async for row in snapshot.rows(Break)] == rows
    finally:
        await snapshot.close()
        await store.stop()
        databases._page.cache_clear()


async def test_nothing_can_be_written(make_shards: MakeShards) -> None:
    shards = make_shards(1, ("live",))
    await migrate("recon", shards, 1)
    engine = reading_engine(shards["s0"].live)
    try:
        async with engine.connect() as connection:
            with pytest.raises(DBAPIError, match=r"(?i)read.?only|readonly"):
                await connection.execute(insert(Break.__table__), values(a_break(1)))
    finally:
        await engine.dispose()


async def test_a_database_without_a_schema_is_an_error_that_names_it(make_shards: MakeShards) -> None:
    url = make_shards(1, ("live",))["s0"].live
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        sqlite3.connect(str(parsed.database)).execute("PRAGMA user_version = 1").connection.close()
    snapshot = Snapshot("recon", "s0", "live", url)
    try:
        with pytest.raises(ConfigurationError, match=rf"{parsed.database}\S* cannot be read"):
            await snapshot.open()
    finally:
        await snapshot.close()
