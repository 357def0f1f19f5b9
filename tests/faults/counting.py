"""How often a provider's answer was unknown, and how it was found in the end, from the gateway's audit rows."""

from __future__ import annotations

import msgspec
from sqlalchemy import select

from meshctl.invariants.databases import reading_engine
from meshctl.invariants.world import decode_changes
from meshctl.settings import MeshSettings
from paykit.store.system import CommandRecord

_FINAL = ("SUCCEEDED", "FAILED")
_BY_QUERY = "ApplyResult"  # an order that was UNKNOWN has no reply to come any more


class Declared(msgspec.Struct, frozen=True):
    """Channel orders that were UNKNOWN, and what ended them: a query, or the provider's notification."""

    unknown: int = 0
    ended_by_query: int = 0
    ended_by_notification: int = 0


async def declared_unknown(settings: MeshSettings) -> Declared:
    """Counts over all shards of channel_gateway."""
    table = CommandRecord.__table__
    statement = select(table.c.name, table.c.changes).where(table.c.changes.contains("UNKNOWN"))
    unknown: set[str] = set()
    by_query: set[str] = set()
    by_notification: set[str] = set()
    for shard in settings.service("channel_gateway").shards.values():
        engine = reading_engine(shard.live)
        try:
            async with engine.connect() as connection:
                for name, changes in await connection.execute(statement):
                    for change in decode_changes(changes) or ():
                        if change.to_state == "UNKNOWN":
                            unknown.add(change.id)
                        elif change.from_state == "UNKNOWN" and change.to_state in _FINAL:
                            (by_query if name == _BY_QUERY else by_notification).add(change.id)
        finally:
            await engine.dispose()
    return Declared(len(unknown), len(by_query), len(by_notification))
