"""A store and an importer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from paykit.clock import ManualClock
from paykit.store.store import Store
from recon.statements.importing import Importer
from tests.conftest import MakeShards
from tests.recon.statements.support import rules, statements
from tests.recon.support import opened


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(make_shards: MakeShards, clock: ManualClock) -> AsyncIterator[Store]:
    async with opened(make_shards(2), clock) as store:
        yield store


@pytest.fixture
def importer(store: Store, tmp_path: Path) -> Importer:
    return Importer(store, statements(spool_path=tmp_path), rules())
