"""Each rig with its provider running, and its channels open."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.channel_gateway.channels.bench import Bench, opened
from tests.channel_gateway.channels.liar import Liar
from tests.channel_gateway.channels.rig import Inbox, Rig
from tests.channel_gateway.channels.rigs import RIGS


@pytest.fixture(scope="module", params=sorted(RIGS))
async def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    inbox = await Inbox().start()
    rig = RIGS[request.param](tmp_path_factory.mktemp(request.param), inbox)
    await rig.start()
    yield rig
    await rig.stop()
    await inbox.stop()


@pytest.fixture
async def bench(rig: Rig) -> AsyncIterator[Bench]:
    async with opened(rig) as bench:
        yield bench


@pytest.fixture(scope="module")
async def liar() -> AsyncIterator[Liar]:
    liar = await Liar().start()
    yield liar
    await liar.stop()
