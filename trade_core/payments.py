"""What trade_core asks of pay_core, and what it makes of the answer. Pure.

The pay attempt's id is both ``request_id`` and ``source_id`` of the payment: asking again is the same request, and
the answer finds its way back by the id alone. A capture or void of it has a request id of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
from google.protobuf.message import Message

from paykit.ids import is_id
from paymesh.common.v1.money_pb2 import Money
from paymesh.pay.v1 import pay_service_pb2, payment_pb2
from trade_core.parts import PartPayee
from trade_core.tables import PayAttempt, Trade
from trade_core.trade import Share
from trade_core.types import HOLD_MARGIN_MS, HoldExpiry, Operation, PayeeKind, Settlement, Tool, TradeTypeSpec

_SERVICE = "/paymesh.pay.v1.PayService"
RECHARGE = f"{_SERVICE}/Recharge"
WITHDRAW = f"{_SERVICE}/Withdraw"
TRANSFER = f"{_SERVICE}/Transfer"
REFUND = f"{_SERVICE}/Refund"
CAPTURE = f"{_SERVICE}/CapturePayment"
VOID = f"{_SERVICE}/VoidPayment"
GET_PAYMENT = f"{_SERVICE}/GetPayment"

REQUESTS: dict[str, type[Message]] = {
    RECHARGE: pay_service_pb2.RechargeRequest,
    WITHDRAW: pay_service_pb2.WithdrawRequest,
    TRANSFER: pay_service_pb2.TransferRequest,
    REFUND: pay_service_pb2.RefundRequest,
    CAPTURE: pay_service_pb2.CapturePaymentRequest,
    VOID: pay_service_pb2.VoidPaymentRequest,
}

PAYING = frozenset({RECHARGE, WITHDRAW, TRANSFER, REFUND})  # those that make a payment

_ACCOUNT_KIND = {
    PayeeKind.MERCHANT: payment_pb2.ACCOUNT_KIND_MERCHANT,
    PayeeKind.USER: payment_pb2.ACCOUNT_KIND_USER,
}


_MODE = {
    Settlement.IMMEDIATE: payment_pb2.SETTLEMENT_MODE_UNSPECIFIED,
    Settlement.AUTHORIZE: payment_pb2.SETTLEMENT_MODE_AUTHORIZE,
    Settlement.ESCROW: payment_pb2.SETTLEMENT_MODE_ESCROW,
}
_INSTRUMENT = {
    Tool.CARD: payment_pb2.INSTRUMENT_CARD,
    Tool.BANK: payment_pb2.INSTRUMENT_BANK_ACCOUNT,
    Tool.WALLET: payment_pb2.INSTRUMENT_WALLET,
}
_RETURN = "return"


class PayCall(NamedTuple):
    """A durable call: the method's path and its request."""

    method: str
    request: Message


