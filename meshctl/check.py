"""``meshctl check``: every invariant of the system, over all databases and the provider's book."""

from __future__ import annotations

import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape

from meshctl.invariants import INVARIANTS, book
from meshctl.invariants.base import Tally, Violation
from meshctl.invariants.databases import Snapshot
from meshctl.invariants.partition import Partition
from meshctl.invariants.scan import take
from meshctl.invariants.sensitive import secrets_of
from meshctl.invariants.world import TABLES, Scope, slot_named
from meshctl.settings import MeshSettings, load_mesh
from paykit.clock import Clock, SystemClock
from paykit.rpc import loop
from paykit.store.shard_map import ShardMap

STATED_TIME_S = 15 * 60.0  # what is under way for longer must stand in an open break


class Line(msgspec.Struct, frozen=True):
    """What became of one invariant. ``found`` are the first of ``violation_count`` violations."""

    id: str
    title: str
    counted: int
    unit: str
    violation_count: int
    found: list[Violation]
    skipped: str = ""  # why it could not be told; empty where it could


class Report(msgspec.Struct, frozen=True):
    """What became of all of them. ``rows`` were read in ``took_s`` seconds."""

    lines: list[Line]
    rows: int
    databases: int
    took_s: float

    @property
    def is_clean(self) -> bool:
        """Whether no invariant is violated."""
        return not any(line.violation_count for line in self.lines)

    @property
    def violated(self) -> set[str]:
        """The ids of the violated invariants."""
        return {line.id for line in self.lines if line.violation_count}


def run(config: Path, settled: bool = False, stated_time_s: float = STATED_TIME_S) -> int:
    """Checks the system of a settings file and prints a line per invariant. 0 where all hold, 1 where one does not."""
    report = loop.run(audit(load_mesh(config), settled=settled, stated_time_s=stated_time_s))
    show(report, Console(file=sys.stdout, highlight=False, soft_wrap=True))
    return 0 if report.is_clean else 1


async def audit(
    settings: MeshSettings,
    *,
    settled: bool = False,
    stated_time_s: float = STATED_TIME_S,
    clock: Clock | None = None,
) -> Report:
    """Reads everything once and checks every invariant, range of slots by range of slots.

    ``settled``: nothing is under way any more, so nothing may wait. Otherwise what began less than ``stated_time_s``
    ago may be unfinished. ConfigurationError names a database, or the provider's book, that cannot be read.
    """
    started_s = time.monotonic()
    scope = _scope(settings, settled, stated_time_s, clock or SystemClock())
    secrets = secrets_of(settings)
    async with AsyncExitStack() as stack:
        snapshots = []
        # An effect is read before its cause: what a later service must have done, the earlier ones cannot lack.
        for service in TABLES:
            for shard, urls in settings.service(service).shards.items():
                for mode, url in (("live", urls.live), ("shadow", urls.shadow)):
                    if url is not None:
                        snapshot = Snapshot(service, shard, mode, url)
                        stack.push_async_callback(snapshot.close)
                        await snapshot.open()
                        snapshots.append(snapshot)
        counts = {snapshot: await snapshot.counts(TABLES[snapshot.service]) for snapshot in snapshots}
        row_count = sum(count for by_table in counts.values() for count in by_table.values())
        with Partition(row_count) as partition:
            for snapshot in snapshots:
                for row_type in [kind for kind, count in counts[snapshot].items() if count]:
                    async for row in snapshot.rows(row_type):
                        take(partition, secrets, snapshot.service, snapshot.shard, snapshot.mode, row)
            if settings.sandbox is not None:
                async for entry in book.entries(settings.sandbox, scope.now_ms):
                    partition.add("live" if entry.livemode else "shadow", slot_named(entry.reference), entry)
            tallies = _checked(partition, scope, has_book=settings.sandbox is not None)
    return Report(_lines(tallies), row_count, len(snapshots), time.monotonic() - started_s)


def _scope(settings: MeshSettings, settled: bool, stated_time_s: float, clock: Clock) -> Scope:
    databases, slots = {}, {}
    for name in TABLES:
        service = settings.service(name)
        shard_map = ShardMap(service.shards, service.epoch)
        for shard, urls in service.shards.items():
            slots[name, shard] = shard_map.slots_of(shard)
            for mode, url in (("live", urls.live), ("shadow", urls.shadow)):
                if url is not None:
                    databases[name, shard, mode] = service.epoch
    return Scope(
        now_ms=clock.now_ms(),
        settled=settled,
        stated_ms=int(stated_time_s * 1000),
        databases=databases,
        slots=slots,
        accounts=book.accounts_of(settings),
    )


def _checked(partition: Partition, scope: Scope, *, has_book: bool) -> list[Tally | None]:
    """A tally for each invariant; None for one that cannot be told without the provider's book."""
    tallies = [Tally() if has_book or not invariant.needs_book else None for invariant in INVARIANTS]
    pairs = [(invariant, tally) for invariant, tally in zip(INVARIANTS, tallies, strict=True) if tally is not None]
    for worlds in partition.slices(scope):
        for world in worlds:
            for invariant, tally in pairs:
                invariant.check(world, tally)
    for invariant, tally in pairs:
        invariant.conclude(tally)
    return tallies


def _lines(tallies: list[Tally | None]) -> list[Line]:
    lines = []
    for invariant, tally in zip(INVARIANTS, tallies, strict=True):
        if tally is None:
            why = "the settings have no section [sandbox]: there is no provider's book"
            lines.append(Line(invariant.id, invariant.title, 0, invariant.unit, 0, [], why))
            continue
        found, count = tally.found, tally.violation_count
        lines.append(Line(invariant.id, invariant.title, tally.counted, invariant.unit, count, found))
    return lines


def show(report: Report, console: Console) -> None:
    """Prints a line per invariant, and the violations of those that do not hold."""
    width = max(len(line.title) for line in report.lines)
    for line in report.lines:
        word = "[yellow]skip[/]" if line.skipped else "[bold red]FAIL[/]" if line.violation_count else "[green]ok[/]  "
        told = line.skipped or f"{line.counted:>9,} {line.unit}"
        console.print(f"{word} {line.id:<3} {escape(line.title):<{width}}  {escape(told)}")
        for violation in line.found:
            console.print(f"         {escape(violation.id)}: {escape(violation.detail)}")
        if line.violation_count > len(line.found):
            console.print(f"         and {line.violation_count - len(line.found):,} more")
    broken = len(report.violated)
    verdict = f"[bold red]{broken} of {len(report.lines)} invariants do not hold[/]" if broken else "[green]all hold[/]"
    console.print(f"{verdict}: {report.rows:,} rows of {report.databases} databases in {report.took_s:.1f} s")
