"""The tables of the channel gateway."""

from __future__ import annotations

from sqlalchemy import MetaData

from paykit.store.row import Blob, Code, Id, LongName, Millis, Minor, Name, Row, Small, Title, mapped

metadata = MetaData()


@mapped(
    metadata,
    "channel_order",
    unique=["instruction_id"],
    index=[("payment_id", "id"), ("original_channel_order_id",), ("provider_reference",), ("due_at_ms",), ("biz_id",)],
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
    due_at_ms: Millis | None  # when a timer looks at it again; None once terminal
    context: Blob  # paykit.context.pack
    created_at_ms: Millis
    finished_at_ms: Millis | None
    settled_minor: Minor = 0  # what the provider really moved, where that may differ and does; else 0


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
