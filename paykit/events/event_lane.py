"""Events on their way from the outbox to the bus, published in bulk."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from paykit import context as business
from paykit.events.backoff import delay_s, is_worth_a_line
from paykit.events.bus import Bus
from paykit.events.calls import Item
from paykit.events.message import Message, to_headers
from paykit.settings import RelaySettings

_BATCH_MAX = 500

_log = structlog.get_logger(__name__)


def message_of(item: Item) -> Message:
    """The message an outbox row becomes; its id is the row's, so that a second copy is known for one."""
    row = item.row
    headers = to_headers(business.unpack(row.context), row.id)
    return Message(row.id, f"{item.home.mode}.{row.destination}", headers, row.body)


class EventLane:
    """Publishes whatever has gathered while the publish before was under way."""

    def __init__(self, bus: Bus, settings: RelaySettings, done: Callable[[Item], None]) -> None:
        self._bus = bus
        self._settings = settings
        self._done = done
        self._ready: deque[Item] = deque()
        self._waiting: dict[Item, asyncio.TimerHandle] = {}
        self._publishing = 0
        self._failures = 0
        self._work = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._ready) + len(self._waiting) + self._publishing

    def start(self) -> None:
        """Begins to publish."""
        self._task = asyncio.create_task(self._publish_forever(), name="relay-events")

    def add(self, item: Item) -> bool:
        """Takes an event, unless too many are here already."""
        if len(self) >= self._settings.max_queue:
            return False
        self._ready.append(item)
        self._work.set()
        self._quiet.clear()
        return True

    async def drain(self) -> None:
        """Until what is ready has been tried."""
        await self._quiet.wait()

    async def stop(self) -> None:
        """Drops all events; their rows are still in the outbox."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for handle in self._waiting.values():
            handle.cancel()
        self._waiting.clear()
        self._ready.clear()

    async def _publish_forever(self) -> None:
        while True:
            if not self._ready:
                self._quiet.set()
                self._work.clear()
                await self._work.wait()
            batch = [self._ready.popleft() for _ in range(min(_BATCH_MAX, len(self._ready)))]
            self._publishing = len(batch)
            try:
                failed = await self._publish(batch)
            finally:
                self._publishing = 0
            if failed < len(batch):
                self._failures = 0
                continue
            self._failures += 1
            wait_s = delay_s(self._failures, self._settings.retry_delay_s, self._settings.retry_delay_max_s)
            # Nothing got through: the bus is away, and whoever drains must not wait for it.
            self._quiet.set()
            await asyncio.sleep(wait_s)

    async def _publish(self, batch: list[Item]) -> int:
        """Hands a batch to the bus; how many failed."""
        items, messages = [], []
        for item in batch:
            try:
                messages.append(message_of(item))
                items.append(item)
            except Exception as error:  # a row that cannot be read must not hold up the others
                self._retry(item, error)
        try:
            outcomes = await self._bus.publish(messages)
        except Exception as error:
            outcomes = [error] * len(messages)
        for item, outcome in zip(items, outcomes, strict=True):
            if outcome is None:
                self._done(item)
            else:
                self._retry(item, outcome)
        return len(batch) - sum(outcome is None for outcome in outcomes)

    def _retry(self, item: Item, error: Exception) -> None:
        item.attempt += 1
        wait_s = delay_s(item.attempt, self._settings.retry_delay_s, self._settings.retry_delay_max_s)
        if is_worth_a_line(item.attempt) and is_worth_a_line(self._failures + 1):
            _log.warning(
                "event_not_published",
                destination=item.row.destination,
                message_id=item.row.id,
                attempt=item.attempt,
                retry_s=round(wait_s, 3),
                error_type=type(error).__name__,
            )
        self._waiting[item] = asyncio.get_running_loop().call_later(wait_s, self._again, item)

    def _again(self, item: Item) -> None:
        del self._waiting[item]
        self._ready.append(item)
        self._quiet.clear()
        self._work.set()
