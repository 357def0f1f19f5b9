"""Delivers notifications: signed, retried with backoff until a 2xx, at most so often. What waits lies in the book."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import structlog

from channel_gateway.sandbox.book import Book
from channel_gateway.sandbox.book_operations import BookBusy, Mark
from channel_gateway.sandbox.book_tables import DELIVERED, GIVEN_UP, WAITING
from channel_gateway.sandbox.entries import Notification
from channel_gateway.sandbox.settings import SandboxAccountSettings, SandboxSettings
from channel_gateway.signature import HEADER, sign
from paykit.clock import Clock

log = structlog.get_logger(__name__)

POLL_S = 0.05  # how soon a notification that falls due is noticed
BACKOFF_MAX_MS = 60_000
STALE_S = 86_400  # how old the signature of a stale notification is
_JSON = "application/json"


class Notifier:
    """Sends what is due, bounded in flight."""

    def __init__(self, settings: SandboxSettings, book: Book, clock: Clock) -> None:
        self._settings = settings
        self._book = book
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._poller: asyncio.Task[None] | None = None
        self._deliveries: dict[str, asyncio.Task[None]] = {}
        self._awaited: dict[str, asyncio.Event] = {}

    async def start(self) -> None:
        """Begins with what an earlier run left."""
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._settings.notification_timeout_s),
            connector=aiohttp.TCPConnector(limit=self._settings.notifications_in_flight_max),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._poller = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        """Ends deliveries; those cut off are made again after the next start."""
        tasks = [task for task in (self._poller, *self._deliveries.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def expect(self, notification_id: str) -> asyncio.Event:
        """An event that is set when the notification has been delivered or given up."""
        return self._awaited.setdefault(notification_id, asyncio.Event())

    def forget(self, notification_id: str) -> None:
        """Ends an expectation."""
        self._awaited.pop(notification_id, None)

    async def _poll(self) -> None:
        while True:
            room = self._settings.notifications_in_flight_max - len(self._deliveries)
            if room > 0:
                # Those in flight are still due in the book: ask for enough to see past them.
                with contextlib.suppress(BookBusy):
                    due = await self._book.due(self._clock.now_ms(), room + len(self._deliveries))
                    for notification in due:
                        if notification.id not in self._deliveries:
                            self._deliveries[notification.id] = asyncio.create_task(self._deliver(notification))
            await asyncio.sleep(POLL_S)

    async def _deliver(self, notification: Notification) -> None:
        try:
            account = self._settings.accounts.get(notification.account)
            if account is None or not account.notification_url:
                delivered, attempts = False, self._settings.notification_attempts_max
            else:
                delivered = await self._post_copies(account, notification)
                attempts = notification.attempt_count + 1
            # Who forges a notification does not come again.
            state = DELIVERED if delivered or notification.forgery else WAITING
            if state == WAITING and attempts >= self._settings.notification_attempts_max:
                state = GIVEN_UP
                log.warning("sandbox_notification_given_up", notification_id=notification.id, attempts=attempts)
            backoff_ms = min(self._settings.notification_backoff_ms << min(attempts - 1, 20), BACKOFF_MAX_MS)
            await self._book.mark(Mark(notification.id, state, self._clock.now_ms() + backoff_ms, attempts))
            if state != WAITING and notification.id in self._awaited:
                self._awaited[notification.id].set()
        except BookBusy:
            log.warning("sandbox_notification_unmarked", notification_id=notification.id)  # due still: made again
        finally:
            del self._deliveries[notification.id]

    async def _post_copies(self, account: SandboxAccountSettings, notification: Notification) -> bool:
        for _ in range(notification.copies):
            if not await self._post(account, notification):
                return False
        return True

    async def _post(self, account: SandboxAccountSettings, notification: Notification) -> bool:
        assert self._session is not None
        body = notification.body.encode()
        header = self._signature(account, notification, body)
        if notification.forgery == "changed":
            body = body.replace(b'"order"', b' "order"', 1)
        try:
            async with self._session.post(
                account.notification_url,
                data=body,
                headers={HEADER: header, "Content-Type": _JSON},
                allow_redirects=False,
            ) as response:
                return 200 <= response.status < 300
        except (aiohttp.ClientError, TimeoutError) as error:
            log.debug("sandbox_notification_failed", notification_id=notification.id, error=type(error).__name__)
            return False

    def _signature(self, account: SandboxAccountSettings, notification: Notification, body: bytes) -> str:
        now_s = self._clock.now_ms() // 1000
        signer, forgery = account, notification.forgery
        if forgery == "account":
            signer = self._another(notification.account)
        key = signer.notification_key.get_secret_value().encode()
        if forgery == "key":
            key = key[::-1] + b"?"
        return sign(key, signer.notification_key_id, now_s - (STALE_S if forgery == "stale" else 0), body)

    def _another(self, account: str) -> SandboxAccountSettings:
        """The account behind that one; itself where there is no other."""
        names = sorted(self._settings.accounts)
        return self._settings.accounts[names[(names.index(account) + 1) % len(names)]]
