"""One delivery, from handler to outcome: the part of the bus contract that both buses share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from paykit.errors import MeshError
from paykit.events import metrics
from paykit.events.backoff import delay_s, is_transient, is_worth_a_line
from paykit.events.bundle import EVENTS_MAX
from paykit.events.bus import GiveUp, Handler, Rejected, Together
from paykit.events.message import MESSAGE_ID, Delivery, Message, Subscription

Publish = Callable[[Sequence[Message]], Awaitable[list[Exception | None]]]

_log = structlog.get_logger(__name__)


class Dispatcher:
    """Runs one subscriber's handler and decides what becomes of each delivery."""

    def __init__(self, subscription: Subscription, handler: Handler, give_up: GiveUp | None, publish: Publish) -> None:
        self.subscription = subscription
        self._handler = handler
        self._give_up = give_up
        self._publish = publish
        labels = (subscription.consumer, subscription.mode)
        self._delivered = metrics.delivered.labels(*labels)
        self._redelivered = metrics.redelivered.labels(*labels)
        self._dead_lettered = metrics.dead_lettered.labels(*labels)

    @property
    def chunk_max(self) -> int:
        """How many deliveries ``run`` may be given at once."""
        return EVENTS_MAX if isinstance(self._handler, Together) else 1

    async def run(self, deliveries: Sequence[Delivery]) -> list[float | None]:
        """Handles deliveries, at most ``chunk_max``. For each None: the message is done with; otherwise the seconds
        until it is due again."""
        outcomes = await self._outcomes(deliveries)
        failed = len(outcomes) - outcomes.count(None)
        self._delivered.inc(len(outcomes) - failed)
        if not failed:
            return [None] * len(outcomes)
        return await asyncio.gather(*map(self._follow, deliveries, outcomes))

    async def refuse(self, delivery: Delivery, error: Rejected) -> float | None:
        """As ``run``, for what cannot even be handed to the handler."""
        return await self._bury(delivery, error)

    async def _outcomes(self, deliveries: Sequence[Delivery]) -> list[Exception | None]:
        handler = self._handler
        try:
            async with asyncio.timeout(self.subscription.handle_timeout_s):
                if isinstance(handler, Together):
                    outcomes = list(await handler.handle(deliveries))
                    assert len(outcomes) == len(deliveries), "a handler owes each delivery an outcome"
                    return outcomes
                (delivery,) = deliveries
                await handler(delivery)
                return [None]
        except Exception as error:
            return [error] * len(deliveries)

    async def _follow(self, delivery: Delivery, outcome: Exception | None) -> float | None:
        if outcome is None:
            return None
        if self._is_final(delivery, outcome):
            return await self._bury(delivery, outcome)
        return self._again(delivery, outcome)

    def _is_final(self, delivery: Delivery, error: Exception) -> bool:
        if isinstance(error, Rejected):
            return True
        return delivery.attempt >= self.subscription.max_deliveries and not is_transient(error)

    def _again(self, delivery: Delivery, error: Exception) -> float:
        subscription = self.subscription
        self._redelivered.inc()
        retry_after_ms = error.retry_after_ms if isinstance(error, MeshError) else None
        wait_s = delay_s(delivery.attempt, subscription.backoff_s, subscription.backoff_max_s, retry_after_ms)
        if is_worth_a_line(delivery.attempt):
            _log.warning(
                "delivery_failed",
                consumer=subscription.consumer,
                message_id=delivery.message.id,
                subject=delivery.message.subject,
                attempt=delivery.attempt,
                retry_s=round(wait_s, 3),
                error_type=type(error).__name__,
                exc_info=None if isinstance(error, (MeshError, TimeoutError)) else error,
            )
        return wait_s

    async def _bury(self, delivery: Delivery, error: Exception) -> float | None:
        """Ticket first, then the dead subject, then done: a crash between them repeats, and loses nothing."""
        subscription, message = self.subscription, delivery.message
        try:
            if self._give_up is not None:
                await self._give_up(delivery, error)
            # Its own id: the bus would take the message's for a duplicate of what it already carried.
            dead_id = f"{message.id}.{subscription.consumer}"
            headers = {
                **message.headers,
                MESSAGE_ID: dead_id,
                "x-dead-subject": message.subject,
                "x-dead-error": type(error).__name__,
            }
            (outcome,) = await self._publish([Message(dead_id, subscription.dead_subject, headers, message.body)])
            if outcome is not None:
                raise outcome
        except Exception as failure:
            return self._again(delivery, failure)
        self._dead_lettered.inc()
        _log.error(
            "message_dead_lettered",
            consumer=subscription.consumer,
            message_id=message.id,
            subject=message.subject,
            attempt=delivery.attempt,
            error_type=type(error).__name__,
            exc_info=None if isinstance(error, (MeshError, Rejected)) else error,
        )
        return None
