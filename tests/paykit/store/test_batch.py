"""A batch in memory: whatever its commands do or refuse, it is as if the accepted ones had run one after another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from paykit.errors import FailedPrecondition
from paykit.store.batch import Batch, NotLoaded
from paykit.store.command import Command, Rows, Work
from paykit.store.row import Key, Row, key
from paykit.store.system import CommandRecord
from tests.paykit.store.purse import CoinMove, Purse, origin


class Shuffle(Command[None]):
    """Adds to some purses by turns, making those that are not there, and refuses at the end when told to."""

    def __init__(self, number: int, steps: list[tuple[int, int]], refuse: bool) -> None:
        super().__init__(0, origin("ann", f"r{number}", ""))
        self.steps, self.refuse = steps, refuse

    def reads(self, rows: Rows) -> Iterable[Key]:
        for purse, _ in self.steps:
            yield key(Purse, f"p{purse}")
            yield key(CoinMove, f"p{purse}", "purse_id")

    def decide(self, work: Work) -> None:
        for number, coins in self.steps:
            id_ = f"p{number}"
            purse = work.get(Purse, id_)
            if purse is None:
                work.insert(Purse(id=id_, slot=0, owner_id=id_, state="OPEN", coins=coins))
            else:
                work.update(replace(purse, coins=purse.coins + coins))
            work.insert(CoinMove(id=work.new_id("mov"), slot=0, purse_id=id_, coins=coins))
        if self.refuse:
            raise FailedPrecondition("refused")


def load(batch: Batch, stored: dict[str, Row]) -> None:
    """Loads what the commands of ``batch`` may read from ``stored``, as the executor would."""
    for row_type, column in ((Purse, "id"), (CoinMove, "purse_id"), (CommandRecord, "id")):
        values = [f"p{i}" for i in range(5)] if row_type is not CommandRecord else []
        rows = [row for row in stored.values() if isinstance(row, row_type) and getattr(row, column) in values]
        batch.table(row_type).add_loaded(column, values, rows)


steps = st.lists(st.tuples(st.integers(0, 4), st.integers(-9, 9)), max_size=4)


@given(st.lists(st.tuples(steps, st.booleans()), max_size=12), st.integers(0, 5))
def test_leaves_what_the_accepted_commands_would_leave_one_after_another(
    plan: list[tuple[list[tuple[int, int]], bool]], first_batch: int
) -> None:
    stored: dict[str, Row] = {}
    expected: dict[str, int] = {}
    moves = 0
    commands = [Shuffle(number, steps, refuse) for number, (steps, refuse) in enumerate(plan)]
    for part in (commands[:first_batch], commands[first_batch:]):
        batch = Batch(1_700_000_000_000, 5_000)
        load(batch, stored)
        for command in part:
            try:
                batch.decide(command)
            except FailedPrecondition:
                continue
            for number, coins in command.steps:
                expected[f"p{number}"] = expected.get(f"p{number}", 0) + coins
                moves += 1
        for _, rows in batch.inserts():
            assert not {row.id for row in rows} & stored.keys()
            stored.update({row.id: row for row in rows})
        for _, changes in batch.updates():
            for before, after in changes:
                assert stored[before.id] is before
                stored[after.id] = after
    purses = {row.id: row for row in stored.values() if isinstance(row, Purse)}
    assert {id_: purse.coins for id_, purse in purses.items()} == expected
    assert sum(isinstance(row, CoinMove) for row in stored.values()) == moves
    for id_, purse in purses.items():
        lines = sum(isinstance(row, CoinMove) and row.purse_id == id_ for row in stored.values())
        assert purse.version == lines


def contents(batch: Batch) -> object:
    """All that a batch knows, would write and would send; where nothing was ever looked up it knows nothing."""
    tables = {
        kind: (
            table.current,
            table.loaded,
            {column: dict(found) for column, found in table.uniques.items() if found},
            {column: {value: [*ids] for value, ids in found.items()} for column, found in table.references.items()},
        )
        for kind, table in batch.tables.items()
    }
    return tables, batch.outbox, batch.is_changed, batch.inserts(), batch.updates()


@given(st.lists(st.tuples(steps, st.booleans(), st.booleans()), max_size=12))
def test_is_after_a_preview_or_a_refusal_as_if_there_had_been_none(
    plan: list[tuple[list[tuple[int, int]], bool, bool]],
) -> None:
    batch = Batch(1_700_000_000_000, 5_000)
    stored: Row = Purse(id="p0", slot=0, owner_id="p0", state="OPEN", coins=7)
    load(batch, {stored.id: stored})
    for number, (part, refuse, preview) in enumerate(plan):
        before = deepcopy(contents(batch))
        command = Shuffle(number, part, refuse)
        if not preview and not refuse:
            batch.decide(command)
            continue
        with contextlib.suppress(FailedPrecondition):
            rows = batch.preview(command).rows if preview else batch.decide(command)
            assert len({row.id for row in rows}) == len(rows) >= len({purse for purse, _ in part})
        assert contents(batch) == before


def test_knows_no_more_of_a_unique_value_that_a_refused_command_took_unseen() -> None:
    batch = Batch(1_700_000_000_000, 5_000)
    stored = Purse(id="p9", slot=0, owner_id="p1", state="OPEN", coins=7)
    batch.table(Purse).add_loaded("owner_id", ["p1"], [stored])
    batch.table(Purse).add_loaded("id", ["p1", "p2"], [])
    batch.table(CoinMove).add_loaded("purse_id", ["p1", "p2"], [])
    with pytest.raises(FailedPrecondition):
        batch.decide(Shuffle(1, [(1, 1), (2, 1)], refuse=True))
    assert batch.get(Purse, "p1", "owner_id") == stored
    with pytest.raises(NotLoaded):
        batch.get(Purse, "p2", "owner_id")


def test_mints_ids_that_sort_as_they_were_minted() -> None:
    batch = Batch(1, 0)
    load(batch, {})
    for number in range(20):
        batch.decide(Shuffle(number, [(number % 5, 1), (0, 1)], refuse=False))
    ids = [row.id for row in batch.table(CoinMove).current.values()]
    assert len(ids) == 40
    assert ids == sorted(ids)
