"""What people set breakers to: kept, told who did it and why, known to every process, over when it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from sqlalchemy import select

from channel_gateway import app
from channel_gateway.overrides import (
    EXPIRY_MAX_MS,
    OVERRIDES_SLOT,
    Override,
    OverrideMode,
    OverrideWatch,
    SetOverride,
)
from channel_gateway.tables import ChannelOverride
from paykit.clock import ManualClock
from paykit.context import mint
from paykit.errors import FailedPrecondition, InvalidArgument, MeshError, Unavailable
from paykit.settings import ExecutorSettings
from paykit.store.command import Origin
from paykit.store.store import Store
from paykit.store.system import CommandRecord
from tests.channel_gateway.orders import NOW_MS
from tests.conftest import MakeShards
from tests.schema import make_schema

HOUR_MS = 3_600_000
NONE, OPEN, CLOSED = OverrideMode.NONE, OverrideMode.FORCED_OPEN, OverrideMode.FORCED_CLOSED


class Bench:
    """A store, and the watches of two processes on it."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store, self.clock = store, clock
        self.told: list[tuple[str, list[tuple[str, str, str]]]] = []
        self.heard = asyncio.Event()
        self.watch = OverrideWatch(store, self.tell)

    def tell(self, mode: str, rows: list[ChannelOverride]) -> None:
        self.told.append((mode, [(row.channel, row.merchant, row.mode) for row in rows]))
        self.heard.set()

    async def set(
        self,
        mode: OverrideMode,
        merchant: str = "",
        *,
        caller: str = "ann",
        expire_in_ms: int | None = HOUR_MS,
        shadow: bool = False,
    ) -> ChannelOverride:
        now_ms = self.clock.now_ms()
        context = mint(3, now_ms, shadow=shadow, caller=caller)
        expire_at_ms = None if mode is NONE or expire_in_ms is None else now_ms + expire_in_ms
        wanted = Override(
            channel="card", merchant=merchant, mode=mode, reason="they asked us to", expire_at_ms=expire_at_ms
        )
        return await self.store.run(SetOverride(Origin.timer(context), wanted))

    async def in_force(self, mode: str = "live") -> list[tuple[str, str, str]]:
        await self.watch.refresh(mode)
        assert self.told[-1][0] == mode
        return self.told[-1][1]


@pytest.fixture
async def bench(make_shards: MakeShards) -> AsyncIterator[Bench]:
    shards, clock = make_shards(2), ManualClock(NOW_MS)
    await make_schema(app.NAME, shards)
    store = Store(app.NAME, shards, 1, clock, ExecutorSettings())
    await store.start()
    yield Bench(store, clock)
    await store.stop()


async def test_an_override_is_one_row_on_slot_0_that_says_who_and_why(bench: Bench) -> None:
    first = await bench.set(OPEN)
    second = await bench.set(CLOSED, caller="bob")
    assert (first.id, first.version, second.version) == (second.id, 1, 2)
    (stored,) = await bench.store.fetch(
        ChannelOverride, select(ChannelOverride.__table__), slot=OVERRIDES_SLOT, shadow=False
    )
    assert stored == second
    assert (stored.mode, stored.set_by, stored.reason, stored.slot) == ("FORCED_CLOSED", "bob", "they asked us to", 0)


async def test_every_change_is_audited_with_its_caller(bench: Bench) -> None:
    for mode, caller in ((OPEN, "ann"), (NONE, "bob")):
        await bench.set(mode, caller=caller)
    table = CommandRecord.__table__
    statement = select(table).where(table.c.name == "SetOverride").order_by(table.c.created_at_ms, table.c.caller)
    records = await bench.store.fetch(CommandRecord, statement, slot=OVERRIDES_SLOT, shadow=False)
    assert [record.caller for record in records] == ["ann", "bob"]
    assert "FORCED_OPEN: they asked us to" in records[0].changes
    assert "NONE: they asked us to" in records[1].changes


async def test_what_is_in_force_is_told_until_it_expires_or_is_lifted(bench: Bench) -> None:
    await bench.set(OPEN, expire_in_ms=HOUR_MS)
    await bench.set(CLOSED, "shop", expire_in_ms=2 * HOUR_MS)
    assert await bench.in_force() == [("card", "", "FORCED_OPEN"), ("card", "shop", "FORCED_CLOSED")]
    bench.clock.advance(HOUR_MS)
    assert await bench.in_force() == [("card", "shop", "FORCED_CLOSED")]
    await bench.set(NONE, "shop")
    assert await bench.in_force() == []


async def test_live_and_shadow_are_apart(bench: Bench) -> None:
    await bench.set(OPEN, shadow=True)
    assert await bench.in_force("live") == []
    assert await bench.in_force("shadow") == [("card", "", "FORCED_OPEN")]


async def test_another_process_hears_of_it_by_itself_and_a_new_one_before_it_begins(bench: Bench) -> None:
    other = Bench(bench.store, bench.clock)
    await other.watch.start()
    try:
        assert other.told == [("live", []), ("shadow", [])]
        await bench.set(OPEN)
        async with asyncio.timeout(10):
            while other.told[-1] != ("live", [("card", "", "FORCED_OPEN")]):
                other.heard.clear()
                await other.heard.wait()
    finally:
        await other.watch.stop()
    restarted = Bench(bench.store, bench.clock)
    await restarted.watch.start()
    await restarted.watch.stop()
    assert restarted.told[0] == ("live", [("card", "", "FORCED_OPEN")])


async def test_while_it_cannot_be_read_what_was_known_holds_until_it_expires(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.set(OPEN)
    assert await bench.in_force() == [("card", "", "FORCED_OPEN")]

    async def away(*arguments: object, **options: object) -> object:
        raise Unavailable("the shard cannot be reached now")

    monkeypatch.setattr(bench.store, "fetch", away)
    assert await bench.in_force() == [("card", "", "FORCED_OPEN")]
    bench.clock.advance(HOUR_MS)
    assert await bench.in_force() == []


@pytest.mark.parametrize("expire_in_ms", [None, 0, -1, EXPIRY_MAX_MS + 1])
async def test_what_is_forced_ends_by_itself_and_not_too_late(bench: Bench, expire_in_ms: int | None) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await bench.set(OPEN, expire_in_ms=expire_in_ms)
    assert [violation.field for violation in refused.value.violations] == ["expire_time"]


async def test_there_must_be_something_to_lift(bench: Bench) -> None:
    refusals: list[MeshError] = []
    for _ in range(2):
        with pytest.raises(FailedPrecondition) as refused:
            await bench.set(NONE)
        refusals.append(refused.value)
        await bench.set(OPEN, expire_in_ms=10)
        bench.clock.advance(10)
    assert [refusal.reason for refusal in refusals] == ["NOT_OVERRIDDEN"] * 2


async def test_the_same_request_is_one_change(bench: Bench) -> None:
    wanted = Override(channel="card", merchant="", mode=OPEN, reason="so", expire_at_ms=NOW_MS + HOUR_MS)
    origin = msgspec.structs.replace(Origin.timer(mint(3, NOW_MS, caller="ann")), trigger="rpc", key="k" * 32)
    first = await bench.store.run(SetOverride(origin, wanted))
    bench.clock.advance(2 * HOUR_MS)  # what would be refused now was done then
    assert await bench.store.run(SetOverride(origin, wanted)) == first
