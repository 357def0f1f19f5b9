"""The sweep over real services: what events lost is found, what vanished is a break, and quiet costs nothing."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace
from sqlalchemy import delete, update

from channel_gateway.tables import ChannelOrder
from pay_core.tables import Payment
from paykit.errors import Unavailable
from paykit.ids import new_id, slot_in
from paykit.records import RecordKind
from paykit.settings import ExecutorSettings
from paykit.store.store import Store
from recon import sides, sweep_reads
from recon.matching import BreakState, BreakType, MatchKind
from recon.sides import Record, unpack
from recon.tables import LateRecord, Match, RecordedOrder
from tests.meshctl.invariants.filling import fill
from tests.meshctl.invariants.small_world import SmallWorld, settings_in
from tests.recon.support import breaks_in
from tests.recon.sweeping import ALL, DAY_MS, HOUR_MS, RULES, Statements, Swept, sweeping, without_times


@pytest_asyncio.fixture(scope="module")
async def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a small system in which everything has happened."""
    folder = tmp_path_factory.mktemp("swept")
    world = SmallWorld(settings_in(folder))
    async with world:
        await fill(world)
    (folder / "now_ms").write_text(str(world.clock.now_ms()))
    return folder


@pytest.fixture
async def swept(filled: Path, tmp_path: Path) -> AsyncIterator[Swept]:
    """A copy of it, open."""
    shutil.copytree(filled, tmp_path / "system")
    world = SmallWorld(settings_in(tmp_path / "system"))
    world.clock.advance(int((filled / "now_ms").read_text()) - world.clock.now_ms())
    async with world, sweeping(world) as found:
        yield found


async def told(swept: Swept, *, shadow: bool = False) -> list[RecordedOrder]:
    """What is kept of the channel orders, but for what statements say of them: that is not in any event."""
    rows = await swept.rows(RecordedOrder, shadow=shadow)
    return [replace(row, version=1, settlement="", statement_line_id=None, break_id=None) for row in rows]


async def test_both_sides_cut_alike_where_every_event_was_heard(swept: Swept) -> None:
    before = await swept.rows(Match)
    assert await swept.compare() == list(ALL)
    once = await swept.rows(Match)
    # That a payment was given back is told by no event: only those records are new.
    assert [without_times(match) for match in once] == [without_times(match) for match in before]
    heard = {record.id for match in before for record in unpack(match).records}
    new = {record.kind for match in once for record in unpack(match).records if record.id not in heard}
    assert new == {"ATTEMPT"}
    with Statements(*swept.world.stores.values()) as read:
        await swept.compare()
    assert await swept.rows(Match) == once
    assert not [text for text in read.texts if "at_ms, anon_1.id" in text], "no record is read by row"
    assert await breaks_in(swept.store, MatchKind.RECORD) == []


@pytest.mark.parametrize("shadow", [False, True])
async def test_what_every_event_lost_is_found_by_the_sweep_alone(swept: Swept, shadow: bool) -> None:
    matches = await swept.rows(Match, shadow=shadow)
    orders = await told(swept, shadow=shadow)
    assert matches
    assert orders
    await swept.forget_all()
    assert await swept.compare(shadow=shadow) == list(ALL)
    assert await told(swept, shadow=shadow) == orders
    found = {match.id: match for match in await swept.rows(Match, shadow=shadow)}
    for match in matches:
        if not unpack(match).records:
            continue  # it has not ended
        again = found.pop(match.id)
        if again.state == match.state == "MATCHED":
            assert without_times(again) == without_times(match)
        assert {record.id for record in unpack(match).records} <= {record.id for record in unpack(again).records}
    assert found == {}
    assert await breaks_in(swept.store, MatchKind.RECORD, shadow=shadow) == []
    settled = await swept.rows(Match, shadow=shadow)
    await swept.compare(shadow=shadow)
    assert await swept.rows(Match, shadow=shadow) == settled, "the second time there is nothing left to find"


async def test_one_lost_event_is_found_without_reading_other_slots(swept: Swept) -> None:
    (first, *_), kept = await swept.rows(RecordedOrder), await told(swept)
    match_id = sides.match_id(first.payment_id)
    await swept.forget(Match, where=Match.__table__.c.id == match_id)
    await swept.forget(RecordedOrder, where=RecordedOrder.__table__.c.id == first.id)
    with Statements(swept.world.stores["channel_gateway"]) as read:
        await swept.compare()
    assert await told(swept) == kept
    assert len([text for text in read.texts if "ORDER BY" in text]) == 1, "one page, of the slot that differs"


