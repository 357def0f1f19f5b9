"""ChannelService: protobuf to commands and rows, and back. Checks fields, decides nothing."""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import AsyncIterator

from msgspec.structs import replace
from sqlalchemy import Select, select

from channel_gateway import messages
from channel_gateway.channel_order import FOLLOWING, ChannelOrderState
from channel_gateway.channels import ChannelSet
from channel_gateway.commands import Submission, SubmitOrder
from channel_gateway.merchants import named_merchant
from channel_gateway.originals import REPAIR_PREFIX
from channel_gateway.requests import ask_of, route_question, submission
from channel_gateway.router import Router, refusal
from channel_gateway.routing import Judged, Reason, Route, onward
from channel_gateway.statements import StatementReader
from channel_gateway.tables import ChannelAttempt, ChannelOrder
from channel_gateway.worker import Dispatcher, Lane
from paykit.context import BusinessContext, current
from paykit.errors import FailedPrecondition, NotFound
from paykit.ids import slot_in
from paykit.rpc.admission import ServicerContext
from paykit.rpc.batching import serve_batch
from paykit.rpc.checks import Fields, encode_page_token
from paykit.store.command import Origin
from paykit.store.store import Store
from paymesh.channel.v1 import channel_service_pb2, channel_service_pb2_grpc, route_pb2

_METHOD = "SubmitChannelOrder"
_TABLE = ChannelOrder.__table__
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class ChannelService(channel_service_pb2_grpc.ChannelServiceServicer):
    """The gRPC servicer."""

    def __init__(self, store: Store, channels: ChannelSet, dispatcher: Dispatcher, router: Router) -> None:
        self._store = store
        self._router = router
        self._channels = channels
        self._dispatcher = dispatcher
        self._statements = StatementReader(channels, store.clock)

    async def SubmitChannelOrder(
        self, request: channel_service_pb2.SubmitChannelOrderRequest, context: ServicerContext
    ) -> channel_service_pb2.SubmitChannelOrderResponse:
        asked, route = submission(request)
        business = current()
        origin = Origin.rpc(business, _METHOD, asked.instruction_id, request.request_id, request)
        if route is not None:
            order = await self._submit_routed(business, origin, asked, route)
        else:
            lane = self._dispatcher.lane(business.mode, asked.channel)
            order = await self._submit(origin, asked, lane, self._refusal(business.mode, asked))
        if order.state == ChannelOrderState.ACCEPTED:
            self._dispatcher.lane(business.mode, order.channel).offer(order)
        return channel_service_pb2.SubmitChannelOrderResponse(channel_order=messages.channel_order(order))

    async def _submit(
        self, origin: Origin, asked: Submission, lane: Lane, why_not: FailedPrecondition | None
    ) -> ChannelOrder:
        command = SubmitOrder(origin, asked, lane.channel.operations, lane.channel.captures_max, why_not)
        with lane.place(named_merchant(origin.context)):
            return await self._store.run(command)

    async def _submit_routed(
        self, business: BusinessContext, origin: Origin, asked: Submission, route: Route
    ) -> ChannelOrder:
        judged = self._router.judge(business.mode, named_merchant(business), route, ask_of(asked))
        names = frozenset(candidate.channel for candidate in route.candidates)
        if not judged[0].is_in:
            # What was accepted while one of them could is answered all the same.
            asked = replace(asked, candidates=names)
            return await self._store.run(SubmitOrder(origin, asked, frozenset(), refusal=refusal(judged)))
        channel = judged[0].candidate.channel
        asked = replace(asked, channel=channel, candidates=names, onward=onward(route, judged))
        return await self._submit(origin, asked, self._dispatcher.lane(business.mode, channel), None)

    def _refusal(self, mode: str, asked: Submission) -> FailedPrecondition | None:
        """Why the channel does not carry this; what follows an earlier order is bounded by that one."""
        found = self._channels.declared(mode, [asked.channel])[asked.channel]
        reason = None if isinstance(found, Reason) or asked.kind in FOLLOWING else found.refusal(ask_of(asked))
        if reason is None:
            return None
        amount = f"{asked.amount_minor} {asked.currency}"
        message = f"channel {asked.channel} does not carry a {asked.kind.value} of {amount}"
        return FailedPrecondition(message, reason=reason.value, subject=asked.channel)

    async def PreviewRoute(
        self, request: channel_service_pb2.PreviewRouteRequest, context: ServicerContext
    ) -> channel_service_pb2.PreviewRouteResponse:
        route, ask = route_question(request)
        business = current()
        merchant = named_merchant(business)
        judged = self._router.judge(business.mode, merchant, route, ask)

        def routed(one: Judged) -> route_pb2.RoutedCandidate:
            health = self._router.health(business.mode, merchant, one.candidate.channel)
            return messages.routed_candidate(one, ask, health)

        return channel_service_pb2.PreviewRouteResponse(
            channel=judged[0].candidate.channel if judged[0].is_in else "",
            candidates=[routed(one) for one in judged],
        )

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
            id_, column = fields.id("instruction_id", request.instruction_id, "ins", REPAIR_PREFIX), "instruction_id"
        else:
            id_, column = fields.id("channel_order_id", request.channel_order_id, "chn"), "id"
        fields.raise_if_any()
        found = await self._store.get(ChannelOrder, id_, column, slot=slot_in(id_), shadow=current().shadow)
        if found is None:
            raise NotFound(f"no channel order for {id_}", metadata={"id": id_})
        attempts = await self._attempts(found) if found.attempt_no > 1 else []
        return channel_service_pb2.GetChannelOrderResponse(
            channel_order=messages.channel_order(found), attempts=[messages.channel_attempt(row) for row in attempts]
        )

    async def _attempts(self, order: ChannelOrder) -> list[ChannelAttempt]:
        table = ChannelAttempt.__table__
        statement = select(table).where(table.c.channel_order_id == order.id).order_by(table.c.attempt_no)
        return await self._store.fetch(ChannelAttempt, statement, slot=order.slot, shadow=current().shadow)

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


def _date(fields: Fields, field: str, value: str) -> datetime.date:
    """A day as "2026-11-28"."""
    if _DATE.fullmatch(value):
        with contextlib.suppress(ValueError):
            return datetime.date.fromisoformat(value)
    fields.fail(field, "must be a day as 2026-11-28")
    return datetime.date.min
