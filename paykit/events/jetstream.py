"""The bus over NATS JetStream: one stream for live and one for shadow, one durable pull consumer per filter.

JetStream is treated as lossy (2.9 syncs to disk once a minute): streams and consumers are made whenever they are
missing, so a server that comes back empty is simply used again. No money depends on what it lost.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import nats.errors
import structlog
from nats.aio.client import Client
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from paykit.context import MODES
from paykit.errors import ConfigurationError, Unavailable
from paykit.events import bundle, metrics
from paykit.events.bus import GiveUp, Handler
from paykit.events.dispatch import Dispatcher
from paykit.events.jetstream_pull import PullConsumer
from paykit.events.message import Message, Subscription, filters

_PUBLISH_CHUNK = 256  # publishes in flight at once: more gains nothing and only makes the slowest wait longer
_AFTER_DELETION_S = 0.5
_CREDENTIALS = re.compile(r"//[^/@]*@")

_log = structlog.get_logger(__name__)


def redact(url: str) -> str:
    """The address without user, password or token."""
    return _CREDENTIALS.sub("//", url)


class JetStreamBus:
    """A bus on a NATS server or cluster with JetStream. ``url`` may list several servers, separated by commas."""

    def __init__(
        self,
        url: str,
        *,
        max_age_s: float = 72 * 3600,
        max_bytes: int = 512 * 1024 * 1024,
        publish_timeout_s: float = 5.0,
        start_timeout_s: float = 10.0,
        stop_grace_s: float = 10.0,
        heartbeat_s: float = 5.0,
        ack_wait_s: float = 30.0,
        bundle_max: int = bundle.EVENTS_MAX,
    ) -> None:
        self._servers = [part.strip() for part in url.split(",")]
        self._address = redact(url)
        self._max_age_s = max_age_s
        self._max_bytes = max_bytes
        self._publish_timeout_s = publish_timeout_s
        self._start_timeout_s = start_timeout_s
        self._stop_grace_s = stop_grace_s
        self._heartbeat_s = heartbeat_s
        self._ack_wait_s = ack_wait_s
        self._bundle_max = bundle_max
        self._client = Client()
        self._js = self._client.jetstream(timeout=publish_timeout_s)
        self._last_error: Exception | None = None
        self._stopping = False
        self._pulls: list[PullConsumer] = []
        self._making_streams: asyncio.Task[None] | None = None
        self._published = {mode: metrics.published.labels(mode) for mode in MODES}
        self._failed = {mode: metrics.publish_failed.labels(mode) for mode in MODES}

    async def start(self) -> None:
        """Connects and makes the streams; ConfigurationError naming the address where that fails."""
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await self._client.connect(
                    servers=self._servers,
                    name="paymesh",
                    error_cb=self._on_error,
                    disconnected_cb=self._on_disconnected,
                    reconnected_cb=self._on_reconnected,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=1,
                    connect_timeout=2,
                    ping_interval=15,
                    max_outstanding_pings=2,
                    pending_size=16 * 1024 * 1024,
                )
                await self.ensure_streams()
        except (OSError, nats.errors.Error) as error:  # TimeoutError is an OSError
            await self._client.close()
            cause = self._last_error or error
            raise ConfigurationError(
                f"bus.url: no NATS server with JetStream at {self._address} ({type(cause).__name__})"
            ) from error

    async def stop(self) -> None:
        """Stops taking messages, lets handlers finish for a bounded time, sends what is buffered and closes."""
        self._stopping = True
        await asyncio.gather(*(pull.stop(self._stop_grace_s) for pull in self._pulls))
        if self._making_streams is not None:
            self._making_streams.cancel()
        if self._client.is_connected:
            try:
                await self._client.flush(timeout=2)  # acknowledgements still in the buffer
            except (OSError, nats.errors.Error) as error:
                _log.warning("bus_flush_failed", error_type=type(error).__name__)
        await self._client.close()

    async def publish(self, messages: Sequence[Message]) -> list[Exception | None]:
        """One outcome each: that of the bundle it went in. What is not acknowledged in time counts as not sent.

        The server recognises a second copy of a message, and of a bundle; not that of a message in another bundle.
        """
        outcomes: list[Exception | None] = [None] * len(messages)
        parcels = bundle.pack(messages, self._bundle_max)
        for start in range(0, len(parcels), _PUBLISH_CHUNK):
            chunk = parcels[start : start + _PUBLISH_CHUNK]
            sent = await asyncio.gather(*(self._publish_one(parcel.message) for parcel in chunk))
            for parcel, outcome in zip(chunk, sent, strict=True):
                mode = parcel.message.subject.partition(".")[0]
                (self._published if outcome is None else self._failed)[mode].inc(len(parcel.places))
                for place in parcel.places:
                    outcomes[place] = outcome
        return outcomes

    async def _publish_one(self, message: Message) -> Exception | None:
        # The client would buffer for a server that is away, and the caller would wait for nothing.
        if not self._client.is_connected:
            return Unavailable("the message bus cannot be reached")
        try:
            try:
                await self._send(message)
            except NoStreamResponseError:
                await self._ensure_streams_once()
                await self._send(message)
        except (OSError, ValueError, nats.errors.Error) as error:
            return error
        return None

    async def _send(self, message: Message) -> None:
        await self._js.publish(message.subject, message.body, timeout=self._publish_timeout_s, headers=message.headers)

    async def kept_since_ms(self, mode: str) -> int:
        """See ``Bus``: the time the stream was made, by the server's clock. A missing stream is made."""
        if not self._client.is_connected:
            raise Unavailable("the message bus cannot be reached")
        try:
            info = await self._js.stream_info(stream_of(mode))
        except NotFoundError:
            await self._ensure_streams_once()
            info = await self._js.stream_info(stream_of(mode))
        assert info.created is not None, "the server does not say when it made a stream"
        return int(info.created.timestamp() * 1000)

    async def subscribe(self, subscription: Subscription, handler: Handler, give_up: GiveUp | None = None) -> None:
        """One durable per filter: the 2.9 server has no consumer with several."""
        dispatcher = Dispatcher(subscription, handler, give_up, self.publish)
        patterns = filters(subscription.subjects)
        for index in range(len(patterns)):
            pull = PullConsumer(
                self._client,
                self._js,
                stream_of(subscription.mode),
                patterns,
                index,
                dispatcher,
                ensure_streams=self._ensure_streams_once,
                heartbeat_s=self._heartbeat_s,
                ack_wait_s=self._ack_wait_s,
            )
            self._pulls.append(pull)
            await pull.start()

    async def ensure_streams(self) -> None:
        """Makes both streams where they are missing; what exists is left as it is."""
        for mode in MODES:
            config = StreamConfig(
                name=stream_of(mode),
                subjects=[f"{mode}.>"],
                retention=RetentionPolicy.LIMITS,
                storage=StorageType.FILE,
                discard=DiscardPolicy.OLD,
                max_age=self._max_age_s,
                max_bytes=self._max_bytes,
                duplicate_window=120,
            )
            try:
                await self._js.add_stream(config)
            except APIError as error:
                # 10058: it exists with other bounds, which an operator may have set on purpose.
                if error.err_code != 10058:
                    raise

    async def _ensure_streams_once(self) -> None:
        """Hundreds of publishes find the stream gone at the same moment: one of them makes it."""
        if self._making_streams is None or self._making_streams.done():
            self._making_streams = asyncio.create_task(self._make_streams_again())
        await asyncio.shield(self._making_streams)

    async def _make_streams_again(self) -> None:
        # Deleting goes on in the server after its answer; a namesake made meanwhile may lose its files to it.
        await asyncio.sleep(_AFTER_DELETION_S)
        await self.ensure_streams()

    async def _on_error(self, error: Exception) -> None:
        self._last_error = error
        _log.warning("bus_error", address=self._address, error_type=type(error).__name__)

    async def _on_disconnected(self) -> None:
        if not self._stopping:
            _log.warning("bus_disconnected", address=self._address)

    async def _on_reconnected(self) -> None:
        _log.info("bus_reconnected", address=self._address)
        # A server that restarted has forgotten every pull request, and may have forgotten its store too.
        for pull in self._pulls:
            pull.recover()


def stream_of(mode: str) -> str:
    """The stream that holds the messages of a mode."""
    return mode.upper()
