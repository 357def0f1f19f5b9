"""9: breaks are closed for a reason; repairs are decided by two people or by rule, and each has one effect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from channel_gateway.originals import is_repair
from channel_gateway.tables import ChannelDoubt
from meshctl.invariants.base import Invariant, Tally
from meshctl.invariants.world import COMPENSATIONS, Slice, grouped
from pay_core.adjustment import ADJUST
from pay_core.tables import Account, Adjustment, Entry
from paykit.compensation import CompensationRow, CompensationState
from recon.repair import BY_RULE, closed_by
from recon.siblings import is_same_difference
from recon.tables import Break, Repair

_APPROVED = ("APPROVED", "SENT", "DONE", "FAILED")
_OUT = ("SENT", "DONE", "FAILED")  # a service has heard of it


def breaks_close_for_a_reason(world: Slice, tally: Tally) -> None:
    """A CLOSED break says why and when; one that a repair closed names it, and that is DONE: its own, or that of one
    other break about the same difference. An OPEN one says none."""
    breaks = {row.id: row for row in world.rows(Break)}
    shared: Counter[str] = Counter()
    for row in world.rows(Break):
        tally.count()
        is_closed = row.state == "CLOSED"
        is_told = bool(row.close_reason) == is_closed == (row.closed_at_ms is not None)
        tally.expect(is_told, row.id, f"{row.state} at {row.closed_at_ms} for {row.close_reason!r}")
        if row.repair_id:
            repair = world.repairs.get(row.repair_id)
            repaired = None if repair is None else breaks.get(repair.break_id)
            shared[row.repair_id] += repaired is not row
            fits = repaired is not None and (repaired is row or is_same_difference(row, repaired))
            fits = fits and repair is not None and (repair.state, row.close_reason) == ("DONE", closed_by(repair.id))
            fits = fits and shared[row.repair_id] <= 1
            tally.expect(fits, row.id, f"closed by {row.repair_id}, which did not do it: {row.close_reason!r}")


def repairs_are_decided(world: Slice, tally: Tally) -> None:
    """What goes out was approved by somebody else than who proposed it, or by rule where it was proposed by rule. A
    break has one repair under way, and it is the break's."""
    breaks = {row.id: row for row in world.rows(Break)}
    for repair in world.rows(Repair):
        tally.count()
        maker, checker = repair.proposed_by, repair.decided_by
        is_by_rule = maker == BY_RULE
        tally.expect(bool(maker) and is_by_rule == bool(repair.is_automatic), repair.id, f"proposed by {maker!r}")
        if repair.state in _APPROVED:
            is_agreed = checker == BY_RULE if is_by_rule else checker.casefold() not in ("", BY_RULE, maker.casefold())
            tally.expect(is_agreed, repair.id, f"{repair.state}, proposed by {maker!r} and approved by {checker!r}")
        broken = breaks.get(repair.break_id)
        told = (repair.biz_id, repair.break_type, repair.match_key)
        fits = broken is not None and told == (broken.biz_id, broken.type, broken.match_key)
        tally.expect(fits, repair.id, f"repairs {repair.break_id}, which is another break")
    for break_id, repairs in grouped(world.rows(Repair), "break_id").items():
        open_ones = [row.id for row in repairs if row.finished_at_ms is None and row.state != "REJECTED"]
        tally.expect(len(open_ones) <= 1, break_id, f"has {open_ones} under way")


def repairs_have_one_effect(world: Slice, tally: Tally) -> None:
    """A repair that has ended says what its service says, and one that is DONE has changed something there. No service
    did what was never sent to it, or did it twice."""
    done = {service: grouped(world.rows(kind, service), "repair_id") for service, kind in COMPENSATIONS.items()}
    for repair in world.rows(Repair):
        tally.count()
        rows = [row for by_repair in done.values() for row in by_repair.pop(repair.id, [])]
        for flaw in _flaws(world, repair, rows):
            tally.violate(repair.id, flaw)
    for by_repair in done.values():
        for repair_id, rows in by_repair.items():
            lags = all(world.scope.may_be_unseen(row.created_at_ms) for row in rows)
            tally.expect(lags, repair_id, f"was carried out by {rows[0].id}, and does not exist")
    made = Counter(row.repair_id for row in world.rows(Adjustment))
    made.update(row.instruction_id for row in world.orders.values() if is_repair(row))
    for repair_id, number in made.items():
        tally.expect(number == 1 and repair_id in world.repairs, repair_id, f"has made {number} records")


