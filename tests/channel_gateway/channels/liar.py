"""A provider that answers whatever it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Self

from aiohttp import web

from tests.channel_gateway.channels.rig import Answer

_PIECE = b" " * 65_536


class Liar:
    """Listens at ``url``, gives ``answer`` to everything and counts ``calls``. ``headers``: of the last call.

    ``endless``: its body never ends.
    """

    def __init__(self) -> None:
        self.answer = Answer(body=b"")
        self.endless = False
        self.calls = 0
        self.headers: Mapping[str, str] = {}  # of the last call
        self.sent_bytes = 0
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> Self:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        self.headers = dict(request.headers)
        await request.read()
        answer = self.answer
        if not self.endless:
            return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(answer.body)
        while True:
            await response.write(_PIECE)
            self.sent_bytes += len(_PIECE)
            await asyncio.sleep(0)
