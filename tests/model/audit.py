"""``meshctl check`` over the stores of a run: every invariant that two of the four services, and no book, can tell."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack

from meshctl.invariants import INVARIANTS
from meshctl.invariants.base import Tally
from meshctl.invariants.databases import Snapshot
from meshctl.invariants.partition import Partition
from meshctl.invariants.scan import take
from meshctl.invariants.world import TABLES, Scope
from paykit.settings import ShardSettings
from paykit.store.shard_map import ShardMap

_ELSEWHERE = ("6b", "6e")  # ask for rows of channel_gateway and recon, which take no part


async def audit(shards: Mapping[str, dict[str, ShardSettings]], now_ms: int) -> list[str]:
    """The violations, each as "invariant id: whose: how", after a run that has come to its end."""
    scope = _scope(shards, now_ms)
    async with AsyncExitStack() as stack:
        snapshots = []
        for service in [name for name in TABLES if name in shards]:
            for shard, urls in shards[service].items():
                snapshot = Snapshot(service, shard, "live", urls.live)
                stack.push_async_callback(snapshot.close)
                await snapshot.open()
                snapshots.append(snapshot)
        counts = {snapshot: await snapshot.counts(TABLES[snapshot.service]) for snapshot in snapshots}
        with Partition(sum(sum(by_table.values()) for by_table in counts.values())) as partition:
            for snapshot in snapshots:
                for row_type in [kind for kind, count in counts[snapshot].items() if count]:
                    async for row in snapshot.rows(row_type):
                        take(partition, (), snapshot.service, snapshot.shard, "live", row)
            return _violations(partition, scope)


def _scope(shards: Mapping[str, dict[str, ShardSettings]], now_ms: int) -> Scope:
    maps = {name: ShardMap(of_service, 1) for name, of_service in shards.items()}
    return Scope(
        now_ms=now_ms,
        settled=True,
        stated_ms=0,
        databases={(name, shard, "live"): 1 for name, of_service in shards.items() for shard in of_service},
        slots={(name, shard): maps[name].slots_of(shard) for name in shards for shard in shards[name]},
        accounts={},
    )


def _violations(partition: Partition, scope: Scope) -> list[str]:
    pairs = [
        (invariant, Tally()) for invariant in INVARIANTS if not invariant.needs_book and invariant.id not in _ELSEWHERE
    ]
    for worlds in partition.slices(scope):
        for world in worlds:
            for invariant, tally in pairs:
                invariant.check(world, tally)
    for invariant, tally in pairs:
        invariant.conclude(tally)
    return [
        f"{invariant.id} {invariant.title}: {found.id}: {found.detail}"
        for invariant, tally in pairs
        for found in tally.found
    ]