def _flaws(world: Slice, repair: Repair, rows: list[CompensationRow]) -> Iterator[str]:
    if repair.state not in _OUT:
        if not all(world.scope.may_be_unseen(row.created_at_ms) for row in rows):
            yield f"{repair.state}, and carried out by {[row.id for row in rows]}"
        return
    if repair.state == "SENT":
        for row in rows:
            if row.state == CompensationState.ENDED and not world.may_lag(row.finished_at_ms or 0, repair.id):
                yield f"SENT, and {row.id} ended as {row.outcome}"
        return
    told = [(row.outcome, row.effect_id, row.kind) for row in rows]
    if told != [(repair.outcome, repair.effect_id, repair.kind)]:
        yield f"{repair.state}, says {(repair.outcome, repair.effect_id, repair.kind)}, its service {told}"
    elif (repair.outcome == "DONE") != (repair.state == "DONE"):
        yield f"{repair.state}, and its service says {repair.outcome}"
    elif repair.state == "DONE" and repair.effect_id not in _records(world).get(repair.effect_id[:3], {}):
        yield f"DONE, and {repair.effect_id or 'its effect'} does not exist"


def _records(world: Slice) -> Mapping[str, Mapping[str, object]]:
    """What a repair may have made or changed, by prefix and id."""
    return {
        "adj": {row.id: row for row in world.rows(Adjustment)},
        "chn": world.orders,
        "dbt": {row.id: row for row in world.rows(ChannelDoubt)},
        "pay": world.payments,
        "trd": world.trades,
    }


def adjustments_are_posted(world: Slice, tally: Tally) -> None:
    """An adjustment has its journal: EXTERNAL against SUSPENSE by its amount, or the opposite of what it undoes; and
    the repair that asked for it, over that amount."""
    entries = grouped(world.rows(Entry), "journal_id")
    accounts = {row.id: row for row in world.rows(Account)}
    for row in world.rows(Adjustment):
        tally.count()
        posted = Counter((entry.account_id, entry.amount_minor) for entry in entries.get(row.journal_id, []))
        if row.kind == ADJUST:
            found = sorted((_name(accounts.get(id_)), minor) for id_, minor in posted.elements())
            due = [(f"EXTERNAL:{row.channel}/{row.currency}", -row.amount_minor)]
            due.append((f"SUSPENSE/{row.currency}", row.amount_minor))
            tally.expect(found == due, row.id, f"adjusts by {row.amount_minor}, and {row.journal_id} posted {found}")
        else:
            undone = Counter(
                (entry.account_id, -entry.amount_minor) for entry in entries.get(row.reversed_journal_id, [])
            )
            is_opposite = posted == undone and bool(posted)
            tally.expect(is_opposite, row.id, f"{row.journal_id} is not the opposite of {row.reversed_journal_id}")
        repair = world.repairs.get(row.repair_id)
        asked = None if repair is None else (repair.kind, repair.proposed_by, repair.decided_by)
        fits = asked == (row.kind, row.proposed_by, row.approved_by)
        fits = fits and (row.kind != ADJUST or repair is None or repair.amount_minor == row.amount_minor)
        tally.expect(fits, row.id, f"is not what {row.repair_id} asked for: {asked}")


def _name(account: Account | None) -> str:
    return "" if account is None else account.account_key.partition("/")[2]


INVARIANTS = (
    Invariant("9a", "breaks are closed for a reason", "breaks", breaks_close_for_a_reason),
    Invariant("9b", "repairs are decided by two, or by rule", "repairs", repairs_are_decided),
    Invariant("9c", "each repair has one effect", "repairs", repairs_have_one_effect),
    Invariant("9d", "adjustments are what was asked for", "adjustments", adjustments_are_posted),
)
