"""Waits until nothing is under way any more, by looking at the databases."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from channel_gateway.tables import ChannelDoubt, ChannelOrder
from meshctl.invariants.databases import reading_engine
from meshctl.settings import MeshSettings
from pay_core.tables import Payment
from paykit.store.row import Row
from paykit.store.system import Outbox
from recon.tables import Break, Match, Repair
from trade_core.tables import Trade

POLL_INTERVAL_S = 0.5
QUIET_LOOKS = 3  # an event between the bus and its consumer is seen in no table

# A trade that its client leaves unpaid expires soon: CREATED is under way too. A repair that waits for a person is not.
_OPEN_STATES: Mapping[str, Sequence[tuple[type[Row], Sequence[str]]]] = {
    "trade_core": ((Trade, ("CREATED", "PAYING", "SETTLING")),),
    "pay_core": ((Payment, ("PROCESSING", "REVERSING")),),
    "channel_gateway": (
        (ChannelOrder, ("ACCEPTED", "SENDING", "PENDING", "UNKNOWN")),
        (ChannelDoubt, ("OPEN",)),
    ),
    "recon": ((Match, ("WAITING",)), (Repair, ("APPROVED", "SENT"))),
}
_ASKED_AGAIN: ColumnElement[bool] = (ChannelOrder.__table__.c.state == "FAILED") & (
    ChannelOrder.__table__.c.due_at_ms.is_not(None)
)
_UNSENT: ColumnElement[bool] = Outbox.__table__.c.acked_at_ms.is_(None)


class StillUnderWay(Exception):
    """Something did not end in time; the message says how much of what."""


async def drain(
    settings: MeshSettings, timeout_s: float, *, but_in_breaks: bool = False, and_asked_again: bool = False
) -> float:
    """Returns when nothing is under way, after so many seconds; StillUnderWay after ``timeout_s``.

    ``but_in_breaks``: what an open break is about may wait for as long as it is open. ``and_asked_again``: providers
    have been asked once more about what they did not know.
    """
    started_s = time.monotonic()
    databases = [
        (service, reading_engine(shard.live))
        for service in _OPEN_STATES
        for shard in settings.service(service).shards.values()
    ]
    left: Counter[str] = Counter()
    recon = settings.recon
    held_s = 0.0 if recon is None else recon.gather_s + recon.gather_pause_s  # as long as recon may keep an event
    quiet_looks, wanted = 0, QUIET_LOOKS + math.ceil(held_s / POLL_INTERVAL_S)
    try:
        while quiet_looks < wanted:
            if time.monotonic() - started_s > timeout_s:
                raise StillUnderWay(f"after {timeout_s:g} s: {dict(left)}")
            in_breaks = await _in_open_breaks(databases) if but_in_breaks else frozenset()
            left = await _under_way(databases, in_breaks)
            if and_asked_again:
                left += await _asked_again(databases)
            quiet_looks = 0 if left else quiet_looks + 1
            await asyncio.sleep(POLL_INTERVAL_S)
    finally:
        for _, engine in databases:
            await engine.dispose()
    return time.monotonic() - started_s


async def _in_open_breaks(databases: Sequence[tuple[str, AsyncEngine]]) -> frozenset[str]:
    """The business ids that open breaks are about."""
    found: set[str] = set()
    table = Break.__table__
    for service, engine in databases:
        if service == "recon":
            async with engine.connect() as connection:
                statement = select(table.c.biz_id).where(table.c.state == "OPEN").distinct()
                found.update((await connection.execute(statement)).scalars())
    return frozenset(found)


async def _under_way(databases: Sequence[tuple[str, AsyncEngine]], in_breaks: frozenset[str]) -> Counter[str]:
    left: Counter[str] = Counter()
    for service, engine in databases:
        async with engine.connect() as connection:
            unsent = select(func.count()).select_from(Outbox.__table__).where(_UNSENT)
            left[f"messages of {service}"] += (await connection.execute(unsent)).scalar_one()
            for row_type, states in _OPEN_STATES[service]:
                table = row_type.__table__
                found = await connection.execute(select(table.c.biz_id).where(table.c.state.in_(states)))
                left[row_type.__name__] += sum(biz_id not in in_breaks for biz_id in found.scalars())
    return +left


async def _asked_again(databases: Sequence[tuple[str, AsyncEngine]]) -> Counter[str]:
    left: Counter[str] = Counter()
    for service, engine in databases:
        if service == "channel_gateway":
            async with engine.connect() as connection:
                statement = select(func.count()).select_from(ChannelOrder.__table__).where(_ASKED_AGAIN)
                left["orders to ask about again"] += (await connection.execute(statement)).scalar_one()
    return +left


async def count(settings: MeshSettings, service: str, row_type: type[Row]) -> int:
    """How many live rows of a table a service has, over all its shards."""
    total = 0
    for shard in settings.service(service).shards.values():
        engine = reading_engine(shard.live)
        try:
            async with engine.connect() as connection:
                statement = select(func.count()).select_from(row_type.__table__)
                total += (await connection.execute(statement)).scalar_one()
        finally:
            await engine.dispose()
    return total
