"""Asks providers about doubts, until each is explained."""

from __future__ import annotations

import structlog

from channel_gateway.doubt_commands import AnswerDoubt, TakeDoubt
from channel_gateway.tables import ChannelDoubt
from channel_gateway.worker import Dispatcher
from paykit import telemetry
from paykit.context import unpack
from paykit.events.timers import Timer
from paykit.store.command import Origin
from paykit.store.store import Store

log = structlog.get_logger(__name__)

RESOLVED = telemetry.counter("channel_doubts_total", "Doubts by what came of asking", ("mode", "channel", "state"))

_LEASE_MS = 30_000  # how long a doubt that a process asks about is left alone


class DoubtAsker:
    """The timer of doubts."""

    def __init__(self, store: Store, dispatcher: Dispatcher) -> None:
        self._store = store
        self._dispatcher = dispatcher

    def timer(self) -> Timer[ChannelDoubt]:
        """Fires on ``channel_doubt.due_at_ms``."""
        return Timer("channel_doubt_due", ChannelDoubt, self._fire)

    async def _fire(self, row: ChannelDoubt) -> None:
        context = unpack(row.context)
        lane = self._dispatcher.lane(context.mode, row.channel)
        origin = Origin.timer(context)
        asked = await self._store.run(TakeDoubt(origin, row, _LEASE_MS))
        if asked is None:
            return
        asked_at_ms = self._store.clock.now_ms()
        answer = await lane.ask(asked.doubt.id, asked.question)
        if answer is None:
            return  # its lease brings it back
        doubt = await self._store.run(AnswerDoubt(origin, asked.doubt, lane.channel.policy, answer, asked_at_ms))
        if doubt.due_at_ms is None:
            RESOLVED.labels(context.mode, doubt.channel, doubt.state).inc()
            log.warning("doubt_resolved", doubt_id=doubt.id, state=doubt.state, type=doubt.type)
