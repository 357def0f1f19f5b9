"""Previews: what a command would do, decided like any other, as if nobody had asked."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace
from sqlalchemy import select

from paykit.errors import DeadlineExceeded, FailedPrecondition, NotFound
from paykit.store.command import Command, Work
from paykit.store.row import Row
from paykit.store.store import Store
from paykit.store.system import CommandRecord, Outbox
from tests.paykit.store.purse import CoinMove, MoveCoins, OpenPurse, Purse

TABLES: tuple[type[Row], ...] = (Purse, CoinMove, CommandRecord, Outbox)


async def everything(store: Store) -> list[Row]:
    """All rows of all live shards."""
    parts = [await store.fetch_everywhere(kind, select(kind.__table__), shadow=False) for kind in TABLES]
    return sorted((row for part in parts for row in part), key=lambda row: row.id)


async def reason_of_preview(store: Store, command: Command[Purse]) -> str:
    """Why a command would be refused."""
    with pytest.raises(FailedPrecondition) as caught:
        await store.preview(command)
    return caught.value.reason


async def test_answers_what_the_command_would_and_the_rows_it_would_leave_without_effect(store: Store) -> None:
    purse = await store.run(OpenPurse("ann", 5))
    before, sent = await everything(store), list[Outbox]()
    store.subscribe(lambda _mode, _shard, rows: sent.extend(rows))
    previewed = await store.preview(MoveCoins("ann", 3, "m"))
    assert previewed.result == replace(purse, coins=8, version=2)
    move, after = previewed.rows
    assert isinstance(move, CoinMove)
    assert (move.purse_id, move.coins, after) == (purse.id, 3, previewed.result)
    assert await everything(store) == before
    assert sent == []
    assert (await store.run(MoveCoins("ann", 3, "m"))).coins == 8


async def test_gives_each_row_once_as_it_would_stand_at_the_end(store: Store) -> None:
    class Fiddle(MoveCoins):
        def decide(self, work: Work) -> Purse:
            purse = super().decide(work)
            return work.update(replace(purse, coins=0))

    await store.run(OpenPurse("ann", 5))
    previewed = await store.preview(Fiddle("ann", 3, "m"))
    assert [(type(row), row.version) for row in previewed.rows] == [(CoinMove, 1), (Purse, 3)]
    assert previewed.rows[1] == previewed.result


async def test_raises_what_the_command_would(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.preview(MoveCoins("ann", -1, "m"))
    await store.run(OpenPurse("ann", 5))
    before = await everything(store)
    with pytest.raises(FailedPrecondition) as caught:
        await store.preview(MoveCoins("ann", -6, "m"))
    assert caught.value.reason == "INSUFFICIENT_FUNDS"
    with pytest.raises(DeadlineExceeded):
        await store.preview(MoveCoins("ann", 1, "m", deadline_ms=1))
    assert await everything(store) == before


async def test_is_neither_answered_nor_blocked_by_what_was_recorded(store: Store) -> None:
    await store.run(OpenPurse("ann", 5))
    await store.run(MoveCoins("ann", 1, "m"))
    assert (await store.preview(MoveCoins("ann", 1, "m"))).result.coins == 7
    assert (await store.preview(MoveCoins("ann", 2, "m"))).result.coins == 8
    assert (await store.run(MoveCoins("ann", 1, "m"))).coins == 6


async def test_sees_what_came_before_it_in_its_batch_and_is_not_seen_by_what_comes_after(store: Store) -> None:
    await store.run(OpenPurse("ann", 5))
    first, all_of_it, too_much, taken, last = await asyncio.gather(
        store.run(MoveCoins("ann", -2, "first")),
        store.preview(MoveCoins("ann", -3, "all")),
        reason_of_preview(store, MoveCoins("ann", -4, "too much")),
        store.run(MoveCoins("ann", -3, "all")),
        store.preview(MoveCoins("ann", 1, "last")),
    )
    assert (first.coins, all_of_it.result.coins, too_much) == (3, 0, "INSUFFICIENT_FUNDS")
    assert (taken.coins, last.result.coins) == (0, 1)


async def test_a_row_previewed_is_still_to_be_made(store: Store) -> None:
    previewed, opened, second = await asyncio.gather(
        store.preview(OpenPurse("ann", 9)),
        store.run(OpenPurse("ann", 5)),
        reason_of_preview(store, OpenPurse("ann", 9, "again")),
    )
    assert (previewed.result.coins, opened.coins, second) == (9, 5, "HAS_PURSE")
    assert opened.id != previewed.result.id


async def test_waits_for_rows_that_an_earlier_command_of_its_batch_leads_to(store: Store) -> None:
    _, previewed = await asyncio.gather(store.run(OpenPurse("ann", 5)), store.preview(MoveCoins("ann", 1, "m")))
    assert previewed.result.coins == 6


async def test_makes_a_bug_its_own_failure_and_undoes_it(store: Store) -> None:
    class Buggy(MoveCoins):
        def decide(self, work: Work) -> Purse:
            super().decide(work)
            raise ZeroDivisionError

    await store.run(OpenPurse("ann", 5))
    buggy = asyncio.create_task(store.preview(Buggy("ann", 1, "b")))
    moving = asyncio.create_task(store.run(MoveCoins("ann", 1, "m")))
    with pytest.raises(ZeroDivisionError):
        await buggy
    assert (await moving).coins == 6
    assert [row.coins for row in await everything(store) if isinstance(row, Purse)] == [6]
