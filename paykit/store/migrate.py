"""Schema: forward-only Alembic migrations, applied to every shard, live and shadow.

Each shard has two chains: paykit's own (the system tables) and the service's; each is found in its package's
``migrations`` folder and kept in a version table of its own.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import DBAPIError

from paykit.errors import ConfigurationError
from paykit.settings import ExecutorSettings, ShardSettings
from paykit.store.engines import ShardEngines
from paykit.store.system import ShardEpoch

_SYSTEM_CHAIN = "paykit.store"


def upgrade(connection: Connection, package: str) -> None:
    """Brings one chain to its head on one database, in its own transaction where the database has such."""
    folder = Path(importlib.import_module(package).__path__[0]) / "migrations"
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    version_table = "schema_version_" + package.partition(".")[0]

    def steps(revision: Any, context: Any) -> Any:
        return script._upgrade_revs("head", revision)

    with EnvironmentContext(config, script, fn=steps) as environment:
        environment.configure(connection=connection, version_table=version_table, transaction_per_migration=False)
        with environment.begin_transaction():
            environment.run_migrations()


def set_epoch(connection: Connection, service: str, shard: str, mode: str, epoch: int) -> None:
    """Names the database (service, shard, mode) and moves it to ``epoch``; ConfigurationError where it is another's."""
    table = ShardEpoch.__table__
    found = connection.execute(select(table)).first()
    if found is None:
        row = {"id": "epoch", "slot": 0, "version": 1, "epoch": epoch, "service": service, "shard": shard, "mode": mode}
        connection.execute(insert(table), row)
    elif (found.service, found.shard, found.mode) != (service, shard, mode):
        raise ConfigurationError(
            f"the database of {mode} {service}/{shard} already holds {found.mode} {found.service}/{found.shard}"
        )
    elif found.epoch < epoch:
        connection.execute(update(table).values(epoch=epoch, version=found.version + 1))
    elif found.epoch > epoch:
        raise ConfigurationError(f"{mode} {service}/{shard} is at epoch {found.epoch}, the configuration at {epoch}")


async def migrate(service: str, shards: Mapping[str, ShardSettings], epoch: int) -> float:
    """Migrates every shard of a service, live and shadow; the seconds it took."""
    started_s = time.monotonic()
    for name, shard in shards.items():
        for mode, url in (("live", shard.live), ("shadow", shard.shadow)):
            if url is None:
                continue
            engines = ShardEngines(url, ExecutorSettings())
            try:
                await engines.assert_settings()
                async with engines.writer.connect() as connection:
                    for chain in (_SYSTEM_CHAIN, service):
                        await connection.run_sync(upgrade, chain)
                        await connection.commit()
                    await connection.run_sync(set_epoch, service, name, mode, epoch)
                    await connection.commit()
            except DBAPIError as error:
                raise ConfigurationError(f"database {engines.address} cannot be migrated: {error.orig}") from error
            finally:
                await engines.dispose()
    return time.monotonic() - started_s
