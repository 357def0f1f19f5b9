"""What orders are made of: amounts, pay methods and parts, in the scenarios' currency."""

from __future__ import annotations

import time

from google.protobuf.timestamp_pb2 import Timestamp

from paymesh.common.v1.money_pb2 import Money
from paymesh.trade.v1 import trade_pb2

CURRENCY = "EUR"


def money(amount_minor: int) -> Money:
    """An amount in the scenarios' currency."""
    return Money(currency_code=CURRENCY, amount_minor=amount_minor)


def card(token: str = "tok_ok", amount_minor: int | None = None) -> trade_pb2.PayMethod:
    """Pays by card; the sandbox provider behaves as the token says."""
    return _method(trade_pb2.PayMethod(card=trade_pb2.CardTool(card_token=token)), amount_minor)


def wallet(token: str = "tok_ok", amount_minor: int | None = None) -> trade_pb2.PayMethod:
    """Pays by external wallet; the token says when its customer confirms."""
    return _method(trade_pb2.PayMethod(wallet=trade_pb2.WalletTool(wallet_token=token)), amount_minor)


def coupon(coupon_id: str, amount_minor: int) -> trade_pb2.PayMethod:
    """Pays with one of the buyer's coupons."""
    return _method(trade_pb2.PayMethod(coupon=trade_pb2.CouponTool(coupon_id=coupon_id)), amount_minor)


def points(amount_minor: int) -> trade_pb2.PayMethod:
    """Pays with the buyer's points."""
    return _method(trade_pb2.PayMethod(points=trade_pb2.PointsTool()), amount_minor)


def part(amount_minor: int, payee_id: str = "", due_time: Timestamp | None = None) -> trade_pb2.TradePart:
    """A part of a new order: of a split by its payee, of a plan by when it is due."""
    return trade_pb2.TradePart(payee_id=payee_id, amount=money(amount_minor), due_time=due_time)


def in_days(days: int) -> Timestamp:
    """So many days from now."""
    return Timestamp(seconds=int(time.time()) + days * 86_400)


def bank(token: str = "tok_ok") -> trade_pb2.PayMethod:
    """Pays out to a bank account."""
    return trade_pb2.PayMethod(bank=trade_pb2.BankTool(bank_token=token))


def from_balance(amount_minor: int | None = None) -> trade_pb2.PayMethod:
    """Pays from the buyer's balance."""
    return _method(trade_pb2.PayMethod(balance=trade_pb2.BalanceTool()), amount_minor)


def _method(method: trade_pb2.PayMethod, amount_minor: int | None) -> trade_pb2.PayMethod:
    if amount_minor is not None:
        method.amount.CopyFrom(money(amount_minor))
    return method
