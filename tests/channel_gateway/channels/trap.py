"""Servers that a channel must not be led to, or that break off."""

from __future__ import annotations

import asyncio
import ssl
from typing import Self


class Trap:
    """Counts the connections and the bytes that come to it; answers nothing.

    ``closes``: AT_ONCE when a connection comes, or AFTER_REQUEST when something was received; None: never.
    """

    def __init__(self, closes: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._closes = closes
        self._tls = tls
        self.connections = 0
        self.received = b""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._closing.set()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)
        self.connections += 1
        if self._closes != "AT_ONCE":
            self.received += await reader.read(65_536)
        if self._closes is None:
            await self._closing.wait()
        writer.transport.abort()
