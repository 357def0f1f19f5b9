"""Breaks, as rows: one is opened, added to and closed here, whatever found it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from paykit.store.command import Rows, Work
from paykit.store.row import Key, key
from recon import repairing, siblings
from recon.matching import BREAK, BreakState, BreakType
from recon.repair import closed_by
from recon.rules import Rules
from recon.tables import Break
from recon.views import break_to_event

BREAK_OPENED = "recon.break_opened"
BREAK_CLOSED = "recon.break_closed"

EVIDENCE_MAX = 4000  # characters


class Subject(NamedTuple):
    """What a break is about. What is not known stays empty; ``difference_minor`` has a sign, see tables.Break."""

    slot: int
    biz_id: str
    kind: str  # a MatchKind
    match_key: str  # "KIND/key"
    payment_id: str = ""
    channel: str = ""
    channel_order_id: str = ""
    subject_id: str = ""
    difference_minor: int = 0
    provider_reference: str = ""


def others_keys(rows: Rows, channel_order_id: str) -> Iterable[Key]:
    """What ``others_of`` needs."""
    if channel_order_id:
        yield key(Break, channel_order_id, "channel_order_id")


def others_of(rows: Rows, channel_order_id: str) -> list[Break]:
    """All breaks of a channel order; none where it is empty."""
    return rows.many(Break, "channel_order_id", channel_order_id) if channel_order_id else []


def open_break(
    work: Work,
    subject: Subject,
    wrong: BreakType,
    risk: tuple[int, str],
    evidence: str,
    rules: Rules,
    break_id: str = "",
    others: Sequence[Break] = (),
) -> Break:
    """A new break, with the repair that is due for it by itself. ``risk`` is in minor units of a currency.

    ``break_id``: where it follows from what found it, so that there is one. ``others``: the breaks of its channel
    order. Where the repair of one of them has made its difference good already, it is closed by that at once.
    """
    amount_minor, currency = risk
    opened = work.insert(
        Break(
            id=break_id or work.new_id("brk"),
            slot=subject.slot,
            biz_id=subject.biz_id,
            type=wrong.value,
            state=BREAK.initial.value,
            kind=subject.kind,
            match_key=subject.match_key,
            amount_minor=amount_minor,
            currency=currency,
            owner=rules.owners[wrong],
            evidence=evidence[:EVIDENCE_MAX],
            close_reason="",
            opened_at_ms=work.now_ms,
            closed_at_ms=None,
            payment_id=subject.payment_id,
            channel=subject.channel,
            channel_order_id=subject.channel_order_id,
            subject_id=subject.subject_id,
            difference_minor=subject.difference_minor,
            provider_reference=subject.provider_reference,
        ),
        parent_id=subject.payment_id,
        note=f"{subject.kind} {wrong}",
    )
    work.publish(BREAK_OPENED, break_to_event(opened))
    repair_id = siblings.repaired_by(opened, others)
    if repair_id:
        return close_break(work, opened, closed_by(repair_id), repair_id)
    repairing.opened(work, opened, rules.repairs)
    return opened


def add_evidence(work: Work, known: Break, evidence: str) -> None:
    """Adds to what was seen, where it is new."""
    if evidence not in known.evidence:
        added = f"{known.evidence}\n{evidence}"[:EVIDENCE_MAX]
        work.update(replace(known, evidence=added), note="contradicted again")


def close_break(work: Work, found: Break, reason: str, repair_id: str = "") -> Break:
    """Closes a break, with a reason; ``repair_id`` names the repair that did it. A repair that is under way sees it."""
    assert reason
    closed = work.update(
        BREAK.move(found, BreakState.CLOSED, close_reason=reason, closed_at_ms=work.now_ms, repair_id=repair_id),
        note=reason,
    )
    work.publish(BREAK_CLOSED, break_to_event(closed))
    return closed
