"""The file behind the embedded bus: a log of messages, where each consumer stands in it, and what is to be repeated.

Everything here is synchronous and runs in the bus's one thread, which owns the connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    create_engine,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import OperationalError

from paykit.errors import ConfigurationError
from paykit.events.message import Message

FILE_NAME = "bus.db"

_metadata = MetaData()
_log = Table(
    "log",
    _metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("id", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("headers", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)
_position = Table(
    "position",
    _metadata,
    Column("consumer", String, primary_key=True),  # with mode
    Column("floor", Integer, nullable=False),  # everything up to here is taken, or stands in repeat
)
_repeat = Table(
    "repeat",
    _metadata,
    Column("consumer", String, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("attempt", Integer, nullable=False),  # how many have failed
    Column("due_at_s", Float, nullable=False),  # Unix seconds
)
_last = Table("last", _metadata, Column("id", Integer, primary_key=True), Column("seq", Integer, nullable=False))

_store = Table("store", _metadata, Column("id", Integer, primary_key=True), Column("begun_at_ms", BigInteger))

_append = insert(_log)
_page = select(_log).where(_log.c.seq > bindparam("after")).order_by(_log.c.seq).limit(bindparam("count"))
_recent = select(_log.c.id, _log.c.created_at_ms).order_by(_log.c.seq.desc()).limit(bindparam("count"))
_set_last = update(_last).values(seq=bindparam("to"))
_set_floor = update(_position).where(_position.c.consumer == bindparam("name")).values(floor=bindparam("to"))
_add_position = sqlite.insert(_position).on_conflict_do_nothing()
_insert_repeat = sqlite.insert(_repeat)
_put_repeat = _insert_repeat.on_conflict_do_update(
    index_elements=["consumer", "seq"],
    set_={"attempt": _insert_repeat.excluded.attempt, "due_at_s": _insert_repeat.excluded.due_at_s},
)
_drop_repeat = delete(_repeat).where(_repeat.c.consumer == bindparam("name"), _repeat.c.seq == bindparam("at"))
_repeats_of = (
    select(_log, _repeat.c.attempt, _repeat.c.due_at_s)
    .join_from(_repeat, _log, _log.c.seq == _repeat.c.seq)
    .where(_repeat.c.consumer == bindparam("name"))
    .order_by(_log.c.seq)
)
# The log is in order of time: only its oldest rows need looking at.
_oldest = select(_log.c.seq, _log.c.created_at_ms).order_by(_log.c.seq).limit(bindparam("count")).subquery()
_expired = select(_oldest.c.seq).where(
    (_oldest.c.created_at_ms < bindparam("before_ms")) | (_oldest.c.seq <= bindparam("up_to"))
)
_expire = delete(_log).where(_log.c.seq.in_(_expired))
_expire_repeats = delete(_repeat).where(_repeat.c.seq < select(func.min(_log.c.seq)).scalar_subquery())

_headers_encoder = msgspec.msgpack.Encoder()
_headers_decoder = msgspec.msgpack.Decoder(dict[str, str])


class Entry(NamedTuple):
    """A message at its place in the log."""

    seq: int
    message: Message


class Repeat(NamedTuple):
    """A delivery that failed: how often, and when (Unix seconds) it is tried again."""

    consumer: str
    seq: int
    attempt: int
    due_at_s: float


class Changes(NamedTuple):
    """What one commit writes."""

    entries: Sequence[Entry]
    repeats: Sequence[Repeat]
    done: Sequence[tuple[str, int]]  # (consumer, seq) repeated and now taken
    floors: dict[str, int]


class Log:
    """The open file. ``last_seq`` is the place of the newest message ever written.

    ``begun_at_ms``: when the file was made, Unix milliseconds.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._connection: Connection | None = None
        self.begun_at_ms = 0

    def open(self, now_ms: int) -> int:
        """Opens the file, makes it where it is missing, and returns ``last_seq``. ConfigurationError names the file."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(f"sqlite:///{self._path}", isolation_level="AUTOCOMMIT")
            connection = engine.connect()
            # One process owns the file: a second one would deliver everything again.
            connection.exec_driver_sql("PRAGMA locking_mode=EXCLUSIVE")
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            # A crash of the process loses nothing, one of the machine the last commits: what JetStream promises too.
            connection.exec_driver_sql("PRAGMA synchronous=NORMAL")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            _metadata.create_all(connection)
            connection.execute(sqlite.insert(_last).on_conflict_do_nothing(), {"id": 1, "seq": 0})
            connection.execute(sqlite.insert(_store).on_conflict_do_nothing(), {"id": 1, "begun_at_ms": now_ms})
            connection.exec_driver_sql("COMMIT")
        except (OperationalError, OSError) as error:
            raise ConfigurationError(
                f"bus.path: {self._path} cannot be opened by this process alone ({type(error).__name__})"
            ) from error
        self._connection = connection
        self.begun_at_ms = int(connection.execute(select(_store.c.begun_at_ms)).scalar_one())
        return int(connection.execute(select(_last.c.seq)).scalar_one())

    def close(self) -> None:
        """Closes the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection.engine.dispose()
            self._connection = None

    def write(self, changes: Changes, created_at_ms: int) -> None:
        """Commits all of ``changes`` or nothing."""
        connection = self._open_connection()
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            self._write(connection, changes, created_at_ms)
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("COMMIT")

    def _write(self, connection: Connection, changes: Changes, created_at_ms: int) -> None:
        if changes.entries:
            encode = _headers_encoder.encode
            connection.execute(
                _append,
                [
                    {
                        "seq": seq,
                        "id": message.id,
                        "subject": message.subject,
                        "headers": encode(message.headers),
                        "body": message.body,
                        "created_at_ms": created_at_ms,
                    }
                    for seq, message in changes.entries
                ],
            )
            connection.execute(_set_last, {"to": changes.entries[-1].seq})
        if changes.repeats:
            connection.execute(_put_repeat, [repeat._asdict() for repeat in changes.repeats])
        if changes.done:
            connection.execute(_drop_repeat, [{"name": name, "at": seq} for name, seq in changes.done])
        if changes.floors:
            connection.execute(_set_floor, [{"name": name, "to": floor} for name, floor in changes.floors.items()])

    def read(self, after: int, count: int) -> list[Entry]:
        """The next ``count`` messages after a place."""
        found = self._open_connection().execute(_page, {"after": after, "count": count})
        return [Entry(row.seq, _message(row)) for row in found]

    def recent_ids(self, since_ms: int, count: int) -> list[str]:
        """The ids of the newest messages, at most ``count``, that were written since; oldest first."""
        found = self._open_connection().execute(_recent, {"count": count}).all()
        return [row.id for row in reversed(found) if row.created_at_ms >= since_ms]

    def open_consumer(self, consumer: str) -> tuple[int, list[tuple[Entry, int, float]]]:
        """The floor of a consumer (0 for a new one) and its failed messages with attempts and due time."""
        connection = self._open_connection()
        connection.execute(_add_position, {"consumer": consumer, "floor": 0})
        floor = connection.execute(select(_position.c.floor).where(_position.c.consumer == consumer)).scalar_one()
        found = connection.execute(_repeats_of, {"name": consumer})
        return floor, [(Entry(row.seq, _message(row)), row.attempt, row.due_at_s) for row in found]

    def prune(self, before_ms: int, keep: int, count: int) -> int:
        """Deletes at most ``count`` messages older than ``before_ms`` or beyond the newest ``keep``; how many."""
        connection = self._open_connection()
        last = connection.execute(select(func.coalesce(func.max(_log.c.seq), 0))).scalar_one()
        deleted = connection.execute(_expire, {"before_ms": before_ms, "up_to": last - keep, "count": count}).rowcount
        if deleted:
            connection.execute(_expire_repeats)
        return deleted

    def _open_connection(self) -> Connection:
        assert self._connection is not None, "the bus is not started"
        return self._connection


def _message(row: object) -> Message:
    return Message(row.id, row.subject, _headers_decoder.decode(row.headers), row.body)  # type: ignore[attr-defined]
