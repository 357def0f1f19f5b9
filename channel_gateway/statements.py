"""Statements out of channels: bounded in number, time, size and piece. Nothing is kept of them here."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import AsyncGenerator, Iterator

import structlog

from channel_gateway.channels import ChannelSet
from channel_gateway.channels.base import Channel, StatementNotReady, StatementUnreadable
from paykit.clock import Clock
from paykit.errors import FailedPrecondition, ResourceExhausted, Unavailable

log = structlog.get_logger(__name__)

CHUNK_BYTES_MAX = 65_536
BYTES_MAX = 2 * 1024**3
SECONDS_MAX = 14_400.0  # of a million transactions, a hundred at a time
STREAMS_MAX = 4
# What happened in the last minute of a day may show up at the provider a little later.
SETTLING_S = 300

_RETRY_AFTER_MS = 60_000


class StatementReader:
    """Hands statements on. A reader that goes away ends the call to the provider with it."""

    def __init__(self, channels: ChannelSet, clock: Clock) -> None:
        self._channels = channels
        self._clock = clock
        self._streams = 0

    def format(self, mode: str, name: str, date: datetime.date) -> str:
        """What the statement of that day is to be read as.

        FailedPrecondition CHANNEL_UNKNOWN, SHADOW_UNAVAILABLE, STATEMENT_UNSUPPORTED or STATEMENT_NOT_READY.
        """
        statement_format = self._channels.get(mode, name).statement_format
        if statement_format is None:
            raise FailedPrecondition(f"channel {name} has no statements", reason="STATEMENT_UNSUPPORTED", subject=name)
        settled = datetime.datetime.fromtimestamp(self._clock.now_ms() / 1000 - SETTLING_S, datetime.UTC)
        if date >= settled.date():
            raise _not_ready(name, date)
        return statement_format

    async def read(self, mode: str, name: str, date: datetime.date) -> AsyncGenerator[bytes, None]:
        """The statement in pieces of at most CHUNK_BYTES_MAX, after ``format`` has allowed it.

        ResourceExhausted STATEMENTS_BUSY, FailedPrecondition STATEMENT_NOT_READY, Unavailable STATEMENT_UNREADABLE.
        """
        channel = self._channels.get(mode, name)
        with self._place():
            try:
                async with contextlib.aclosing(_pieces(channel, date)) as pieces:
                    async for piece in pieces:
                        yield piece
            except StatementNotReady:
                raise _not_ready(name, date) from None
            except StatementUnreadable as error:
                log.warning("statement_unreadable", channel=name, date=str(date), reason=str(error))
                raise _unreadable(name) from None

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        if self._streams >= STREAMS_MAX:
            raise ResourceExhausted(
                "too many statements are being read", reason="STATEMENTS_BUSY", retry_after_ms=_RETRY_AFTER_MS
            )
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1


async def _pieces(channel: Channel, date: datetime.date) -> AsyncGenerator[bytes, None]:
    """What the channel gives, cut to size; StatementUnreadable beyond the bounds."""
    loop = asyncio.get_running_loop()
    until_s, size = loop.time() + SECONDS_MAX, 0
    async with contextlib.aclosing(channel.statement(date)) as stream:
        async for data in stream:
            size += len(data)
            if size > BYTES_MAX:
                raise StatementUnreadable("it is too large")
            for start in range(0, len(data), CHUNK_BYTES_MAX):
                yield data[start : start + CHUNK_BYTES_MAX]
            if loop.time() > until_s:
                raise StatementUnreadable("it took too long")


def _not_ready(name: str, date: datetime.date) -> FailedPrecondition:
    return FailedPrecondition(
        f"channel {name} has no statement of {date} yet", reason="STATEMENT_NOT_READY", subject=name
    )


def _unreadable(name: str) -> Unavailable:
    return Unavailable(
        f"channel {name} does not hand its statement over",
        reason="STATEMENT_UNREADABLE",
        retry_after_ms=_RETRY_AFTER_MS,
    )
