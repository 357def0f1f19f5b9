"""What providers have done, or may have, that no order of ours counts on, by the doubts about it."""

from __future__ import annotations

from channel_gateway.sandbox.client import BookEntry
from channel_gateway.tables import ChannelDoubt
from meshctl.invariants.world import Slice

_STRAY = ("LATE", "DUPLICATE")


class Strays:
    """The stray orders of a provider in one slice, and what gives them back."""

    def __init__(self, world: Slice) -> None:
        self._world = world
        self._known = frozenset(
            (doubt.channel_order_id, doubt.provider_reference)
            for doubt in world.rows(ChannelDoubt)
            if doubt.type in _STRAY and doubt.state != "DISMISSED" and doubt.provider_reference
        )

    def has(self, entry: BookEntry) -> bool:
        """Whether an order of the provider's is stray itself."""
        return (entry.reference, entry.provider_reference) in self._known

    def touches(self, entry: BookEntry) -> bool:
        """Whether it is, or gives such a one back: the ledger knows of neither."""
        if not self._known or not entry.original_reference:
            return self.has(entry)
        order = self._world.orders.get(entry.reference)
        is_paid = order is not None and order.instruction_id in self._world.instructions
        originals = self._world.booked.get(entry.original_reference, ())
        return not is_paid and any(one.account == entry.account and self.has(one) for one in originals)
