"""The part of TradeService that shows trades: one, lists, and whole orders."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from paykit.context import current
from paykit.rpc.checks import Fields, encode_page_token
from paymesh.trade.v1 import trade_pb2
from paymesh.trade.v1 import trade_service_pb2 as pb
from trade_core import merchant_trades, requests, wire
from trade_core.api.base import ServicerContext, TradeApiBase
from trade_core.reads import TradeFilter
from trade_core.tables import MerchantTrade, Trade
from trade_core.wire import TradeView

_TRADE_STATE: Any = trade_pb2.TradeState  # at run time EnumTypeWrappers; the stubs are classes
_TRADE_TYPE: Any = trade_pb2.TradeType
_STATE_NAMES = {number: name for name, number in wire.TRADE_STATE.items()}
_TYPE_NAMES = {number: name for name, number in wire.TRADE_TYPE.items()}
_FILTER_VALUES_MAX = 32
_SECONDS_MAX = 253_402_300_799  # the year 9999


class OrdersApi(TradeApiBase):
    """GetTrade, ListTrades, GetTradeTree."""

    async def GetTrade(self, request: pb.GetTradeRequest, context: ServicerContext) -> pb.GetTradeResponse:
        trade_id = requests.check_trade_id(request.trade_id)
        return pb.GetTradeResponse(trade=wire.trade(await self._reads.whole(trade_id, current().shadow)))

    async def GetTradeTree(self, request: pb.GetTradeTreeRequest, context: ServicerContext) -> pb.GetTradeTreeResponse:
        fields = Fields()
        fields.request_id(request.id, "id")  # as wide as references of providers are
        fields.raise_if_any()
        return await self._tree.get(request.id)

    async def ListTrades(self, request: pb.ListTradesRequest, context: ServicerContext) -> pb.ListTradesResponse:
        fields = Fields()
        page_size = fields.page_size(request.page_size)
        wanted = _filter(fields, request)
        before_id = fields.page_token(request.page_token, wanted.scope, str)
        fields.raise_if_any()
        page = await self._reads.page(wanted, before_id, page_size, current().shadow)
        token = encode_page_token(wanted.scope, page.next_before_id) if page.next_before_id else ""
        return pb.ListTradesResponse(trades=[_listed(row) for row in page.rows], next_page_token=token)


def _listed(row: Trade | MerchantTrade) -> trade_pb2.Trade:
    return wire.trade(TradeView(row)) if isinstance(row, Trade) else merchant_trades.as_trade(row)


def _filter(fields: Fields, request: pb.ListTradesRequest) -> TradeFilter:
    fields.name("buyer_id", request.buyer_id, required=False)
    fields.name("payee_id", request.payee_id, required=False)
    if bool(request.buyer_id) == bool(request.payee_id):
        fields.fail("buyer_id", "required, or payee_id; not both")
    for field, numbers, enum in (
        ("states", request.states, _TRADE_STATE),
        ("trade_types", request.trade_types, _TRADE_TYPE),
    ):
        fields.count(field, numbers, 0, _FILTER_VALUES_MAX)
        for index, number in enumerate(numbers):
            fields.enum(f"{field}[{index}]", number, enum)
    fields.name("scene", request.scene, required=False)
    if request.merchant_order_no:
        fields.request_id(request.merchant_order_no, "merchant_order_no")
    from_ms = _millis(fields, "created_from", request.created_from) if request.HasField("created_from") else None
    before_ms = (
        _millis(fields, "created_before", request.created_before) if request.HasField("created_before") else None
    )
    return TradeFilter(
        owner_id=request.buyer_id or request.payee_id,
        is_payee=not request.buyer_id,
        states=tuple(sorted(_STATE_NAMES.get(number, "") for number in set(request.states))),
        trade_types=tuple(sorted(_TYPE_NAMES.get(number, "") for number in set(request.trade_types))),
        created_from_ms=from_ms,
        created_before_ms=before_ms,
        scene=request.scene,
        merchant_order_no=request.merchant_order_no,
    )


def _millis(fields: Fields, field: str, time: Timestamp) -> int:
    """Unix milliseconds, the part of one rounded up: a trade of 10.000 s is not from 10.0001 s on, but is before it."""
    if not (0 <= time.seconds <= _SECONDS_MAX and 0 <= time.nanos < 1_000_000_000):
        fields.fail(field, "must be a time from 1970 to 9999")
        return 0
    return time.seconds * 1000 + -(-time.nanos // 1_000_000)
