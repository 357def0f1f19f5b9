"""Which shard holds which slot. The map is data, has an epoch, and is contiguous: shard i of n holds one range."""

from __future__ import annotations

from collections.abc import Iterable

from paykit.errors import ConfigurationError
from paykit.ids import SLOT_COUNT


class ShardMap:
    """Slots to shard names, in equal contiguous ranges in the order of the names given."""

    def __init__(self, names: Iterable[str], epoch: int) -> None:
        self.names = list(names)
        if not self.names:
            raise ConfigurationError("shards: at least one shard is needed")
        self.epoch = epoch
        count = len(self.names)
        self._of_slot = [self.names[slot * count // SLOT_COUNT] for slot in range(SLOT_COUNT)]

    def shard_of(self, slot: int) -> str:
        """The name of the shard that holds ``slot`` (0 to 1023)."""
        return self._of_slot[slot]

    def slots_of(self, name: str) -> range:
        """The slots that a shard holds."""
        slots = [slot for slot, shard in enumerate(self._of_slot) if shard == name]
        return range(slots[0], slots[-1] + 1)
