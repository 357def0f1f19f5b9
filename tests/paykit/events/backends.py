"""Buses to test: the embedded one on a file, and JetStream on a private server of each test's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from pathlib import Path
from typing import Protocol

import nats
import pytest
from nats.js.errors import NotFoundError

from paykit.events.bus import Bus
from paykit.events.embedded import EmbeddedBus
from paykit.events.embedded_log import FILE_NAME
from paykit.events.jetstream import JetStreamBus, stream_of


class Backend(Protocol):
    """Makes buses of one kind over one store, and breaks what they stand on."""

    async def open(self) -> Bus: ...
    async def close(self, bus: Bus) -> None: ...
    async def lose_store(self) -> None: ...
    async def go_away(self) -> None: ...
    async def clean_up(self) -> None: ...


class EmbeddedBackend:
    """Only one process may open the file, so a second bus of a test is the first one again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bus: EmbeddedBus | None = None

    async def open(self) -> Bus:
        if self._bus is None:
            self._bus = EmbeddedBus(self.folder, stop_grace_s=0.2)
            await self._bus.start()
        return self._bus

    async def close(self, bus: Bus) -> None:
        await bus.stop()
        self._bus = None

    async def lose_store(self) -> None:
        for path in self.folder.glob(f"{FILE_NAME}*"):
            path.unlink()

    async def go_away(self) -> None:
        assert self._bus is not None
        await self.close(self._bus)

    async def clean_up(self) -> None:
        if self._bus is not None:
            await self._bus.stop()


class NatsServer:
    """A private nats-server with JetStream on a free port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"nats://127.0.0.1:{self.port}"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            "nats-server", "-js", "-a", "127.0.0.1", "-p", str(self.port), "-sd", str(self.folder),
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None


class JetStreamBackend:
    """JetStream on a private server, or on the one PAYMESH_TEST_NATS_URL names, whose streams are deleted."""

    def __init__(self, server: NatsServer | None, url: str) -> None:
        self.server = server
        self.url = url
        self._buses: list[Bus] = []

    async def open(self) -> Bus:
        bus = JetStreamBus(
            self.url, stop_grace_s=0.2, heartbeat_s=0.5, publish_timeout_s=1.0, start_timeout_s=5.0, ack_wait_s=3.0
        )
        await bus.start()
        self._buses.append(bus)
        return bus

    async def close(self, bus: Bus) -> None:
        self._buses.remove(bus)
        await bus.stop()

    async def lose_store(self) -> None:
        if self.server is None:
            await self.delete_streams()
            return
        await self.server.kill()
        shutil.rmtree(self.server.folder)
        await self.server.start()

    async def delete_streams(self) -> None:
        client = await nats.connect(self.url)
        for mode in ("live", "shadow"):
            with contextlib.suppress(NotFoundError):
                await client.jetstream().delete_stream(stream_of(mode))
        await client.close()

    async def go_away(self) -> None:
        if self.server is None:
            pytest.skip("the server PAYMESH_TEST_NATS_URL names is not ours to stop")
        await self.server.kill()

    async def clean_up(self) -> None:
        await asyncio.gather(*(bus.stop() for bus in self._buses))
        if self.server is not None:
            await self.server.kill()


async def open_jetstream(folder: Path) -> JetStreamBackend:
    """A backend on a private server where there is a binary, else on the server of the environment, else a skip."""
    if shutil.which("nats-server"):
        server = NatsServer(folder)
        await server.start()
        return JetStreamBackend(server, server.url)
    url = os.environ.get("PAYMESH_TEST_NATS_URL")
    if url is None:
        pytest.skip("nats-server is not on PATH and PAYMESH_TEST_NATS_URL is not set")
    backend = JetStreamBackend(None, url)
    await backend.delete_streams()
    return backend
