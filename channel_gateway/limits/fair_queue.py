"""A bounded queue that is fair between merchants: round robin over them, first come first served within one."""

from __future__ import annotations

from collections import Counter, OrderedDict
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Room(StrEnum):
    """Whether there is a place."""

    FREE = "FREE"
    FULL = "FULL"  # for nobody
    SHARE_FULL = "SHARE_FULL"  # not for this merchant


class FairQueue(Generic[T]):
    """At most ``items_max`` items, each under a key of its own, of which a merchant may have so many.

    Every operation takes the same time however much waits, and nothing is kept of a merchant that has nothing here.
    A merchant that is *parked* keeps its items and its share but gets no turn until it is unparked.
    """

    def __init__(self, items_max: int) -> None:
        self._items_max = items_max
        self._lines: dict[str, OrderedDict[str, T]] = {}
        self._turns: OrderedDict[str, None] = OrderedDict()  # merchants with items, not parked; whose turn it is, first
        self._count = 0
        self._reserved: Counter[str] = Counter()
        self._reserved_count = 0

    def __len__(self) -> int:
        return self._count

    def waiting(self, merchant: str) -> int:
        """How many items of a merchant wait."""
        line = self._lines.get(merchant)
        return 0 if line is None else len(line)

    def merchants(self) -> list[str]:
        """Those that have something waiting."""
        return list(self._lines)

    def room(self, merchant: str, share_max: int) -> Room:
        """Whether ``merchant``, of whom at most ``share_max`` may wait, has a place, beside those that are reserved."""
        if self._count + self._reserved_count >= self._items_max:
            return Room.FULL
        if self.waiting(merchant) + self._reserved[merchant] >= share_max:
            return Room.SHARE_FULL
        return Room.FREE

    def reserve(self, merchant: str) -> None:
        """Keeps a place; ask ``room`` before."""
        self._reserved[merchant] += 1
        self._reserved_count += 1

    def unreserve(self, merchant: str) -> None:
        """Gives a reserved place up."""
        assert self._reserved[merchant] > 0, "no place was reserved"
        self._reserved[merchant] -= 1
        self._reserved_count -= 1
        if not self._reserved[merchant]:
            del self._reserved[merchant]

    def put(self, merchant: str, key: str, item: T) -> None:
        """Adds an item behind those of the same merchant; ask ``room`` before."""
        line = self._lines.get(merchant)
        if line is None:
            line = self._lines[merchant] = OrderedDict()
            self._turns[merchant] = None
        assert key not in line, "it waits already"
        line[key] = item
        self._count += 1

    def next_merchant(self) -> str | None:
        """Whose turn it is; None where nobody waits who is not parked."""
        return next(iter(self._turns), None)

    def take(self) -> tuple[str, str, T]:
        """(merchant, key, item) of the one whose turn it is, who then goes behind all others."""
        merchant = next(iter(self._turns))
        line = self._lines[merchant]
        key, item = line.popitem(last=False)
        self._count -= 1
        if line:
            self._turns.move_to_end(merchant)
        else:
            self._forget(merchant)
        return merchant, key, item

    def park(self, merchant: str) -> None:
        """Gives a merchant no turns until it is unparked, or until it comes anew with nothing waiting."""
        self._turns.pop(merchant, None)

    def unpark(self, merchant: str) -> None:
        """Gives a merchant turns again, behind all others."""
        if merchant in self._lines and merchant not in self._turns:
            self._turns[merchant] = None

    def remove(self, merchant: str, key: str) -> T | None:
        """Takes an item out of the middle; None where it does not wait."""
        line = self._lines.get(merchant)
        item = None if line is None else line.pop(key, None)
        if line is None or item is None:
            return None
        self._count -= 1
        if not line:
            self._forget(merchant)
        return item

    def clear(self) -> list[str]:
        """Drops all that waits; its keys. Reserved places stay."""
        keys = [key for line in self._lines.values() for key in line]
        self._lines.clear()
        self._turns.clear()
        self._count = 0
        return keys

    def _forget(self, merchant: str) -> None:
        del self._lines[merchant]
        self._turns.pop(merchant, None)
