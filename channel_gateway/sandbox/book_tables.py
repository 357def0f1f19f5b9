"""The tables of the provider's book, and the statements on them."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    BindParameter,
    Boolean,
    Column,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    delete,
    select,
    update,
)

from channel_gateway.sandbox.entries import Entry, Notification

WAITING, DELIVERED, GIVEN_UP = "waiting", "delivered", "given_up"

metadata = MetaData()

entry_table = Table(
    "entry",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("account", String(64), nullable=False),
    Column("livemode", Boolean, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("reference", String(64), nullable=False),
    Column("idempotency_key", String(64), nullable=False),
    Column("body_hash", String(32), nullable=False),
    Column("provider_reference", String(64), nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("token", String(64), nullable=False),
    Column("original_reference", String(64), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("failure_code", String(32), nullable=False),
    Column("settle_at_ms", BigInteger, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    # Later additions, with a default: an older book is extended by them when it is opened.
    Column("moved_minor", BigInteger, nullable=False, server_default="0"),
    Column("is_final", Boolean, nullable=False, server_default="1"),
    Column("merchant", String(64), nullable=False, server_default=""),
    Column("said_first", String(16), nullable=False, server_default="pending"),
    Column("behaviour", String(32), nullable=False, server_default="ok"),
    Column("times", Integer, nullable=False, server_default="1"),
    Column("copy_no", Integer, nullable=False, server_default="0"),
    Index("uq_entry_reference_copy", "reference", "account", "copy_no", unique=True),
    Index("uq_entry_idempotency_key_copy", "idempotency_key", "account", "copy_no", unique=True),
    Index("ix_entry_original_reference", "original_reference", "account"),
    Index("ix_entry_provider_reference", "provider_reference"),
    Index("ix_entry_settle_at_ms", "account", "settle_at_ms"),
)
# The indexes of earlier versions, under which nothing could be booked twice.
REPLACED_INDEXES = ("uq_entry_reference", "uq_entry_idempotency_key")
notification_table = Table(
    "notification",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("account", String(64), nullable=False),
    Column("body", Text, nullable=False),
    Column("due_at_ms", BigInteger, nullable=False),
    Column("attempt_count", Integer, nullable=False),
    Column("copies", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("forgery", String(16), nullable=False, server_default=""),
    Index("ix_notification_due", "state", "due_at_ms"),
)

# What was done to a call, where it was anything but plainly carried out.
deed_table = Table(
    "deed",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("account", String(64), nullable=False),
    Column("reference", String(64), nullable=False),
    Column("operation", String(16), nullable=False),
    Column("behaviour", String(32), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)

ENTRY_FIELDS = [field.name for field in msgspec.structs.fields(Entry)]
_ENTRY_COLUMNS = [entry_table.c[name] for name in ENTRY_FIELDS]
_NOTIFICATION_FIELDS = [field.name for field in msgspec.structs.fields(Notification)]
_VALUES: BindParameter[Any] = bindparam("values", expanding=True)
FIND = select(*_ENTRY_COLUMNS).where(entry_table.c.reference.in_(_VALUES), entry_table.c.copy_no == 0)
FIND_PROVIDERS = select(*_ENTRY_COLUMNS).where(entry_table.c.provider_reference.in_(_VALUES))
FIND_KEY = select(*_ENTRY_COLUMNS).where(entry_table.c.idempotency_key.in_(_VALUES), entry_table.c.copy_no == 0)
FOLLOWERS = select(*_ENTRY_COLUMNS).where(
    entry_table.c.original_reference.in_(_VALUES), entry_table.c.outcome == "succeeded"
)
SETTLE = (
    update(entry_table)
    .where(entry_table.c.account == bindparam("of_account"), entry_table.c.reference == bindparam("of_reference"))
    .values(
        outcome=bindparam("new_outcome"),
        failure_code=bindparam("new_failure_code"),
        settle_at_ms=bindparam("new_settle_at_ms"),
    )
)
# The ids of an order's notifications are its provider reference with a number behind it.
FORGET = delete(notification_table).where(
    notification_table.c.id >= bindparam("first"), notification_table.c.id < bindparam("beyond")
)
DUE = (
    select(*[notification_table.c[name] for name in _NOTIFICATION_FIELDS])
    .where(notification_table.c.state == WAITING, notification_table.c.due_at_ms <= bindparam("now_ms"))
    .order_by(notification_table.c.due_at_ms)
    .limit(bindparam("page_size"))
)
MARK = (
    update(notification_table)
    .where(notification_table.c.id == bindparam("key"))
    .values(state=bindparam("new_state"), due_at_ms=bindparam("due"), attempt_count=bindparam("attempts"))
)
PAGE = (
    select(entry_table.c.sequence, *_ENTRY_COLUMNS)
    .where(entry_table.c.sequence > bindparam("after"), entry_table.c.created_at_ms <= bindparam("now_ms"))
    .order_by(entry_table.c.sequence)
    .limit(bindparam("page_size"))
)
DEEDS = (
    select(*deed_table.columns)
    .where(deed_table.c.sequence > bindparam("after"))
    .order_by(deed_table.c.sequence)
    .limit(bindparam("page_size"))
)
