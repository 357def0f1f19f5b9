"""Repairs, as rows: proposed with their break, or by a person."""

from __future__ import annotations

from paykit.context import pack
from paykit.store.command import Work
from recon.repair import BY_RULE, REPAIR, RepairRules, amount_of, is_automatic, remedy_of
from recon.tables import Break, Repair


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
        context=pack(work.context),
        proposed_at_ms=work.now_ms,
        decided_at_ms=None,
        sent_at_ms=None,
        finished_at_ms=None,
    )
    return work.insert(
        repair, parent_id=broken.id, note=f"{remedy.kind} {amount_minor} {broken.currency} by {proposed_by}"
    )
