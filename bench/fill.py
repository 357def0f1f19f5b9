"""Makes a pay_core database large in minutes: real payments, copied in the server with other ids and times.

Copies are older than what they are copies of, and are written oldest first, as they would have come. Every id in them
is a new one of the right form: its first characters say another time, the rest stays. Accounts are the same ones: what
they did gets longer. What stands inside of JSON and blobs keeps the old ids: it weighs the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    MetaData,
    Table,
    case,
    create_engine,
    func,
    insert,
    literal,
    make_url,
    select,
    text,
)
from sqlalchemy.pool import NullPool

from bench.children import LoadFailed
from pay_core import tables
from pay_core.closing import date_at
from pay_core.tables import Entry, Instruction, Journal, Payment
from paykit.ids import new_id
from paykit.store.row import Row
from paykit.store.system import CommandRecord

COPIED: tuple[type[Row], ...] = (Payment, Instruction, Journal, Entry, CommandRecord)
DAYS = 30  # back to which copies go

_HEAD = slice(4, 10)  # of an id: the upper 30 of its 48 bits of milliseconds …
_HEAD_MS = 2**18  # … which count steps of this length
_ID_LENGTH = 32  # of a column that holds an id
_ANALYZE = text("ANALYZE TABLE payment, instruction, journal, entry, command_record")
_SIZE = text("SELECT SUM(data_length + index_length) FROM information_schema.tables WHERE table_schema = DATABASE()")
_DIRTY = text("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'")
_FLUSH = text(
    "SET GLOBAL innodb_max_dirty_pages_pct = :percent, innodb_io_capacity_max = :pages_max, innodb_io_capacity = :pages"
)
_HURRY = {"percent": 0, "pages_max": 100_000, "pages": 50_000}
_DEFAULTS = {"percent": 90, "pages_max": 2_000, "pages": 200}  # MariaDB's
_DIRTY_MAX = 200  # pages
_FLUSH_S = 120


def connect(url: str) -> Any:
    """A blocking connection to a shard's database, as a context manager; each statement commits by itself."""
    engine = create_engine(make_url(url).set(drivername="mysql+pymysql"), poolclass=NullPool)
    return engine.execution_options(isolation_level="AUTOCOMMIT").connect()


def fill(source_url: str, target_url: str, copies: int, now_ms: int) -> None:
    """Puts into the empty database at ``target_url`` all that ``source_url`` (on the same server) has, and before that
    ``copies`` older copies of its payments, over DAYS. Nobody may write to either meanwhile."""
    source = make_url(source_url).database
    assert source is not None
    step_ms = DAYS * 86_400_000 // max(copies, 1) // _HEAD_MS * _HEAD_MS
    with connect(target_url) as connection:
        connection.execute(text("SET SESSION unique_checks = 0"))
        for number in range(copies, 0, -1):
            for kind in COPIED:
                connection.execute(_copy(kind, source, number, number * step_ms, now_ms))
        for kind in _all_kinds():
            origin = _at(kind, source)
            connection.execute(insert(kind.__table__).from_select(kind.__columns__, select(*_columns(kind, origin))))


def finish(url: str) -> int:
    """The bytes of the database, once the server has its statistics and has written down what a fill left in memory."""
    with connect(url) as connection:
        connection.execute(_ANALYZE)
        connection.execute(_FLUSH, _HURRY)
        until_s = time.monotonic() + _FLUSH_S
        while _dirty(connection) > _DIRTY_MAX:
            if time.monotonic() > until_s:
                raise LoadFailed("the server does not write its pages down")
            time.sleep(0.5)
        connection.execute(_FLUSH, _DEFAULTS)
        return int(connection.execute(_SIZE).scalar_one())


def payments_in(url: str) -> int:
    """How many payments are stored."""
    with connect(url) as connection:
        return int(connection.execute(select(func.count()).select_from(Payment.__table__)).scalar_one())


def _dirty(connection: Connection) -> int:
    return int(connection.execute(_DIRTY).one()[1])


def _all_kinds() -> Iterator[type[Row]]:
    """What is moved as it is: not the outbox, which is as good as empty, nor whose database it is."""
    for kind in vars(tables).values():
        if isinstance(kind, type) and issubclass(kind, Row) and hasattr(kind, "__table__"):
            yield kind
    yield CommandRecord


def _at(kind: type[Row], database: str) -> Table:
    return kind.__table__.to_metadata(MetaData(), schema=database)


def _columns(kind: type[Row], table: Table) -> list[Column[Any]]:
    return [table.c[name] for name in kind.__columns__]


def _copy(kind: type[Row], source: str, number: int, back_ms: int, now_ms: int) -> Any:
    origin = _at(kind, source)
    values = [_older(column, number, back_ms, now_ms) for column in _columns(kind, origin)]
    return insert(kind.__table__).from_select(
        kind.__columns__, select(*values).select_from(origin).order_by(origin.c.id)
    )


def _older(column: Column[Any], number: int, back_ms: int, now_ms: int) -> ColumnElement[Any]:
    if column.name.endswith("_ms"):
        return column - back_ms
    if column.name == "accounting_date":
        return literal(date_at(now_ms - back_ms))
    if column.name == "id" and column.table.name == CommandRecord.__entity__:
        return func.md5(func.concat(column, number))
    if not is_renewed(column):
        return column
    head = new_id("xxx", 0, now_ms - back_ms)[_HEAD]
    renewed = func.concat(func.substr(column, 1, _HEAD.start), head, func.substr(column, _HEAD.stop + 1))
    return case((column == "", ""), else_=renewed)


def is_renewed(column: Column[Any]) -> bool:
    """Whether a column holds ids that a copy has its own of."""
    is_id = column.name == "id" or column.name.endswith("_id")
    return is_id and column.name != "account_id" and getattr(column.type, "length", None) == _ID_LENGTH
