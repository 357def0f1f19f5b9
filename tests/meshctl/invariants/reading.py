"""A statement in the small system: all that moved on a channel, and a line that nobody can explain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, cast

from sqlalchemy import select

from paykit.context import mint
from paykit.ids import slot_of
from paykit.store.command import Origin
from recon.settings import ReconSettings
from recon.statements import judging
from recon.statements.importing import Header, Importer
from recon.tables import RecordedOrder
from tests.recon.statements.support import csv_file, row

if TYPE_CHECKING:
    from tests.meshctl.invariants.small_world import SmallWorld

CHANNEL = "sandbox_card"


async def read_statement(world: SmallWorld) -> None:
    """Imports the statement of the card channel as recon's own process would."""
    store, settings = world.stores["recon"], cast(ReconSettings, world.settings.recon)
    table = RecordedOrder.__table__
    orders = await store.fetch_everywhere(RecordedOrder, select(table).where(table.c.channel == CHANNEL), shadow=False)
    rows = [row("CHARGE", "nobody's", "0.07")]
    for order in orders:
        moved = judging.expected_minor(order)
        if moved is not None:
            amount = f"{'-' if moved < 0 else ''}{abs(moved) // 100}.{abs(moved) % 100:02d}"
            rows.append(row(order.kind, f"L-{order.id}", amount, order.id, day=order.business_date))
    context = mint(slot_of(CHANNEL), world.clock.now_ms(), caller="ann@example.org")
    header = Header(
        origin=lambda size_bytes, digest: Origin(trigger="rpc", key="", context=context),
        context=context,
        channel=CHANNEL,
        account="",
        business_date=orders[0].business_date,
        format=None,
        file_name="statement.csv",
        size_bytes=0,
        sha256="",
        replaces_id="",
    )

    async def chunks() -> AsyncIterator[bytes]:
        yield csv_file(rows)

    async for _ in Importer(store, settings.statements, settings.rules()).run(header, chunks()):
        pass
    await world.carry()
