"""recon's tables: what the services say of each movement of money, and the breaks between them."""

from __future__ import annotations

from sqlalchemy import MetaData

from paykit.store.row import Blob, Code, Id, LongText, Millis, Minor, Name, Row, Small, Title, mapped

metadata = MetaData()


@mapped(metadata, "recon_match", unique=["match_key"], index=[("due_at_ms",), ("biz_id",), ("kind", "state")])
class Match(Row, frozen=True, kw_only=True):
    """Two records that must agree ("mat_…").

    A side is what one service said, with the time it was first heard; None until it said so. An amount of zero says
    that nothing was moved. The unknown side is the amount of a channel order whose outcome nobody knows yet.
    """

    match_key: Name  # "KIND/key", see recon.matching.match_key
    kind: Code  # a MatchKind
    biz_id: Id
    payment_id: Id  # the payment both records belong to
    source_id: Name  # what the payment was made for; empty where it was not heard
    state: Code  # a MatchState
    first_amount_minor: Minor | None
    first_currency: Code | None
    first_seen_at_ms: Millis | None
    second_amount_minor: Minor | None
    second_currency: Code | None
    second_seen_at_ms: Millis | None
    unknown_amount_minor: Minor | None
    unknown_currency: Code | None
    unknown_seen_at_ms: Millis | None
    conflict: Small  # 1 where one side said two different amounts
    due_at_ms: Millis | None  # when the side that is silent is asked
    ask_count: Small  # how often it was asked since the window opened
    break_id: Id | None  # the break of this match as it stands
    mismatch_break_id: Id | None  # the last break that a provider's contradiction opened
    context: Blob  # paykit.context.pack


@mapped(metadata, "recon_break", index=[("state", "id"), ("biz_id",), ("match_key",)])
class Break(Row, frozen=True, kw_only=True):
    """A difference that somebody owns until it is explained ("brk_…")."""

    biz_id: Id
    type: Code  # a BreakType
    state: Code  # a BreakState
    kind: Code  # a MatchKind
    match_key: Name  # the id the two records share, without the kind
    amount_minor: Minor  # at risk
    currency: Code
    owner: Name
    evidence: LongText
    close_reason: Title  # empty while OPEN
    opened_at_ms: Millis
    closed_at_ms: Millis | None
    # What it is about, as far as that is known: what a repair goes by.
    payment_id: Id = ""
    channel: Name = ""
    channel_order_id: Id = ""
    subject_id: Id = ""  # a doubt ("dbt_…"), a line of a statement ("stl_…")
    difference_minor: Minor = 0  # by how much more came in at the provider than in our books; 0: not known
    repair_id: Id = ""  # the repair that closed it


@mapped(
    metadata, "recon_order", index=[("channel", "business_date", "id"), ("provider_reference",), ("instruction_id",)]
)
class RecordedOrder(Row, frozen=True, kw_only=True):
    """A channel order that ended, as its events told. Its id is the channel order's own ("chn_…")."""

    biz_id: Id
    payment_id: Id
    instruction_id: Id
    channel: Name  # the one that did it, or gave it up last
    merchant: Name  # of the business code; empty where it has none
    kind: Code  # as channel_gateway says: CHARGE, REFUND …
    state: Code  # SUCCEEDED or FAILED
    currency: Code
    amount_minor: Minor  # what moved; of a FAILED one what was asked for
    provider_reference: Name
    failure_reason: Code
    finished_at_ms: Millis
    business_date: Code  # "2026-11-29": the UTC date of finished_at_ms, which a statement of that day covers
    settlement: Code  # what statements say of it: OPEN until one has, then AGREED, BROKEN or NOT_EXPECTED
    statement_line_id: Id | None  # the line that it was matched with
    break_id: Id | None  # the break that its statement opened


@mapped(metadata, "recon_repair", index=[("break_id",), ("state", "id"), ("due_at_ms",), ("biz_id",)])
class Repair(Row, frozen=True, kw_only=True):
    """What is to make a break good again ("rpr_…"), on the slot of the break. A break has one under way at most."""

    biz_id: Id
    break_id: Id
    break_type: Code  # a BreakType
    match_kind: Code  # a MatchKind
    match_key: Name  # of the break
    kind: Code  # a RepairKind
    state: Code  # a RepairState
    service: Name  # the one that carries it out
    channel: Name
    payment_id: Id
    channel_order_id: Id
    subject_id: Id  # of the break: a doubt, a line of a statement
    currency: Code
    amount_minor: Minor  # what it is over; of an ADJUST by how much more the provider's book has, with its sign
    evidence: LongText  # of the break when it was proposed
    is_automatic: Small
    proposed_by: Name  # by certificate, or "rule"
    proposal: Title  # why; empty where it is automatic
    decided_by: Name  # who approved or rejected it; empty until then
    decision: Title  # why
    outcome: Code  # an Outcome; empty until it is told
    detail: Title  # what was done, or why nothing was
    effect_id: Id  # what it made: an adjustment, a channel order; empty where nothing
    due_at_ms: Millis | None  # when it goes out, is asked about, or is compared with its break
    ask_count: Small  # how often the service was asked what became of it
    context: Blob  # paykit.context.pack
    proposed_at_ms: Millis
    decided_at_ms: Millis | None
    sent_at_ms: Millis | None
    finished_at_ms: Millis | None