class PaymentOutcome(StrEnum):
    """Where a payment can rest."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    AUTHORIZED = "AUTHORIZED"
    VOIDED = "VOIDED"


class PaymentResult(msgspec.Struct, frozen=True):
    """How the payment of an attempt ended, or rests. ``amount_minor`` is the payment's whole amount.

    ``version`` is the payment's: news of a lower one is old. ``expires_at_ms``: of an AUTHORIZED one, when pay_core
    voids it by itself.
    """

    attempt_id: str
    payment_id: str
    outcome: PaymentOutcome
    currency: str
    amount_minor: int
    captured_minor: int
    failure_reason: str
    version: int
    expires_at_ms: int | None = None


def pay_call(
    spec: TradeTypeSpec, trade: Trade, attempt_id: str, shares: Sequence[Share], payees: Sequence[PartPayee] = ()
) -> PayCall:
    """The call that pays ``trade``, of type ``spec``, with ``shares``; ``payees`` where its parts are paid with it."""
    amount = Money(currency_code=trade.currency, amount_minor=trade.amount_minor)
    fundings = [_funding(trade.currency, share) for share in shares]
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
    transfer = pay_service_pb2.TransferRequest(
        request_id=attempt_id,
        payer_id=trade.buyer_id,
        amount=amount,
        fundings=fundings,
        payees=_payees(spec, trade, amount, payees),
        source_id=attempt_id,
        settlement_mode=_MODE[spec.settlement],
    )
    if spec.settlement is not Settlement.IMMEDIATE:
        # Where the trade's timer captures, it must come before pay_core gives the money back.
        margin_ms = HOLD_MARGIN_MS if spec.on_hold_expiry is HoldExpiry.CAPTURE else 0
        transfer.time_to_live.FromMilliseconds(trade.hold_time_to_live_ms + margin_ms)
    return PayCall(TRANSFER, transfer)


def _payees(spec: TradeTypeSpec, trade: Trade, amount: Money, parts: Sequence[PartPayee]) -> list[payment_pb2.Payee]:
    if not parts:
        return [payment_pb2.Payee(owner_id=trade.payee_id, account_kind=_ACCOUNT_KIND[spec.payee], amount=amount)]
    return [
        payment_pb2.Payee(
            owner_id=part.owner_id,
            account_kind=_ACCOUNT_KIND[part.kind],
            amount=Money(currency_code=trade.currency, amount_minor=part.amount_minor),
            reference=part.reference,
        )
        for part in parts
    ]


def _funding(currency: str, share: Share) -> payment_pb2.Funding:
    amount = Money(currency_code=currency, amount_minor=share.amount_minor)
    if share.tool is Tool.BALANCE:
        return payment_pb2.Funding(amount=amount, balance=payment_pb2.BalanceFunding())
    if share.tool is Tool.POINTS:
        return payment_pb2.Funding(amount=amount, points=payment_pb2.PointsFunding())
    if share.tool is Tool.COUPON:
        return payment_pb2.Funding(amount=amount, coupon=payment_pb2.CouponFunding(coupon_id=share.token))
    # Which channel serves it is for pay_core's rules to say.
    channel = payment_pb2.ChannelFunding(instrument=_INSTRUMENT[share.tool], token=share.token)
    return payment_pb2.Funding(amount=amount, channel=channel)


def refund_call(refund: Trade, paid_by: PayAttempt, attempt_id: str, payee_reference: str = "") -> PayCall:
    """The call that gives the money of ``refund`` back from the payment that ``paid_by`` made.

    ``payee_reference`` narrows it to what one part's payee got. One that nobody asked for must not fail.
    """
    amount = Money(currency_code=refund.currency, amount_minor=refund.amount_minor)
    request = pay_service_pb2.RefundRequest(
        request_id=attempt_id,
        payment_id=paid_by.payment_id,
        amount=amount,
        source_id=attempt_id,
        payee_reference=payee_reference,
        is_repair=bool(refund.purpose),
    )
    return PayCall(REFUND, request)


def capture_call(trade: Trade, attempt: PayAttempt, amount_minor: int | None, keep_rest: bool) -> PayCall:
    """The call that takes held money of ``trade``; ``amount_minor`` None takes all that is still held."""
    request = pay_service_pb2.CapturePaymentRequest(
        request_id=settle_id(trade, attempt), payment_id=attempt.payment_id, keep_rest=keep_rest
    )
    if amount_minor is not None:
        request.amount.CopyFrom(Money(currency_code=trade.currency, amount_minor=amount_minor))
    return PayCall(CAPTURE, request)


def void_call(trade: Trade, attempt: PayAttempt) -> PayCall:
    """The call that lets held money of ``trade`` go."""
    request = pay_service_pb2.VoidPaymentRequest(
        request_id=settle_id(trade, attempt), payment_id=attempt.payment_id, reason=trade.reason
    )
    return PayCall(VOID, request)


def return_call(attempt: PayAttempt, reason: str) -> PayCall:
    """The call that lets money go which was held for a trade that does not want it (any more)."""
    request_id = f"{attempt.id}/{_RETURN}"
    return PayCall(
        VOID,
        pay_service_pb2.VoidPaymentRequest(request_id=request_id, payment_id=attempt.payment_id, reason=reason),
    )


def settle_id(trade: Trade, attempt: PayAttempt) -> str:
    """The request id of a trade's latest capture or void: "<attempt id>/<number>"."""
    return f"{attempt.id}/{trade.settle_count}"


def attempt_in(request: Any) -> str:
    """The attempt that a request of ours is about."""
    attempt_id: str = request.request_id.partition("/")[0]
    return attempt_id


def is_settlement(request_id: str) -> bool:
    """Whether a request is a capture or void."""
    return "/" in request_id


def is_return(request_id: str) -> bool:
    """Whether a void is a ``return_call``."""
    return request_id.endswith(f"/{_RETURN}")


def is_ours(source_id: str) -> bool:
    """Whether a payment was made for a pay attempt."""
    return is_id(source_id, "att")


_OUTCOME = {
    payment_pb2.PAYMENT_STATE_SUCCEEDED: PaymentOutcome.SUCCEEDED,
    payment_pb2.PAYMENT_STATE_FAILED: PaymentOutcome.FAILED,
    payment_pb2.PAYMENT_STATE_AUTHORIZED: PaymentOutcome.AUTHORIZED,
    payment_pb2.PAYMENT_STATE_VOIDED: PaymentOutcome.VOIDED,
}
_HELD = (payment_pb2.SETTLEMENT_MODE_AUTHORIZE, payment_pb2.SETTLEMENT_MODE_ESCROW)


def result_of(payment: payment_pb2.Payment) -> PaymentResult | None:
    """How a payment ended or rests; None while it is under way."""
    outcome = _OUTCOME.get(payment.state)
    if outcome is None:
        return None
    captured_minor = payment.captured_minor
    if outcome is PaymentOutcome.SUCCEEDED and payment.settlement_mode not in _HELD:
        captured_minor = payment.amount.amount_minor
    return PaymentResult(
        attempt_id=payment.source_id,
        payment_id=payment.payment_id,
        outcome=outcome,
        currency=payment.amount.currency_code,
        amount_minor=payment.amount.amount_minor,
        captured_minor=captured_minor,
        failure_reason=payment.failure_reason,
        version=payment.version,
        expires_at_ms=payment.expire_time.ToMilliseconds() if payment.HasField("expire_time") else None,
    )
