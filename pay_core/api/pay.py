"""PayService: checks fields, translates, decides nothing."""

from __future__ import annotations

from typing import Any

from pay_core import commands, queries
from pay_core.api.fields import ACCOUNT_KIND, OWNED_NUMBERS, customer
from pay_core.api.tree import TreeApi
from pay_core.convert import payment_proto
from pay_core.ledger import KIND_OF_NUMBER, AccountKind
from pay_core.orchestration import PaymentView
from pay_core.payment import Funding, Payee
from paykit import context as business_context
from paykit.rpc.batching import serve_batch
from paykit.rpc.checks import Fields, encode_page_token
from paykit.store.command import Origin
from paykit.store.store import Store
from paymesh.pay.v1 import pay_service_pb2, pay_service_pb2_grpc, payment_pb2

_MAX_FUNDINGS = 4
_MAX_PAYEES = 16


def _funding(fields: Fields, message: payment_pb2.Funding, amount_minor: int) -> Funding:
    """A checked funding of ``amount_minor``."""
    tool = message.WhichOneof("tool")
    if tool is None:
        fields.fail("tool", "required")
    if tool == "channel":
        fields.name("channel.channel", message.channel.channel)
        fields.name("channel.token", message.channel.token)
        return Funding(amount_minor, message.channel.channel, message.channel.token)
    return Funding(amount_minor)


def _channel_funding(fields: Fields, message: payment_pb2.Funding, amount: Any) -> Funding:
    """A funding that must be a channel and, where it names an amount, name the whole."""
    funding = _funding(fields, message, amount.amount_minor)
    if message.WhichOneof("tool") == "balance":
        fields.fail("tool", "must be a channel")
    if message.HasField("amount") and message.amount != amount:
        fields.fail("amount", "must be the whole amount, or be left out")
    return funding


def _fundings(fields: Fields, request: pay_service_pb2.TransferRequest) -> list[Funding]:
    """The checked fundings of a transfer; the one without an amount takes the rest."""
    fields.count("fundings", request.fundings, 1, _MAX_FUNDINGS)
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
    if sum(funding.channel != "" for funding in result) > 1:
        fields.fail("fundings", "at most one channel")
    if sum(funding.channel == "" for funding in result) > 1:
        fields.fail("fundings", "at most one balance")
    return [funding if funding.amount_minor else funding._replace(amount_minor=rest_minor) for funding in result]


def _payees(fields: Fields, request: pay_service_pb2.TransferRequest) -> list[Payee]:
    fields.count("payees", request.payees, 1, _MAX_PAYEES)
    result = []
    for i, message in enumerate(request.payees):
        nested = fields.under(f"payees[{i}]")
        customer(nested, "owner_id", message.owner_id)
        nested.money("amount", message.amount)
        nested.same_currency("amount", message.amount, request.amount.currency_code)
        nested.enum("account_kind", message.account_kind, ACCOUNT_KIND, OWNED_NUMBERS)
        kind = KIND_OF_NUMBER.get(message.account_kind, AccountKind.USER)
        result.append(Payee(message.owner_id, kind, message.amount.amount_minor))
    if sum(payee.amount_minor for payee in result) != request.amount.amount_minor:
        fields.fail("payees", "must add up to the amount")
    return result


def _view(view: PaymentView) -> payment_pb2.Payment:
    return payment_proto(view.payment, view.chain)


