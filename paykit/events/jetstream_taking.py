"""Taking the messages of one JetStream consumer: their events are handled, then the message is acknowledged.

A message of the bus holds one event or a bundle. At most ``max_in_flight`` events are handled at once; those of a
bundle beyond it wait here. When all events of a message are done it is acknowledged; where some must come again, all
of it does, and those that are done are left out: this process remembers them, another one's inbox knows them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence

import nats.errors
import structlog
from nats.aio.msg import Msg

from paykit.events.bus import Rejected
from paykit.events.dispatch import Dispatcher
from paykit.events.message import Delivery, Message

_REMEMBERED_MAX = 1024  # bundles of which some events are done

_log = structlog.get_logger(__name__)


class Taking:
    """One message of the bus, and its events that are not done yet, by their places in it."""

    __slots__ = ("again_s", "attempt", "done", "events", "id", "msg", "places", "refusal", "running", "unstarted")

    def __init__(self, msg: Msg, id_: str, events: Sequence[Message], attempt: int, done: frozenset[int]) -> None:
        self.msg = msg
        self.id = id_
        self.events = events
        self.attempt = attempt
        self.refusal: Rejected | None = None
        self.done = set(done)
        self.places = [place for place in range(len(events)) if place not in done] if done else range(len(events))
        self.unstarted = len(self.places)
        self.running = 0
        self.again_s: float | None = None  # the shortest wait of those that failed

    def next(self, count: int) -> Sequence[int]:
        """The places of the next events to be handled, at most ``count``."""
        start = len(self.places) - self.unstarted
        places = self.places[start : start + count]
        self.unstarted -= len(places)
        self.running += len(places)
        return places

    def ended(self, places: Sequence[int], waits_s: Sequence[float | None]) -> None:
        """Notes what became of events: the seconds until each is due again, or None."""
        self.running -= len(places)
        for place, wait_s in zip(places, waits_s, strict=True):
            if wait_s is None:
                self.done.add(place)
            else:
                self.again_s = wait_s if self.again_s is None else min(self.again_s, wait_s)

    @property
    def is_over(self) -> bool:
        """Whether each event was tried."""
        return self.running == 0 and self.unstarted == 0


class Takings:
    """All that one consumer has of the bus in this process. ``room_made`` is called when more may be asked for."""

    def __init__(self, dispatcher: Dispatcher, durable: str, room_made: Callable[[], Awaitable[None]]) -> None:
        self._dispatcher = dispatcher
        self._durable = durable
        self._room_made = room_made
        self._limit = dispatcher.subscription.max_in_flight
        self._running = 0  # events
        self._unstarted = 0  # events
        self._waiting: deque[Taking] = deque()  # those with events that are not started
        self._open: dict[Taking, None] = {}  # those that are neither acknowledged nor given back
        self._extended: set[Taking] = set()  # those that were open at the last look
        self._done: OrderedDict[str, frozenset[int]] = OrderedDict()  # by bundle: places of the events that are done
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    @property
    def room(self) -> int:
        """How many more events could be handled now; less than 0 where some wait."""
        return self._limit - self._running - self._unstarted

    async def take(self, msg: Msg, id_: str, events: Sequence[Message], attempt: int) -> None:
        """Handles the events of a message, soon; where there are none, or all are done, it is acknowledged."""
        await self._add(Taking(msg, id_, events, attempt, self._done.get(id_, frozenset())))

    async def refuse(self, msg: Msg, message: Message, attempt: int, error: Rejected) -> None:
        """Gives a message up that nobody can read."""
        taking = Taking(msg, message.id, [message], attempt, frozenset())
        taking.refusal = error
        await self._add(taking)

    async def _add(self, taking: Taking) -> None:
        if self._stopping:
            return  # not acknowledged: it comes again, to whoever is there
        self._open[taking] = None
        if taking.is_over:
            await self._close(taking)
            return
        self._unstarted += taking.unstarted
        self._waiting.append(taking)
        self._start()

    def _start(self) -> None:
        while self._waiting and self._running < self._limit and not self._stopping:
            taking = self._waiting[0]
            places = taking.next(min(self._limit - self._running, self._dispatcher.chunk_max))
            if not taking.unstarted:
                self._waiting.popleft()
            self._unstarted -= len(places)
            self._running += len(places)
            task = asyncio.create_task(self._run(taking, places))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, taking: Taking, places: Sequence[int]) -> None:
        deliveries = [Delivery(taking.events[place], taking.attempt) for place in places]
        # Where it is cancelled, by a stop or from within, they may come again at once, here or in another process.
        waits_s: Sequence[float | None] = [0.0] * len(places)
        try:
            if taking.refusal is not None:
                waits_s = [await self._dispatcher.refuse(deliveries[0], taking.refusal)]
            else:
                waits_s = await self._dispatcher.run(deliveries)
        finally:
            self._running -= len(places)
            taking.ended(places, waits_s)
            if taking.is_over:
                await self._close(taking)
            self._start()
            await self._room_made()

    async def _close(self, taking: Taking) -> None:
        del self._open[taking]
        if taking.again_s is None:
            self._done.pop(taking.id, None)
            await self._tell(taking.msg.ack())
        else:
            self._remember(taking)
            await self._tell(taking.msg.nak(taking.again_s))

    def _remember(self, taking: Taking) -> None:
        if len(taking.events) == 1:
            return
        self._done[taking.id] = frozenset(taking.done)
        self._done.move_to_end(taking.id)
        if len(self._done) > _REMEMBERED_MAX:
            self._done.popitem(last=False)

    async def _tell(self, sending: Awaitable[None]) -> None:
        try:
            await sending
        except nats.errors.Error as error:
            # Where it was not acknowledged the server delivers it again, and the inbox knows it.
            _log.warning("bus_ack_failed", consumer=self._durable, error_type=type(error).__name__)

    async def extend(self) -> None:
        """Tells the server that messages are still in hand, before it takes the silence for a crash.

        Only of those that were at the last look too: there are several looks in the time that the server waits.
        """
        before, self._extended = self._extended, set(self._open)
        for taking in before & self._extended:
            await self._tell(taking.msg.in_progress())

    async def stop(self, grace_s: float) -> None:
        """Begins nothing more, waits for the handlers at most ``grace_s`` seconds, then cancels them."""
        self._stopping = True
        self._waiting.clear()
        await self._give_back([taking for taking in self._open if taking.running == 0])
        tasks = list(self._tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._give_back(list(self._open))

    async def _give_back(self, takings: Sequence[Taking]) -> None:
        """Another process may have them at once."""
        for taking in takings:
            del self._open[taking]
            await self._tell(taking.msg.nak())
