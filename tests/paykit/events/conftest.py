"""The buses every test of the contract runs on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.paykit.events.backends import Backend, EmbeddedBackend, JetStreamBackend, open_jetstream


@pytest.fixture
async def jetstream(tmp_path: Path) -> AsyncIterator[JetStreamBackend]:
    backend = await open_jetstream(tmp_path / "jetstream")
    yield backend
    await backend.clean_up()


@pytest.fixture(params=["embedded", pytest.param("jetstream", marks=pytest.mark.nats)])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    made: Backend
    if request.param == "embedded":
        made = EmbeddedBackend(tmp_path / "bus")
    else:
        made = await open_jetstream(tmp_path / "jetstream")
    yield made
    await made.clean_up()
