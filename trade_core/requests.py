"""Requests as domain values: every field checked, and every wrong one named in one InvalidArgument."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from paykit.errors import FieldViolation
from paykit.money import INT64_MAX
from paykit.rpc.checks import Fields
from paymesh.common.v1.money_pb2 import Money
from paymesh.trade.v1 import trade_pb2, trade_service_pb2
from trade_core import trade as domain
from trade_core import wire
from trade_core.catalogue import TRADE_TYPES, Catalogue
from trade_core.parts import PartInput, merge_violations, part_violations
from trade_core.steps import LineInput, NewTrade
from trade_core.trade import PayMethod
from trade_core.types import (
    HOLD_TIME_TO_LIVE_MS_MAX,
    PAY_METHODS_MAX,
    TIME_TO_LIVE_MS_MAX,
    TIME_TO_LIVE_MS_MIN,
    Settlement,
    Tool,
    TradeTypeSpec,
)

LINES_MAX = 100
TEXT_MAX = 255
PARTS_MAX = 60  # of any type; parts.PARTS_MAX has each type's own
IDS_MAX = 16
_SECONDS_MAX = 32_503_680_000  # the year 3000

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
    parts = _parts(fields, request)
    for i, trade_id in enumerate(request.merged_trade_ids[:IDS_MAX]):
        fields.id(f"merged_trade_ids[{i}]", trade_id, "trd")
    fields.count("merged_trade_ids", request.merged_trade_ids, 0, IDS_MAX)
    ttl_ms, hold_ms = None, None
    if request.HasField("time_to_live"):
        ttl_ms = _duration_ms(fields, "time_to_live", request.time_to_live, TIME_TO_LIVE_MS_MAX)
    if request.HasField("hold_time_to_live"):
        hold_ms = _duration_ms(fields, "hold_time_to_live", request.hold_time_to_live, HOLD_TIME_TO_LIVE_MS_MAX)
    fields.raise_if_any()
    spec = catalogue.spec(wire.TYPE_BY_NUMBER[number])
    fields.violations += _type_violations(spec, request, pay_methods, parts)
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
        hold_time_to_live_ms=spec.hold_time_to_live_ms if hold_ms is None else hold_ms,
        lines=lines,
        pay_methods=pay_methods,
        parts=parts,
        merged_trade_ids=tuple(request.merged_trade_ids),
    )


def _type_violations(
    spec: TradeTypeSpec,
    request: trade_service_pb2.CreateTradeRequest,
    pay_methods: Sequence[PayMethod],
    parts: Sequence[PartInput],
) -> list[FieldViolation]:
    """What does not go with the type, in a request whose fields are each in form."""
    amount = request.amount
    found = domain.payee_violations(spec, request.buyer_id, request.payee_id)
    found += domain.method_violations(spec, pay_methods)
    number = request.merchant_order_no
    found += part_violations(spec, request.payee_id, amount.currency_code, amount.amount_minor, parts, number)
    found += merge_violations(spec, request.buyer_id, request.merged_trade_ids)
    if request.HasField("hold_time_to_live") and spec.settlement is Settlement.IMMEDIATE:
        found.append(FieldViolation("hold_time_to_live", f"{spec.trade_type} holds nothing"))
    return found


def _parts(fields: Fields, request: trade_service_pb2.CreateTradeRequest) -> list[PartInput]:
    fields.count("parts", request.parts, 0, PARTS_MAX)
    found = []
    for i, part in enumerate(request.parts[:PARTS_MAX]):
        nested = fields.under(f"parts[{i}]")
        nested.name("payee_id", part.payee_id, required=False)
        nested.money("amount", part.amount)
        if part.merchant_order_no:
            nested.request_id(part.merchant_order_no, "merchant_order_no")
        due_at_ms = _time_ms(nested, "due_time", part.due_time) if part.HasField("due_time") else None
        found.append(
            PartInput(
                amount_minor=part.amount.amount_minor,
                currency=part.amount.currency_code,
                payee_id=part.payee_id,
                merchant_order_no=part.merchant_order_no,
                due_at_ms=due_at_ms,
            )
        )
    return found


def _time_ms(fields: Fields, field: str, time: Timestamp) -> int:
    if not 0 <= time.nanos < 1_000_000_000 or not 0 <= time.seconds < _SECONDS_MAX:
        fields.fail(field, "is no time of this era")
        return 0
    return time.seconds * 1000 + time.nanos // 1_000_000


def payment(request: trade_service_pb2.PayTradeRequest) -> list[PayMethod]:
    """The pay methods of a PayTrade request; whether the trade takes them is decided when it is known."""
    fields = Fields()
    fields.request_id(request.request_id)
    fields.id("trade_id", request.trade_id, "trd")
    pay_methods = _pay_methods(fields, request.pay_methods, minimum=1)
    fields.raise_if_any()
    return pay_methods


def _amount_given(fields: Fields, message: Any) -> Money | None:
    """The ``amount`` of a message; None where it is left out. An empty one is none: it must not mean all there is."""
    return fields.money("amount", message.amount, required=message.HasField("amount"))


def check_refund(request: trade_service_pb2.RefundTradeRequest) -> int | None:
    """The amount a RefundTrade request asks for; None for all that is left."""
    fields = Fields()
    fields.request_id(request.request_id)
    fields.id("trade_id", request.trade_id, "trd")
    amount = _amount_given(fields, request)
    fields.text("reason", request.reason, TEXT_MAX)
    fields.raise_if_any()
    return None if amount is None else amount.amount_minor


def check_ending(request: trade_service_pb2.CloseTradeRequest | trade_service_pb2.VoidTradeRequest) -> None:
    """A CloseTrade or VoidTrade request."""
    fields = Fields()
    fields.request_id(request.request_id)
    fields.id("trade_id", request.trade_id, "trd")
    fields.text("reason", request.reason, TEXT_MAX)
    fields.raise_if_any()


def check_capture(request: trade_service_pb2.CaptureTradeRequest) -> int | None:
    """The amount a CaptureTrade request asks for; None for all that is held."""
    fields = Fields()
    fields.request_id(request.request_id)
    fields.id("trade_id", request.trade_id, "trd")
    amount = _amount_given(fields, request)
    fields.raise_if_any()
    return None if amount is None else amount.amount_minor


def check_reprice(request: trade_service_pb2.RepriceTradeRequest) -> Money:
    """What a RepriceTrade request says the trade costs now."""
    fields = Fields()
    fields.request_id(request.request_id)
    fields.id("trade_id", request.trade_id, "trd")
    fields.money("amount", request.amount)
    fields.text("reason", request.reason, TEXT_MAX)
    fields.raise_if_any()
    return request.amount


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
    match method.WhichOneof("tool"):
        case None:
            fields.fail("tool", "required")
        case "card":
            tool, token = Tool.CARD, _token(fields, "card.card_token", method.card.card_token)
        case "bank":
            tool, token = Tool.BANK, _token(fields, "bank.bank_token", method.bank.bank_token)
        case "wallet":
            tool, token = Tool.WALLET, _token(fields, "wallet.wallet_token", method.wallet.wallet_token)
        case "coupon":
            tool, token = Tool.COUPON, fields.id("coupon.coupon_id", method.coupon.coupon_id, "cpn")
        case "points":
            tool = Tool.POINTS
    amount = _amount_given(fields, method)
    if amount is None:
        return PayMethod(tool, token)
    return PayMethod(tool, token, amount.amount_minor, amount.currency_code)


def _token(fields: Fields, field: str, token: str) -> str:
    """A vault token. What has the form of a card number is refused: it must never reach a table, stream or log."""
    fields.name(field, token)
    if _CARD_NUMBER.fullmatch(token):
        fields.fail(field, "has the form of a card number; give its vault token")
    return token


def _duration_ms(fields: Fields, field: str, duration: Duration, ms_max: int) -> int:
    ms = duration.seconds * 1000 + duration.nanos // 1_000_000
    if not 0 <= duration.nanos < 1_000_000_000 or not TIME_TO_LIVE_MS_MIN <= ms <= ms_max:
        fields.fail(field, f"must be 1 second to {ms_max // 86_400_000} days")
    return ms
