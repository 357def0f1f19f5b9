"""recon's tables: what the services say of each movement of money, and the breaks between them."""

from __future__ import annotations

from sqlalchemy import MetaData

from paykit.store.row import Blob, Code, Id, LongName, LongText, Millis, Minor, Name, Row, Small, Title, mapped

metadata = MetaData()


@mapped(metadata, "recon_payment", index=[("due_at_ms",)])
class Match(Row, frozen=True, kw_only=True):
    """All that must agree about one payment ("mat_…"; the rest of the id is that of the payment's).

    ``sides`` has the pairs of records that are compared, and the records that were heard of; the columns say of them
    what is asked for over many rows. Counts are of pairs by kind, "1.1.2.0" in the order of matching.REAL_TIME, empty
    where there are none.
    """

    biz_id: Id
    state: Code  # a MatchState: the worst of its pairs
    currency: Code
    pair_counts: Name
    waiting_counts: Name
    broken_counts: Name
    waiting_minor: Minor  # the sum of what waits for its other side
    waiting_since_ms: Millis | None  # the oldest of it, by the clock of the service that told of it
    due_at_ms: Millis | None  # when a silent side is asked
    context: Blob  # paykit.context.pack; empty while nothing is due
    sides: Blob  # recon.sides.Sides

    @property
    def payment_id(self) -> str:
        """The payment."""
        return "pay" + self.id[3:]


@mapped(metadata, "recon_break", index=[("state", "id"), ("biz_id",), ("match_key",), ("channel_order_id",)])
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
    repair_id: Id = ""  # the repair that closed it: its own, or that of a break about the same difference
    provider_reference: Name = ""  # of a DUPLICATE by its statement: which of the provider's orders it is


@mapped(
    metadata,
    "recon_order",
    index=[
        ("channel", "business_date", "id"),
        ("provider_reference",),
        ("instruction_id",),
        ("channel", "settlement", "business_date"),
    ],
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
    provider_reference: Name = ""  # of the break


@mapped(
    metadata,
    "statement",
    unique=["file_key", "active_key"],
    index=[("channel", "business_date"), ("due_at_ms",), ("biz_id",)],
)
class Statement(Row, frozen=True, kw_only=True):
    """One imported file of a provider ("stm_…"), on the slot of its channel."""

    biz_id: Id
    channel: Name
    account: Name  # the one it must be of; empty where the file names several
    format: Code  # a recon.statements.model.Format
    business_date: Code  # "2026-11-29": the day it is of
    state: Code  # a StatementState
    file_name: Title
    file_digest: Name  # SHA-256 in hexadecimal
    file_key: LongName  # "channel/digest": one file is imported once; its own id once it was abandoned
    active_key: LongName  # the channel while it is being imported, so that one is at a time; its own id afterwards
    size_bytes: Millis
    line_count: Millis  # those it brought
    known_line_count: Millis  # those that were there already, or told twice
    replaces_id: Id  # the one it corrects; empty where it corrects none
    replaced_by_id: Id
    revision: Small  # how many corrections came before it; part of the ids of its lines
    matched_ref: Id  # up to which its lines are matched, in the order of what they name; empty at first
    due_at_ms: Millis | None  # when it is somebody else's to go on with, or what is missing here is looked for again
    context: Blob  # paykit.context.pack
    created_at_ms: Millis
    finished_at_ms: Millis | None


@mapped(metadata, "statement_balance", index=[("statement_id",), ("account_key", "to_date")])
class StatementBalance(Row, frozen=True, kw_only=True):
    """What a file tells of one account in one currency ("stb_…"), on the slot of its statement."""

    statement_id: Id
    account_key: LongName  # "channel/account/currency"
    account: Name
    currency: Code
    opening_minor: Minor | None
    closing_minor: Minor | None
    from_date: Code  # of its lines and balances
    to_date: Code


@mapped(
    metadata,
    "statement_line",
    index=[("statement_id", "match_ref"), ("match_ref",), ("business_date", "channel")],
)
class StatementLine(Row, frozen=True, kw_only=True):
    """One line of a statement ("stl_…"), on the slot of the order that it names.

    The id is made of what the line is known by (channel, account, the provider's id of it; where there is none, what it
    says and the how-manieth that says so): the same line is the same row. A line is not changed but for its state and
    what it was found to differ in.
    """

    statement_id: Id
    channel: Name
    account: Name
    line_no: Millis  # in its file, from 1
    provider_line_id: Name  # empty where the format has none
    kind: Code  # a recon.statements.model.LineKind
    match_ref: Id  # the channel order it names; its own id where it names none
    provider_reference: Name
    amount_minor: Minor  # what the account gained
    fee_minor: Minor  # that the line tells itself
    currency: Code
    business_date: Code
    is_reversal: Small  # 1 where it takes another line back
    state: Code  # a LineState
    difference: Code  # a BreakType; empty where it agrees, is of no order, or is not matched yet
    break_id: Id | None  # the last break it was in


@mapped(metadata, "recon_sweep", index=[("due_at_ms",)])
class Sweep(Row, frozen=True, kw_only=True):
    """How far the records of the services were compared at one age ("swp_…", on slot 0): all that ended before."""

    level: Small  # the place of the age in SweepRules.ages_ms
    attempt_ms: Millis
    payment_ms: Millis
    journal_ms: Millis
    order_ms: Millis
    due_at_ms: Millis  # when it goes on; while a process is at it, when another may take over
    context: Blob


@mapped(metadata, "recon_late_record")
class LateRecord(Row, frozen=True, kw_only=True):
    """That a payment has a record which ended long after the payment was made.

    Its id ("ltr_…") is of the time at which the record ended, so that a range of ids is a range of time.
    """

    match_id: Id
