"""Statements out of channels, by RPC and by the reader alone."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import AsyncGenerator, Iterable

import grpc
import pytest

from channel_gateway import statements
from channel_gateway.channels import CHANNELS, ChannelSet
from channel_gateway.channels.base import StatementNotReady, StatementUnreadable
from channel_gateway.channels.sandbox import SandboxChannel
from channel_gateway.channels.sandbox_settings import SandboxChannelSettings
from channel_gateway.statements import CHUNK_BYTES_MAX, SETTLING_S, STREAMS_MAX, StatementReader
from paykit.errors import FailedPrecondition, InvalidArgument, MeshError, ResourceExhausted
from paykit.rpc.errors import from_rpc_error
from paymesh.channel.v1 import channel_service_pb2
from tests.channel_gateway.gateway import Gateway, channel_settings
from tests.channel_gateway.provider import CHANNEL, WALLET

DAY = datetime.date(2026, 3, 14)
MIDNIGHT_MS = 1_773_532_800_000  # the end of it


class StatedChannel(SandboxChannel):
    """A channel with a statement that is told to it."""

    statement_format = "csv"
    pieces: Iterable[bytes | Exception] = ()
    waits = False
    is_open = False

    async def statement(self, date: datetime.date) -> AsyncGenerator[bytes, None]:
        self.is_open = True
        try:
            for piece in self.pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
            if self.waits:
                await asyncio.Event().wait()
        finally:
            self.is_open = False


class FixedClock:
    """A clock that stands."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> tuple[StatementReader, StatedChannel]:
    monkeypatch.setitem(CHANNELS, "sandbox", StatedChannel)
    settings = channel_settings("http://127.0.0.1:1")
    channels = ChannelSet({CHANNEL: SandboxChannelSettings.model_validate(settings)})
    channel = channels.get("live", CHANNEL)
    assert isinstance(channel, StatedChannel)
    return StatementReader(channels, FixedClock(MIDNIGHT_MS)), channel


async def read(reader: StatementReader) -> list[bytes]:
    return [piece async for piece in reader.read("live", CHANNEL, DAY)]


async def test_pieces_are_cut_to_size_and_come_in_order(reader: tuple[StatementReader, StatedChannel]) -> None:
    statement = bytes(range(256)) * 700
    reader[1].pieces = [b"", b"head", statement]
    pieces = await read(reader[0])
    assert b"".join(pieces) == b"head" + statement
    assert max(map(len, pieces)) == CHUNK_BYTES_MAX


@pytest.mark.parametrize(
    ("error", "reason"),
    [(StatementNotReady(), "STATEMENT_NOT_READY"), (StatementUnreadable("no"), "STATEMENT_UNREADABLE")],
)
async def test_what_goes_wrong_half_way_is_told_by_name(
    reader: tuple[StatementReader, StatedChannel], error: Exception, reason: str
) -> None:
    reader[1].pieces = [b"first", error]
    with pytest.raises(MeshError) as caught:
        await read(reader[0])
    assert caught.value.reason == reason
    assert not reader[1].is_open


@pytest.mark.parametrize(("bound", "value"), [("BYTES_MAX", 10), ("SECONDS_MAX", -1.0)])
async def test_a_statement_beyond_the_bounds_is_unreadable(
    reader: tuple[StatementReader, StatedChannel], monkeypatch: pytest.MonkeyPatch, bound: str, value: float
) -> None:
    monkeypatch.setattr(statements, bound, value)
    reader[1].pieces = [b"12345678", b"90123"]
    with pytest.raises(MeshError) as caught:
        await read(reader[0])
    assert caught.value.reason == "STATEMENT_UNREADABLE"


async def test_only_so_many_are_read_at_once_and_a_reader_that_leaves_makes_room(
    reader: tuple[StatementReader, StatedChannel],
) -> None:
    reader[1].pieces, reader[1].waits = [b"first"], True
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(STREAMS_MAX):
            stream = await stack.enter_async_context(contextlib.aclosing(reader[0].read("live", CHANNEL, DAY)))
            assert await anext(stream) == b"first"
        with pytest.raises(ResourceExhausted) as busy:
            await read(reader[0])
        assert busy.value.reason == "STATEMENTS_BUSY"
    assert not reader[1].is_open
    reader[1].waits = False
    assert await read(reader[0]) == [b"first"]


@pytest.mark.parametrize("after_s", [-3_600, 0, SETTLING_S - 1])
def test_a_day_that_is_not_over_and_settled_has_no_statement(
    reader: tuple[StatementReader, StatedChannel], after_s: int
) -> None:
    early = StatementReader(reader[0]._channels, FixedClock(MIDNIGHT_MS + after_s * 1_000))
    with pytest.raises(FailedPrecondition) as caught:
        early.format("live", CHANNEL, DAY)
    assert caught.value.reason == "STATEMENT_NOT_READY"
    settled = StatementReader(reader[0]._channels, FixedClock(MIDNIGHT_MS + SETTLING_S * 1_000))
    assert settled.format("live", CHANNEL, DAY) == "csv"


async def refused(gateway: Gateway, **request: str) -> MeshError:
    pieces = gateway.stub.FetchStatement(channel_service_pb2.FetchStatementRequest(**request))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(aiter(pieces))
    return from_rpc_error(caught.value)


@pytest.mark.parametrize("date", ["", "2026-3-14", "20260314", "2026-02-30", "2026-03-14T00:00", "yesterday"])
async def test_a_date_that_is_none_is_named(gateway: Gateway, date: str) -> None:
    error = await refused(gateway, channel=CHANNEL, date=date)
    assert isinstance(error, InvalidArgument)
    assert [violation.field for violation in error.violations] == ["date"]


@pytest.mark.parametrize(
    ("channel", "date", "reason"),
    [("no_such", "2026-03-14", "CHANNEL_UNKNOWN"), (WALLET, "9999-12-31", "STATEMENT_UNSUPPORTED")],
)
async def test_a_statement_that_cannot_be_is_refused_by_name(
    gateway: Gateway, channel: str, date: str, reason: str
) -> None:
    assert (await refused(gateway, channel=channel, date=date)).reason == reason
