"""The tables every service has on every shard, live and shadow: what was done, what is to be said, what failed."""

from __future__ import annotations

from sqlalchemy import MetaData

from paykit.store.row import Blob, Code, Id, LongName, LongText, Millis, Name, Row, Small, Title, mapped

metadata = MetaData()


@mapped(metadata, "command_record", index=[("biz_id",)])
class CommandRecord(Row, frozen=True, kw_only=True):
    """One executed command: idempotency record, inbox row and audit row in one.

    ``id`` is a digest of what makes the command the same one again (caller, method, owner and request_id; consumer
    and message id), or a fresh one for a timer or an audited fold. It is written in the command's own transaction.
    """

    name: Code  # the command, e.g. "PayTrade"
    trigger: Code  # "rpc", "event", "timer" or "fold"
    caller: Name  # as authenticated
    request_id: Name
    biz_id: Id
    input_hash: Blob
    result: Blob | None  # msgpack of the first result; None for events and timers
    changes: LongText  # JSON, see paykit.store.command.Change
    commit_id: Id  # of the transaction that wrote it ("cmt_…"): what proves that very commit
    created_at_ms: Millis


@mapped(metadata, "outbox", index=[("acked_at_ms", "due_at_ms")])
class Outbox(Row, frozen=True, kw_only=True):
    """A message that leaves with the change it announces. ``id`` ("msg_…") is the message id receivers know it by."""

    kind: Code  # "event" or "call"
    destination: LongName  # event: "pay.payment_succeeded"; call: "/paymesh.pay.v1.PayService/Transfer"
    biz_id: Id
    context: Blob  # paykit.context.pack
    body: Blob  # the serialized protobuf message
    created_at_ms: Millis
    due_at_ms: Millis  # when the sweeper offers it to a relay again
    attempt_count: Small
    acked_at_ms: Millis | None  # events: when the bus had it; the row of an answered call is deleted


@mapped(metadata, "dead_letter", index=[("state", "created_at_ms"), ("biz_id",)])
class DeadLetter(Row, frozen=True, kw_only=True):
    """The ticket of a message that could not be taken ("ded_…")."""

    consumer: LongName  # the consumer's name; for a durable call its method
    destination: LongName  # subject without mode, or method
    message_id: Id
    biz_id: Id
    context: Blob
    body: Blob
    state: Code  # "OPEN" or "REPLAYED"
    error: Title
    created_at_ms: Millis


@mapped(metadata, "shard_epoch")
class ShardEpoch(Row, frozen=True, kw_only=True):
    """One row a shard (id "epoch", slot 0): which epoch of the shard map may write here, and which side this is."""

    epoch: Millis
    service: Name
    shard: Name
    mode: Code  # "live" or "shadow"
