"""7: each row lies where its id says; nothing of shadow is in live, nor the reverse."""

from __future__ import annotations

from channel_gateway.sandbox.client import BookEntry
from meshctl.invariants.base import Invariant, Tally
from meshctl.invariants.world import BizUse, Slice
from paykit.ids import SLOT_COUNT, is_id, slot_in
from paykit.store.system import ShardEpoch


def rows_lie_on_their_shard(world: Slice, tally: Tally) -> None:
    """The shard map gives each row's slot to the shard it lies on."""
    for service, shard, row in world.placed():
        if isinstance(row, ShardEpoch):
            continue
        tally.count()
        is_home = 0 <= row.slot < SLOT_COUNT and row.slot in world.scope.slots[service, shard]
        tally.expect(is_home, row.id, f"{service}.{row.__entity__} of slot {row.slot} lies on {shard}")


def ids_name_the_slot(world: Slice, tally: Tally) -> None:
    """The slot in a row's id is the row's slot."""
    for service, _, row in world.placed():
        if is_id(row.id):
            tally.count()
            slot = slot_in(row.id)
            tally.expect(slot == row.slot, row.id, f"{service}.{row.__entity__} has slot {row.slot}, its id {slot}")


def databases_are_the_configured(world: Slice, tally: Tally) -> None:
    """Each database says that it is the shard, side and epoch that the settings take it for."""
    for service, shard, row in world.placed():
        if isinstance(row, ShardEpoch):
            tally.count()
            said = (row.service, row.shard, row.mode, row.epoch)
            configured = (service, shard, world.mode, world.scope.databases[service, shard, world.mode])
            tally.expect(said == configured, f"{service}/{shard}", f"is {configured} in the settings, says {said}")
            tally.sums[service, shard, world.mode] += 1
    if world.number == 0:
        for service, shard, mode in world.scope.databases:
            if mode == world.mode:
                tally.sums[service, shard, mode] -= 1


def each_database_says_what_it_is(tally: Tally) -> None:
    """None is silent about it."""
    for key, missing in tally.sums.items():
        tally.expect(missing == 0, str(key), "this database does not say once which shard it is")


def modes_share_no_business(world: Slice, tally: Tally) -> None:
    """No business id is both in live and in shadow."""
    here = {use.biz_id for use in world.rows(BizUse)}
    tally.count(len(here))
    if world.mode == "live" and world.other is not None:
        for biz_id in sorted(here & {use.biz_id for use in world.other.rows(BizUse)}):
            tally.violate(biz_id, "occurs both in live and in shadow")


def modes_share_no_money(world: Slice, tally: Tally) -> None:
    """Shadow orders are with the provider's shadow accounts, and only those; so are live ones with live accounts."""
    for entry in world.rows(BookEntry):
        tally.count()
        mode = world.scope.accounts.get(entry.account, ("", world.mode))[1]
        tally.expect(mode == world.mode, entry.reference, f"{world.mode} order with the {mode} account {entry.account}")
        if entry.reference not in world.orders and world.other is not None and entry.reference in world.other.orders:
            tally.violate(entry.reference, f"{world.other.mode} channel order, with the provider it is {world.mode}")


INVARIANTS = (
    Invariant("7a", "each row lies on its shard", "rows", rows_lie_on_their_shard),
    Invariant("7b", "each id names its row's slot", "rows", ids_name_the_slot),
    Invariant(
        "7c",
        "each database is the configured one",
        "databases",
        databases_are_the_configured,
        each_database_says_what_it_is,
    ),
    Invariant("7d", "live and shadow share no business id", "business ids", modes_share_no_business),
    Invariant("7e", "live and shadow share no money", "provider orders", modes_share_no_money, needs_book=True),
)
