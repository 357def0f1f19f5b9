"""A store, a clock and scripted neighbours, for tests of windows that pass."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from paykit.clock import ManualClock
from paykit.rpc.channels import Channels
from paykit.settings import ShardSettings
from paykit.store.store import Store
from recon.expiry import Expiry
from recon.peers import Peers
from recon.settings import AskSettings
from tests.recon.neighbours import Neighbours, serving
from tests.recon.support import opened, rules


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    shards = {"s0": ShardSettings(live=f"sqlite+aiosqlite:///{tmp_path}/recon.db")}
    async with opened(shards, clock) as store:
        yield store


@pytest.fixture
def world() -> Neighbours:
    return Neighbours()


@pytest.fixture
async def channels(world: Neighbours) -> AsyncIterator[Channels]:
    async with serving(world) as channels:
        yield channels


@pytest.fixture
def expiry(store: Store, channels: Channels) -> Expiry:
    return Expiry(store, Peers(channels, AskSettings()), rules())
