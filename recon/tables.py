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
