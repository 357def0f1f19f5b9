"""The whole system, once per backend: four services in this process, the provider as its own.

``embedded`` is SQLite and the embedded bus; ``full`` is two MariaDB servers and NATS JetStream.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
import pytest_asyncio
from nats.js.errors import NotFoundError

from meshctl.embedded import EmbeddedMesh, embedded_configuration, quick
from meshctl.layout import MODES, SHARDS, Ports, configuration
from meshctl.scenarios import Desk
from meshctl.servers import create_database, drop_database
from meshctl.settings import SERVICES
from paykit.events.jetstream import stream_of
from paykit.rpc.channels import Channels

BACKENDS = (
    pytest.param("embedded"),
    pytest.param("full", marks=[pytest.mark.mariadb, pytest.mark.nats]),
)


@pytest.fixture(scope="package", params=BACKENDS)
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The settings of a system that has nothing yet, on each backend."""
    directory = tmp_path_factory.mktemp("mesh")
    if request.param == "embedded":
        yield embedded_configuration(directory)
        return
    with _databases(request.getfixturevalue("mariadb_servers")) as urls:
        bus = {"kind": "nats", "url": request.getfixturevalue("nats_server")}
        book = directory / "sandbox_book.sqlite"
        yield quick(configuration(lambda *names: urls[names], bus, Ports.choose(preferred=False), book))


@contextlib.contextmanager
def _databases(servers: list[str]) -> Iterator[dict[tuple[str, ...], str]]:
    """Empty databases for every service, shard and mode: shard s0 on the first server, s1 on the second."""
    token = secrets.token_hex(4)
    made: list[tuple[str, str]] = []
    urls: dict[tuple[str, ...], str] = {}
    try:
        for service in SERVICES:
            for server, shard in zip(servers, SHARDS, strict=True):
                for mode in MODES:
                    name = f"e2e_{token}_{service}_{shard}_{mode}"
                    made.append((server, name))
                    urls[service, shard, mode] = create_database(server, name)
        yield urls
    finally:
        for server, name in made:
            drop_database(server, name)


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def mesh(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedMesh]:
    """The running system."""
    if config["bus"]["kind"] == "nats":
        await _remove_streams(config["bus"]["url"])
    async with EmbeddedMesh(tmp_path_factory.mktemp("settings"), config) as running:
        yield running


async def _remove_streams(url: str) -> None:
    """What an earlier run left on a server that is not ours: its messages are about orders nobody has any more."""
    client = await nats.connect(url)
    for mode in MODES:
        with contextlib.suppress(NotFoundError):
            await client.jetstream().delete_stream(stream_of(mode))
    await client.close()


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def channels(mesh: EmbeddedMesh) -> AsyncIterator[Channels]:
    """The way a business service reaches them."""
    opened = Channels(mesh.settings.addresses)
    yield opened
    await opened.close()


@pytest.fixture
def desk(channels: Channels) -> Desk:
    """A place of work with users of its own."""
    return Desk(channels)


@pytest.fixture
def config_file(mesh: EmbeddedMesh) -> Path:
    """The settings file of the running system."""
    return mesh.config
