"""The tables of the provider's book, and the statements on them."""

from __future__ import annotations

import msgspec
from sqlalchemy import (
    BigInteger,
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
    Index("uq_entry_reference", "reference", "account", unique=True),
    Index("uq_entry_idempotency_key", "idempotency_key", "account", unique=True),
    Index("ix_entry_original_reference", "original_reference", "account"),
    Index("ix_entry_settle_at_ms", "account", "settle_at_ms"),
)
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
    Index("ix_notification_due", "state", "due_at_ms"),
)

ENTRY_FIELDS = [field.name for field in msgspec.structs.fields(Entry)]
_ENTRY_COLUMNS = [entry_table.c[name] for name in ENTRY_FIELDS]
_NOTIFICATION_FIELDS = [field.name for field in msgspec.structs.fields(Notification)]
FIND = select(*_ENTRY_COLUMNS).where(entry_table.c.reference.in_(bindparam("values", expanding=True)))
FIND_KEY = select(*_ENTRY_COLUMNS).where(entry_table.c.idempotency_key.in_(bindparam("values", expanding=True)))
FOLLOWERS = select(*_ENTRY_COLUMNS).where(
    entry_table.c.original_reference.in_(bindparam("values", expanding=True)), entry_table.c.outcome == "succeeded"
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
    .where(entry_table.c.sequence > bindparam("after"))
    .order_by(entry_table.c.sequence)
    .limit(bindparam("page_size"))
)
