"""Consumers: messages that become commands. The record of the command is the inbox, so each takes effect once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import msgspec
import structlog
from google.protobuf.message import DecodeError

from paykit import context as business
from paykit.context import MODES, BusinessContext
from paykit.errors import FailedPrecondition, InvalidArgument, NotFound
from paykit.events.bus import Bus, Rejected
from paykit.events.dead_letters import OpenDeadLetter
from paykit.events.gathering import Gather, Gatherer
from paykit.events.message import Delivery, Message, Subscription, from_headers
from paykit.ids import is_id, slot_in, slot_of
from paykit.store.command import Command
from paykit.store.store import Store
from paykit.store.system import DeadLetter

ToCommand = Callable[[BusinessContext, str, str, bytes], Command[Any] | None]

_NAME_LENGTH_MAX = 64
_HANDLE_TIMEOUT_S = 60.0

_log = structlog.get_logger(__name__)


class Consumer(msgspec.Struct, frozen=True):
    """What a service does with messages on ``subjects`` (without mode, NATS wildcards).

    ``to_command(context, message_id, subject, body)`` parses a message (``subject`` without mode) and returns the
    command to run, with ``Origin.event(context, name, message_id)``, or None where there is nothing to do. It decides
    nothing and raises InvalidArgument or DecodeError for a message that can never be read.
    """

    name: str
    subjects: tuple[str, ...]
    to_command: ToCommand
    max_deliveries: int = 10
    max_in_flight: int = 256
    gather: Gather | None = None  # the commands are Mergeable (or not: then they do not wait), and held for a moment


class ConsumerRunner:
    """Subscribes the consumers of one service: live always, shadow where the store has shadow shards."""

    def __init__(self, store: Store, bus: Bus, consumers: Iterable[Consumer]) -> None:
        self._store = store
        self._bus = bus
        self._consumers = {consumer.name: consumer for consumer in consumers}
        self._gatherers = {
            consumer.name: Gatherer(self._run, consumer.gather)
            for consumer in self._consumers.values()
            if consumer.gather is not None
        }

    def is_empty(self) -> bool:
        """Whether no message is held back to be taken with others."""
        return all(gatherer.is_empty for gatherer in self._gatherers.values())

    def drain(self) -> None:
        """Carries out what is held back to be carried out with others, and holds back nothing more."""
        for gatherer in self._gatherers.values():
            gatherer.drain()

    async def _run(self, command: Command[Any]) -> None:
        await self._store.run(command)

    async def start(self) -> None:
        """Begins to take messages; the bus ends it when it stops."""
        for mode in MODES:
            if not self._store.shards(mode):
                continue
            for consumer in self._consumers.values():
                # What is held goes on in time, and the store bounds the rest: a timer for each of the thousands that
                # wait would cost more than any other part of taking them.
                subscription = Subscription(
                    consumer=f"{self._store.service}.{consumer.name}",
                    mode=mode,
                    subjects=consumer.subjects,
                    max_deliveries=consumer.max_deliveries,
                    max_in_flight=consumer.max_in_flight,
                    handle_timeout_s=_HANDLE_TIMEOUT_S if consumer.gather is None else None,
                )
                await self._bus.subscribe(subscription, *self._handlers(consumer))

    def _handlers(
        self, consumer: Consumer
    ) -> tuple[Callable[[Delivery], Awaitable[None]], Callable[[Delivery, Exception], Awaitable[None]]]:
        return partial(self._handle, consumer), partial(self._give_up, consumer)

    async def _handle(self, consumer: Consumer, delivery: Delivery) -> None:
        message = delivery.message
        context = from_headers(message.headers, caller=_caller(consumer))
        if context is None:
            raise Rejected("the message carries no business context")
        if not message.id:
            raise Rejected("the message carries no id")
        mode, _, subject = message.subject.partition(".")
        if context.mode != mode:
            raise Rejected(f"a {context.mode} message came on a {mode} subject")
        await self._take(consumer, context, message.id, subject, message.body)

    async def _take(
        self, consumer: Consumer, context: BusinessContext, message_id: str, subject: str, body: bytes
    ) -> None:
        with business.use(context):
            try:
                command = consumer.to_command(context, message_id, subject, body)
                if command is None:
                    return
                gatherer = self._gatherers.get(consumer.name)
                if gatherer is not None and hasattr(command, "merge_key"):
                    await gatherer.run(command)
                else:
                    await self._store.run(command)
            except (InvalidArgument, DecodeError) as error:
                raise Rejected(f"{type(error).__name__}: {error}") from error

    async def _give_up(self, consumer: Consumer, delivery: Delivery, error: Exception) -> None:
        """Opens the ticket, on the shard of the mode the message came on, whatever its headers say."""
        message = delivery.message
        mode, _, subject = message.subject.partition(".")
        ticket = OpenDeadLetter(
            _ticket_context(consumer, message, shadow=mode == "shadow"),
            slot_in(message.id) if is_id(message.id) else slot_of(message.id),
            consumer=consumer.name,
            destination=subject,
            message_id=message.id,
            body=message.body,
            error=error,
        )
        await self._store.run(ticket)

    async def replay(self, ticket: DeadLetter) -> None:
        """Offers the message of a dead letter to its consumer again; raises what the consumer says.

        FailedPrecondition where the message never carried a business context: it cannot be taken by anyone.
        """
        consumer = self._consumers.get(ticket.consumer)
        if consumer is None:
            raise NotFound(f"this service has no consumer {ticket.consumer}")
        context = business.unpack(ticket.context)
        if not context.biz_id:
            raise FailedPrecondition(f"dead letter {ticket.id} has no business context", subject=ticket.id)
        try:
            await self._take(consumer, context, ticket.message_id, ticket.destination, ticket.body)
        except Rejected as error:
            raise FailedPrecondition(f"the consumer refused the message: {error}", subject=ticket.id) from error


def _caller(consumer: Consumer) -> str:
    return f"event:{consumer.name}"[:_NAME_LENGTH_MAX]


def _ticket_context(consumer: Consumer, message: Message, *, shadow: bool) -> BusinessContext:
    caller = _caller(consumer)
    context = from_headers(message.headers, caller=caller)
    if context is None or context.shadow != shadow:
        # No business id of the other side, or none at all, may be written here.
        return BusinessContext(biz_id="", shadow=shadow, caller=caller)
    return context
