"""Both cores as they run, with their stores, in one process: what lies between them is carried by hand.

The composition roots are the real ones; instead of gRPC, NATS and timers there is a ``Post``, in which every message
waits until the test delivers it, loses it or delivers it again, and a clock that the test moves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unittest import mock

import msgspec
import uvloop
from google.protobuf.message import Message
from sqlalchemy import delete, select

import paykit.service
from pay_core.app import build as build_pay
from pay_core.settings import PayCoreSettings
from pay_core.tables import Payment
from pay_core.tools.channel import GET_CHANNEL_ORDER, SUBMIT_CHANNEL_ORDER
from paykit import context as business
from paykit import ids
from paykit.clock import ManualClock
from paykit.context import BusinessContext
from paykit.errors import MeshError
from paykit.events.calls import CallLane, DurableCall
from paykit.events.embedded import EmbeddedBus
from paykit.events.message import from_headers, to_headers
from paykit.events.timers import Timer
from paykit.ids import new_id
from paykit.rpc.channels import Channels
from paykit.rpc.methods import method_of
from paykit.service import Service
from paykit.settings import CommonSettings, RelaySettings, ShardSettings
from paykit.store.migrate import migrate
from paykit.store.row import Row
from paykit.store.system import DeadLetter, Outbox
from paymesh.channel.v1 import channel_service_pb2
from paymesh.event.v1.events_pb2 import ChannelOrderEvent
from tests.model.provider import Order, Provider, Violation
from trade_core.app import build as build_trade
from trade_core.settings import TradeCoreSettings
from trade_core.tables import Trade

T = TypeVar("T")
Handler = Callable[[Any, Any], Awaitable[Any]]

NOW_MS = 1_700_000_000_000
CALL_TIME_MS = 50  # less than the margin that trade_core keeps: nobody waits for a result
_ADDRESSES = {"pay_core": "127.0.0.1:1", "channel_gateway": "127.0.0.1:2", "recon": "127.0.0.1:3"}
_SERVICES = {"pay_core": "paymesh.pay.v1", "trade_core": "paymesh.trade.v1"}


class Letter(NamedTuple):
    """A message on its way. ``service``: whose outbox it lies in; the gateway's are in no table."""

    service: str
    row: Outbox


class Answer(NamedTuple):
    """What a call came to: one of the two is None."""

    response: Any
    error: MeshError | None


