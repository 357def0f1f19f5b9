"""One provider process and one receiver for the module's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.channel_gateway.provider import Provider, ProviderProcess, Receiver


@pytest.fixture(scope="module")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


@pytest.fixture(scope="module")
async def receiver() -> AsyncIterator[Receiver]:
    receiver = await Receiver().start()
    yield receiver
    await receiver.stop()


@pytest.fixture(scope="module")
async def process(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ProviderProcess]:
    folder: Path = tmp_path_factory.mktemp("provider")
    process = await ProviderProcess(
        folder, receiver.url, settle_ms=50, late_ms=200, hang_ms=20_000, notification_backoff_ms=20
    ).start()
    yield process
    assert await process.end() == 0


@pytest.fixture
def provider(process: ProviderProcess, session: aiohttp.ClientSession) -> Provider:
    return Provider(process.url, session)
