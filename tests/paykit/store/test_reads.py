"""Reads that decide nothing: snapshots see one state of a shard, hold nothing, and end; sums are integers."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from meshctl.servers import MariaDbServer
from paykit.clock import SystemClock
from paykit.errors import Unavailable
from paykit.ids import slot_of
from paykit.settings import ExecutorSettings, ShardSettings
from paykit.store.guard import assert_outside_transaction
from paykit.store.reads import Snapshot
from paykit.store.store import Store
from tests.paykit.store.conftest import OpenStore, prepare
from tests.paykit.store.purse import CoinMove, MoveCoins, OpenPurse, Purse

SLOT = slot_of("ann")
PURSES, MOVES = select(Purse.__table__), select(CoinMove.__table__)


async def state(reader: Snapshot) -> tuple[int, int]:
    """The coins in all purses of the shard, and how many lines their books have."""
    return sum(purse.coins for purse in await reader.fetch(Purse, PURSES)), len(await reader.fetch(CoinMove, MOVES))


async def read(store: Store) -> tuple[int, int]:
    """The state in a snapshot of its own."""
    async with store.snapshot(SLOT, shadow=False) as snapshot:
        return await state(snapshot)


async def test_a_snapshot_sees_nothing_or_all_of_what_is_committed_while_it_reads(store: Store) -> None:
    await store.run(OpenPurse("ann", 5))
    async with store.snapshot(SLOT, shadow=False) as snapshot:
        (purse,) = await snapshot.fetch(Purse, PURSES)
        await store.run(MoveCoins("ann", 1, "between"))  # one commit changes the purse and adds a line to its book
        assert purse.coins == 5
        assert await snapshot.fetch(CoinMove, MOVES) == []
        assert await state(snapshot) == (5, 0)
    assert await read(store) == (6, 1)


async def test_snapshots_agree_in_themselves_while_many_write(open_store: OpenStore) -> None:
    writer, reader = await open_store(), await open_store()
    await writer.run(OpenPurse("ann", 0))
    writing = asyncio.gather(*(writer.run(MoveCoins("ann", 1, f"m{i}")) for i in range(600)))
    seen = set()
    while not writing.done():
        async with reader.snapshot(SLOT, shadow=False) as snapshot:
            coins, moves = await state(snapshot)
        assert coins == moves
        seen.add(coins)
    await writing
    assert len(seen) > 1


async def test_a_snapshot_locks_nothing_even_where_a_statement_asks_for_it(open_store: OpenStore, backend: str) -> None:
    store = await open_store(ExecutorSettings(lock_timeout_s=1, max_retries=1))
    await store.run(OpenPurse("ann", 5))
    async with store.snapshot(SLOT, shadow=False) as snapshot:
        await state(snapshot)
        if backend == "mariadb":  # to SQLite, nobody asks
            with pytest.raises(DBAPIError, match="READ ONLY"):
                await snapshot.fetch(Purse, PURSES.with_for_update())
        assert (await store.run(MoveCoins("ann", 1, "m"))).coins == 6


async def test_a_snapshot_reads_one_statement_after_another_for_whoever_asks(store: Store) -> None:
    await store.run(OpenPurse("ann", 5))
    async with store.snapshot(SLOT, shadow=False) as snapshot:
        assert await asyncio.gather(*(state(snapshot) for _ in range(10))) == [(5, 0)] * 10


async def test_a_snapshot_ends_its_transaction_and_gives_its_connection_back_however_it_is_left(
    open_store: OpenStore,
) -> None:
    store = await open_store(ExecutorSettings(snapshot_pool_size=1))
    await store.run(OpenPurse("ann", 5))

    async def fail(number: int) -> None:
        async with store.snapshot(SLOT, shadow=False) as snapshot:
            assert await state(snapshot) == (5 + number, number)
            raise ZeroDivisionError

    for number in range(3):
        with pytest.raises(ZeroDivisionError):
            await fail(number)
        await store.run(MoveCoins("ann", 1, f"m{number}"))
    async with store.snapshot(SLOT, shadow=False) as snapshot:
        with pytest.raises(DBAPIError):
            await snapshot.rows(select(text("nothing")))
    assert await read(store) == (8, 3)


async def test_a_snapshot_lasts_no_longer_than_it_may_and_waits_no_longer_for_its_turn(open_store: OpenStore) -> None:
    store = await open_store(ExecutorSettings(snapshot_pool_size=1, pool_timeout_s=0.05, statement_timeout_s=0.5))
    await store.run(OpenPurse("ann", 5))

    async def stay() -> None:
        async with store.snapshot(SLOT, shadow=False) as snapshot:
            await state(snapshot)
            with pytest.raises(Unavailable, match="too many reads"):
                await read(store)
            await asyncio.Event().wait()

    with pytest.raises(Unavailable, match="in time"):
        await stay()
    assert await read(store) == (5, 0)


async def test_a_timeout_of_the_callers_own_stays_its_own(store: Store) -> None:
    async def time_out() -> None:
        async with store.snapshot(SLOT, shadow=False) as snapshot:
            await state(snapshot)
            raise TimeoutError

    with pytest.raises(TimeoutError):
        await time_out()


async def test_forbids_calls_to_the_outside_inside_a_snapshot(store: Store) -> None:
    async with store.snapshot(SLOT, shadow=False):
        with pytest.raises(AssertionError, match="inside a transaction"):
            assert_outside_transaction()
    assert_outside_transaction()


async def test_a_snapshot_keeps_shadow_and_live_apart(store: Store) -> None:
    await store.run(OpenPurse("ann", 5, shadow=True))
    async with store.snapshot(SLOT, shadow=False) as live, store.snapshot(SLOT, shadow=True) as shadow:
        assert await state(live) == (0, 0)
        assert await state(shadow) == (5, 0)


async def test_sums_are_integers_alone_and_in_a_snapshot(store: Store) -> None:
    table = Purse.__table__
    total = select(table.c.state, func.sum(table.c.coins), func.count()).group_by(table.c.state)
    for owner in ("ann", "bob", "cid"):
        await store.run(OpenPurse(owner, 2**60))
    found = [row for shard in store.shards("live") for row in await store.aggregate("live", shard, total)]
    assert sum(row[1] for row in found) == 3 * 2**60
    async with store.snapshot(SLOT, shadow=False) as snapshot:
        found += await snapshot.rows(total)
    assert {tuple(map(type, row)) for row in found} == {(str, int, int)}
    empty = select(func.sum(table.c.coins)).where(table.c.state == "NONE")
    assert await store.aggregate("live", "s0", empty) == [(None,)]


@pytest.mark.mariadb
async def test_a_snapshot_of_a_shard_that_goes_away_is_unavailable_and_comes_back_with_it(
    own_mariadb_server: MariaDbServer,
) -> None:
    shards = {"s0": ShardSettings(live=own_mariadb_server.create_database("purse"))}
    await prepare(shards)
    store = Store("purse", shards, 1, SystemClock(), ExecutorSettings(snapshot_pool_size=1))
    await store.start()

    async def lose() -> None:
        async with store.snapshot(SLOT, shadow=False) as snapshot:
            await state(snapshot)
            own_mariadb_server.kill()
            await state(snapshot)

    for failing in (lose(), read(store)):
        with pytest.raises(Unavailable):
            await failing
    own_mariadb_server.start()
    assert await read(store) == (0, 0)
    await store.stop()
