"""Asks the other services for their parts of an order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from paykit import ops
from paykit.rpc.channels import Channels
from paykit.store.store import Store
from paymesh.channel.v1 import channel_order_pb2, channel_service_pb2, channel_service_pb2_grpc
from paymesh.ops.v1 import ops_service_pb2, ops_service_pb2_grpc
from paymesh.pay.v1 import pay_service_pb2, pay_service_pb2_grpc
from paymesh.recon.v1 import break_pb2, recon_service_pb2, recon_service_pb2_grpc

PAY_CORE = "pay_core"
CHANNEL_GATEWAY = "channel_gateway"
RECON = "recon"

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

    async def biz_id_of(self, service: str, id_: str, shadow: bool, timeout_s: float) -> str:
        """The business id that an id or reference belongs to, as ``service`` knows it; empty where it does not."""
        async with asyncio.timeout(timeout_s):
            return (await self._timeline(service, id_, shadow)).biz_id

    async def payments(self, source_ids: Sequence[str], timeout_s: float) -> pay_service_pb2.GetPaymentTreeResponse:
        """What pay_core did for some sources of one slot, at most 1,000, as one picture."""
        stub = pay_service_pb2_grpc.PayServiceStub(self._channels.get(PAY_CORE))
        request = pay_service_pb2.GetPaymentTreeRequest(source_ids=source_ids)
        async with asyncio.timeout(timeout_s):
            return await stub.GetPaymentTree(request, timeout=timeout_s)

    async def channel_orders(
        self, payment_ids: Iterable[str], timeout_s: float
    ) -> list[channel_order_pb2.ChannelOrder]:
        """What providers were asked to do for some payments, payment by payment, oldest first."""
        stub = channel_service_pb2_grpc.ChannelServiceStub(self._channels.get(CHANNEL_GATEWAY))

        async def of_payment(payment_id: str) -> list[channel_order_pb2.ChannelOrder]:
            request = channel_service_pb2.ListChannelOrdersRequest(payment_id=payment_id, page_size=_PAGE_SIZE)
            return await _all_pages(stub.ListChannelOrders, request, lambda page: page.channel_orders)

        async with asyncio.timeout(timeout_s):
            return _flat(await _each(of_payment, payment_ids))

    async def breaks(self, biz_ids: Iterable[str], timeout_s: float) -> list[break_pb2.Break]:
        """What reconciliation found wrong with some business ids, oldest first."""
        stub = recon_service_pb2_grpc.ReconServiceStub(self._channels.get(RECON))

        async def of_business(biz_id: str) -> list[break_pb2.Break]:
            request = recon_service_pb2.ListBreaksRequest(biz_id=biz_id, page_size=_PAGE_SIZE)
            return await _all_pages(stub.ListBreaks, request, lambda page: page.breaks)

        async with asyncio.timeout(timeout_s):
            return sorted(_flat(await _each(of_business, biz_ids)), key=lambda found: found.break_id)

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
        stub = ops_service_pb2_grpc.OpsServiceStub(self._channels.get(service))
        return await stub.GetTimeline(ops_service_pb2.GetTimelineRequest(id=id_, shadow=shadow))


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


async def _each(ask: Callable[[A], Awaitable[B]], whats: Iterable[A]) -> list[B]:
    """Asks for each, some at a time; the first error ends it and leaves none under way."""
    turns = asyncio.Semaphore(_IN_FLIGHT_MAX)

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