class PayApi(TreeApi, pay_service_pb2_grpc.PayServiceServicer):
    """The four operations, and reads of payments."""

    def __init__(self, store: Store, result_due_ms: int) -> None:
        self._store = store
        self._result_due_ms = result_due_ms

    async def Recharge(self, request: Any, context: Any) -> Any:
        fields = Fields()
        fields.request_id(request.request_id)
        owner_id = customer(fields, "owner_id", request.owner_id)
        fields.money("amount", request.amount)
        fields.name("source_id", request.source_id, required=False)
        funding = _channel_funding(fields.under("funding"), request.funding, request.amount)
        fields.raise_if_any()
        origin = Origin.rpc(business_context.current(), "Recharge", owner_id, request.request_id, request)
        currency = request.amount.currency_code
        command = commands.recharge(origin, owner_id, currency, funding, request.source_id, self._result_due_ms)
        return pay_service_pb2.RechargeResponse(payment=_view(await self._store.run(command)))

    async def Withdraw(self, request: Any, context: Any) -> Any:
        fields = Fields()
        fields.request_id(request.request_id)
        owner_id = customer(fields, "owner_id", request.owner_id)
        fields.money("amount", request.amount)
        fields.name("source_id", request.source_id, required=False)
        target = _channel_funding(fields.under("destination"), request.destination, request.amount)
        fields.raise_if_any()
        origin = Origin.rpc(business_context.current(), "Withdraw", owner_id, request.request_id, request)
        currency = request.amount.currency_code
        command = commands.withdraw(origin, owner_id, currency, target, request.source_id, self._result_due_ms)
        return pay_service_pb2.WithdrawResponse(payment=_view(await self._store.run(command)))

    async def Transfer(self, request: Any, context: Any) -> Any:
        fields = Fields()
        fields.request_id(request.request_id)
        payer_id = customer(fields, "payer_id", request.payer_id)
        fields.money("amount", request.amount)
        fields.name("source_id", request.source_id, required=False)
        fundings, payees = _fundings(fields, request), _payees(fields, request)
        fields.raise_if_any()
        origin = Origin.rpc(business_context.current(), "Transfer", payer_id, request.request_id, request)
        command = commands.transfer(
            origin,
            payer_id,
            request.amount.currency_code,
            fundings,
            payees,
            request.source_id,
            self._result_due_ms,
        )
        return pay_service_pb2.TransferResponse(payment=_view(await self._store.run(command)))

    async def Refund(self, request: Any, context: Any) -> Any:
        fields = Fields()
        fields.request_id(request.request_id)
        payment_id = fields.id("payment_id", request.payment_id, "pay")
        fields.money("amount", request.amount)
        fields.name("source_id", request.source_id, required=False)
        fields.raise_if_any()
        origin = Origin.rpc(business_context.current(), "Refund", payment_id, request.request_id, request)
        amount = request.amount
        command = commands.Refund(
            origin, payment_id, amount.currency_code, amount.amount_minor, request.source_id, self._result_due_ms
        )
        return pay_service_pb2.RefundResponse(payment=_view(await self._store.run(command)))

    async def GetPayment(self, request: Any, context: Any) -> Any:
        fields = Fields()
        by = request.WhichOneof("by")
        if by is None:
            fields.fail("by", "required: payment_id or source_id")
        elif by == "payment_id":
            fields.id("payment_id", request.payment_id, "pay")
        else:
            fields.name("source_id", request.source_id)
        fields.raise_if_any()
        shadow = business_context.current().shadow
        if by == "payment_id":
            view = await queries.payment_by_id(self._store, request.payment_id, shadow=shadow)
        else:
            view = await queries.payment_by_source(self._store, request.source_id, shadow=shadow)
        return pay_service_pb2.GetPaymentResponse(payment=_view(view))

    async def ListPayments(self, request: Any, context: Any) -> Any:
        fields = Fields()
        payer_id = fields.name("payer_id", request.payer_id)
        size = fields.page_size(request.page_size)
        scope = f"payments {payer_id}"
        before_id = fields.page_token(request.page_token, scope, str)
        fields.raise_if_any()
        shadow = business_context.current().shadow
        rows = await queries.payments_of(self._store, payer_id, before_id, size + 1, shadow=shadow)
        token = encode_page_token(scope, rows[size - 1].id) if len(rows) > size else ""
        payments = [payment_proto(row, []) for row in rows[:size]]
        return pay_service_pb2.ListPaymentsResponse(payments=payments, next_page_token=token)

    async def BatchRecharge(self, request: Any, context: Any) -> Any:
        return await serve_batch(request, context, self.Recharge, pay_service_pb2.BatchRechargeResponse)

    async def BatchWithdraw(self, request: Any, context: Any) -> Any:
        return await serve_batch(request, context, self.Withdraw, pay_service_pb2.BatchWithdrawResponse)

    async def BatchTransfer(self, request: Any, context: Any) -> Any:
        return await serve_batch(request, context, self.Transfer, pay_service_pb2.BatchTransferResponse)

    async def BatchRefund(self, request: Any, context: Any) -> Any:
        return await serve_batch(request, context, self.Refund, pay_service_pb2.BatchRefundResponse)

    async def BatchGetPayments(self, request: Any, context: Any) -> Any:
        return await serve_batch(request, context, self.GetPayment, pay_service_pb2.BatchGetPaymentsResponse)
