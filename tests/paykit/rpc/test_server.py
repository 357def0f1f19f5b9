"""Starting, being found, being trusted, and stopping without losing a call."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from paykit.context import BusinessContext, to_metadata
from paykit.errors import ConfigurationError, Unavailable
from paykit.rpc.channels import Channels
from paykit.rpc.server import Server
from paymesh.pay.v1 import pay_service_pb2, pay_service_pb2_grpc
from tests.paykit.rpc.certificates import LOOPBACK, Authority
from tests.paykit.rpc.conftest import Mesh
from tests.paykit.rpc.servicers import Pay, answer

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_health_is_told_for_the_whole_server_and_for_each_service(mesh: Mesh) -> None:
    stub: Any = health_pb2_grpc.HealthStub(mesh.bare)
    for service in ("", "paymesh.pay.v1.PayService", "paymesh.trade.v1.TradeService"):
        assert (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status == SERVING
    await mesh.server.set_serving(False)
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING


async def services_by_reflection(channel: grpc.aio.Channel) -> set[str]:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]

    async def ask() -> Any:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    answers = [a async for a in stub.ServerReflectionInfo(ask())]
    return {service.name for service in answers[0].list_services_response.service}


async def test_reflection_lists_the_services(mesh: Mesh) -> None:
    assert {"paymesh.pay.v1.PayService", "grpc.health.v1.Health"} <= await services_by_reflection(mesh.bare)


async def test_reflection_can_be_left_out_and_channelz_put_in() -> None:
    server = Server("127.0.0.1:0", reflection=False, channelz=True)
    port = await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await services_by_reflection(channel)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        get_servers: Any = channel.unary_unary("/grpc.channelz.v1.Channelz/GetServers")
        assert await get_servers(b"")
    await server.stop(grace_s=1)


async def test_a_taken_port_is_refused_by_its_address(mesh: Mesh) -> None:
    second = Server(mesh.address)
    with pytest.raises(ConfigurationError, match=mesh.address):
        await second.start()
    await second.stop(grace_s=0)


async def test_workers_may_share_a_port_where_they_say_so() -> None:
    first = Server("127.0.0.1:0", reuse_port=True)
    port = await first.start()
    second = Server(f"127.0.0.1:{port}", reuse_port=True)
    assert await second.start() == port
    await second.stop(grace_s=0)
    await first.stop(grace_s=0)


async def test_stopping_lets_a_call_in_flight_end_and_takes_no_new_one(mesh: Mesh, context: BusinessContext) -> None:
    release = asyncio.Event()

    async def held(request: Any) -> Any:
        await release.wait()
        return await answer(request)

    mesh.pay.transfer = held
    stub = pay_service_pb2_grpc.PayServiceStub(mesh.bare)
    metadata = to_metadata(context)
    call = asyncio.ensure_future(stub.Transfer(pay_service_pb2.TransferRequest(source_id="s"), metadata=metadata))
    await mesh.pay.entered.wait()
    health: Any = health_pb2_grpc.HealthStub(mesh.bare)
    watch = health.Watch(health_pb2.HealthCheckRequest())
    states = [(await watch.read()).status]
    stopping = asyncio.create_task(mesh.server.stop(grace_s=20))
    states.append((await watch.read()).status)
    assert states == [SERVING, NOT_SERVING]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Transfer(pay_service_pb2.TransferRequest(), metadata=metadata)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not stopping.done()
    release.set()
    assert (await call).payment.source_id == "s"
    # The health watch is still open and must not hold the stop for the whole grace.
    await asyncio.wait_for(stopping, 5)


async def test_a_call_that_outlasts_the_grace_is_cancelled(mesh: Mesh, context: BusinessContext) -> None:
    async def for_ever(_request: Any) -> Any:
        await asyncio.Event().wait()

    mesh.pay.transfer = for_ever
    stub = pay_service_pb2_grpc.PayServiceStub(mesh.bare)
    call = asyncio.ensure_future(stub.Transfer(pay_service_pb2.TransferRequest(), metadata=to_metadata(context)))
    await mesh.pay.entered.wait()
    await asyncio.wait_for(mesh.server.stop(grace_s=0.1), 5)
    with pytest.raises(grpc.aio.AioRpcError):
        await call


class Secured:
    """A server that demands certificates of one authority, and how to connect to it."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.pay = Pay()  # type: ignore[abstract]
        self.server = Server("127.0.0.1:0", self.authority.issue("server", "pay_core", [LOOPBACK]))
        self.server.add(pay_service_pb2_grpc.add_PayServiceServicer_to_server, self.pay)

    async def call(self, context: BusinessContext, name: str, alternatives: list[x509.GeneralName]) -> None:
        await self.call_with(context, Authority.issue(self.authority, "client", name, alternatives))

    async def call_with(self, context: BusinessContext, tls: Any) -> None:
        channels = Channels({"pay_core": f"127.0.0.1:{self.server.port}"}, tls)
        stub = pay_service_pb2_grpc.PayServiceStub(channels.get("pay_core"))
        metadata = [*to_metadata(context), ("x-caller", "somebody else")]
        try:
            await stub.Transfer(pay_service_pb2.TransferRequest(), metadata=metadata)
        finally:
            await channels.close(grace_s=1)


@pytest.fixture
def secured(tmp_path: Path) -> Secured:
    return Secured(tmp_path)


async def test_the_caller_is_whom_the_client_certificate_names(secured: Secured, context: BusinessContext) -> None:
    await secured.server.start()
    await secured.call(context, "trade_core", [x509.DNSName("ignored.example")])
    await secured.call(context, "", [x509.UniformResourceIdentifier("spiffe://mesh/recon")])
    assert [seen.caller for seen in secured.pay.contexts] == ["trade_core", "spiffe://mesh/recon"]
    await secured.server.stop(grace_s=1)


async def test_a_certificate_of_another_authority_or_none_is_not_let_in(
    secured: Secured, context: BusinessContext, tmp_path: Path
) -> None:
    await secured.server.start()
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other").issue("client", "trade_core", [])
    with pytest.raises(Unavailable):
        await secured.call_with(context, stranger.model_copy(update={"ca_file": secured.authority.ca_file}))
    with pytest.raises(Unavailable):
        await secured.call_with(context, None)
    assert secured.pay.contexts == []
    await secured.server.stop(grace_s=1)


async def test_a_missing_certificate_file_is_a_configuration_error_that_names_it(tmp_path: Path) -> None:
    tls = Authority(tmp_path).issue("server", "pay_core", [LOOPBACK])
    tls.key_file.unlink()
    server = Server("127.0.0.1:0", tls)
    with pytest.raises(ConfigurationError, match=r"tls\.key_file .*server\.key"):
        await server.start()
    await server.stop(grace_s=0)
