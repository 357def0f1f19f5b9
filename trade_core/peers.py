"""Asks the other services for their parts of an order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from paykit import ops
from paykit.context import current
from paykit.errors import NotFound
from paykit.rpc.batching import MAX_ITEMS
from paykit.rpc.channels import Channels
from paykit.store.store import Store
from paymesh.channel.v1 import channel_order_pb2, channel_service_pb2, channel_service_pb2_grpc
from paymesh.ops.v1 import ops_service_pb2, ops_service_pb2_grpc
from paymesh.pay.v1 import pay_service_pb2, pay_service_pb2_grpc
from paymesh.recon.v1 import (
    break_pb2,
    recon_service_pb2,
    recon_service_pb2_grpc,
    repair_pb2,
    repair_service_pb2,
    repair_service_pb2_grpc,
)

PAY_CORE = "pay_core"
CHANNEL_GATEWAY = "channel_gateway"
RECON = "recon"

_GET_CHANNEL_ORDER = "/paymesh.channel.v1.ChannelService/GetChannelOrder"
_PAGE_SIZE = 200
_IN_FLIGHT_MAX = 16  # calls of one tree at a time

A = TypeVar("A")
B = TypeVar("B")


class Peers:
    """The services that have parts of an order. Each raises the MeshError of the call, or ConfigurationError.

    ``timeout_s`` bounds the whole of what is asked; TimeoutError.
    """

    def __init__(self, channels: Channels, store: Store) -> None:
        """``store`` is trade_core's own: its part of the timeline needs no call."""
        self._channels = channels
        self._store = store
        self._stubs: dict[tuple[str, Callable[[Any], Any]], Any] = {}

    async def biz_id_of(self, service: str, id_: str, shadow: bool, timeout_s: float) -> str:
        """The business id that an id or reference belongs to, as ``service`` knows it; empty where it does not."""
        async with asyncio.timeout(timeout_s):
            return (await self._timeline(service, id_, shadow)).biz_id

    async def payments(self, source_ids: Sequence[str], timeout_s: float) -> pay_service_pb2.GetPaymentTreeResponse:
        """What pay_core did for some sources of one slot, at most 1,000, as one picture."""
        stub = self._stub(PAY_CORE, pay_service_pb2_grpc.PayServiceStub)
        request = pay_service_pb2.GetPaymentTreeRequest(source_ids=source_ids)
        async with asyncio.timeout(timeout_s):
            found: pay_service_pb2.GetPaymentTreeResponse = await stub.GetPaymentTree(request, timeout=timeout_s)
            return found

    async def channel_orders_for(
        self, instruction_ids: Sequence[str], timeout_s: float
    ) -> list[channel_order_pb2.ChannelOrder]:
        """What providers were asked to do for some instructions: those that the gateway has heard of, in that order."""
        get, context = self._channels.batch(CHANNEL_GATEWAY, _GET_CHANNEL_ORDER), current()

        async def for_instruction(instruction_id: str) -> channel_order_pb2.ChannelOrder | None:
            request = channel_service_pb2.GetChannelOrderRequest(instruction_id=instruction_id)
            try:
                response = await get(request, context, timeout_s)
            except NotFound:
                return None
            order: channel_order_pb2.ChannelOrder = response.channel_order
            return order

        async with asyncio.timeout(timeout_s):
            found = await _each(for_instruction, instruction_ids, MAX_ITEMS)
        return [order for order in found if order is not None]

    async def channel_orders_of(
        self, payment_ids: Sequence[str], timeout_s: float
    ) -> list[channel_order_pb2.ChannelOrder]:
        """What providers were asked to do for some payments, payment by payment, oldest first."""
        stub = self._stub(CHANNEL_GATEWAY, channel_service_pb2_grpc.ChannelServiceStub)

        async def of_payment(payment_id: str) -> list[channel_order_pb2.ChannelOrder]:
            request = channel_service_pb2.ListChannelOrdersRequest(payment_id=payment_id, page_size=_PAGE_SIZE)
            return await _all_pages(stub.ListChannelOrders, request, lambda page: page.channel_orders)

        async with asyncio.timeout(timeout_s):
            return _flat(await _each(of_payment, payment_ids))

    async def breaks(self, biz_ids: Iterable[str], timeout_s: float) -> list[break_pb2.Break]:
        """What reconciliation found wrong with some business ids, oldest first."""
        stub = self._stub(RECON, recon_service_pb2_grpc.ReconServiceStub)

        async def of_business(biz_id: str) -> list[break_pb2.Break]:
            request = recon_service_pb2.ListBreaksRequest(biz_id=biz_id, page_size=_PAGE_SIZE)
            return await _all_pages(stub.ListBreaks, request, lambda page: page.breaks)

        async with asyncio.timeout(timeout_s):
            return sorted(_flat(await _each(of_business, biz_ids)), key=lambda found: found.break_id)

    async def repairs(self, biz_ids: Iterable[str], timeout_s: float) -> list[repair_pb2.Repair]:
        """How what reconciliation found wrong with some business ids is repaired, oldest first."""
        stub = self._stub(RECON, repair_service_pb2_grpc.RepairServiceStub)

        async def of_business(biz_id: str) -> list[repair_pb2.Repair]:
            request = repair_service_pb2.ListRepairsRequest(biz_id=biz_id, page_size=_PAGE_SIZE)
            return await _all_pages(stub.ListRepairs, request, lambda page: page.repairs)

        async with asyncio.timeout(timeout_s):
            return sorted(_flat(await _each(of_business, biz_ids)), key=lambda found: found.repair_id)

    async def timeline(
        self, service: str, biz_ids: Iterable[str], shadow: bool, timeout_s: float
    ) -> list[ops_service_pb2.TimelineEntry]:
        """What a service did under some business ids; oldest first for each."""

        async def of_business(biz_id: str) -> list[ops_service_pb2.TimelineEntry]:
            if service == self._store.service:
                return await ops.timeline(self._store, biz_id, shadow=shadow)
            return list((await self._timeline(service, biz_id, shadow)).entries)

        async with asyncio.timeout(timeout_s):
            return _flat(await _each(of_business, biz_ids))

    async def _timeline(self, service: str, id_: str, shadow: bool) -> ops_service_pb2.GetTimelineResponse:
        stub = self._stub(service, ops_service_pb2_grpc.OpsServiceStub)
        found: ops_service_pb2.GetTimelineResponse = await stub.GetTimeline(
            ops_service_pb2.GetTimelineRequest(id=id_, shadow=shadow)
        )
        return found

    def _stub(self, service: str, stub_type: Callable[[Any], Any]) -> Any:
        """The one stub of a type: to make it costs as much as to call it."""
        stub = self._stubs.get((service, stub_type))
        if stub is None:
            stub = self._stubs[service, stub_type] = stub_type(self._channels.get(service))
        return stub


async def _all_pages(
    call: Callable[[Any], Awaitable[Any]], request: Any, items: Callable[[Any], Iterable[A]]
) -> list[A]:
    found: list[A] = []
    while True:
        page = await call(request)
        found += items(page)
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def _each(ask: Callable[[A], Awaitable[B]], whats: Iterable[A], in_flight_max: int = _IN_FLIGHT_MAX) -> list[B]:
    """Asks for each, some at a time; the first error ends it and leaves none under way."""
    turns = asyncio.Semaphore(in_flight_max)

    async def one(what: A) -> B:
        async with turns:
            return await ask(what)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(what)) for what in whats]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _flat(parts: Iterable[list[A]]) -> list[A]:
    return [item for part in parts for item in part]
