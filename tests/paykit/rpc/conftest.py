"""A real server and a real channel on loopback, per test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

import grpc
import pytest

from paykit.context import BusinessContext, mint
from paykit.rpc.channels import Channels
from paykit.rpc.server import Server
from paymesh.pay.v1 import pay_service_pb2_grpc
from paymesh.trade.v1 import trade_service_pb2_grpc
from tests.paykit.rpc.servicers import Pay, Trade


class Mesh(NamedTuple):
    """A server with both servicers, our channels to it, and a bare channel that shows what is on the wire."""

    pay: Pay
    trade: Trade
    server: Server
    channels: Channels
    bare: grpc.aio.Channel

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    server = Server("127.0.0.1:0")
    # What they leave out keeps the generated default, which the stubs' types do not know of.
    pay, trade = Pay(), Trade()  # type: ignore[abstract]
    server.add(pay_service_pb2_grpc.add_PayServiceServicer_to_server, pay)
    server.add(trade_service_pb2_grpc.add_TradeServiceServicer_to_server, trade)
    port = await server.start()
    channels = Channels({"pay_core": f"127.0.0.1:{port}"})
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as bare:
        yield Mesh(pay, trade, server, channels, bare)
        await channels.close(grace_s=1)
    await server.stop(grace_s=1)


@pytest.fixture
def context() -> BusinessContext:
    return mint(7, 1_700_000_000_000, request_id="r-1")
