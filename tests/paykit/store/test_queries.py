"""Reads by lists of values: what they find, what they take as text, and how many share a statement."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import select, union_all
from sqlalchemy.dialects import sqlite

from paykit.errors import Unavailable
from paykit.ids import slot_of
from paykit.store.finder import Finder
from paykit.store.queries import Query, among
from paykit.store.statements import as_rows
from paykit.store.store import Store
from tests.paykit.store.conftest import OpenStore
from tests.paykit.store.purse import MoveCoins, OpenPurse, Purse

PURSE = Purse.__table__
OWNERS = Query(select(PURSE).where(among(PURSE.c.owner_id)).order_by(PURSE.c.owner_id).limit(3), PURSE.c.owner_id)
EITHER = Query(
    union_all(select(PURSE).where(among(PURSE.c.id)), select(PURSE).where(among(PURSE.c.owner_id))),
    PURSE.c.id,
    PURSE.c.owner_id,
)


async def found(store: Store, query: Query, *values: Sequence[str]) -> list[Purse]:
    """The purses of all shards that a query finds."""
    return as_rows(Purse, await store.query_everywhere(query, *values, shadow=False))


async def test_a_query_finds_the_rows_of_its_values_on_every_shard(store: Store) -> None:
    purses = [await store.run(OpenPurse(f"owner{number}", number)) for number in range(8)]
    assert sorted(await found(store, OWNERS, ["owner1", "owner6", "nobody"]), key=lambda row: row.coins) == [
        purses[1], purses[6],
    ]  # fmt: skip
    both = await found(store, EITHER, [purses[0].id], ["owner0", "owner3"])
    assert sorted(row.coins for row in both) == [0, 0, 3]
    async with store.snapshot(purses[2].slot, shadow=False) as snapshot:
        assert as_rows(Purse, await snapshot.query(OWNERS, ["owner2"])) == [purses[2]]
    assert await store.query_everywhere(OWNERS, ["owner1"], shadow=True) == []


async def test_values_are_texts_and_nothing_else(store: Store) -> None:
    names = ["o'x", "o\\", "o')) OR 1=1 -- ", "o%s", "o@@", ":o"]
    for number, name in enumerate(names):
        await store.run(OpenPurse(name, number))
    for number, name in enumerate(names):
        assert [purse.coins for purse in await found(store, OWNERS, [name])] == [number]
    assert await found(store, OWNERS, ["grün"]) == []
    assert [purse.coins for purse in await found(store, OWNERS, ["grün", "o'x"])] == [0]


def test_a_query_that_names_other_lists_than_it_has_is_refused() -> None:
    with pytest.raises(AssertionError):
        Query(select(PURSE).where(among(PURSE.c.id)), PURSE.c.id, PURSE.c.id).text(sqlite.dialect(), ["a"], ["b"])
    with pytest.raises(ValueError, match="zip"):
        OWNERS.text(sqlite.dialect(), ["a"], ["b"])


async def test_a_row_is_had_by_any_unique_key_as_it_is_now(store: Store) -> None:
    purse = await store.run(OpenPurse("ann", 5))
    by_both = [
        await store.get(Purse, purse.id, slot=purse.slot, shadow=False),
        await store.get(Purse, "ann", "owner_id", slot=purse.slot, shadow=False),
    ]
    assert by_both == [purse, purse]
    assert await store.get(Purse, "bob", "owner_id", slot=purse.slot, shadow=False) is None
    assert await store.get(Purse, "ann", "owner_id", slot=purse.slot, shadow=True) is None
    moved = await store.run(MoveCoins("ann", 1, "m"))
    assert await store.get(Purse, purse.id, slot=purse.slot, shadow=False) == moved
    with pytest.raises(AssertionError, match="many rows"):
        await store.get(Purse, "OPEN", "state", slot=purse.slot, shadow=False)


async def test_what_is_asked_for_at_once_shares_statements_of_bounded_length() -> None:
    read: list[tuple[str, str, int]] = []

    async def count(query: Query, *values: Sequence[str], mode: str, shard: str) -> Sequence[Sequence[Any]]:
        read.append((mode, shard, len(values[0])))
        return [(f"id of {name}", 1, 1, name, "OPEN", 0) for name in values[0]]

    finder = Finder(count)
    names = [f"owner{number}" for number in range(450)]
    rows = await asyncio.gather(*(finder.find(Purse, "owner_id", name, "live", "s0") for name in [*names, names[0]]))
    assert [row.owner_id for row in rows if row is not None] == [*names, names[0]]
    assert read == [("live", "s0", 200), ("live", "s0", 200), ("live", "s0", 50)]
    read.clear()
    await asyncio.gather(*(finder.find(Purse, "id", "x", mode, "s0") for mode in ("live", "shadow")))
    assert read == [("live", "s0", 1), ("shadow", "s0", 1)]


async def test_who_stops_waiting_takes_the_row_from_nobody_and_an_error_reaches_everybody() -> None:
    has_begun, go_on = asyncio.Event(), asyncio.Event()

    async def read(query: Query, *values: Sequence[str], mode: str, shard: str) -> Sequence[Sequence[Any]]:
        has_begun.set()
        await go_on.wait()
        if mode == "shadow":
            raise Unavailable("away")
        return [("id", 1, 1, "ann", "OPEN", 0)]

    finder = Finder(read)
    asked = [asyncio.create_task(finder.find(Purse, "owner_id", "ann", mode, "s0")) for mode in ("live", "shadow") * 2]
    await asyncio.wait_for(has_begun.wait(), 10)
    asked[0].cancel()
    go_on.set()
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert isinstance(results[2], Purse)
    assert isinstance(results[1], Unavailable)
    assert isinstance(results[3], Unavailable)


async def test_a_closed_store_says_so(open_store: OpenStore) -> None:
    store = await open_store()
    await store.stop()
    with pytest.raises(Unavailable):
        await store.get(Purse, "ann", "owner_id", slot=slot_of("ann"), shadow=False)
