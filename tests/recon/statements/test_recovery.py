"""What becomes of an import later: one whose process ended, one that was left, and lines whose orders come late."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from sqlalchemy import select

from paykit.clock import ManualClock
from paykit.context import mint, use
from paykit.errors import FailedPrecondition, Unavailable
from paykit.store.command import Command
from paykit.store.store import Store
from recon.statements.importing import Importer
from recon.statements.recovery import Recovery
from recon.tables import Statement
from tests.recon.statements.support import (
    DAY,
    NOW_MS,
    chunks,
    csv_file,
    header,
    import_file,
    lines_in,
    of_order,
    open_breaks,
    order,
    orders_in,
    plant,
    row,
    rules,
    statements,
)


async def statements_in(store: Store) -> list[Statement]:
    rows = await store.fetch_everywhere(Statement, select(Statement.__table__), shadow=False)
    return sorted(rows, key=lambda one: one.id)


async def test_what_was_missing_here_is_found_when_it_is_recorded_later(
    store: Store, importer: Importer, clock: ManualClock, tmp_path: Path
) -> None:
    late = order(1)
    await import_file(importer, csv_file([of_order(late, "1")]))
    assert await open_breaks(store) == [("MISSING_HERE", late.id, 1_000)]
    await plant(store, [late])
    clock.advance(3_600_000)
    (statement,) = await statements_in(store)
    recovery = Recovery(store, statements(spool_path=tmp_path), rules(), clock)
    with use(mint(0, NOW_MS)):
        await recovery.fire(statement)
    assert await open_breaks(store) == []
    assert (await orders_in(store))[late.id].settlement == "AGREED"
    (statement,) = await statements_in(store)
    assert statement.due_at_ms is not None  # it looked at something, and looks once more
    with use(mint(0, NOW_MS)):
        await recovery.fire(statement)
    assert (await statements_in(store))[0].due_at_ms is None


async def test_what_nobody_could_explain_goes_to_its_order_when_that_is_recorded_later(
    store: Store, importer: Importer, clock: ManualClock, tmp_path: Path
) -> None:
    late, wrong = order(600, provider_reference="ref-1"), order(3, 70, provider_reference="ref-2")
    rows = [row("CHARGE", "1", "10.00", "", "ref-1"), row("CHARGE", "2", "0.60", "", "ref-2")]
    await import_file(importer, csv_file(rows))
    assert [type_ for type_, _, _ in await open_breaks(store)] == ["UNEXPLAINED", "UNEXPLAINED"]
    await plant(store, [late, wrong])
    clock.advance(3_600_000)
    recovery = Recovery(store, statements(spool_path=tmp_path), rules(), clock)
    for _ in range(2):  # a second time changes nothing
        (statement,) = await statements_in(store)
        with use(mint(0, NOW_MS)):
            await recovery.fire(statement)
        assert await open_breaks(store) == [("AMOUNT_MISMATCH", wrong.id, 10)]
        found = await orders_in(store)
        assert (found[late.id].settlement, found[wrong.id].settlement) == ("AGREED", "BROKEN")
    current = [line for line in await lines_in(store) if line.state == "CURRENT"]
    assert sorted(line.match_ref for line in current) == sorted([late.id, wrong.id])
    # The same line in another file is known under its order as well.
    more = await import_file(importer, csv_file([*rows, row("FEE", "3", "-1.00")]))
    assert more.statement is not None
    assert (more.statement.line_count, more.statement.known_line_count) == (1, 2)


class Stops(Exception):
    """The process ends here."""


def stop_at(store: Store, name: str, number: int) -> None:
    """Lets the store fail for good at the ``number``-th command of a kind."""
    run, seen = store.run, [0]

    async def counted(command: Command[object]) -> object:
        seen[0] += command.name == name
        if seen[0] >= number:
            raise Stops
        return await run(command)

    store.run = counted  # type: ignore[assignment, method-assign]


@pytest.mark.parametrize(("name", "number"), [("StoreLines", 3), ("MarkStored", 1), ("Settle", 3), ("Finish", 1)])
async def test_an_import_whose_process_ends_is_undone_or_finished_by_another(
    store: Store, importer: Importer, clock: ManualClock, tmp_path: Path, name: str, number: int
) -> None:
    orders = [order(slot) for slot in range(0, 1024, 100)]
    await plant(store, orders)
    data = csv_file([of_order(one, f"L{number}", 5 if number == 2 else None) for number, one in enumerate(orders)])
    run = store.run
    stop_at(store, name, number)
    with pytest.raises(Stops):
        await import_file(importer, data)
    store.run = run  # type: ignore[method-assign]
    (statement,) = await statements_in(store)
    is_stored = name in ("Settle", "Finish")
    assert statement.state == ("MATCHING" if is_stored else "RECEIVING")
    with pytest.raises(FailedPrecondition):
        await import_file(importer, data)
    recovery = Recovery(store, statements(spool_path=tmp_path), rules(), clock)
    with pytest.raises(Unavailable), use(mint(0, NOW_MS)):
        await recovery.fire(statement)  # not due yet: its own process may still be there
    clock.advance(60_000)
    with use(mint(0, NOW_MS)):
        await recovery.fire(statement)
    (statement,) = await statements_in(store)
    assert statement.state == ("DONE" if is_stored else "ABANDONED")
    assert len(await lines_in(store)) == (len(orders) if is_stored else 0)
    again = await import_file(importer, data)
    assert again.was_known is is_stored
    assert await open_breaks(store) == [("AMOUNT_MISMATCH", orders[2].id, 995)]
    assert len(await lines_in(store)) == len(orders)


async def test_an_upload_that_is_left_leaves_nothing(store: Store, importer: Importer, tmp_path: Path) -> None:
    orders = [order(slot) for slot in range(0, 1024, 8)]
    await plant(store, orders)
    data = csv_file([of_order(one, f"L{number}") for number, one in enumerate(orders)])
    running = importer.run(header(), chunks(data))
    reached = asyncio.Event()
    run = store.run

    async def noted(command: Command[object]) -> object:
        if command.name == "StoreLines":
            reached.set()
        return await run(command)

    store.run = noted  # type: ignore[assignment, method-assign]

    async def drain() -> None:
        async for _ in running:
            pass

    task = asyncio.create_task(drain())
    await asyncio.wait_for(reached.wait(), 20)
    task.cancel()
    await asyncio.wait({task})
    assert await lines_in(store) == []
    assert [one.state for one in await statements_in(store)] == ["ABANDONED"]
    assert [name for name in os.listdir(tmp_path) if name.startswith("paymesh-")] == []
    done = await import_file(importer, data)
    assert (done.statement is not None, done.was_known, done.stored_lines) == (True, False, len(orders))


async def test_one_file_of_a_channel_is_imported_at_a_time(store: Store, importer: Importer) -> None:
    one = order(1)
    await plant(store, [one])
    reached, go_on = asyncio.Event(), asyncio.Event()
    run = store.run

    async def held(command: Command[object]) -> object:
        if command.name == "Settle":
            reached.set()
            await go_on.wait()
        return await run(command)

    store.run = held  # type: ignore[assignment, method-assign]
    first = asyncio.create_task(import_file(importer, csv_file([of_order(one, "1")])))
    await asyncio.wait_for(reached.wait(), 20)
    with pytest.raises(FailedPrecondition) as caught:
        await import_file(importer, csv_file([row("FEE", "2", "1.00")]))
    assert caught.value.reason == "IMPORT_RUNNING"
    go_on.set()
    assert (await first).statement is not None
    await import_file(importer, csv_file([row("FEE", "2", "1.00")]))
    assert [(one.state, one.business_date) for one in await statements_in(store)] == [("DONE", DAY)] * 2
