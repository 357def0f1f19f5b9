"""Buses to test: the embedded one on a file, and JetStream on a server of each test's own, which it may break."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Protocol

import nats

from meshctl.servers import NatsServer
from paykit.context import MODES
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


class JetStreamBackend:
    """JetStream on a private server of the test's own."""

    def __init__(self, server: NatsServer) -> None:
        self.server = server
        self._buses: list[Bus] = []

    async def open(self) -> JetStreamBus:
        bus = JetStreamBus(
            self.server.url,
            stop_grace_s=0.2,
            heartbeat_s=0.5,
            publish_timeout_s=1.0,
            start_timeout_s=5.0,
            ack_wait_s=3.0,
        )
        await bus.start()
        self._buses.append(bus)
        return bus

    async def close(self, bus: Bus) -> None:
        self._buses.remove(bus)
        await bus.stop()

    async def lose_store(self) -> None:
        self.server.kill()
        shutil.rmtree(self.server.directory / "store")
        self.server.start()

    async def delete_streams(self) -> None:
        client = await nats.connect(self.server.url)
        for mode in MODES:
            await client.jetstream().delete_stream(stream_of(mode))
        await client.close()

    async def go_away(self) -> None:
        self.server.kill()

    async def clean_up(self) -> None:
        await asyncio.gather(*(bus.stop() for bus in self._buses))
