"""A running gateway for the module's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from paykit.settings import ShardSettings
from tests.channel_gateway.gateway import Gateway


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """On two SQLite shards, live and shadow."""
    folder = tmp_path_factory.mktemp("gateway")
    shards = {
        name: ShardSettings(
            live=f"sqlite+aiosqlite:///{folder}/{name}_live.db", shadow=f"sqlite+aiosqlite:///{folder}/{name}_shadow.db"
        )
        for name in ("s0", "s1")
    }
    gateway = await Gateway(folder, shards).start()
    yield gateway
    await gateway.stop()
