"""PayService: checks fields, translates, decides nothing."""

from __future__ import annotations

from typing import Any

from pay_core import queries
from pay_core.api.cases import CaseApi
from pay_core.api.preview import PreviewApi
from pay_core.api.requests import check_refund, recharge_order, refund_command, transfer_order, withdraw_order
from pay_core.api.tree import TreeApi
from pay_core.capture import CapturePayment, VoidPayment
from pay_core.chains import Order
from pay_core.commands import StartPayment
from pay_core.convert import payment_proto
from pay_core.orchestration import PaymentView
from pay_core.terms import TermsBook
from paykit import context as business_context
from paykit.rpc.batching import serve_batch
from paykit.rpc.channels import Channels
from paykit.rpc.checks import Fields, encode_page_token
from paykit.store.command import Command, Origin
from paykit.store.store import Store
from paymesh.pay.v1 import pay_service_pb2, pay_service_pb2_grpc, payment_pb2


class PayApi(CaseApi, PreviewApi, TreeApi, pay_service_pb2_grpc.PayServiceServicer):
    """The four operations, captures and voids, and reads of payments."""

    def __init__(self, store: Store, terms: TermsBook, channels: Channels) -> None:
        """``channels``: for PreviewPayment alone, which asks channel_gateway for routes."""
        self._store = store
        self._terms = terms
        self._channels = channels

    async def Recharge(self, request: Any, context: Any) -> Any:
        return pay_service_pb2.RechargeResponse(payment=await self._start("Recharge", recharge_order(request), request))

    async def Withdraw(self, request: Any, context: Any) -> Any:
        return pay_service_pb2.WithdrawResponse(payment=await self._start("Withdraw", withdraw_order(request), request))

    async def Transfer(self, request: Any, context: Any) -> Any:
        return pay_service_pb2.TransferResponse(payment=await self._start("Transfer", transfer_order(request), request))

    async def _start(self, method: str, order: Order, request: Any) -> payment_pb2.Payment:
        origin = Origin.rpc(business_context.current(), method, order.payer_id, request.request_id, request)
        return await self._run(StartPayment(origin, order, request.source_id, self._terms.now()))

    async def _run(self, command: Command[PaymentView]) -> payment_pb2.Payment:
        view = await self._store.run(command)
        return payment_proto(view.payment, view.chain)

    async def Refund(self, request: Any, context: Any) -> Any:
        check_refund(request)
        origin = Origin.rpc(business_context.current(), "Refund", request.payment_id, request.request_id, request)
        command = refund_command(origin, request, self._terms.now())
        return pay_service_pb2.RefundResponse(payment=await self._run(command))

    async def CapturePayment(self, request: Any, context: Any) -> Any:
        fields = Fields()
        fields.request_id(request.request_id)
        payment_id = fields.id("payment_id", request.payment_id, "pay")
        amount = request.amount
        fields.money("amount", amount, required=False)
        fields.raise_if_any()
        origin = Origin.rpc(business_context.current(), "CapturePayment", payment_id, request.request_id, request)
        command = CapturePayment(
            origin, payment_id, amount.currency_code, amount.amount_minor, request.keep_rest, self._terms.now()
        )
        return pay_service_pb2.CapturePaymentResponse(payment=await self._run(command))

    async def VoidPayment(self, request: Any, context: Any) -> Any:
        fields = Fields()
        fields.request_id(request.request_id)
        payment_id = fields.id("payment_id", request.payment_id, "pay")
        reason = fields.name("reason", request.reason, required=False)
        if len(reason) > 32:
            fields.fail("reason", "at most 32 characters")
        fields.raise_if_any()
        origin = Origin.rpc(business_context.current(), "VoidPayment", payment_id, request.request_id, request)
        command = VoidPayment(origin, payment_id, reason, self._terms.now())
        return pay_service_pb2.VoidPaymentResponse(payment=await self._run(command))

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
        return pay_service_pb2.GetPaymentResponse(payment=payment_proto(view.payment, view.chain))

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

    async def BatchCapturePayments(self, request: Any, context: Any) -> Any:
        return await serve_batch(request, context, self.CapturePayment, pay_service_pb2.BatchCapturePaymentsResponse)

    async def BatchVoidPayments(self, request: Any, context: Any) -> Any:
        return await serve_batch(request, context, self.VoidPayment, pay_service_pb2.BatchVoidPaymentsResponse)

    async def BatchGetPayments(self, request: Any, context: Any) -> Any:
        return await serve_batch(request, context, self.GetPayment, pay_service_pb2.BatchGetPaymentsResponse)
