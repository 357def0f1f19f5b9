"""What trade_core asks of pay_core, and what it makes of the answer. Pure.

The pay attempt's id is both ``request_id`` and ``source_id`` of the payment: asking again is the same request, and
the answer finds its way back by the id alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from google.protobuf.message import Message

from paykit.ids import is_id
from paymesh.common.v1.money_pb2 import Money
from paymesh.pay.v1 import pay_service_pb2, payment_pb2
from trade_core.tables import PayAttempt, Trade
from trade_core.trade import Share
from trade_core.types import Catalogue, Operation, PayeeKind, Tool

RECHARGE = "/paymesh.pay.v1.PayService/Recharge"
WITHDRAW = "/paymesh.pay.v1.PayService/Withdraw"
TRANSFER = "/paymesh.pay.v1.PayService/Transfer"
REFUND = "/paymesh.pay.v1.PayService/Refund"
GET_PAYMENT = "/paymesh.pay.v1.PayService/GetPayment"

REQUESTS: dict[str, type[Message]] = {
    RECHARGE: pay_service_pb2.RechargeRequest,
    WITHDRAW: pay_service_pb2.WithdrawRequest,
    TRANSFER: pay_service_pb2.TransferRequest,
    REFUND: pay_service_pb2.RefundRequest,
}

_ACCOUNT_KIND = {
    PayeeKind.MERCHANT: payment_pb2.ACCOUNT_KIND_MERCHANT,
    PayeeKind.USER: payment_pb2.ACCOUNT_KIND_USER,
}


class PayCall(NamedTuple):
    """A durable call: the method's path and its request."""

    method: str
    request: Message


class PaymentResult(msgspec.Struct, frozen=True):
    """How the payment of an attempt ended. ``amount_minor`` is the payment's whole amount."""

    attempt_id: str
    payment_id: str
    is_success: bool
    currency: str
    amount_minor: int
    failure_reason: str


def pay_call(catalogue: Catalogue, trade: Trade, attempt_id: str, shares: Sequence[Share]) -> PayCall:
    """The call that pays ``trade`` with ``shares``, as its type maps it."""
    spec = catalogue.spec(trade.trade_type)
    amount = Money(currency_code=trade.currency, amount_minor=trade.amount_minor)
    fundings = [_funding(catalogue, trade.currency, share) for share in shares]
    if spec.operation is Operation.RECHARGE:
        recharge = pay_service_pb2.RechargeRequest(
            request_id=attempt_id, owner_id=trade.buyer_id, amount=amount, funding=fundings[0], source_id=attempt_id
        )
        return PayCall(RECHARGE, recharge)
    if spec.operation is Operation.WITHDRAW:
        withdraw = pay_service_pb2.WithdrawRequest(
            request_id=attempt_id, owner_id=trade.buyer_id, amount=amount, destination=fundings[0], source_id=attempt_id
        )
        return PayCall(WITHDRAW, withdraw)
    assert spec.operation is Operation.TRANSFER, f"{trade.trade_type} is not paid by pay methods"
    payee = payment_pb2.Payee(owner_id=trade.payee_id, account_kind=_ACCOUNT_KIND[spec.payee], amount=amount)
    transfer = pay_service_pb2.TransferRequest(
        request_id=attempt_id,
        payer_id=trade.buyer_id,
        amount=amount,
        fundings=fundings,
        payees=[payee],
        source_id=attempt_id,
    )
    return PayCall(TRANSFER, transfer)


def _funding(catalogue: Catalogue, currency: str, share: Share) -> payment_pb2.Funding:
    amount = Money(currency_code=currency, amount_minor=share.amount_minor)
    if share.tool is Tool.BALANCE:
        return payment_pb2.Funding(amount=amount, balance=payment_pb2.BalanceFunding())
    channel = payment_pb2.ChannelFunding(channel=catalogue.channel(share.tool), token=share.token)
    return payment_pb2.Funding(amount=amount, channel=channel)


def refund_call(refund: Trade, paid_by: PayAttempt, attempt_id: str) -> PayCall:
    """The call that gives the money of ``refund`` back from the payment that ``paid_by`` made."""
    amount = Money(currency_code=refund.currency, amount_minor=refund.amount_minor)
    request = pay_service_pb2.RefundRequest(
        request_id=attempt_id, payment_id=paid_by.payment_id, amount=amount, source_id=attempt_id
    )
    return PayCall(REFUND, request)


def is_ours(source_id: str) -> bool:
    """Whether a payment was made for a pay attempt."""
    return is_id(source_id, "att")


def result_of(payment: payment_pb2.Payment) -> PaymentResult | None:
    """How a payment ended; None while it is under way."""
    if payment.state not in (payment_pb2.PAYMENT_STATE_SUCCEEDED, payment_pb2.PAYMENT_STATE_FAILED):
        return None
    return PaymentResult(
        attempt_id=payment.source_id,
        payment_id=payment.payment_id,
        is_success=payment.state == payment_pb2.PAYMENT_STATE_SUCCEEDED,
        currency=payment.amount.currency_code,
        amount_minor=payment.amount.amount_minor,
        failure_reason=payment.failure_reason,
    )
