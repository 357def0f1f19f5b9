"""A provider made for tests: a real HTTP server with a book of its own, that speaks the language of a subclass.

It signs and verifies with code of its own: what it takes and makes is not what the channel makes of it.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import time
from typing import Any, Self

import aiohttp
import msgspec
from aiohttp import web

from tests.channel_gateway.channels.outside_book import SETTLE_S, Conflict, Entry, OutsideBook, State, Wanted
from tests.channel_gateway.channels.rig import Does, Notice

HANG_S = 20.0
DELIVERIES_MAX = 20


class Account(msgspec.Struct, kw_only=True):
    """One account: its names, its keys in whatever form its provider has them, its book."""

    key_id: str
    merchant_id: str
    livemode: bool
    client_key: Any  # what its requests are verified with
    provider_key: Any  # what its answers and notifications are signed with
    provider_key_id: str
    book: OutsideBook = msgspec.field(default_factory=OutsideBook)


class Refused(Exception):
    """A request that is not taken: by what code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class OutsideProvider(abc.ABC):
    """Serves at ``url``; notifications go to ``notification_url`` until they are acknowledged."""

    def __init__(self, notification_url: str, accounts: list[Account]) -> None:
        self.accounts = accounts
        self.url = ""
        self.delivered: list[Notice] = []  # every delivery, acknowledged or not
        self._notification_url = notification_url
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> Self:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        self._session = aiohttp.ClientSession()
        return self

    async def stop(self) -> None:
        self._stopping.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()
        await self._runner.cleanup()

    async def idle(self) -> None:
        """Until all notifications that are due have been delivered."""
        await asyncio.gather(*self._tasks)

    @abc.abstractmethod
    def authenticate(self, request: web.Request, body: bytes) -> Account:
        """The account that signed a request; Refused."""

    @abc.abstractmethod
    def read(self, request: web.Request, body: bytes) -> Wanted | str:
        """What is asked for: an order, or the reference of one; Refused."""

    def file(self, request: web.Request, account: Account) -> bytes | None:
        """What a request that is neither of an order nor for one is answered with; Refused."""
        return None

    @abc.abstractmethod
    def answer(self, account: Account, entry: Entry, state: State) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) that tell of an order."""

    @abc.abstractmethod
    def refusal(self, account: Account | None, code: str) -> tuple[int, dict[str, str], bytes]:
        """As ``answer``, of a request that is refused."""

    @abc.abstractmethod
    def notice(self, account: Account, entry: Entry, amount_minor: int) -> Notice:
        """The notification that an order succeeded."""

    @abc.abstractmethod
    def is_acknowledged(self, status: int, body: bytes) -> bool:
        """Whether a notification need not be sent again."""

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        account = None
        try:
            account = self.authenticate(request, body)
            file = self.file(request, account)
            if file is not None:
                return await self._send(request, 200, {}, file)
            wanted = self.read(request, body)
            if isinstance(wanted, str):
                found = account.book.find(wanted)
                if found is None:
                    raise Refused("order_not_found")
                return await self._send(request, *self.answer(account, found, found.state(time.time())))
            entry, is_new = account.book.place(wanted)
        except Refused as refused:
            return await self._send(request, *self.refusal(account, refused.code))
        except Conflict:
            return await self._send(request, *self.refusal(account, "conflict"))
        if is_new:
            return await self._carried_out(request, account, entry)
        return await self._send(request, *self.answer(account, entry, entry.first_state))

    async def _carried_out(self, request: web.Request, account: Account, entry: Entry) -> web.StreamResponse:
        if entry.does in (Does.NOTIFY, Does.NOTIFY_TWICE, Does.NOTIFY_WRONG_AMOUNT):
            task = asyncio.create_task(self._notify(account, entry))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if entry.does in (Does.HANG, Does.BOOK_AND_HANG):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), HANG_S)
        if entry.does in (Does.HANG, Does.BOOK_AND_HANG, Does.BOOK_AND_DROP):
            if request.transport is not None:
                request.transport.abort()
            return web.Response()  # goes nowhere
        if entry.does is Does.BOOK_AND_ERROR:
            return web.Response(status=500)
        return await self._send(request, *self.answer(account, entry, entry.first_state))

    async def _send(
        self, request: web.Request, status: int, headers: dict[str, str], body: bytes
    ) -> web.StreamResponse:
        """In chunks, without a length, as gateways do."""
        response = web.StreamResponse(status=status, headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        for start in range(0, len(body), 100):
            await response.write(body[start : start + 100])
        await response.write_eof()
        return response

    async def _notify(self, account: Account, entry: Entry) -> None:
        await asyncio.sleep(SETTLE_S)  # how long this provider takes to settle
        notice = self.notice(account, entry, entry.moved_minor + (entry.does is Does.NOTIFY_WRONG_AMOUNT))
        for _ in range(2 if entry.does is Does.NOTIFY_TWICE else 1):
            for _ in range(DELIVERIES_MAX):
                self.delivered.append(notice)
                async with self._session.post(
                    self._notification_url, data=notice.body, headers=notice.headers
                ) as answer:
                    if self.is_acknowledged(answer.status, await answer.read()):
                        break
                await asyncio.sleep(SETTLE_S)  # before it tries again
