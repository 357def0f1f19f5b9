"""Bulk statements: a compare-and-set of many rows that notices one that was changed."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from sqlalchemy import select

from paykit.settings import ExecutorSettings
from paykit.store.engines import ShardEngines
from paykit.store.statements import StaleRow, insert_rows, update_rows
from tests.paykit.store.conftest import Shards
from tests.paykit.store.purse import Purse


def purses(count: int) -> list[Purse]:
    """Purses p0, p1, …"""
    return [Purse(id=f"p{i:03}", slot=0, owner_id=f"owner{i}", state="OPEN", coins=i) for i in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 127, 128, 129, 300])
async def test_changes_all_rows_to_their_own_values(shards: Shards, count: int) -> None:
    engines = ShardEngines(shards["s0"].live, ExecutorSettings())
    before = purses(count)
    after = [replace(purse, version=2, coins=purse.coins + 1000, state="SHUT") for purse in before]
    bystander = Purse(id="q", slot=0, owner_id="q", state="OPEN", coins=7)
    async with engines.writer.connect() as connection:
        await connection.run_sync(insert_rows, Purse, [*before, bystander])
        await connection.run_sync(update_rows, Purse, list(zip(before, after, strict=True)))
        found = (await connection.execute(select(Purse.__table__).order_by(Purse.__table__.c.id))).all()
        await connection.commit()
    await engines.dispose()
    assert [Purse(**row._mapping) for row in found] == [*after, bystander]


async def test_notices_one_row_that_somebody_else_changed(shards: Shards) -> None:
    engines = ShardEngines(shards["s0"].live, ExecutorSettings())
    before = purses(20)
    changes = [(purse, replace(purse, version=purse.version + 1, coins=0)) for purse in before]
    changes[13] = (replace(before[13], version=9), replace(before[13], version=10, coins=0))
    async with engines.writer.connect() as connection:
        await connection.run_sync(insert_rows, Purse, before)
        with pytest.raises(StaleRow, match="19 of 20"):
            await connection.run_sync(update_rows, Purse, changes)
        await connection.rollback()
    await engines.dispose()
