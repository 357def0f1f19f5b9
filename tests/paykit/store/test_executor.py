"""The batch executor: one effect, one commit, whatever meets it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from paykit.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from paykit.ids import slot_of
from paykit.settings import ExecutorSettings
from paykit.store.command import Command, Rows, Work
from paykit.store.guard import assert_outside_transaction
from paykit.store.row import Key, key
from paykit.store.store import Store
from paykit.store.system import CommandRecord, Outbox, ShardEpoch
from tests.paykit.store.conftest import OpenStore
from tests.paykit.store.purse import CoinMove, MoveCoins, OpenPurse, Purse, origin


async def coins_of(store: Store, owner: str, *, shadow: bool = False) -> int:
    """The coins in a purse; the lines of its book must agree."""
    table = Purse.__table__
    statement = select(table).where(table.c.owner_id == owner)
    (purse,) = await store.fetch(Purse, statement, slot=slot_of(owner), shadow=shadow)
    moves = await store.fetch(
        CoinMove,
        select(CoinMove.__table__).where(CoinMove.__table__.c.purse_id == purse.id),
        slot=slot_of(owner),
        shadow=shadow,
    )
    assert purse.version == len(moves) + 1
    return purse.coins


async def count(store: Store, row_type: Any) -> int:
    """The rows of a table on all live shards."""
    return len(await store.fetch_everywhere(row_type, select(row_type.__table__), shadow=False))


async def test_answers_a_repeated_request_with_the_first_result(store: Store) -> None:
    first = await store.run(OpenPurse("ann", 5))
    await store.run(MoveCoins("ann", 1, "m1"))
    assert await store.run(OpenPurse("ann", 5)) == first
    assert await coins_of(store, "ann") == 6


async def test_refuses_a_request_id_that_comes_with_another_body(store: Store) -> None:
    await store.run(OpenPurse("ann", 5))
    with pytest.raises(AlreadyExists) as caught:
        await store.run(OpenPurse("ann", 6))
    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert await coins_of(store, "ann") == 5


async def test_keeps_request_ids_of_different_callers_apart(store: Store) -> None:
    await store.run(OpenPurse("ann", 5))
    await store.run(MoveCoins("ann", 1, "same", caller="one"))
    await store.run(MoveCoins("ann", 1, "same", caller="two"))
    assert await coins_of(store, "ann") == 7


async def test_executes_one_of_concurrent_twins_and_answers_all(open_store: OpenStore) -> None:
    stores = [await open_store(), await open_store()]
    await stores[0].run(OpenPurse("ann", 0))
    results = await asyncio.gather(*(stores[i % 2].run(MoveCoins("ann", 3, "twin")) for i in range(20)))
    assert all(result == results[0] for result in results)
    assert await coins_of(stores[0], "ann") == 3


async def test_lets_each_command_see_what_earlier_ones_of_its_batch_did(store: Store) -> None:
    await store.run(OpenPurse("ann", 50))
    outcomes = await asyncio.gather(
        *(store.run(MoveCoins("ann", -1, f"take{i}")) for i in range(80)), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, FailedPrecondition)]
    assert [outcome for outcome in outcomes if isinstance(outcome, Exception)] == refused
    assert len(refused) == 30
    assert await coins_of(store, "ann") == 0


async def test_discards_all_changes_of_a_refused_command_and_nothing_else(store: Store) -> None:
    await store.run(OpenPurse("ann", 5))
    taken: list[Outbox] = []
    store.subscribe(lambda _mode, _shard, rows: taken.extend(rows))
    outcomes = await asyncio.gather(
        store.run(MoveCoins("ann", 1, "good")),
        store.run(MoveCoins("ann", -100, "bad")),
        store.run(MoveCoins("ann", 2, "also good")),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], FailedPrecondition)
    assert await coins_of(store, "ann") == 8
    assert await count(store, CoinMove) == await count(store, Outbox) == len(taken) == 2
    assert await count(store, CommandRecord) == 3


async def test_keeps_every_coin_when_processes_race_on_one_purse(open_store: OpenStore) -> None:
    stores = [await open_store() for _ in range(3)]
    await stores[0].run(OpenPurse("ann", 0))
    await asyncio.gather(*(stores[i % 3].run(MoveCoins("ann", 1, f"m{i}")) for i in range(150)))
    assert await coins_of(stores[0], "ann") == 150


async def test_defers_a_command_whose_rows_an_earlier_one_of_the_batch_made(store: Store) -> None:
    opened, moved = await asyncio.gather(store.run(OpenPurse("ann", 5)), store.run(MoveCoins("ann", 1, "m")))
    assert (opened.coins, moved.coins) == (5, 6)


async def test_makes_a_bad_command_fail_alone(store: Store) -> None:
    class Broken(OpenPurse):
        def decide(self, work: Work) -> Purse:
            return work.insert(
                Purse(id=work.new_id("pur"), slot=self.slot, owner_id=None, state="OPEN", coins=1)  # type: ignore[arg-type]
            )

    owners = [f"owner{i}" for i in range(10)]
    outcomes = await asyncio.gather(
        *(store.run(OpenPurse(owner, 1)) for owner in owners),
        store.run(Broken("owner0x", 1)),
        store.run(Broken("owner1x", 1)),
        return_exceptions=True,
    )
    assert [outcome.coins for outcome in outcomes[:10] if isinstance(outcome, Purse)] == [1] * 10
    assert all(isinstance(outcome, Exception) for outcome in outcomes[10:])
    assert await count(store, Purse) == 10


async def test_makes_a_bug_in_a_decision_its_own_failure(store: Store) -> None:
    class Buggy(OpenPurse):
        def decide(self, work: Work) -> Purse:
            super().decide(work)
            raise ZeroDivisionError

    outcomes = await asyncio.gather(store.run(OpenPurse("ann", 1)), store.run(Buggy("bob", 1)), return_exceptions=True)
    assert isinstance(outcomes[0], Purse)
    assert isinstance(outcomes[1], ZeroDivisionError)
    assert await count(store, Purse) == 1


async def test_refuses_a_decision_on_rows_it_does_not_read(store: Store) -> None:
    class Careless(OpenPurse):
        def reads(self, rows: Rows) -> Iterable[Key]:
            return ()

    with pytest.raises(AssertionError, match="does not read"):
        await store.run(Careless("ann", 1))


async def test_refuses_commands_beyond_its_bound_and_says_when_to_come_back(open_store: OpenStore) -> None:
    store = await open_store(ExecutorSettings(max_queue=4, lanes=1))
    await store.run(OpenPurse("ann", 0))
    outcomes = await asyncio.gather(
        *(store.run(MoveCoins("ann", 1, f"m{i}")) for i in range(50)), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, ResourceExhausted)]
    assert refused
    assert all(error.retry_after_ms for error in refused)
    assert await coins_of(store, "ann") == 50 - len(refused)


async def test_does_nothing_for_a_caller_whose_deadline_has_passed(store: Store) -> None:
    await store.run(OpenPurse("ann", 5))
    with pytest.raises(DeadlineExceeded):
        await store.run(MoveCoins("ann", 1, "late", deadline_ms=1))
    assert await coins_of(store, "ann") == 5


async def test_carries_out_a_command_whose_caller_goes_away(store: Store) -> None:
    await store.run(OpenPurse("ann", 5))
    call = asyncio.create_task(store.run(MoveCoins("ann", 1, "gone")))
    # The first turn of the loop queues it, the next ones let the lane take it: from there it runs to its end.
    for _ in range(5):
        await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    replayed = await store.run(MoveCoins("ann", 1, "gone"))
    assert replayed.coins == 6
    assert await coins_of(store, "ann") == 6


@pytest.mark.parametrize("committed", [True, False])
async def test_settles_a_commit_whose_answer_is_lost_by_reading_its_record(
    store: Store, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    await store.run(OpenPurse("ann", 5))
    real_commit = AsyncConnection.commit
    losses = iter([True])

    async def lose(connection: AsyncConnection) -> None:
        if not next(losses, False):
            return await real_commit(connection)
        await (real_commit if committed else AsyncConnection.rollback)(connection)
        raise ConnectionResetError("the answer to COMMIT was lost")

    monkeypatch.setattr(AsyncConnection, "commit", lose)
    result = await store.run(MoveCoins("ann", 1, "m"))
    monkeypatch.undo()
    assert result.coins == 6
    assert await coins_of(store, "ann") == 6
    assert next(losses, None) is None


async def test_does_not_take_a_twins_record_for_its_own_lost_commit(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await open_store(ExecutorSettings(lanes=1)), await open_store()
    for owner in ("ann", "bob"):
        await first.run(OpenPurse(owner, 5))
    real_commit = AsyncConnection.commit
    losses = iter([True])

    async def lose(connection: AsyncConnection) -> None:
        if not next(losses, False):
            return await real_commit(connection)
        await AsyncConnection.rollback(connection)
        await second.run(MoveCoins("ann", 1, "twin"))  # the caller has tried again elsewhere meanwhile
        raise ConnectionResetError("the answer to COMMIT was lost")

    monkeypatch.setattr(AsyncConnection, "commit", lose)
    results = await asyncio.gather(*(first.run(MoveCoins(owner, 1, "twin")) for owner in ("ann", "bob")))
    monkeypatch.undo()
    assert [result.coins for result in results] == [6, 6]
    assert await coins_of(first, "ann") == await coins_of(first, "bob") == 6


async def test_answers_a_twin_in_another_process_with_the_first_result_not_with_what_that_left(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = [await open_store(), await open_store()]
    await stores[0].run(OpenPurse("ann", 5))
    real_commit = AsyncConnection.commit
    twin_is_queued = asyncio.Event()

    async def wait(connection: AsyncConnection) -> None:
        await twin_is_queued.wait()
        await real_commit(connection)

    monkeypatch.setattr(AsyncConnection, "commit", wait)
    first = asyncio.create_task(stores[0].run(MoveCoins("ann", -5, "all of it")))
    await asyncio.sleep(0.3)  # it has its rows and waits to commit
    twin = asyncio.create_task(stores[1].run(MoveCoins("ann", -5, "all of it")))
    await asyncio.sleep(0.3)  # it waits for the rows of the first
    twin_is_queued.set()
    assert (await first).coins == (await twin).coins == 0
    monkeypatch.undo()
    assert await coins_of(stores[0], "ann") == 0


async def test_refuses_to_write_with_an_old_epoch_of_the_shard_map(store: Store) -> None:
    await store.run(OpenPurse("ann", 5))
    table = ShardEpoch.__table__
    for shard in store.shards("live"):
        await store.housekeep("live", shard, update(table).values(epoch=2))
    with pytest.raises(Unavailable) as caught:
        await store.run(MoveCoins("ann", 1, "m"))
    assert caught.value.reason == "SHARD_MAP_STALE"
    assert await coins_of(store, "ann") == 5


async def test_keeps_shadow_commands_out_of_live(store: Store) -> None:
    await store.run(OpenPurse("ann", 5, shadow=True))
    assert await count(store, Purse) == 0
    assert await coins_of(store, "ann", shadow=True) == 5
    with pytest.raises(NotFound):
        await store.run(MoveCoins("ann", 1, "m"))


async def test_forbids_calls_to_the_outside_inside_a_transaction(store: Store) -> None:
    class Calling(Command[None]):
        def decide(self, work: Work) -> None:
            assert_outside_transaction()

    assert_outside_transaction()
    with pytest.raises(AssertionError, match="inside a transaction"):
        await store.run(Calling(slot_of("ann"), origin("ann", "c", "")))


async def test_writes_the_audit_row_with_the_authenticated_caller(store: Store) -> None:
    await store.run(OpenPurse("ann", 5))
    purse = await store.run(MoveCoins("ann", 1, "m", caller="auditor"))
    records = await store.fetch_everywhere(CommandRecord, select(CommandRecord.__table__), shadow=False)
    (record,) = [record for record in records if record.caller == "auditor"]
    assert record.name == "MoveCoins"
    assert purse.id in record.changes
    assert '"+1"' in record.changes


async def test_finishes_what_waits_when_it_stops(open_store: OpenStore) -> None:
    store = await open_store()
    await store.run(OpenPurse("ann", 0))
    calls = [asyncio.create_task(store.run(MoveCoins("ann", 1, f"m{i}"))) for i in range(40)]
    await asyncio.sleep(0)
    await store.stop()
    outcomes = await asyncio.gather(*calls)
    assert max(outcome.coins for outcome in outcomes) == 40
    with pytest.raises(Unavailable):
        await store.run(MoveCoins("ann", 1, "too late"))


async def test_loads_children_added_by_an_earlier_command_of_the_batch(store: Store) -> None:
    class CountMoves(Command[int]):
        result_type = int

        def __init__(self, owner: str) -> None:
            super().__init__(slot_of(owner), origin(owner, "count", ""))
            self.owner = owner

        def reads(self, rows: Rows) -> Iterable[Key]:
            yield key(Purse, self.owner, "owner_id")
            purse = rows.get(Purse, self.owner, "owner_id")
            if purse is not None:
                yield key(CoinMove, purse.id, "purse_id")

        def decide(self, work: Work) -> int:
            purse = work.get(Purse, self.owner, "owner_id")
            assert purse is not None
            return len(work.many(CoinMove, "purse_id", purse.id))

    await store.run(OpenPurse("ann", 5))
    _, _, counted = await asyncio.gather(
        store.run(MoveCoins("ann", 1, "m1")), store.run(MoveCoins("ann", 1, "m2")), store.run(CountMoves("ann"))
    )
    assert counted == 2
