"""Streams both ways: answers while requests still come, one context for all, and the same errors as any call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import grpc
import pytest

from paykit.context import BusinessContext, current, use
from paykit.errors import NotFound
from paykit.rpc.channels import Channels
from paykit.rpc.server import Server
from paykit.store.guard import transaction_open
from paymesh.recon.v1 import statement_service_pb2 as pb2
from paymesh.recon.v1 import statement_service_pb2_grpc as pb2_grpc

METHOD = "/paymesh.recon.v1.StatementService/ImportStatement"


async def sizes(requests: AsyncIterator[pb2.ImportStatementRequest]) -> AsyncIterator[pb2.ImportStatementResponse]:
    """The length of each chunk, as it comes."""
    async for request in requests:
        yield pb2.ImportStatementResponse(received_bytes=len(request.chunk))


class Echo(pb2_grpc.StatementServiceServicer):
    """Does what a test says with a stream of requests."""

    def __init__(self) -> None:
        self.answer: Callable[[Any], AsyncIterator[pb2.ImportStatementResponse]] = sizes
        self.contexts: list[BusinessContext] = []

    async def ImportStatement(self, requests: Any, servicer: Any) -> AsyncIterator[pb2.ImportStatementResponse]:
        self.contexts.append(current())
        async for response in self.answer(requests):
            yield response


class Line(NamedTuple):
    """A server, our channel to it and a bare one."""

    echo: Echo
    stub: Any
    bare: grpc.aio.Channel


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    server, echo = Server("127.0.0.1:0"), Echo()  # type: ignore[abstract]
    server.add(pb2_grpc.add_StatementServiceServicer_to_server, echo)
    port = await server.start()
    channels = Channels({"recon": f"127.0.0.1:{port}"})
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as bare:
        yield Line(echo, pb2_grpc.StatementServiceStub(channels.get("recon")), bare)
    await channels.close(grace_s=1)
    await server.stop(grace_s=1)


async def parts(*chunks: bytes) -> AsyncIterator[pb2.ImportStatementRequest]:
    for chunk in chunks:
        yield pb2.ImportStatementRequest(chunk=chunk)


async def test_answers_come_while_requests_are_still_sent(line: Line, context: BusinessContext) -> None:
    heard = asyncio.Event()

    async def requests() -> AsyncIterator[pb2.ImportStatementRequest]:
        yield pb2.ImportStatementRequest(chunk=b"a")
        await asyncio.wait_for(heard.wait(), 20)
        yield pb2.ImportStatementRequest(chunk=b"bc")

    found = []
    with use(context):
        async for response in line.stub.ImportStatement(requests()):
            found.append(response.received_bytes)
            heard.set()
    assert found == [1, 2]
    assert [seen.biz_id for seen in line.echo.contexts] == [context.biz_id]


async def test_a_message_that_is_none_is_refused_where_it_comes(line: Line) -> None:
    make_call: Any = line.bare.stream_stream(METHOD)
    call = make_call(iter([pb2.ImportStatementRequest(chunk=b"x").SerializeToString(), b"\xff"]))
    assert pb2.ImportStatementResponse.FromString(await call.read()).received_bytes == 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_error_reaches_the_client_as_itself(line: Line) -> None:
    async def fail(requests: Any) -> AsyncIterator[pb2.ImportStatementResponse]:
        async for response in sizes(requests):
            yield response
        raise NotFound("nothing of the kind", reason="NOTHING")

    line.echo.answer = fail
    answers = line.stub.ImportStatement(parts(b"x"))
    assert (await anext(answers)).received_bytes == 1
    with pytest.raises(NotFound) as caught:
        await anext(answers)
    assert caught.value.reason == "NOTHING"


async def test_a_client_that_goes_away_cancels_the_handler(line: Line) -> None:
    ended = asyncio.Event()

    async def wait(requests: Any) -> AsyncIterator[pb2.ImportStatementResponse]:
        try:
            async for response in sizes(requests):
                yield response
            await asyncio.Event().wait()
        finally:
            ended.set()

    line.echo.answer = wait
    answers = line.stub.ImportStatement(parts(b"x"))
    assert (await anext(answers)).received_bytes == 1
    await answers.aclose()
    await asyncio.wait_for(ended.wait(), 20)


async def test_no_stream_begins_inside_a_transaction(line: Line) -> None:
    with transaction_open(), pytest.raises(AssertionError, match="inside a transaction"):
        line.stub.ImportStatement(parts())
