"""The bus: what carries events from the outbox of one service to the consumers of others.

The contract, kept by both implementations and tested by one suite: a message that ``publish`` reports as taken is
delivered to every durable consumer whose subjects match, at least once, in no promised order; a handler that returns
has taken it; a handler that raises gets it again. A bus may carry several messages as one, and hands several over at
once to a handler that wishes it (``Together``): the outcome is each one's own. What makes it *exactly* once is the
consumer's own inbox record.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from paykit.errors import ConfigurationError
from paykit.events.message import Delivery, Message, Subscription
from paykit.settings import BusSettings

Handle = Callable[[Delivery], Awaitable[None]]
GiveUp = Callable[[Delivery, Exception], Awaitable[None]]


class Together(NamedTuple):
    """A handler of what came together: it returns an outcome for each delivery, in order; None means taken.

    An outcome is what a handler of one would have raised. Where ``handle`` itself raises, it does so for all of them.
    Deliveries that are handed over together count as being handled until the last of them is.
    """

    handle: Callable[[Sequence[Delivery]], Awaitable[Sequence[Exception | None]]]


Handler = Handle | Together


class Rejected(Exception):
    """Raised by a handler: this message can never be taken, so it goes to the dead letters at once."""


class Bus(Protocol):
    """Carries messages. Publishing never raises for a message: each has its own outcome."""

    async def start(self) -> None:
        """Connects; ConfigurationError naming the address or file where that cannot be done."""
        ...

    async def stop(self) -> None:
        """Lets handlers finish for a bounded time and closes; what was not taken is delivered after a restart."""
        ...

    async def publish(self, messages: Sequence[Message]) -> list[Exception | None]:
        """Hands messages over. One outcome each, in order; None means that the bus has it."""
        ...

    async def kept_since_ms(self, mode: str) -> int:
        """When the store that holds the messages of a mode was begun, Unix milliseconds: what was handed over before
        is gone with an earlier store, taken or not. Raises where the bus cannot tell now."""
        ...

    async def subscribe(self, subscription: Subscription, handler: Handler, give_up: GiveUp | None = None) -> None:
        """Delivers to ``handler`` until the bus stops.

        ``give_up(delivery, error)`` is awaited before a message is published to the dead subject and dropped; where
        it raises, the message is kept and given up later.
        """
        ...


def open_bus(settings: BusSettings) -> Bus:
    """The bus the settings name, not yet started."""
    if settings.kind == "nats":
        from paykit.events.jetstream import JetStreamBus  # the embedded bus must not need the NATS client

        assert settings.url is not None
        return JetStreamBus(settings.url, bundle_max=settings.bundle_max)
    from paykit.events.embedded import EmbeddedBus

    if settings.path is None:
        raise ConfigurationError("bus.path: the embedded bus needs a folder")
    return EmbeddedBus(settings.path)
