"""A running service: everything a composition root puts together, opened in order and drained in reverse."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import structlog
from google.protobuf.message import Message as ProtoMessage

from paykit import context as business_context
from paykit.clock import Clock
from paykit.context import BusinessContext
from paykit.events.bus import Bus
from paykit.events.calls import DurableCall
from paykit.events.consumers import Consumer, ConsumerRunner
from paykit.events.dead_letters import OPEN, MarkReplayed
from paykit.events.relay import Relay
from paykit.events.timers import TICKET_PREFIX, Timer, TimerRunner
from paykit.ops import Lookup, OpsApi
from paykit.record_api import RecordApi
from paykit.records import RecordSource
from paykit.rpc.channels import Channels
from paykit.rpc.server import Server
from paykit.settings import CommonSettings, ServiceSettings
from paykit.store.command import Origin
from paykit.store.row import Row
from paykit.store.store import Store
from paykit.store.system import DeadLetter
from paymesh.ops.v1 import ops_service_pb2, ops_service_pb2_grpc, record_service_pb2_grpc

log = structlog.get_logger()

Background = Callable[[], Awaitable[None]]


class Service:
    """One service. Build it, add its parts, ``start``; ``stop`` lets what is under way finish.

    Create it inside the running event loop.
    """

    def __init__(self, name: str, settings: ServiceSettings, common: CommonSettings, *, bus: Bus, clock: Clock) -> None:
        self.name, self.settings, self.common, self.bus, self.clock = name, settings, common, bus, clock
        self.store = Store(name, settings.shards, settings.epoch, clock, settings.executor)
        self.channels = Channels(common.addresses, common.tls, clock=clock)
        self.port = 0
        self._servicers: list[tuple[Callable[[Any, Any], None], object]] = []
        self._consumers: list[Consumer] = []
        self._calls: list[DurableCall] = []
        self._timers: list[Timer[Any]] = []
        self._lookups: list[Lookup] = []
        self._backgrounds: list[tuple[Background, Background]] = []
        self._services_of_methods: dict[str, str] = {}

    def add_servicer(self, add_to_server: Callable[[Any, Any], None], servicer: object) -> None:
        """Serves a servicer, by its generated ``add_…Servicer_to_server``."""
        self._servicers.append((add_to_server, servicer))

    def add_consumer(self, consumer: Consumer) -> None:
        """Takes events."""
        self._consumers.append(consumer)

    def add_call(self, call: DurableCall, service: str) -> None:
        """Makes durable calls of a method of ``service``."""
        self._calls.append(call)
        self._services_of_methods[call.method] = service

    def add_timer(self, timer: Timer[Any]) -> None:
        """Fires rows whose due time has passed."""
        self._timers.append(timer)

    def add_lookup(
        self,
        prefix: str,
        row_type: type[Row],
        column: str = "id",
        *,
        parent: type[Row] | None = None,
        parent_column: str = "",
    ) -> None:
        """Lets OpsService find a business id by an id, or by a reference that is none of ours (prefix "")."""
        self._lookups.append(Lookup(prefix, row_type, column, parent, parent_column))

    def add_records(self, sources: Iterable[RecordSource]) -> None:
        """Lets who compares see what records of these kinds have ended."""
        api = RecordApi(self.store, sources)
        self.add_servicer(record_service_pb2_grpc.add_RecordServiceServicer_to_server, api)

    def add_background(self, start: Background, stop: Background) -> None:
        """Something that runs beside: started after the store and the bus, stopped before them."""
        self._backgrounds.append((start, stop))

    async def start(self) -> None:
        """Opens everything; the port is taken last. ConfigurationError where a part is wrong or unreachable."""
        await self.store.start()
        self._relay = Relay(self.store, self.bus, self._calls, self._invoke, self.clock, self.settings.relay)
        self._relay.start()
        self._consumer_runner = ConsumerRunner(self.store, self.bus, self._consumers)
        self._timer_runner = TimerRunner(self.store, self.clock, self._timers, self.settings.timers)
        self._server = Server(
            self.settings.listen,
            self.common.tls,
            reflection=self.common.environment != "production",
            clock=self.clock,
        )
        for add_to_server, servicer in self._servicers:
            self._server.add(add_to_server, servicer)
        ops = OpsApi(self.store, self._lookups, self._replay)
        self._server.add(ops_service_pb2_grpc.add_OpsServiceServicer_to_server, ops)
        for start, _ in self._backgrounds:
            await start()
        self.port = await self._server.start()
        await self._consumer_runner.start()
        self._timer_runner.start()
        log.info("service_started", service=self.name, port=self.port, modes=self.store.modes())

    async def stop(self) -> None:
        """New calls are refused, those under way finish, messages are handed over, then everything closes."""
        grace_s = self.settings.drain_grace_s
        await self._timer_runner.stop()
        self._consumer_runner.drain()
        await self._server.stop(grace_s)
        for _, stop in reversed(self._backgrounds):
            await stop()
        await self._relay.stop(grace_s)
        await self.channels.close()
        await self.store.stop()
        log.info("service_stopped", service=self.name)

    async def is_idle(self) -> bool:
        """Whether no message of this service waits to be delivered, nor is held to be taken with others."""
        return self._consumer_runner.is_empty() and await self._relay.is_empty()

    async def _invoke(self, method: str, body: bytes, context: BusinessContext) -> ProtoMessage:
        caller = self.channels.batch(self._services_of_methods[method], method)
        response: ProtoMessage = await caller(body, context, self.settings.relay.call_timeout_s)
        return response

    async def _replay(self, request: ops_service_pb2.ReplayDeadLetterRequest, ticket: DeadLetter) -> DeadLetter:
        if ticket.state == OPEN and ticket.destination.startswith("/"):
            await self._relay.replay(ticket)
        elif ticket.state == OPEN and ticket.consumer.startswith(TICKET_PREFIX):
            await self._timer_runner.replay(ticket)
        elif ticket.state == OPEN:
            await self._consumer_runner.replay(ticket)
        # A closed one: the first answer again for the same request, a refusal for another.
        context = business_context.current()
        origin = Origin.rpc(context, "ReplayDeadLetter", ticket.id, request.request_id, request)
        return await self.store.run(MarkReplayed(ticket.slot, origin, ticket.id))