async def test_a_record_that_vanished_is_a_break_once(swept: Swept) -> None:
    (order, *_) = [row for row in await swept.rows(RecordedOrder) if row.state == "SUCCEEDED"]
    gateway = swept.world.stores["channel_gateway"]
    for shard in gateway.shards("live"):
        await gateway.housekeep(
            "live", shard, delete(ChannelOrder.__table__).where(ChannelOrder.__table__.c.id == order.id)
        )
    for _ in range(2):
        await swept.compare()
    (found,) = await breaks_in(swept.store, MatchKind.RECORD)
    assert (found.type, found.state, found.match_key) == (
        BreakType.UNEXPLAINED,
        BreakState.OPEN,
        f"RECORD/{order.id}",
    )
    assert (found.amount_minor, found.currency, found.payment_id) == (
        order.amount_minor,
        order.currency,
        order.payment_id,
    )


async def test_a_record_that_was_changed_afterwards_is_a_break_of_its_own_and_of_its_pair(swept: Swept) -> None:
    (order, *_) = [row for row in await swept.rows(RecordedOrder) if row.state == "SUCCEEDED" and row.kind == "CHARGE"]
    gateway, table = swept.world.stores["channel_gateway"], ChannelOrder.__table__
    changed = update(table).where(table.c.id == order.id).values(amount_minor=order.amount_minor + 7)
    for shard in gateway.shards("live"):
        await gateway.housekeep("live", shard, changed)
    for _ in range(2):
        await swept.compare()
    (found,) = await breaks_in(swept.store, MatchKind.RECORD)
    assert (found.type, found.payment_id) == (BreakType.STATUS_MISMATCH, order.payment_id)
    opened = [row for row in await breaks_in(swept.store, MatchKind.PAY_CHANNEL) if row.payment_id == order.payment_id]
    assert [row.type for row in opened] == [BreakType.AMOUNT_MISMATCH]


async def test_a_record_that_is_no_more_over_is_a_break(swept: Swept) -> None:
    pay, table = swept.world.stores["pay_core"], Payment.__table__
    (match, *_) = [row for row in await swept.rows(Match) if row.state == "MATCHED"]
    back = update(table).where(table.c.id == match.payment_id).values(state="PROCESSING", finished_at_ms=None)
    for shard in pay.shards("live"):
        await pay.housekeep("live", shard, back)
    await swept.compare()
    (found,) = await breaks_in(swept.store, MatchKind.RECORD)
    assert (found.type, found.payment_id) == (BreakType.STATUS_MISMATCH, match.payment_id)
    assert "is PROCESSING" in found.evidence


async def test_a_quiet_hour_costs_one_scan_a_service(swept: Swept) -> None:
    swept.world.clock.advance(DAY_MS)
    quiet = swept.another(replace(RULES, begin_back_ms=RULES.ages_ms[0] + 1))
    await quiet.start()
    swept.world.clock.advance(60_000)
    for name, sources in (("trade_core", 1), ("pay_core", 2), ("channel_gateway", 1)):
        store = swept.world.stores[name]
        with Statements(store) as read:
            await swept.fire(sweeper=quiet)
        swept.world.clock.advance(60_000)
        assert len(read.texts) == sources * len(store.shards("live"))
    with Statements(swept.store) as read:
        await swept.fire(sweeper=quiet)
    scans = [text for text in read.texts if "recon_payment" in text or "recon_late_record" in text]
    assert len(scans) == 2 * len(swept.store.shards("live")), "matches, and late records"


async def test_the_position_is_durable_and_comes_as_far_as_the_grace_allows(swept: Swept) -> None:
    await swept.forget_all()
    await swept.sweeper.start()
    began = await swept.position()
    assert began.order_ms == swept.world.clock.now_ms() - HOUR_MS
    for _ in range(3):
        await swept.fire()
    come = await swept.position()
    assert come.attempt_ms == come.payment_ms == come.journal_ms == come.order_ms
    assert come.order_ms == swept.world.clock.now_ms() - RULES.ages_ms[0]
    assert come.due_at_ms == swept.world.clock.now_ms() + RULES.interval_ms
    await swept.another().start()
    assert await swept.position() == come, "a process that starts goes on"


async def test_a_long_stop_is_caught_up_with_in_bounded_steps(swept: Swept) -> None:
    await swept.sweeper.start()
    began = await swept.position()
    swept.world.clock.advance(3 * RULES.span_max_ms)
    for step in (1, 2, 3):
        await swept.fire()
        position = await swept.position()
        assert position.order_ms == began.order_ms + step * RULES.span_max_ms
        assert position.due_at_ms == swept.world.clock.now_ms(), "at once"
    await swept.fire()
    assert (await swept.position()).due_at_ms == swept.world.clock.now_ms() + RULES.interval_ms


