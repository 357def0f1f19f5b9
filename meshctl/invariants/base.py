"""What an invariant is, and the tally that checking it fills."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple

from meshctl.invariants.world import Slice

FOUND_MAX = 20  # violations kept of one invariant; the rest is counted only


class Violation(NamedTuple):
    """Who breaks an invariant, and how."""

    id: str
    detail: str


class Tally:
    """What checking one invariant has counted so far, over all slices."""

    def __init__(self) -> None:
        self.counted = 0
        self.violation_count = 0
        self.found: list[Violation] = []  # the first FOUND_MAX
        self.sums: Counter[tuple[str, ...]] = Counter()  # what only the whole can tell: judged by ``conclude``

    def count(self, number: int = 1) -> None:
        """That many more were looked at."""
        self.counted += number

    def expect(self, holds: bool, id_: str, detail: str) -> None:
        """Notes a violation of ``id_`` unless ``holds``."""
        if not holds:
            self.violate(id_, detail)

    def violate(self, id_: str, detail: str) -> None:
        """Notes a violation of ``id_``."""
        self.violation_count += 1
        if len(self.found) < FOUND_MAX:
            self.found.append(Violation(id_, detail))


def _nothing(tally: Tally) -> None:
    """For invariants that each slice tells alone."""


class Invariant(NamedTuple):
    """One line of the report. ``check`` looks at one slice at a time; ``conclude`` at the tally of all of them.

    ``unit`` says what ``Tally.count`` counted. ``needs_book``: it cannot be told without the provider's book.
    """

    id: str
    title: str
    unit: str
    check: Callable[[Slice, Tally], None]
    conclude: Callable[[Tally], None] = _nothing
    needs_book: bool = False


def is_path(edges: Iterable[tuple[Hashable, Hashable]], start: Hashable, end: Hashable) -> bool:
    """Whether all ``edges``, each once and in some order, lead from ``start`` to ``end`` without a gap.

    The order in which records of one millisecond were written is not stored, so it is not asked for: as many edges
    leave each place as enter it, but for the two ends, and all hang together (Euler).
    """
    surplus: Counter[Hashable] = Counter({start: 1})
    surplus[end] -= 1
    neighbours: dict[Hashable, set[Hashable]] = {start: set()}
    for before, after in edges:
        surplus[before] -= 1
        surplus[after] += 1
        neighbours.setdefault(before, set()).add(after)
        neighbours.setdefault(after, set()).add(before)
    if any(surplus.values()):
        return False
    reached, waiting = {start}, [start]
    while waiting:
        fresh = neighbours[waiting.pop()] - reached
        reached |= fresh
        waiting += fresh
    return len(reached) == len(neighbours)
