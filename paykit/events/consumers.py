"""Consumers: messages that become commands. The record of the command is the inbox, so each takes effect once."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any

import msgspec
from google.protobuf.message import DecodeError

from paykit import context as business
from paykit.context import MODES, BusinessContext
from paykit.errors import FailedPrecondition, InvalidArgument, NotFound
from paykit.events.bus import Bus, Rejected, Together
from paykit.events.dead_letters import OpenDeadLetter
from paykit.events.gathering import Gather, Gatherer
from paykit.events.message import Delivery, Message, Subscription, from_headers
from paykit.ids import is_id, slot_in, slot_of
from paykit.store.command import Command
from paykit.store.store import Store
from paykit.store.system import DeadLetter

ToCommand = Callable[[BusinessContext, str, str, bytes], Command[Any] | None]

# What became of a message so far: its command is under way, there is nothing to do, or it cannot be taken.
Begun = asyncio.Future[Any] | Exception | None

_NAME_LENGTH_MAX = 64
_HANDLE_TIMEOUT_S = 60.0


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
            consumer.name: Gatherer(self._carry_out, consumer.gather)
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

    def _carry_out(self, command: Command[Any]) -> asyncio.Future[Any]:
        return self._store.submit(command)

    async def start(self) -> None:
        """Begins to take messages; the bus ends it when it stops."""
        for mode in MODES:
            if not self._store.shards(mode):
                continue
            for consumer in self._consumers.values():
                subscription = Subscription(
                    consumer=f"{self._store.service}.{consumer.name}",
                    mode=mode,
                    subjects=consumer.subjects,
                    max_deliveries=consumer.max_deliveries,
                    max_in_flight=consumer.max_in_flight,
                    handle_timeout_s=None,  # each has its own outcome when the time is over: see _handle
                )
                handler = Together(partial(self._handle, consumer))
                await self._bus.subscribe(subscription, handler, partial(self._give_up, consumer))

    async def _handle(self, consumer: Consumer, deliveries: Sequence[Delivery]) -> list[Exception | None]:
        """All commands go to the store at once, which carries them out in batches."""
        # In a context of its own, where each command is made in the business context of its message.
        begun = contextvars.copy_context().run(self._begin, consumer, deliveries)
        under_way = [one for one in begun if isinstance(one, asyncio.Future)]
        if under_way:
            # What is held goes on in time, and the store bounds the rest.
            timeout_s = _HANDLE_TIMEOUT_S if consumer.gather is None else None
            try:
                await asyncio.wait(under_way, timeout=timeout_s)
            finally:
                for future in under_way:
                    future.cancel()  # does nothing to those that are done
        return [_outcome(one) if isinstance(one, asyncio.Future) else one for one in begun]

    def _begin(self, consumer: Consumer, deliveries: Sequence[Delivery]) -> list[Begun]:
        begun: list[Begun] = []
        for delivery in deliveries:
            try:
                begun.append(self._begin_one(consumer, delivery.message))
            except Exception as error:
                begun.append(_refused(error))
        return begun

    def _begin_one(self, consumer: Consumer, message: Message) -> Begun:
        context = from_headers(message.headers, caller=_caller(consumer.name))
        if context is None:
            raise Rejected("the message carries no business context")
        if not message.id:
            raise Rejected("the message carries no id")
        mode, _, subject = message.subject.partition(".")
        if context.mode != mode:
            raise Rejected(f"a {context.mode} message came on a {mode} subject")
        return self._submit(consumer, context, message.id, subject, message.body)

    def _submit(
        self, consumer: Consumer, context: BusinessContext, message_id: str, subject: str, body: bytes
    ) -> asyncio.Future[Any] | None:
        """Makes the command of a message and hands it on; None where there is nothing to do."""
        business.set_current(context)
        command = consumer.to_command(context, message_id, subject, body)
        if command is None:
            return None
        gatherer = self._gatherers.get(consumer.name)
        if gatherer is not None and hasattr(command, "merge_key"):
            return gatherer.submit(command)
        return self._carry_out(command)

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
            with business.use(context):
                begun = self._submit(consumer, context, ticket.message_id, ticket.destination, ticket.body)
            if begun is not None:
                await begun
        except Exception as error:
            refusal = _refused(error)
            if isinstance(refusal, Rejected):
                raise FailedPrecondition(f"the consumer refused the message: {refusal}", subject=ticket.id) from error
            raise


def _outcome(done: asyncio.Future[Any]) -> Exception | None:
    if done.cancelled():
        return TimeoutError("it took too long")
    error = done.exception()
    assert error is None or isinstance(error, Exception)
    return None if error is None else _refused(error)


def _refused(error: Exception) -> Exception:
    """What an error says of a message: what no other attempt would change is a refusal."""
    if isinstance(error, (InvalidArgument, DecodeError)):
        refusal = Rejected(f"{type(error).__name__}: {error}")
        refusal.__cause__ = error
        return refusal
    return error


@lru_cache
def _caller(name: str) -> str:
    return f"event:{name}"[:_NAME_LENGTH_MAX]


def _ticket_context(consumer: Consumer, message: Message, *, shadow: bool) -> BusinessContext:
    caller = _caller(consumer.name)
    context = from_headers(message.headers, caller=caller)
    if context is None or context.shadow != shadow:
        # No business id of the other side, or none at all, may be written here.
        return BusinessContext(biz_id="", shadow=shadow, caller=caller)
    return context