async def test_what_was_committed_too_late_is_found_at_a_greater_age(swept: Swept) -> None:
    swept.world.clock.advance(RULES.interval_ms)
    await swept.sweeper.start()
    await swept.fire()
    orders = await told(swept)
    await swept.forget_all()  # as if it had not been there when the first look came by
    swept.world.clock.advance(RULES.interval_ms)
    await swept.fire()
    assert await swept.rows(RecordedOrder) == []
    swept.world.clock.advance(HOUR_MS)
    position = await swept.position(1)
    assert position.due_at_ms <= swept.world.clock.now_ms()
    await swept.fire(level=1)
    assert await told(swept) == orders


async def test_two_processes_never_do_a_step_twice_at_once(swept: Swept) -> None:
    await swept.sweeper.start()
    other = swept.another()
    before = await swept.position()
    with Statements(swept.world.stores["trade_core"]) as read:
        await asyncio.gather(swept.fire(), swept.fire(sweeper=other))
    assert len(read.texts) <= 2 * len(swept.world.stores["trade_core"].shards("live")) + 2
    after = await swept.position()
    assert after.version == before.version + 2, "claimed once, advanced once"


async def test_a_step_that_died_is_taken_over_when_its_time_is_up(
    swept: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    await swept.sweeper.start()
    before = await swept.position()

    async def dies(*args: object) -> list[RecordKind]:
        raise asyncio.CancelledError

    monkeypatch.setattr(swept.sweeper, "compare", dies)
    with pytest.raises(asyncio.CancelledError):
        await swept.fire()
    other = swept.another()
    await swept.fire(sweeper=other)
    assert (await swept.position()).order_ms == before.order_ms, "it may still be at it"
    swept.world.clock.advance(60_000)
    await swept.fire(sweeper=other)
    assert (await swept.position()).order_ms > before.order_ms


async def test_a_service_that_is_away_holds_up_its_own_records_only(
    swept: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    await swept.sweeper.start()
    before = await swept.position()
    store = swept.world.stores["channel_gateway"]

    async def away(*args: object) -> None:
        raise Unavailable("away")

    monkeypatch.setattr(store, "aggregate", away)
    await swept.fire()
    after = await swept.position()
    assert after.order_ms == before.order_ms
    assert after.payment_ms == after.journal_ms == after.attempt_ms > before.payment_ms
    assert after.due_at_ms < swept.world.clock.now_ms() + RULES.interval_ms
    monkeypatch.undo()
    swept.world.clock.advance(RULES.interval_ms)
    await swept.fire()
    assert (await swept.position()).order_ms == (await swept.position()).payment_ms


async def test_many_differences_are_halved_by_time(swept: Swept) -> None:
    orders = await told(swept)
    await swept.forget_all()
    await swept.compare(sweeper=swept.another(replace(RULES, rows_max=3)))
    assert await told(swept) == orders


async def test_records_that_ended_long_after_their_payment_was_made_are_found_by_their_time(swept: Swept) -> None:
    (match, *_) = [row for row in await swept.rows(Match) if row.state == "MATCHED"]
    held = unpack(match)
    late_at_ms = held.records[0].at_ms + DAY_MS
    record = Record("JOURNAL", new_id("jnl", match.slot, late_at_ms), late_at_ms, 5, 77, match.slot)
    (row,) = sides.late_records(match, held.records, sides.with_records(held.records, [record]))
    table = Match.__table__
    packed = sides.pack(match, replace(held, records=sides.with_records(held.records, [record])), b"").sides
    shard = swept.store.map.shard_of(match.slot)
    await swept.store.housekeep("live", shard, update(table).where(table.c.id == match.id).values(sides=packed))
    values = {name: getattr(row, name) for name in LateRecord.__columns__}
    await swept.store.housekeep("live", shard, LateRecord.__table__.insert().values(values))
    known = await sweep_reads.digests(swept.store, "live", {"JOURNAL"}, late_at_ms, late_at_ms + 1)
    assert known == {"JOURNAL": {match.slot: (1, 5, 77)}}
    assert await sweep_reads.digests(swept.store, "live", {"JOURNAL"}, late_at_ms + 1, late_at_ms + DAY_MS) == {
        "JOURNAL": {}
    }


async def test_a_sweep_goes_over_every_shard_of_every_service(swept: Swept) -> None:
    assert {len(store.shards("live")) for store in swept.world.stores.values()} == {2}
    known = {match.id: {record.id for record in unpack(match).records} for match in await swept.rows(Match)}
    homes = {swept.store.map.shard_of(slot_in(id_)) for records in known.values() for id_ in records}
    assert homes == {"s0", "s1"}, "a journal lies where its accounts do, and its match where its payment does"
    settings = swept.world.settings.service("recon")
    store = Store("recon", settings.shards, 1, swept.world.clock, ExecutorSettings())  # of another process
    await store.start()
    try:
        await swept.forget_all()
        await swept.compare(sweeper=swept.another(store=store))
        found = {match.id: {record.id for record in unpack(match).records} for match in await swept.rows(Match)}
        assert all(records <= found[match_id] for match_id, records in known.items() if records)
    finally:
        await store.stop()
