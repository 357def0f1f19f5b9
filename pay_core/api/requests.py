"""Requests that begin a payment, checked field by field and put as an Order, or as the Refund they ask for."""

from __future__ import annotations

from typing import Any

from pay_core.api.fields import ACCOUNT_KIND, OWNED_NUMBERS, customer
from pay_core.chains import Order
from pay_core.commands import Refund
from pay_core.ledger import KIND_OF_NUMBER, AccountKind
from pay_core.payment import BALANCE, CHANNEL, COUPON, POINTS, Funding, Instrument, Operation, Payee, SettlementMode
from pay_core.terms import Terms
from paykit.rpc.checks import Fields
from paykit.store.command import Origin
from paymesh.pay.v1 import pay_service_pb2, payment_pb2

FUNDINGS_MAX = 8
_PAYEES_MAX = 16
_TTL_S_DEFAULT = 7 * 86_400
_TTL_S_MAX = 400 * 86_400

_INSTRUMENT: Any = payment_pb2.Instrument
_MODE: Any = payment_pb2.SettlementMode
_TOOL_OF = {"balance": BALANCE, "channel": CHANNEL, "coupon": COUPON, "points": POINTS}
_ONCE = (BALANCE, POINTS)  # tools of which a payment has at most one funding


def _funding(fields: Fields, message: payment_pb2.Funding, amount_minor: int) -> Funding:
    """A checked funding of ``amount_minor``."""
    chosen = message.WhichOneof("tool")
    if chosen is None:
        fields.fail("tool", "required")
        return Funding(amount_minor)
    if chosen == "coupon":
        return Funding(amount_minor, COUPON, token=fields.id("coupon.coupon_id", message.coupon.coupon_id, "cpn"))
    if chosen != "channel":
        return Funding(amount_minor, _TOOL_OF[chosen])
    channel = fields.name("channel.channel", message.channel.channel, required=False)
    token = fields.name("channel.token", message.channel.token)
    number = message.channel.instrument
    if number:
        fields.enum("channel.instrument", number, _INSTRUMENT)
    elif not channel:
        fields.fail("channel.instrument", "required where no channel is named")
    instrument = ""
    if number and number in _INSTRUMENT.values():
        instrument = Instrument(_INSTRUMENT.Name(number).removeprefix("INSTRUMENT_")).value
    return Funding(amount_minor, CHANNEL, channel, token, instrument)


def _channel_funding(fields: Fields, message: payment_pb2.Funding, amount: Any) -> Funding:
    """A funding that must be a channel and, where it names an amount, name the whole."""
    funding = _funding(fields, message, amount.amount_minor)
    if message.WhichOneof("tool") not in (None, "channel"):
        fields.fail("tool", "must be a channel")
    if message.HasField("amount") and message.amount != amount:
        fields.fail("amount", "must be the whole amount, or be left out")
    return funding


def _fundings(fields: Fields, request: pay_service_pb2.TransferRequest) -> tuple[Funding, ...]:
    """The checked fundings of a transfer; the one without an amount takes the rest."""
    fields.count("fundings", request.fundings, 1, FUNDINGS_MAX)
    named_minor, open_count, result = 0, 0, []
    for i, message in enumerate(request.fundings):
        nested = fields.under(f"fundings[{i}]")
        if message.HasField("amount"):
            nested.money("amount", message.amount)
            nested.same_currency("amount", message.amount, request.amount.currency_code)
            named_minor += message.amount.amount_minor
        else:
            open_count += 1
        result.append(_funding(nested, message, message.amount.amount_minor))
    rest_minor = request.amount.amount_minor - named_minor
    if open_count > 1 or (open_count == 1 and rest_minor <= 0) or (open_count == 0 and rest_minor != 0):
        fields.fail("fundings", "must add up to the amount; at most one may leave its amount out")
    for tool in _ONCE:
        if sum(funding.tool == tool for funding in result) > 1:
            fields.fail("fundings", f"at most one {tool}")
    coupons = [funding.token for funding in result if funding.tool == COUPON]
    if len(set(coupons)) < len(coupons):
        fields.fail("fundings", "each coupon once")
    return tuple(
        [
            funding if funding.amount_minor else funding._replace(amount_minor=rest_minor, takes_rest=True)
            for funding in result
        ]
    )


