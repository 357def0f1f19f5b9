"""The tables of the channel gateway."""

from __future__ import annotations

from sqlalchemy import MetaData

from paykit.compensation import CompensationRow
from paykit.store.row import Blob, Code, Id, LongName, LongText, Millis, Minor, Name, Row, Small, Title, mapped

metadata = MetaData()


@mapped(
    metadata,
    "channel_order",
    unique=["instruction_id"],
    index=[
        ("payment_id", "id"),
        ("original_channel_order_id",),
        ("provider_reference",),
        ("due_at_ms",),
        ("biz_id",),
        ("finished_at_ms",),
    ],
)
class ChannelOrder(Row, frozen=True, kw_only=True):
    """One order to a provider ("chn_…"). Its id is the reference and the idempotency key the provider is given."""

    biz_id: Id
    kind: Code  # channel_order.ChannelOrderKind
    state: Code  # channel_order.ChannelOrderState
    channel: Name
    amount_minor: Minor
    currency: Code
    instruction_id: Id
    payment_id: Id
    original_channel_order_id: Id  # refunds: the charge or capture; captures and voids: the authorisation; else empty
    original_provider_reference: Name  # the provider's name for it; else empty
    token: Name  # vault token of the card or bank account, never its number; empty where an original is named
    provider_reference: Name  # empty until the provider has named it
    failure_reason: Code  # empty unless FAILED
    query_count: Small
    send_count: Small
    sent_at_ms: Millis | None  # when it last became SENDING
    due_at_ms: (
        Millis | None
    )  # when a timer looks at it again; terminal: only where it was not found, and is asked about
    context: Blob  # paykit.context.pack
    created_at_ms: Millis
    finished_at_ms: Millis | None
    settled_minor: Minor = 0  # what the provider really moved, where that may differ and does; else 0
    merchant: Name = ""  # of the business code: whose share of the channel's limits it counts on
    attempt_no: Small = 1  # on which of its channels it is
    route: LongText | None = None  # JSON, see routing.Onward: where else it may go; None where nowhere


@mapped(
    metadata,
    "channel_attempt",
    unique=["attempt_key"],
    index=[("channel_order_id",), ("provider_reference",), ("biz_id",)],
)
class ChannelAttempt(Row, frozen=True, kw_only=True):
    """What an order left behind when it went on to another channel ("cat_…"): it definitely came to nothing there."""

    biz_id: Id
    attempt_key: LongName  # "<order id>/<attempt no>"
    channel_order_id: Id
    attempt_no: Small
    channel: Name
    outcome: Code  # channel_order.AttemptOutcome
    failure_reason: Code
    provider_reference: Name  # empty where the provider has named none
    sent_at_ms: Millis | None  # when it was last sent there
    left_at_ms: Millis


@mapped(
    metadata,
    "channel_doubt",
    unique=["doubt_key"],
    index=[("channel_order_id",), ("due_at_ms",), ("state", "id"), ("biz_id",)],
)
class ChannelDoubt(Row, frozen=True, kw_only=True):
    """A provider's word against what is settled, until the provider has explained it ("dbt_…")."""

    biz_id: Id
    doubt_key: LongName  # "<order id>/<channel>/<n>": one is open at a time
    channel_order_id: Id
    payment_id: Id
    channel: Name  # whose word: that of the order, or one that it has left
    attempt_no: Small
    state: Code  # doubt.DoubtState
    type: Code  # doubt.DoubtType: what is feared while OPEN, what is so once CONFIRMED
    amount_minor: Minor  # what the provider moved, as it says; of a DENIED one what it should have
    currency: Code
    provider_reference: Name  # of what is in doubt; empty where it has not been named
    evidence: LongText
    ask_count: Small
    due_at_ms: Millis | None  # when the provider is asked next; None once resolved
    context: Blob  # paykit.context.pack
    opened_at_ms: Millis
    resolved_at_ms: Millis | None


@mapped(
    metadata,
    "notification",
    unique=["notification_key"],
    index=[("channel_order_id",), ("biz_id",), ("received_at_ms",)],
)
class Notification(Row, frozen=True, kw_only=True):
    """A verified notification as it came ("ntf_…"), stored in the transaction that applies it, before the 200."""

    biz_id: Id
    notification_key: LongName  # "<channel>/<the provider's id of the notification>"
    channel: Name
    channel_order_id: Id
    state: Code  # channel_order.NotificationState: what became of it
    body: Blob
    received_at_ms: Millis


@mapped(metadata, "channel_override", unique=["override_key"], index=[("expire_at_ms",), ("biz_id",)])
class ChannelOverride(Row, frozen=True, kw_only=True):
    """What a person has set a breaker to ("ovr_…"); on slot 0, one row for each channel, and each merchant on one."""

    biz_id: Id
    override_key: LongName  # "<channel>/<merchant>"
    channel: Name
    merchant: Name  # empty for the whole channel
    mode: Code  # overrides.OverrideMode
    reason: Title
    set_by: Name  # as authenticated
    set_at_ms: Millis
    expire_at_ms: Millis | None  # None where mode is NONE


@mapped(metadata, "compensation", unique=["repair_id"], index=[("due_at_ms",), ("biz_id",)])
class Compensation(CompensationRow, frozen=True, kw_only=True):
    """A repair that reconciliation asked for."""
