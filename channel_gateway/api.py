"""ChannelService: protobuf to commands and rows, and back. Checks fields, decides nothing."""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import Select, select

from channel_gateway import messages
from channel_gateway.channel_order import FOLLOWING, ChannelOrderState
from channel_gateway.channels import ChannelSet
from channel_gateway.commands import Submission, SubmitOrder
from channel_gateway.merchants import merchant_in
from channel_gateway.statements import StatementReader
from channel_gateway.tables import ChannelOrder
from channel_gateway.worker import Dispatcher
from paykit.context import current
from paykit.errors import NotFound
from paykit.ids import is_id, slot_in
from paykit.rpc.admission import ServicerContext
from paykit.rpc.batching import serve_batch
from paykit.rpc.checks import Fields, encode_page_token
from paykit.store.command import Origin
from paykit.store.store import Store
from paymesh.channel.v1 import channel_order_pb2, channel_service_pb2, channel_service_pb2_grpc

_METHOD = "SubmitChannelOrder"
_KINDS: Any = channel_order_pb2.ChannelOrderKind  # to stubs a class, at run time the wrapper that checks take
_TABLE = ChannelOrder.__table__
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class ChannelService(channel_service_pb2_grpc.ChannelServiceServicer):
    """The gRPC servicer."""

    def __init__(self, store: Store, channels: ChannelSet, dispatcher: Dispatcher) -> None:
        self._store = store
        self._channels = channels
        self._dispatcher = dispatcher
        self._statements = StatementReader(channels, store.clock)

    async def SubmitChannelOrder(
        self, request: channel_service_pb2.SubmitChannelOrderRequest, context: ServicerContext
    ) -> channel_service_pb2.SubmitChannelOrderResponse:
        submission = _submission(request)
        business = current()
        lane = self._dispatcher.lane(business.mode, submission.channel)
        origin = Origin.rpc(business, _METHOD, submission.instruction_id, request.request_id, request)
        command = SubmitOrder(origin, submission, lane.channel.operations, lane.channel.captures_max)
        with lane.place(merchant_in(business)):
            order = await self._store.run(command)
        if order.state == ChannelOrderState.ACCEPTED:
            lane.offer(order)
        return channel_service_pb2.SubmitChannelOrderResponse(channel_order=messages.channel_order(order))

    async def BatchSubmitChannelOrders(
        self, request: channel_service_pb2.BatchSubmitChannelOrdersRequest, context: ServicerContext
    ) -> channel_service_pb2.BatchSubmitChannelOrdersResponse:
        response_type = channel_service_pb2.BatchSubmitChannelOrdersResponse
        return await serve_batch(request, context, self.SubmitChannelOrder, response_type)

    async def GetChannelOrder(
        self, request: channel_service_pb2.GetChannelOrderRequest, context: ServicerContext
    ) -> channel_service_pb2.GetChannelOrderResponse:
        fields = Fields()
        if request.WhichOneof("by") == "instruction_id":
            id_, column = fields.id("instruction_id", request.instruction_id, "ins"), "instruction_id"
        else:
            id_, column = fields.id("channel_order_id", request.channel_order_id, "chn"), "id"
        fields.raise_if_any()
        found = await self._store.get(ChannelOrder, id_, column, slot=slot_in(id_), shadow=current().shadow)
        if found is None:
            raise NotFound(f"no channel order for {id_}", metadata={"id": id_})
        return channel_service_pb2.GetChannelOrderResponse(channel_order=messages.channel_order(found))

    async def BatchGetChannelOrders(
        self, request: channel_service_pb2.BatchGetChannelOrdersRequest, context: ServicerContext
    ) -> channel_service_pb2.BatchGetChannelOrdersResponse:
        response_type = channel_service_pb2.BatchGetChannelOrdersResponse
        return await serve_batch(request, context, self.GetChannelOrder, response_type)

    async def ListChannelOrders(
        self, request: channel_service_pb2.ListChannelOrdersRequest, context: ServicerContext
    ) -> channel_service_pb2.ListChannelOrdersResponse:
        fields = Fields()
        payment_id = fields.id("payment_id", request.payment_id, "pay")
        page_size = fields.page_size(request.page_size)
        scope = f"channel_orders/{payment_id}"
        after = fields.page_token(request.page_token, scope, str)
        fields.raise_if_any()
        statement = select(_TABLE).where(_TABLE.c.payment_id == payment_id)
        if after is not None:
            statement = statement.where(_TABLE.c.id > after)
        found = await self._fetch(statement.order_by(_TABLE.c.id).limit(page_size + 1), slot_in(payment_id))
        page = found[:page_size]
        return channel_service_pb2.ListChannelOrdersResponse(
            channel_orders=[messages.channel_order(order) for order in page],
            next_page_token=encode_page_token(scope, page[-1].id) if len(found) > page_size else "",
        )

    async def FetchStatement(
        self, request: channel_service_pb2.FetchStatementRequest, context: ServicerContext
    ) -> AsyncIterator[channel_service_pb2.FetchStatementResponse]:
        fields = Fields()
        channel = fields.name("channel", request.channel)
        date = _date(fields, "date", request.date)
        fields.raise_if_any()
        mode = current().mode
        response_type = channel_service_pb2.FetchStatementResponse
        statement_format = self._statements.format(mode, channel, date)
        is_empty = True
        async with contextlib.aclosing(self._statements.read(mode, channel, date)) as pieces:
            async for piece in pieces:
                yield response_type(format=statement_format, chunk=piece)
                is_empty = False
        if is_empty:
            yield response_type(format=statement_format)

    async def _fetch(self, statement: Select[tuple[object, ...]], slot: int) -> list[ChannelOrder]:
        return await self._store.fetch(ChannelOrder, statement, slot=slot, shadow=current().shadow)


def _submission(request: channel_service_pb2.SubmitChannelOrderRequest) -> Submission:
    """What is asked for; InvalidArgument names every field that is wrong."""
    fields = Fields()
    fields.request_id(request.request_id)
    kind = messages.KIND_OF.get(fields.enum("kind", request.kind, _KINDS))
    channel = fields.name("channel", request.channel)
    amount = fields.money("amount", request.amount)
    instruction_id = fields.id("instruction_id", request.instruction_id, "ins")
    payment_id = fields.id("payment_id", request.payment_id, "pay")
    if kind in FOLLOWING:
        original_id = fields.id("original_channel_order_id", request.original_channel_order_id, "chn")
        if request.token:
            fields.fail("token", "only where no original order is named, whose route it is")
    else:
        original_id = ""
        fields.name("token", request.token)
        if request.original_channel_order_id:
            fields.fail("original_channel_order_id", "only for a refund, capture or void")
    # A command works on one slot: what belongs to one business order carries that order's.
    related = {"payment_id": payment_id, "original_channel_order_id": original_id}
    for field, id_ in related.items():
        if is_id(id_) and is_id(instruction_id) and slot_in(id_) != slot_in(instruction_id):
            fields.fail(field, "lies on another slot than instruction_id")
    fields.raise_if_any()
    assert kind is not None
    assert amount is not None
    return Submission(
        kind=kind,
        channel=channel,
        amount_minor=amount.amount_minor,
        currency=amount.currency_code,
        instruction_id=instruction_id,
        payment_id=payment_id,
        token=request.token,
        original_channel_order_id=original_id,
    )


def _date(fields: Fields, field: str, value: str) -> datetime.date:
    """A day as "2026-11-28"."""
    if _DATE.fullmatch(value):
        with contextlib.suppress(ValueError):
            return datetime.date.fromisoformat(value)
    fields.fail(field, "must be a day as 2026-11-28")
    return datetime.date.min