def _payees(fields: Fields, request: pay_service_pb2.TransferRequest) -> tuple[Payee, ...]:
    fields.count("payees", request.payees, 1, _PAYEES_MAX)
    result = []
    for i, message in enumerate(request.payees):
        nested = fields.under(f"payees[{i}]")
        customer(nested, "owner_id", message.owner_id)
        nested.money("amount", message.amount)
        nested.same_currency("amount", message.amount, request.amount.currency_code)
        nested.enum("account_kind", message.account_kind, ACCOUNT_KIND, OWNED_NUMBERS)
        nested.name("reference", message.reference, required=False)
        kind = KIND_OF_NUMBER.get(message.account_kind, AccountKind.USER)
        result.append(Payee(message.owner_id, kind, message.amount.amount_minor, message.reference))
    if sum(payee.amount_minor for payee in result) != request.amount.amount_minor:
        fields.fail("payees", "must add up to the amount")
    return tuple(result)


def _request_id(fields: Fields, request: Any, is_preview: bool) -> None:
    if request.request_id or not is_preview:
        fields.request_id(request.request_id)


def _outside(operation: Operation, field: str, request: Any, is_preview: bool) -> Order:
    fields = Fields()
    _request_id(fields, request, is_preview)
    owner_id = customer(fields, "owner_id", request.owner_id)
    fields.money("amount", request.amount)
    fields.name("source_id", request.source_id, required=False)
    funding = _channel_funding(fields.under(field), getattr(request, field), request.amount)
    fields.raise_if_any()
    return Order(operation, owner_id, request.amount.currency_code, request.amount.amount_minor, (funding,))


def recharge_order(request: pay_service_pb2.RechargeRequest, *, is_preview: bool = False) -> Order:
    """A checked recharge; InvalidArgument."""
    return _outside(Operation.RECHARGE, "funding", request, is_preview)


def withdraw_order(request: pay_service_pb2.WithdrawRequest, *, is_preview: bool = False) -> Order:
    """A checked withdrawal; InvalidArgument."""
    return _outside(Operation.WITHDRAW, "destination", request, is_preview)


def transfer_order(request: pay_service_pb2.TransferRequest, *, is_preview: bool = False) -> Order:
    """A checked transfer; InvalidArgument."""
    fields = Fields()
    _request_id(fields, request, is_preview)
    payer_id = customer(fields, "payer_id", request.payer_id)
    fields.money("amount", request.amount)
    fields.name("source_id", request.source_id, required=False)
    fundings, payees = _fundings(fields, request), _payees(fields, request)
    mode, ttl_s = _settlement(fields, request)
    fields.raise_if_any()
    amount = request.amount
    expires_in_ms = None if mode == SettlementMode.IMMEDIATE else 1000 * ttl_s
    return Order(
        Operation.TRANSFER,
        payer_id,
        amount.currency_code,
        amount.amount_minor,
        fundings,
        payees,
        mode,
        expires_in_ms,
    )


def _settlement(fields: Fields, request: pay_service_pb2.TransferRequest) -> tuple[SettlementMode, int]:
    number = request.settlement_mode
    if number not in _MODE.values():
        fields.fail("settlement_mode", f"{number} is not a value of SettlementMode")
        return SettlementMode.IMMEDIATE, 0
    mode = SettlementMode(_MODE.Name(number).removeprefix("SETTLEMENT_MODE_")) if number else SettlementMode.IMMEDIATE
    if not request.HasField("time_to_live"):
        return mode, _TTL_S_DEFAULT
    ttl_s = request.time_to_live.seconds
    if not 1 <= ttl_s <= _TTL_S_MAX:
        fields.fail("time_to_live", "must be 1 second to 400 days")
    return mode, ttl_s


def check_refund(request: pay_service_pb2.RefundRequest, *, is_preview: bool = False) -> None:
    """InvalidArgument where a field is wrong."""
    fields = Fields()
    _request_id(fields, request, is_preview)
    fields.id("payment_id", request.payment_id, "pay")
    fields.money("amount", request.amount)
    fields.name("source_id", request.source_id, required=False)
    fields.name("payee_reference", request.payee_reference, required=False)
    fields.raise_if_any()


def refund_command(origin: Origin, request: pay_service_pb2.RefundRequest, terms: Terms) -> Refund:
    """A checked refund as its command."""
    return Refund(
        origin,
        request.payment_id,
        request.amount.currency_code,
        request.amount.amount_minor,
        request.source_id,
        terms,
        payee_reference=request.payee_reference,
        is_repair=request.is_repair,
    )
