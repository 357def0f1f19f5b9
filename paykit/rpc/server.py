"""The gRPC server every service listens with: wrapped handlers, health, reflection, and a stop that drains."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import structlog
from grpc_channelz.v1 import channelz as grpc_channelz
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection as grpc_reflection

from paykit.clock import Clock, SystemClock
from paykit.errors import ConfigurationError
from paykit.rpc.credentials import server_credentials
from paykit.rpc.serving import Handler, Tracker, wrap
from paykit.settings import TlsSettings

MAX_MESSAGE_BYTES = 8 * 1024 * 1024  # a batch of 200 items of 40 KiB
MAX_CONCURRENT_CALLS = 4096

_log = structlog.get_logger(__name__)
_CUT_MARGIN_S = 60.0  # how long cutting calls off may take


class Server:
    """One listening address. ``add`` the servicers, ``start``, and ``stop`` when the process ends.

    ``reuse_port`` lets several worker processes share the port; without it a taken port is refused. Create it inside
    the running event loop.
    """

    def __init__(
        self,
        listen: str,
        tls: TlsSettings | None = None,
        *,
        reflection: bool = True,
        channelz: bool = False,
        reuse_port: bool = False,
        clock: Clock | None = None,
        max_concurrent_calls: int = MAX_CONCURRENT_CALLS,
    ) -> None:
        self.listen = listen
        self.port = 0
        self._tls = tls
        self._has_reflection = reflection
        self._clock = clock or SystemClock()
        self._tracker = Tracker()
        self._health = health.aio.HealthServicer()
        self._services: list[str] = []
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", int(reuse_port)),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.enable_channelz", int(channelz)),
            ],
            maximum_concurrent_rpcs=max_concurrent_calls,
        )
        if channelz:
            grpc_channelz.add_channelz_servicer(self._server)

    def add(self, add_to_server: Callable[[Any, Any], None], servicer: object) -> None:
        """Adds a servicer by its generated ``add_…Servicer_to_server``; TypeError for a method that is not async."""
        add_to_server(servicer, _Registrar(self._register))

    def _register(self, service: str, handlers: Mapping[str, Handler]) -> None:
        wrapped = {
            name: wrap(f"/{service}/{name}", handler, self._clock, self._tracker, self._tls is not None)
            for name, handler in handlers.items()
        }
        served = {name: handler for name, handler in wrapped.items() if handler is not None}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, served),))
        self._services.append(service)

    async def start(self) -> int:
        """Listens and serves; gives the bound port. ConfigurationError names an address that cannot be had."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if self._has_reflection:
            names = [*self._services, health.SERVICE_NAME, grpc_reflection.SERVICE_NAME]
            grpc_reflection.enable_server_reflection(names, self._server)
        try:
            if self._tls is None:
                self.port = self._server.add_insecure_port(self.listen)
            else:
                self.port = self._server.add_secure_port(self.listen, server_credentials(self._tls))
        except RuntimeError:
            raise ConfigurationError(f"cannot listen on {self.listen}: the address is taken or not ours") from None
        await self._server.start()
        await self.set_serving(True)
        _log.info("rpc_listening", address=self.listen, port=self.port, services=self._services)
        return self.port

    async def set_serving(self, serving: bool) -> None:
        """Sets the health of the whole server and of each service."""
        states = health_pb2.HealthCheckResponse
        for name in ("", *self._services):
            await self._health.set(name, states.SERVING if serving else states.NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """NOT_SERVING first; then no new calls; those in flight get ``grace_s``, then they are cancelled."""
        await self._health.enter_graceful_shutdown()
        # It must not run out of time while the cut below is under way: of two that end at once, gRPC's second one
        # reaches into a server that the first has destroyed, and the process dies.
        stopping = asyncio.create_task(self._server.stop(grace_s + _CUT_MARGIN_S))
        # Health watches never end by themselves: waiting is for our own calls, then the rest is cut.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._tracker.wait_idle()
        if self._tracker.count:
            _log.warning("rpc_drain_cut", address=self.listen, in_flight=self._tracker.count)
        await self._server.stop(None)
        await stopping


class _Registrar:
    """What generated code takes for the server while a servicer is added.

    Only the generic handlers reach gRPC: its accept loop waits on a future for each registered method, which costs
    up to a third of the throughput with sixty methods.
    """

    def __init__(self, register: Callable[[str, Mapping[str, Handler]], None]) -> None:
        self._register = register

    def add_generic_rpc_handlers(self, generic_rpc_handlers: object) -> None:
        """The same handlers again, unnamed: the named ones are taken below."""

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        """The handlers of one service by method name."""
        self._register(service_name, method_handlers)
