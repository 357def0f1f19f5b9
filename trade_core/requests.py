"""Requests as domain values: every field checked, and every wrong one named in one InvalidArgument."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration

from paykit.money import INT64_MAX
from paykit.rpc.checks import Fields
from paymesh.trade.v1 import trade_pb2, trade_service_pb2
from trade_core import trade as domain
from trade_core import wire
from trade_core.commands import LineInput, NewTrade
from trade_core.trade import PayMethod
from trade_core.types import PAY_METHODS_MAX, TIME_TO_LIVE_MS_MAX, TIME_TO_LIVE_MS_MIN, TRADE_TYPES, Catalogue, Tool

LINES_MAX = 100
TEXT_MAX = 255

_TRADE_TYPE: Any = trade_pb2.TradeType  # at run time an EnumTypeWrapper; its stub is a class
_CREATABLE = tuple(wire.TRADE_TYPE[name] for name, spec in TRADE_TYPES.items() if spec.is_creatable)
_CARD_NUMBER = re.compile(r"\d(?:[-:._]?\d){11,18}")


def new_trade(request: trade_service_pb2.CreateTradeRequest, catalogue: Catalogue) -> NewTrade:
    """A CreateTrade request, complete and consistent; InvalidArgument otherwise."""
    fields = Fields()
    fields.request_id(request.request_id)
    number = fields.enum("trade_type", request.trade_type, _TRADE_TYPE, _CREATABLE)
    fields.name("buyer_id", request.buyer_id)
    fields.name("payee_id", request.payee_id, required=False)
    if request.merchant_order_no:
        fields.request_id(request.merchant_order_no, "merchant_order_no")
    fields.name("scene", request.scene, required=False)
    fields.money("amount", request.amount)
    lines = _lines(fields, request)
    pay_methods = _pay_methods(fields, request.pay_methods, minimum=0)
    ttl_ms = _time_to_live_ms(fields, request.time_to_live) if request.HasField("time_to_live") else None
    fields.raise_if_any()
    spec = catalogue.spec(wire.TYPE_BY_NUMBER[number])
    fields.violations += domain.payee_violations(spec, request.buyer_id, request.payee_id)
    fields.violations += domain.method_violations(spec, pay_methods)
    fields.raise_if_any()
    return NewTrade(
        trade_type=spec.trade_type,
        buyer_id=request.buyer_id,
        payee_id=request.payee_id,
        merchant_order_no=request.merchant_order_no,
        scene=request.scene,
        currency=request.amount.currency_code,
        amount_minor=request.amount.amount_minor,
        time_to_live_ms=spec.time_to_live_ms if ttl_ms is None else ttl_ms,
        lines=lines,
        pay_methods=pay_methods,
    )


def payment(request: trade_service_pb2.PayTradeRequest) -> list[PayMethod]:
    """The pay methods of a PayTrade request; whether the trade takes them is decided when it is known."""
    fields = Fields()
    fields.request_id(request.request_id)
    fields.id("trade_id", request.trade_id, "trd")
    pay_methods = _pay_methods(fields, request.pay_methods, minimum=1)
    fields.raise_if_any()
    return pay_methods


def check_refund(request: trade_service_pb2.RefundTradeRequest) -> int | None:
    """The amount a RefundTrade request asks for; None for all that is left."""
    fields = Fields()
    fields.request_id(request.request_id)
    fields.id("trade_id", request.trade_id, "trd")
    amount = fields.money("amount", request.amount, required=False)
    fields.text("reason", request.reason, TEXT_MAX)
    fields.raise_if_any()
    return None if amount is None else amount.amount_minor


def check_close(request: trade_service_pb2.CloseTradeRequest) -> None:
    """A CloseTrade request."""
    fields = Fields()
    fields.request_id(request.request_id)
    fields.id("trade_id", request.trade_id, "trd")
    fields.text("reason", request.reason, TEXT_MAX)
    fields.raise_if_any()


def check_trade_id(trade_id: str) -> str:
    """The only field of GetTrade and WatchTrade."""
    fields = Fields()
    fields.id("trade_id", trade_id, "trd")
    fields.raise_if_any()
    return trade_id


def _lines(fields: Fields, request: trade_service_pb2.CreateTradeRequest) -> list[LineInput]:
    fields.count("lines", request.lines, 0, LINES_MAX)
    lines = request.lines[:LINES_MAX]
    for i, line in enumerate(lines):
        nested = fields.under(f"lines[{i}]")
        nested.request_id(line.sku, "sku")
        nested.text("title", line.title, TEXT_MAX)
        if line.quantity < 1:
            nested.fail("quantity", "must be at least 1")
        if nested.money("unit_price", line.unit_price) is not None:
            nested.same_currency("unit_price", line.unit_price, request.amount.currency_code)
    total = sum(line.quantity * line.unit_price.amount_minor for line in lines)
    if total > INT64_MAX:
        fields.fail("lines", "their sum is beyond int64")
    elif lines and total != request.amount.amount_minor:
        fields.fail("amount.amount_minor", f"must equal the sum of the lines, {total}")
    return [LineInput(line.sku, line.title, line.quantity, line.unit_price.amount_minor) for line in lines]


def _pay_methods(fields: Fields, methods: Sequence[trade_pb2.PayMethod], minimum: int) -> list[PayMethod]:
    fields.count("pay_methods", methods, minimum, PAY_METHODS_MAX)
    return [
        _pay_method(fields.under(f"pay_methods[{i}]"), method) for i, method in enumerate(methods[:PAY_METHODS_MAX])
    ]


def _pay_method(fields: Fields, method: trade_pb2.PayMethod) -> PayMethod:
    tool, token = Tool.BALANCE, ""
    kind = method.WhichOneof("tool")
    if kind is None:
        fields.fail("tool", "required")
    elif kind == "card":
        tool, token = Tool.CARD, _token(fields, "card.card_token", method.card.card_token)
    elif kind == "bank":
        tool, token = Tool.BANK, _token(fields, "bank.bank_token", method.bank.bank_token)
    amount = fields.money("amount", method.amount, required=False)
    if amount is None:
        return PayMethod(tool, token)
    return PayMethod(tool, token, amount.amount_minor, amount.currency_code)


def _token(fields: Fields, field: str, token: str) -> str:
    """A vault token. What has the form of a card number is refused: it must never reach a table, stream or log."""
    fields.name(field, token)
    if _CARD_NUMBER.fullmatch(token):
        fields.fail(field, "has the form of a card number; give its vault token")
    return token


def _time_to_live_ms(fields: Fields, duration: Duration) -> int:
    ms = duration.seconds * 1000 + duration.nanos // 1_000_000
    if not 0 <= duration.nanos < 1_000_000_000 or not TIME_TO_LIVE_MS_MIN <= ms <= TIME_TO_LIVE_MS_MAX:
        fields.fail("time_to_live", "must be 1 second to 30 days")
    return ms
