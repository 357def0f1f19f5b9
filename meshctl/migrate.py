"""Brings the schema of every shard, live and shadow, up to date."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from meshctl.settings import MeshSettings, load_mesh
from paykit.rpc import loop
from paykit.store.migrate import migrate


def run(config: Path, say: Callable[[str], None]) -> None:
    """Migrates the databases of every service that the file has; ConfigurationError names one that cannot be."""
    loop.run(migrate_all(load_mesh(config), say))


async def migrate_all(settings: MeshSettings, say: Callable[[str], None]) -> None:
    """As ``run``, inside an event loop; ``say`` is told of each service that is done."""
    for name, service in settings.services().items():
        took_s = await migrate(name, service.shards, service.epoch)
        databases = sum(1 + (shard.shadow is not None) for shard in service.shards.values())
        say(f"{name}: {databases} databases up to date, {took_s:.1f} s")
