"""The business context of an order, for results that come without one: remembered for a while, else read."""

from __future__ import annotations

from sqlalchemy import select

from channel_gateway.tables import ChannelOrder
from paykit.context import BusinessContext, unpack
from paykit.ids import slot_in
from paykit.store.store import Store

REMEMBERED_MAX = 20_000


class OrderContexts:
    """Contexts by channel order id. Most notifications come soon, to the process that sent the order."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._remembered: dict[str, BusinessContext] = {}

    def remember(self, channel_order_id: str, context: BusinessContext) -> None:
        """Keeps a context; beyond the bound the oldest is forgotten."""
        if len(self._remembered) >= REMEMBERED_MAX:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[channel_order_id] = context

    async def find(self, mode: str, channel_order_id: str) -> BusinessContext | None:
        """The context of an order of that mode; None where there is no such order."""
        known = self._remembered.get(channel_order_id)
        if known is not None and known.mode == mode:
            return known
        table = ChannelOrder.__table__
        statement = select(table).where(table.c.id == channel_order_id)
        slot = slot_in(channel_order_id)
        found = await self._store.fetch(ChannelOrder, statement, slot=slot, shadow=mode == "shadow")
        return unpack(found[0].context) if found else None
