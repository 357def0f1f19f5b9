"""Engines: what a database must be set to before money is kept in it."""

from __future__ import annotations

import pymysql
import pytest
from sqlalchemy import make_url, text

from meshctl.servers import MariaDbServer
from paykit.clock import SystemClock
from paykit.errors import ConfigurationError
from paykit.settings import ExecutorSettings, ShardSettings
from paykit.store.engines import ShardEngines
from paykit.store.migrate import migrate
from paykit.store.store import Store
from tests.conftest import MakeShards


def execute(url: str, statement: str) -> None:
    """Runs a statement on a server as its client would."""
    parts = make_url(url)
    assert parts.host is not None
    assert parts.port is not None
    with pymysql.connect(
        host=parts.host, port=parts.port, user=parts.username, password=parts.password or ""
    ) as connection:
        connection.cursor().execute(statement)


@pytest.mark.mariadb
@pytest.mark.parametrize(
    ("setting", "value"),
    [("innodb_flush_log_at_trx_commit", "2"), ("innodb_flush_log_at_trx_commit", "0")],
)
async def test_refuses_a_server_that_is_set_wrongly_and_names_the_setting(
    own_mariadb_server: MariaDbServer, setting: str, value: str
) -> None:
    url = own_mariadb_server.create_database("wrong")
    engines = ShardEngines(url, ExecutorSettings())
    await engines.assert_settings()
    await engines.dispose()
    execute(url, f"SET GLOBAL {setting} = {value}")
    engines = ShardEngines(url, ExecutorSettings())
    with pytest.raises(ConfigurationError, match=setting):
        await engines.assert_settings()
    await engines.dispose()


@pytest.mark.mariadb
async def test_sets_every_session_strict_whatever_the_server_says(own_mariadb_server: MariaDbServer) -> None:
    url = own_mariadb_server.create_database("lax")
    execute(url, "SET GLOBAL sql_mode = 'NO_BACKSLASH_ESCAPES'")
    engines = ShardEngines(url, ExecutorSettings(lock_timeout_s=7))
    await engines.assert_settings()
    for engine in (engines.writer, engines.reader):
        async with engine.connect() as connection:
            found = (await connection.execute(text("SELECT @@sql_mode, @@innodb_lock_wait_timeout"))).one()
        assert found == ("STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION", 7)
    await engines.dispose()


async def test_names_an_unreachable_server_without_its_password() -> None:
    engines = ShardEngines("mysql+aiomysql://paymesh:s3cret@127.0.0.1:1/none", ExecutorSettings())
    with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1:1") as caught:
        await engines.assert_settings()
    assert "s3cret" not in str(caught.value)
    await engines.dispose()


async def test_refuses_to_open_a_database_without_a_schema(make_shards: MakeShards) -> None:
    store = Store("purse", make_shards(1, ("live",)), 1, SystemClock(), ExecutorSettings())
    with pytest.raises(ConfigurationError, match="migrations"):
        await store.start()


async def test_refuses_a_database_that_holds_something_else(make_shards: MakeShards) -> None:
    shards = make_shards(2, ("live",))
    await migrate("pay_core", shards, 1)
    swapped = {"s0": shards["s1"], "s1": shards["s0"]}
    store = Store("pay_core", swapped, 1, SystemClock(), ExecutorSettings())
    with pytest.raises(ConfigurationError, match="holds live pay_core/s1"):
        await store.start()
    as_shadow = {"s0": ShardSettings(live=shards["s1"].live, shadow=shards["s0"].live), "s1": shards["s1"]}
    with pytest.raises(ConfigurationError, match="already holds"):
        await migrate("pay_core", as_shadow, 1)
