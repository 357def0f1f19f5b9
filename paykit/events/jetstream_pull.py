"""A durable JetStream pull consumer that keeps itself alive.

The client library's ``fetch`` holds back the first message while it waits for a full batch; here every message is
taken as it arrives, and the next request goes out when the one before is used up. Heartbeats tell a quiet stream
from a lost one: when they stop, everything is set up again (pull consumers may not resume after a server restart).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as Inbox
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

from paykit.events import bundle, metrics
from paykit.events.backoff import delay_s
from paykit.events.bundle import EVENTS_MAX
from paykit.events.bus import Rejected
from paykit.events.dispatch import Dispatcher
from paykit.events.jetstream_taking import Takings
from paykit.events.message import MESSAGE_ID, Message, matches, name_of

_BATCH_MAX = 200
_HEARTBEAT = "100"
_REQUEST_ENDED = ("404", "408")  # no messages, request expired: ask again
_NANOSECONDS = 1_000_000_000
_PAUSE_S = 0.1

_log = structlog.get_logger(__name__)


class PullConsumer:
    """Delivers the messages of one filter of one subscription to its dispatcher."""

    def __init__(
        self,
        client: Client,
        js: JetStreamContext,
        stream: str,
        patterns: tuple[str, ...],
        index: int,
        dispatcher: Dispatcher,
        *,
        ensure_streams: Callable[[], Awaitable[None]],
        heartbeat_s: float,
        ack_wait_s: float,
    ) -> None:
        subscription = dispatcher.subscription
        self._client = client
        self._js = js
        self._stream = stream
        self._patterns = patterns
        self._index = index
        self._dispatcher = dispatcher
        self._ensure_streams = ensure_streams
        self._heartbeat_s = heartbeat_s
        self._ack_wait_s = ack_wait_s
        self._durable = name_of(subscription.consumer, patterns[index])
        self._resubscribed = metrics.resubscribed.labels(subscription.consumer, subscription.mode)
        self._inbox: Inbox | None = None
        self._outstanding = 0  # messages the server may still send for the request under way
        # How many events messages have lately had. Taken to be many until it is known: none shall be hoarded here.
        self._events_a_message = float(EVENTS_MAX)
        self._takings = Takings(dispatcher, self._durable, self._request)
        self._last_heard_s = 0.0
        self._last_message_s = 0.0
        self._ack_pending_max = max(1000, 4 * subscription.max_in_flight)
        self._broken = asyncio.Event()
        self._stopping = False
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Sets the consumer up and begins to deliver."""
        await self._set_up()
        self._keeper = asyncio.create_task(self._keep(), name=f"bus-{self._durable}")

    async def stop(self, grace_s: float) -> None:
        """Takes no more, waits for the handlers at most ``grace_s`` seconds, then cancels them."""
        self._stopping = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self._drop_inbox()
        await self._takings.stop(grace_s)

    def recover(self) -> None:
        """Sets everything up again soon."""
        self._broken.set()

    async def _keep(self) -> None:
        """The watchdog: extends what is still being handled, and repairs what went silent."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            try:
                async with asyncio.timeout(min(self._heartbeat_s, self._ack_wait_s / 3)):
                    await self._broken.wait()
            except TimeoutError:
                if self._client.is_connected:
                    await self._takings.extend()
            if not self._client.is_connected:
                self._broken.clear()  # a connection that comes back sets it again
                continue
            # While every slot is taken no request is under way, and silence is what there should be.
            lost = self._outstanding > 0 and loop.time() - self._last_heard_s > 2.5 * self._heartbeat_s
            try:
                if not (lost or self._broken.is_set() or await self._is_stuck()):
                    continue
                self._broken.clear()
                await self._set_up()
            except (OSError, nats.errors.Error) as error:
                failures += 1
                wait_s = delay_s(failures, 0.1, 5.0)
                _log.warning(
                    "bus_consumer_not_set_up",
                    consumer=self._durable,
                    stream=self._stream,
                    error_type=type(error).__name__,
                    retry_s=round(wait_s, 3),
                )
                self._broken.set()
            else:
                failures = 0
                wait_s = _PAUSE_S
                self._resubscribed.inc()
                _log.info("bus_consumer_resubscribed", consumer=self._durable, stream=self._stream)
            # Also after success: a server that refuses each request at once must not be asked in a tight loop.
            await asyncio.sleep(wait_s)

    async def _is_stuck(self) -> bool:
        """Whether messages wait and none come, though the server still sends heartbeats: a fresh request may help."""
        now_s = asyncio.get_running_loop().time()
        if self._outstanding == 0 or now_s - self._last_message_s < 4 * self._heartbeat_s:
            return False
        self._last_message_s = now_s  # not asked again for as long
        info = await self._js.consumer_info(self._stream, self._durable)
        if not info.num_pending or (info.num_ack_pending or 0) >= self._ack_pending_max:
            return False
        _log.warning("bus_consumer_stuck", consumer=self._durable, stream=self._stream, pending=info.num_pending)
        return True

    async def _set_up(self) -> None:
        """Makes the consumer where it is missing, listens on a fresh inbox and asks for messages."""
        await self._drop_inbox()
        try:
            await self._js.consumer_info(self._stream, self._durable)
        except NotFoundError:
            await self._ensure_streams()
            await self._js.add_consumer(self._stream, self._config())
        self._outstanding = 0
        # A fresh inbox: whatever was sent for an older request must not be counted for the new one.
        self._inbox = await self._client.subscribe(self._client.new_inbox(), cb=self._on_message)
        self._heard()
        await self._request()

    def _config(self) -> ConsumerConfig:
        subscription = self._dispatcher.subscription
        return ConsumerConfig(
            name=self._durable,
            durable_name=self._durable,
            filter_subject=f"{subscription.mode}.{self._patterns[self._index]}",
            # From the first retained message: the inbox knows what was taken before the consumer was lost.
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self._ack_wait_s,
            # The bound on deliveries is kept here, not by the server, which would drop the message in silence.
            max_deliver=-1,
            # Failed messages that wait for their next attempt count too, so this bounds them as well.
            max_ack_pending=self._ack_pending_max,
        )

    async def _drop_inbox(self) -> None:
        inbox, self._inbox = self._inbox, None
        if inbox is not None and not self._client.is_closed:
            try:
                await inbox.unsubscribe()
            except nats.errors.Error as error:  # its connection is gone, and the subscription with it
                _log.info("bus_inbox_gone", consumer=self._durable, error_type=type(error).__name__)

    def _heard(self) -> None:
        self._last_heard_s = asyncio.get_running_loop().time()

    async def _request(self) -> None:
        """Asks for as many messages as there is room for their events, unless a request is under way."""
        inbox = self._inbox
        limit, room = self._dispatcher.subscription.max_in_flight, self._takings.room
        # Not for every slot that frees: requests of one message would cost more than the message.
        if self._outstanding > 0 or room < min(32, (limit + 1) // 2) or inbox is None or self._stopping:
            return
        batch = max(1, min(_BATCH_MAX, int(room / self._events_a_message)))
        self._outstanding = batch
        self._heard()
        request = {
            "batch": batch,
            "expires": int(6 * self._heartbeat_s * _NANOSECONDS),
            "idle_heartbeat": int(self._heartbeat_s * _NANOSECONDS),
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._durable}"
        await self._client.publish(subject, json.dumps(request).encode(), reply=inbox.subject)

    async def _on_message(self, msg: Msg) -> None:
        self._heard()
        headers = msg.headers or {}
        status = headers.get("Status")
        if status is None:
            self._last_message_s = self._last_heard_s
            self._outstanding -= 1
            await self._take(msg, headers)
        elif status == _HEARTBEAT:
            return
        elif status in _REQUEST_ENDED:
            self._outstanding = 0
        else:
            # 409 (deleted, or a limit was hit), 503 (nobody answers for this consumer): look before asking again.
            _log.warning("bus_request_refused", consumer=self._durable, status=status)
            self._outstanding = 0
            self._broken.set()
            return
        await self._request()

    async def _take(self, msg: Msg, headers: dict[str, str]) -> None:
        id_, attempt = headers.get(MESSAGE_ID, ""), _delivery_count(msg.reply)
        if not self._is_mine(msg.subject):
            await self._takings.take(msg, id_, [], attempt)
            return
        if not bundle.is_bundle(headers):
            self._count_events(1)
            await self._takings.take(msg, id_, [Message(id_, msg.subject, headers, msg.data)], attempt)
            return
        try:
            events = bundle.unpack(msg.subject, headers, msg.data)
        except bundle.UnreadableBundle as error:
            # Without the header: what listens to the dead letters must not try to read it as a bundle again.
            plain = {name: value for name, value in headers.items() if name != bundle.BUNDLE}
            await self._takings.refuse(msg, Message(id_, msg.subject, plain, msg.data), attempt, Rejected(str(error)))
            return
        self._count_events(len(events))
        await self._takings.take(msg, id_, events, attempt)

    def _is_mine(self, subject: str) -> bool:
        """With overlapping filters each message is the business of the first that matches."""
        rest = subject.partition(".")[2]
        owner = next(i for i, pattern in enumerate(self._patterns) if matches(pattern, rest))
        return owner == self._index and self._dispatcher.subscription.matches(subject)

    def _count_events(self, count: int) -> None:
        """Rises at once and falls slowly: to ask for too few messages costs little, for too many what others lack."""
        self._events_a_message = max(count, self._events_a_message + (count - self._events_a_message) / 4)


def _delivery_count(reply: str) -> int:
    """How often a message was delivered, from its reply subject (the library's way reads all nine tokens, and dates).

    ``$JS.ACK.<stream>.<consumer>.<delivered>.…``; newer servers put a domain and an account before the stream.
    """
    tokens = reply.split(".")
    return int(tokens[4] if len(tokens) == 9 else tokens[6])