class LocalChannels(Channels):
    """Calls a handler of the same process, with what the wire would bring."""

    def __init__(self, cores: Cores, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cores = cores

    def batch(self, service: str, method: str) -> Any:
        return partial(self._cores.invoke, method)


class StrictLane(CallLane):
    """Deliveries as they are, but for tickets: in these histories nothing deserves one."""

    async def _give_up(self, context: BusinessContext, row: Outbox, error: Exception) -> None:
        raise Violation(f"{row.destination} {row.id}: {error!r}") from error


class Cores:
    """The two services and the post between them. Open it with ``open``; close it."""

    def __init__(self, provider: Provider, rules: Path, directory: Path) -> None:
        self.loop = uvloop.new_event_loop()
        self.clock = ManualClock(NOW_MS)
        self.provider = provider
        self.services: dict[str, Service] = {}
        self.handlers: dict[str, Handler] = {}
        self.pending: list[Letter] = []
        self.committed: Callable[[str, Outbox], None] = _ignore  # is shown every event of a commit
        self.called: Callable[[str, Any, Any], None] = _ignore_call  # is shown what pay_core has answered
        self._rules, self._directory = rules, directory
        self._lanes: dict[str, StrictLane] = {}

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine to its end."""
        return self.loop.run_until_complete(work)

    async def open(self, shards: Mapping[str, dict[str, ShardSettings]]) -> None:
        """Migrates and opens the stores. ``shards`` of "trade_core" and of "pay_core"."""
        bus, common = EmbeddedBus(self._directory / "bus"), CommonSettings(addresses=_ADDRESSES)
        for name in _SERVICES:
            await migrate(name, shards[name], 1)
        with mock.patch.object(paykit.service, "Channels", partial(LocalChannels, self)):
            pay = PayCoreSettings(listen="127.0.0.1:0", shards=shards["pay_core"], rules_path=self._rules)
            self.services["pay_core"] = build_pay(pay, common, bus, self.clock)
            trade = TradeCoreSettings(listen="127.0.0.1:0", shards=shards["trade_core"])
            self.services["trade_core"] = build_trade(trade, common, bus, self.clock)
        for name, service in self.services.items():
            await service.store.start()
            service.store.subscribe(partial(self._take, name))
            for start, _ in service._backgrounds:
                await start()
            for _, servicer in service._servicers:
                self._serve(servicer)
            for call in service._calls:
                self._lanes[call.method] = self._lane(service, call)

    async def close(self) -> None:
        """Ends everything."""
        for service in self.services.values():
            for _, stop in service._backgrounds:
                await stop()
            await service.store.stop()

    def _serve(self, servicer: Any) -> None:
        for base in type(servicer).__mro__:
            package = base.__module__.rpartition(".")[0]
            if base.__name__.endswith("Servicer") and package in _SERVICES.values():
                names = [name for name in vars(base) if name[0].isupper()]
                path = f"/{package}.{base.__name__.removesuffix('Servicer')}"
                self.handlers |= {f"{path}/{name}": getattr(servicer, name) for name in names}

    def _lane(self, service: Service, call: DurableCall) -> StrictLane:
        return StrictLane(call, self.invoke, service.store, self.clock, RelaySettings(), lambda item: None)

    # Calls

    async def invoke(self, method: str, request: Any, context: BusinessContext, timeout_s: float = 1.0) -> Any:
        """One service calls another."""
        body = request if isinstance(request, bytes) else request.SerializeToString()
        if method == SUBMIT_CHANNEL_ORDER:
            order = channel_service_pb2.SubmitChannelOrderRequest.FromString(body)
            taken = self.provider.submit(order, self.clock.now_ms())
            return channel_service_pb2.SubmitChannelOrderResponse(channel_order=taken)
        if method == GET_CHANNEL_ORDER:
            question = channel_service_pb2.GetChannelOrderRequest.FromString(body)
            found = self.provider.get(question.instruction_id)
            return channel_service_pb2.GetChannelOrderResponse(channel_order=found)
        parsed: Any = method_of(method).request_type.FromString(body)
        with business.use(msgspec.structs.replace(context, caller="mesh")):
            response = await self.handlers[method](parsed, None)
        self.called(method, parsed, response)
        return response

    def ask(self, method: str, request: Message, slot: int) -> Answer:
        """A client calls, at the edge."""
        now_ms = self.clock.now_ms()
        context = business.mint(slot, now_ms, caller="client")
        bounded = msgspec.structs.replace(context, deadline_ms=now_ms + CALL_TIME_MS)
        return self.do(self._ask(method, request, bounded))

    async def _ask(self, method: str, request: Message, context: BusinessContext) -> Answer:
        with business.use(context):
            try:
                return Answer(await self.handlers[method](request, None), None)
            except MeshError as error:
                return Answer(None, error)

    # Messages

    def _take(self, service: str, mode: str, shard: str, rows: list[Outbox]) -> None:
        for row in rows:
            if row.kind == "call" or self._consumers(row.destination):
                self.pending.append(Letter(service, row))
            if row.kind == "event":
                self.committed(service, row)

    def _consumers(self, subject: str) -> list[tuple[Service, Any]]:
        found = []
        for service in self.services.values():
            found += [(service, consumer) for consumer in service._consumers if subject in consumer.subjects]
        return found

    def tell(self, order: Order, event: ChannelOrderEvent, subject: str) -> None:
        """The gateway announces the end of an order."""
        slot, now_ms = ids.slot_in(order.id), self.clock.now_ms()
        context = business.mint(slot, now_ms)
        row = Outbox(
            id=new_id("msg", slot, now_ms),
            slot=slot,
            kind="event",
            destination=subject,
            biz_id=context.biz_id,
            context=business.pack(context),
            body=event.SerializeToString(),
            created_at_ms=now_ms,
            due_at_ms=now_ms,
            attempt_count=0,
            acked_at_ms=None,
        )
        self.pending.append(Letter("channel_gateway", row))

    async def deliver(self, letter: Letter, *, answer_is_lost: bool = False) -> None:
        """Carries one message to its end; or, of a call, only to its callee: then it still waits."""
        row = letter.row
        stored = business.unpack(row.context)
        if row.kind == "event":
            for service, consumer in self._consumers(row.destination):
                await self._consume(service, consumer, stored, row)
            return
        context = msgspec.structs.replace(stored, caller=f"reply:{row.destination}"[:64], deadline_ms=None)
        if answer_is_lost:
            try:
                await self.invoke(row.destination, row.body, context)
            except MeshError:
                return  # the answer that was lost is a refusal
            return
        with business.use(context):
            await self._lanes[row.destination].deliver(context, row)

    async def _consume(self, service: Service, consumer: Any, stored: BusinessContext, row: Outbox) -> None:
        context = from_headers(to_headers(stored, row.id), caller=f"event:{consumer.name}")
        assert context is not None
        with business.use(context):
            command = consumer.to_command(context, row.id, row.destination, row.body)
            if command is not None:
                try:
                    await service.store.run(command)
                except MeshError as error:
                    raise Violation(f"{consumer.name} refuses {row.destination} {row.id}: {error!r}") from error

    # Time

    def timers(self) -> list[tuple[Service, Timer[Any]]]:
        """All timers of both."""
        return [(service, timer) for service in self.services.values() for timer in service._timers]

    async def waiting(self, slots: list[int], owners: set[str]) -> list[tuple[Timer[Any], Any]]:
        """Rows of some owners that wait for a time, soonest first."""
        found = []
        for service, timer in self.timers():
            if timer.row_type not in (Trade, Payment):
                continue
            table = timer.row_type.__table__
            due = table.c[timer.column]
            statement = select(table).where(table.c.slot.in_(slots), due.is_not(None))
            rows = await service.store.fetch_everywhere(timer.row_type, statement, shadow=False)
            found += [(timer, row) for row in rows if _owner(row) in owners]
        return sorted(found, key=lambda pair: (pair[1].due_at_ms, pair[1].id))

    async def fire(self, timer: Timer[Any], row: Any) -> None:
        """A timer finds a row due."""
        stored = business.unpack(row.context)
        with business.use(msgspec.structs.replace(stored, caller=f"timer:{timer.name}", deadline_ms=None)):
            await timer.fire(row)

    # Rows

    async def rows(self, service: str, row_type: type[Row], *conditions: Any) -> list[Any]:
        """Rows of a table, from all shards."""
        statement = select(row_type.__table__).where(*conditions)
        return await self.services[service].store.fetch_everywhere(row_type, statement, shadow=False)

    async def forget_messages(self) -> None:
        """What was delivered leaves the outboxes; Violation where somebody got a ticket."""
        self.pending.clear()
        for name, service in self.services.items():
            for shard in service.store.shards("live"):
                await service.store.housekeep("live", shard, delete(Outbox.__table__))
            if await self.rows(name, DeadLetter):
                raise Violation(f"{name} has a dead letter")


def _owner(row: Any) -> str:
    owner: str = row.buyer_id if isinstance(row, Trade) else row.payer_id
    return owner


def _ignore(service: str, row: Outbox) -> None:
    """Nobody looks."""


def _ignore_call(method: str, request: Any, response: Any) -> None:
    """Nobody looks."""
