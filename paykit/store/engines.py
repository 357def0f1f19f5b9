"""Database engines of a shard: for writing transactions, for reads that decide nothing, and for snapshots."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import event, make_url, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from paykit.errors import ConfigurationError, Unavailable
from paykit.settings import ExecutorSettings

# What MySQL drivers say of a connection that cannot be used any more but SQLAlchemy does not recognise as such.
_BROKEN_CONNECTION = ("Packet sequence number wrong", "Cancelled during execution")

# variable, what it must be, why
_MYSQL_SETTINGS = (
    ("innodb_flush_log_at_trx_commit", ("1",), "a commit must be on disk before it is answered"),
    ("transaction_isolation", ("READ-COMMITTED",), "gap locks and lost updates otherwise"),
    ("character_set_connection", ("utf8mb4",), "text would be changed on the way"),
)


# What every session is set to, whatever the server behind the address: texts are escaped with backslashes and are never
# cut, a locked row is not waited for without end, and (MariaDB) one that vanished keeps neither rows locked nor, having
# only read, the old versions of all rows.
_SESSION = (
    "SET SESSION innodb_lock_wait_timeout={lock_timeout_s}, sql_mode='STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION'"
    " /*M!100300 , idle_write_transaction_timeout=60, idle_readonly_transaction_timeout=60 */"
)

_MYSQL_SNAPSHOT = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
_SQLITE_SNAPSHOT = "BEGIN"  # in WAL the first read fixes what all others see, and nothing is locked
_SQLITE_WRITE = "BEGIN IMMEDIATE"


class ShardEngines:
    """The three engines of one shard on one side (live or shadow)."""

    def __init__(self, url: str, settings: ExecutorSettings) -> None:
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        make, begin, snapshot = (
            (_sqlite_engine, _SQLITE_WRITE, _SQLITE_SNAPSHOT)
            if self.is_sqlite
            else (_mysql_engine, None, _MYSQL_SNAPSHOT)
        )
        # Each lane keeps a connection of its own; the rest is for housekeeping and settling.
        self.writer = make(url, "READ COMMITTED", begin, settings.lanes + settings.write_pool_size, settings)
        self.reader = make(url, "AUTOCOMMIT", None, settings.read_pool_size, settings)
        self.snapshots = make(url, "REPEATABLE READ", snapshot, settings.snapshot_pool_size, settings)

    @property
    def address(self) -> str:
        """The URL without its password, for messages."""
        return self.url.render_as_string(hide_password=True)

    async def assert_settings(self) -> None:
        """Refuses (ConfigurationError) a server that cannot be reached or is set wrongly for money."""
        try:
            async with self.writer.connect() as connection:
                await (_check_sqlite if self.is_sqlite else _check_mysql)(connection, self.address)
        except (DBAPIError, OSError) as error:
            cause = getattr(error, "orig", error)
            raise ConfigurationError(f"database {self.address} cannot be used: {cause}") from error

    async def dispose(self) -> None:
        """Closes all connections."""
        await self.writer.dispose()
        await self.reader.dispose()
        await self.snapshots.dispose()


def _mysql_engine(
    url: str, isolation: str, begin: str | None, pool_size: int, settings: ExecutorSettings
) -> AsyncEngine:
    engine = create_async_engine(
        url,
        isolation_level=isolation,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=settings.pool_timeout_s,
        pool_recycle=int(settings.pool_recycle_s),
        pool_reset_on_return=None,
        skip_autocommit_rollback=True,
        execution_options={"no_parameters": True},  # else the driver looks for marks in texts that have none
        connect_args={
            "charset": "utf8mb4",
            "connect_timeout": 5,
            "init_command": _SESSION.format(lock_timeout_s=settings.lock_timeout_s),
        },
    )

    def reset(dbapi_connection: Any, record: Any, reset_state: Any) -> None:
        # A ROLLBACK on every return would cost a round trip: transactions were ended before, readers autocommit.
        if isolation != "AUTOCOMMIT" and not (reset_state.transaction_was_reset or reset_state.terminate_only):
            dbapi_connection.rollback()

    event.listen(engine.sync_engine, "reset", reset)
    event.listen(engine.sync_engine, "handle_error", _mark_broken)
    _begin_with(engine, begin)
    return engine


def _begin_with(engine: AsyncEngine, statement: str | None) -> None:
    if statement is not None:
        event.listen(engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql(statement))


def _mark_broken(context: ExceptionContext) -> None:
    if any(sign in str(context.original_exception) for sign in _BROKEN_CONNECTION):
        context.is_disconnect = True


def _sqlite_engine(
    url: str, isolation: str, begin: str | None, pool_size: int, settings: ExecutorSettings
) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=settings.pool_timeout_s,
        execution_options={"no_parameters": True},
        connect_args={"isolation_level": None, "timeout": settings.lock_timeout_s},
    )

    def prepare(dbapi_connection: Any, record: Any) -> None:
        cursor = dbapi_connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-16000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    event.listen(engine.sync_engine, "connect", prepare)
    _begin_with(engine, begin)
    return engine


async def _check_mysql(connection: AsyncConnection, address: str) -> None:
    found: dict[str, str] = {name: value for name, value in await connection.execute(text("SHOW SESSION VARIABLES"))}  # noqa: C416
    found.setdefault("transaction_isolation", found.get("tx_isolation", ""))  # MariaDB before 11.1
    for name, allowed, why in _MYSQL_SETTINGS:
        if found.get(name) not in allowed:
            raise ConfigurationError(
                f"database {address}: {name} is {found.get(name)!r}, must be {' or '.join(allowed)}: {why}"
            )
    if "STRICT_TRANS_TABLES" not in found.get("sql_mode", "") and "STRICT_ALL_TABLES" not in found.get("sql_mode", ""):
        raise ConfigurationError(f"database {address}: sql_mode must be strict: values would be cut in silence")
    if "NO_BACKSLASH_ESCAPES" in found.get("sql_mode", ""):
        raise ConfigurationError(f"database {address}: sql_mode must not have NO_BACKSLASH_ESCAPES: texts are escaped")


async def _check_sqlite(connection: AsyncConnection, address: str) -> None:
    mode = (await connection.execute(text("PRAGMA journal_mode"))).scalar_one()
    if mode != "wal":
        raise ConfigurationError(f"database {address}: journal_mode is {mode!r}, must be wal")


def error_code(error: DBAPIError) -> int:
    """The MySQL error number, or 0 (SQLite has none)."""
    args = getattr(error.orig, "args", ())
    if not (args and isinstance(args[0], int)):
        args = getattr(getattr(error.orig, "__cause__", None), "args", ())
    return args[0] if args and isinstance(args[0], int) else 0


def is_contention(error: DBAPIError) -> bool:
    """Whether the transaction lost a race and may simply be run again from fresh rows."""
    # 1213 deadlock, 1205 lock wait timeout, 1020 changed since read, 1062 duplicate key
    if error_code(error) in (1213, 1205, 1020, 1062):
        return True
    message = str(error.orig)
    return "UNIQUE constraint failed" in message or (
        isinstance(error, OperationalError) and "database is locked" in message
    )


@contextlib.contextmanager
def read_errors() -> Iterator[None]:
    """Around statements that stand alone: says Unavailable where the shard is away or full; a bug stays a bug."""
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("too many reads wait for the shard", retry_after_ms=200) from error
    except OSError as error:  # a timeout, too
        raise Unavailable("the shard cannot be reached now", retry_after_ms=500) from error
    except DBAPIError as error:
        if is_connection_loss(error) or is_contention(error):
            raise Unavailable("the shard cannot be reached now", retry_after_ms=500) from error
        raise


def is_connection_loss(error: DBAPIError) -> bool:
    """Whether the connection, and with it the open transaction, is gone."""
    return error.connection_invalidated or error_code(error) in (1053, 1927, 2003, 2006, 2013, 2014)
