"""Folds: commands that may be done again, without an inbox record."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from msgspec.structs import replace
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from paykit.ids import slot_of
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key
from paykit.store.store import Store
from paykit.store.system import CommandRecord
from tests.paykit.store.purse import OpenPurse, Purse, origin

OWNER = "ann"


class RaiseTo(Command[None]):
    """A purse has at least so many coins: to say it twice, or in another order, changes nothing."""

    def __init__(self, coins: int, *, note: str = "") -> None:
        super().__init__(slot_of(OWNER), Origin.fold(origin(OWNER, "x", "").context))
        self.coins, self.note = coins, note

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Purse, OWNER, "owner_id")

    def decide(self, work: Work) -> None:
        purse = work.get(Purse, OWNER, "owner_id")
        assert purse is not None
        if purse.coins < self.coins:
            work.update(replace(purse, coins=self.coins), note=self.note, audit=bool(self.note))


async def records(store: Store) -> list[CommandRecord]:
    """The records of folds."""
    statement = select(CommandRecord.__table__).where(CommandRecord.__table__.c.trigger == "fold")
    return await store.fetch_everywhere(CommandRecord, statement, shadow=False)


async def purse_of(store: Store) -> Purse:
    """The purse as stored."""
    (purse,) = await store.fetch_everywhere(Purse, select(Purse.__table__), shadow=False)
    return purse


async def test_a_fold_leaves_no_record_and_a_second_time_nothing_at_all(store: Store) -> None:
    await store.run(OpenPurse(OWNER, 5))
    for coins in (7, 7, 6):
        await store.run(RaiseTo(coins))
    purse = await purse_of(store)
    assert (purse.coins, purse.version) == (7, 2)
    assert await records(store) == []


async def test_a_fold_that_did_something_audited_leaves_a_record_of_it(store: Store) -> None:
    await store.run(OpenPurse(OWNER, 5))
    for _ in range(2):
        await store.run(RaiseTo(7, note="raised"))
    (record,) = await records(store)
    assert (record.name, record.caller) == ("RaiseTo", "tester")
    assert "raised" in record.changes


@pytest.mark.parametrize("committed", [True, False])
async def test_a_commit_of_folds_whose_answer_is_lost_is_done_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    await store.run(OpenPurse(OWNER, 5))
    real_commit = AsyncConnection.commit
    losses = iter([True])

    async def lose(connection: AsyncConnection) -> None:
        if not next(losses, False):
            return await real_commit(connection)
        await (real_commit if committed else AsyncConnection.rollback)(connection)
        raise ConnectionResetError("the answer to COMMIT was lost")

    monkeypatch.setattr(AsyncConnection, "commit", lose)
    await store.run(RaiseTo(7))
    monkeypatch.undo()
    purse = await purse_of(store)
    assert (purse.coins, purse.version) == (7, 2)
    assert next(losses, None) is None
