"""Rows as the messages of the contract. The names of states and kinds are the same on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp

from paymesh.common.v1.money_pb2 import Money
from paymesh.event.v1.events_pb2 import TradeEvent
from paymesh.trade.v1 import trade_pb2
from trade_core.tables import PayAttempt, Trade, TradeLine, TradeRelation
from trade_core.trade import AttemptState, RelationKind, TradeState
from trade_core.types import TradeType

V = TypeVar("V")


def _numbers(names: type[StrEnum], prefix: str, values: Sequence[tuple[str, V]]) -> dict[str, V]:
    by_name = dict(values)
    return {name.value: by_name[prefix + name.value] for name in names}


TRADE_TYPE = _numbers(TradeType, "TRADE_TYPE_", trade_pb2.TradeType.items())
TRADE_STATE = _numbers(TradeState, "TRADE_STATE_", trade_pb2.TradeState.items())
ATTEMPT_STATE = _numbers(AttemptState, "ATTEMPT_STATE_", trade_pb2.AttemptState.items())
RELATION_KIND = _numbers(RelationKind, "RELATION_KIND_", trade_pb2.RelationKind.items())
TYPE_BY_NUMBER: dict[int, TradeType] = {number: TradeType(name) for name, number in TRADE_TYPE.items()}


class TradeView(msgspec.Struct, frozen=True, array_like=True):
    """A trade with as many of its parts as the occasion asks for."""

    trade: Trade
    lines: list[TradeLine] = []
    attempts: list[PayAttempt] = []
    relations: list[TradeRelation] = []


def timestamp(ms: int) -> Timestamp:
    """Unix milliseconds as a message."""
    seconds, rest = divmod(ms, 1000)
    return Timestamp(seconds=seconds, nanos=rest * 1_000_000)


def trade(view: TradeView) -> trade_pb2.Trade:
    """A trade and its parts."""
    row = view.trade
    message = trade_pb2.Trade(
        trade_id=row.id,
        biz_id=row.biz_id,
        trade_type=TRADE_TYPE[row.trade_type],
        state=TRADE_STATE[row.state],
        buyer_id=row.buyer_id,
        payee_id=row.payee_id,
        merchant_order_no=row.merchant_order_no,
        scene=row.scene,
        amount=Money(currency_code=row.currency, amount_minor=row.amount_minor),
        refunded_minor=row.refunded_minor,
        refundable_minor=row.refundable_minor,
        reason=row.reason,
        create_time=timestamp(row.created_at_ms),
        version=row.version,
        lines=[_line(line) for line in view.lines],
        attempts=[attempt(item, row.currency) for item in view.attempts],
        relations=[_relation(item) for item in view.relations],
        paid_minor=row.paid_minor,
        group_trade_id=row.group_trade_id,
        parent_trade_id=row.parent_trade_id,
        purpose=row.purpose,
    )
    if row.paid_at_ms is not None:
        message.paid_time.CopyFrom(timestamp(row.paid_at_ms))
    if row.expires_at_ms is not None:
        message.expire_time.CopyFrom(timestamp(row.expires_at_ms))
    if row.hold_expires_at_ms is not None:
        message.hold_expire_time.CopyFrom(timestamp(row.hold_expires_at_ms))
    return message


def _line(row: TradeLine) -> trade_pb2.TradeLine:
    price = Money(currency_code=row.currency, amount_minor=row.unit_price_minor)
    return trade_pb2.TradeLine(sku=row.sku, title=row.title, quantity=row.quantity, unit_price=price)


def attempt(row: PayAttempt, currency: str) -> trade_pb2.PayAttempt:
    """One attempt to pay; ``currency`` is its trade's."""
    return trade_pb2.PayAttempt(
        attempt_id=row.id,
        attempt_no=row.attempt_no,
        state=ATTEMPT_STATE[row.state],
        payment_id=row.payment_id,
        failure_reason=row.failure_reason,
        amount=Money(currency_code=currency, amount_minor=row.amount_minor),
        awaits_customer=bool(row.awaits_customer),
        finish_time=None if row.finished_at_ms is None else timestamp(row.finished_at_ms),
    )


def _relation(row: TradeRelation) -> trade_pb2.TradeRelation:
    return trade_pb2.TradeRelation(
        root_trade_id=row.root_trade_id,
        parent_trade_id=row.parent_trade_id,
        child_trade_id=row.child_trade_id,
        kind=RELATION_KIND[row.kind],
    )


def event(row: Trade, attempt_: PayAttempt | None = None) -> TradeEvent:
    """What is published about a trade that changed; ``attempt_`` is the one that did it, where one did."""
    attempts = [] if attempt_ is None else [attempt_]
    payment_id = "" if attempt_ is None else attempt_.payment_id
    return TradeEvent(trade=trade(TradeView(row, attempts=attempts)), payment_id=payment_id)


def with_later(message: trade_pb2.Trade, later: trade_pb2.Trade) -> trade_pb2.Trade:
    """``message`` brought up to a later state of the same trade, keeping the parts that ``later`` leaves out."""
    result = trade_pb2.Trade()
    result.CopyFrom(later)
    if not later.lines:
        result.lines.extend(message.lines)
    if not later.relations:
        result.relations.extend(message.relations)
    attempts = {item.attempt_id: item for item in message.attempts} | {item.attempt_id: item for item in later.attempts}
    del result.attempts[:]
    result.attempts.extend(sorted(attempts.values(), key=lambda item: item.attempt_no))
    return result
