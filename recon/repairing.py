"""Repairs, as rows: proposed with their break, or by a person."""

from __future__ import annotations

from msgspec.structs import replace

from paykit.context import pack
from paykit.errors import FailedPrecondition
from paykit.store.command import Work
from recon.repair import BY_RULE, REPAIR, RepairRules, RepairState, amount_of, is_automatic, remedy_of
from recon.tables import Break, Repair

_DETAIL_MAX = 255  # characters of the column


def opened(work: Work, broken: Break, rules: RepairRules) -> None:
    """Proposes the repair of a break that has just been opened, where it runs by itself; it goes out a little later."""
    remedy = remedy_of(broken.type, broken.kind)
    if is_automatic(broken, remedy.kind, rules):
        amount_minor = amount_of(broken, remedy.kind)
        propose(work, broken, amount_minor, BY_RULE, "", due_at_ms=work.now_ms + rules.delay_ms)


def propose(work: Work, broken: Break, amount_minor: int, proposed_by: str, proposal: str, *, due_at_ms: int) -> Repair:
    """A new repair of a break; ``proposed_by`` is BY_RULE where it needs nobody."""
    remedy = remedy_of(broken.type, broken.kind)
    repair = Repair(
        id=work.new_id("rpr"),
        slot=broken.slot,
        biz_id=broken.biz_id,
        break_id=broken.id,
        break_type=broken.type,
        match_kind=broken.kind,
        match_key=broken.match_key,
        kind=remedy.kind.value,
        state=REPAIR.initial.value,
        service=remedy.service,
        channel=broken.channel,
        payment_id=broken.payment_id,
        channel_order_id=broken.channel_order_id,
        subject_id=broken.subject_id,
        currency=broken.currency,
        amount_minor=amount_minor,
        evidence=broken.evidence,
        is_automatic=int(proposed_by == BY_RULE),
        proposed_by=proposed_by,
        proposal=proposal,
        decided_by="",
        decision="",
        outcome="",
        detail="",
        effect_id="",
        due_at_ms=due_at_ms,
        ask_count=0,
        context=pack(replace(work.context, deadline_ms=None)),
        proposed_at_ms=work.now_ms,
        decided_at_ms=None,
        sent_at_ms=None,
        finished_at_ms=None,
        provider_reference=broken.provider_reference,
    )
    return work.insert(
        repair, parent_id=broken.id, note=f"{remedy.kind} {amount_minor} {broken.currency} by {proposed_by}"
    )


def withdraw(work: Work, repair: Repair, reason: str) -> Repair:
    """A repair that has not gone out is not wanted any more: its break was closed, for ``reason``."""
    withdrawn = REPAIR.move(
        repair,
        RepairState.WITHDRAWN,
        due_at_ms=None,
        finished_at_ms=work.now_ms,
        detail=f"its break was closed: {reason}"[:_DETAIL_MAX],
    )
    return work.update(withdrawn, parent_id=repair.break_id, note=reason)


def withdraw_all(work: Work, broken: Break, reason: str) -> None:
    """A person closes a break: what has not gone out is withdrawn. FailedPrecondition REPAIR_UNDER_WAY where a service
    is carrying one out: what it does would be left without a break."""
    for repair in work.many(Repair, "break_id", broken.id):
        if repair.state == RepairState.SENT:
            raise under_way(repair)
        if not REPAIR.is_terminal(repair.state):
            withdraw(work, repair, reason)


def under_way(repair: Repair) -> FailedPrecondition:
    """That a break has a repair already."""
    return FailedPrecondition(
        f"break {repair.break_id} has the repair {repair.id}, which is {repair.state}",
        reason="REPAIR_UNDER_WAY",
        subject=repair.break_id,
        metadata={"repair_id": repair.id, "state": repair.state},
    )
