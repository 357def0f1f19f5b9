"""DoubtService: protobuf to rows, and back. Checks fields, decides nothing."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from channel_gateway import messages
from channel_gateway.tables import ChannelDoubt
from paykit.context import current
from paykit.errors import NotFound
from paykit.ids import slot_in
from paykit.rpc.admission import ServicerContext
from paykit.rpc.checks import Fields, encode_page_token
from paykit.store.store import Store
from paymesh.channel.v1 import doubt_pb2, doubt_service_pb2, doubt_service_pb2_grpc

_STATES: Any = doubt_pb2.DoubtState  # to stubs a class, at run time the wrapper that checks take
_STATE = {number: state for state, number in messages.DOUBT_STATE.items()}
_TABLE = ChannelDoubt.__table__


class DoubtService(doubt_service_pb2_grpc.DoubtServiceServicer):
    """The gRPC servicer."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def GetDoubt(
        self, request: doubt_service_pb2.GetDoubtRequest, context: ServicerContext
    ) -> doubt_service_pb2.GetDoubtResponse:
        fields = Fields()
        doubt_id = fields.id("doubt_id", request.doubt_id, "dbt")
        fields.raise_if_any()
        found = await self._store.get(ChannelDoubt, doubt_id, slot=slot_in(doubt_id), shadow=current().shadow)
        if found is None:
            raise NotFound(f"there is no doubt {doubt_id}", metadata={"doubt_id": doubt_id})
        return doubt_service_pb2.GetDoubtResponse(doubt=messages.channel_doubt(found))

    async def ListDoubts(
        self, request: doubt_service_pb2.ListDoubtsRequest, context: ServicerContext
    ) -> doubt_service_pb2.ListDoubtsResponse:
        fields = Fields()
        order_id = fields.id("channel_order_id", request.channel_order_id, "chn", required=False)
        if request.state or not request.channel_order_id:
            fields.enum("state", request.state, _STATES)
        page_size = fields.page_size(request.page_size)
        scope = f"doubts/{order_id}/{request.state}"
        after_id = fields.page_token(request.page_token, scope, str)
        fields.raise_if_any()
        # Ids sort by time of minting, on every shard alike: the oldest of all are among the oldest of each.
        statement = select(_TABLE).order_by(_TABLE.c.id).limit(page_size + 1)
        if order_id:
            statement = statement.where(_TABLE.c.channel_order_id == order_id)
        if request.state:
            statement = statement.where(_TABLE.c.state == _STATE[request.state])
        if after_id is not None:
            statement = statement.where(_TABLE.c.id > after_id)
        shadow = current().shadow
        if order_id:
            rows = await self._store.fetch(ChannelDoubt, statement, slot=slot_in(order_id), shadow=shadow)
        else:
            rows = await self._store.fetch_everywhere(ChannelDoubt, statement, shadow=shadow)
            rows.sort(key=lambda row: row.id)
        page = rows[:page_size]
        token = encode_page_token(scope, page[-1].id) if len(rows) > page_size else ""
        return doubt_service_pb2.ListDoubtsResponse(
            doubts=[messages.channel_doubt(row) for row in page], next_page_token=token
        )
