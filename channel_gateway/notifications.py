"""The HTTP endpoint that providers notify: POST /notifications/{channel}, answered once the notification is durable.

401: no known key signed it, or not lately. 400: signed, and yet no notification. 404: no such channel. 408: its body
did not come. 503: not now; the provider comes again.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog
from aiohttp import web

from channel_gateway.channel_settings import Acknowledgement
from channel_gateway.channels import ChannelSet
from channel_gateway.channels.base import Channel, NotificationInvalid, NotificationIrrelevant, ReceivedNotification
from channel_gateway.commands import TakeNotification
from channel_gateway.contexts import OrderContexts
from channel_gateway.signature import SignatureInvalid
from paykit import telemetry
from paykit.context import MODES, mint
from paykit.errors import ConfigurationError, MeshError
from paykit.ids import slot_in
from paykit.store.command import Origin
from paykit.store.store import Store

log = structlog.get_logger(__name__)

NOTIFICATIONS = telemetry.counter("channel_notifications_total", "Notifications by HTTP answer", ("channel", "answer"))

BODY_BYTES_MAX = 65_536
_CALLER = "provider:"
_NOTHING_SAID = Acknowledgement()
_RETRY_AFTER_S = "1"
_STOP_GRACE_S = 5.0
BODY_TIMEOUT_S = 5.0  # a body that comes slower does not keep its place from others


class NotificationEndpoint:
    """Listens for notifications. ``port`` is the one it got."""

    def __init__(
        self, listen: str, in_flight_max: int, store: Store, channels: ChannelSet, contexts: OrderContexts
    ) -> None:
        self._listen = listen
        self._in_flight_max = in_flight_max
        self._in_flight = 0
        self._store = store
        self._channels = channels
        self._contexts = contexts
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        """Opens the port; ConfigurationError where it cannot be had."""
        application = web.Application(client_max_size=BODY_BYTES_MAX)
        application.router.add_post("/notifications/{channel}", self._receive)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=_STOP_GRACE_S)
        await self._runner.setup()
        host, _, port = self._listen.rpartition(":")
        try:
            await web.TCPSite(self._runner, host.strip("[]"), int(port)).start()
        except OSError as error:
            raise ConfigurationError(f"notification_listen {self._listen}: {error.strerror}") from None
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Closes the port once the notifications under way are answered."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _receive(self, request: web.Request) -> web.Response:
        name = request.match_info["channel"]
        if self._channels.find("live", name) is None:
            return web.Response(status=404)  # not counted: the label would be the sender's
        if self._in_flight >= self._in_flight_max:
            return _answer(name, 503)
        self._in_flight += 1
        try:
            status = await self._take(name, request)
            return _answer(name, status, self._channels.settings[name].acknowledgement_of())
        finally:
            self._in_flight -= 1

    async def _take(self, name: str, request: web.Request) -> int:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await request.read()
        except TimeoutError:
            return 408
        now_s = self._store.clock.now_ms() / 1000
        try:
            mode, channel, received = self._read(name, body, request, now_s)
            await self._store.run(await self._command(mode, channel, received, body))
        except SignatureInvalid as error:
            log.warning("notification_signature_invalid", channel=name, reason=str(error))
            return 401
        except NotificationIrrelevant as error:
            log.info("notification_irrelevant", channel=name, reason=str(error))
            return 200  # an error would only make the provider send it again
        except NotificationInvalid as error:
            log.warning("notification_invalid", channel=name, reason=str(error))
            return 400
        except MeshError as error:
            log.warning("notification_postponed", channel=name, reason=error.reason)
            return 503
        return 200

    def _read(
        self, name: str, body: bytes, request: web.Request, now_s: float
    ) -> tuple[str, Channel, ReceivedNotification]:
        """The mode is that of the account whose key signed it."""
        refusal = SignatureInvalid("no account")
        for mode in MODES:
            channel = self._channels.find(mode, name)
            if channel is not None:
                try:
                    return mode, channel, channel.read_notification(body, request.headers, now_s)
                except SignatureInvalid as error:
                    refusal = error
        raise refusal

    async def _command(
        self, mode: str, channel: Channel, received: ReceivedNotification, body: bytes
    ) -> TakeNotification:
        order_id = received.channel_order_id
        caller = _CALLER + channel.name
        context = await self._contexts.find(mode, order_id)
        if context is None:
            now_ms = self._store.clock.now_ms()
            context = mint(slot_in(order_id), now_ms, shadow=mode == "shadow")
        context = msgspec.structs.replace(context, caller=caller)  # who brings this change is the provider
        origin = Origin.event(context, caller, received.notification_id)
        return TakeNotification(origin, channel.name, channel.policy, received, body)


def _answer(channel: str, status: int, acknowledgement: Acknowledgement = _NOTHING_SAID) -> web.Response:
    NOTIFICATIONS.labels(channel, str(status)).inc()
    if status == 200 and acknowledgement.body:
        return web.Response(text=acknowledgement.body, content_type=acknowledgement.content_type)
    return web.Response(status=status, headers={"Retry-After": _RETRY_AFTER_S} if status == 503 else None)
