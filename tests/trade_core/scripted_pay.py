"""A pay_core that does as it is told: what trade_core meets at the other end of its calls, over real gRPC."""

from __future__ import annotations

import asyncio
from typing import Any

from paykit.context import current
from paykit.errors import FailedPrecondition, MeshError, NotFound, Unavailable
from paykit.ids import new_id, slot_in
from paykit.rpc.batching import serve_batch
from paymesh.pay.v1 import pay_service_pb2 as pb
from paymesh.pay.v1 import pay_service_pb2_grpc, payment_pb2
from tests.trade_core.support import NOW_MS

_HELD = (payment_pb2.SETTLEMENT_MODE_AUTHORIZE, payment_pb2.SETTLEMENT_MODE_ESCROW)


class ScriptedPay(pay_service_pb2_grpc.PayServiceServicer):
    """Succeeds at once where nothing is outside, is under way otherwise; ``refusal`` and ``decline`` change that.

    The next ``lost`` payments are made and their answers lost on the way; ``refusal`` is said only after those. The
    next ``failing_refunds`` refunds fail. What is authorized or held is captured and voided at once.
    """

    def __init__(self) -> None:
        self.payments: dict[str, payment_pb2.Payment] = {}  # by source_id
        self.requests: list[Any] = []
        self.biz_ids: list[str] = []
        self.refusal: MeshError | None = None
        self.lost = 0
        self.failing_refunds = 0
        self.settle_refusal: MeshError | None = None  # what captures and voids are answered
        self.blind: list[MeshError] = []  # what the next GetPayments are answered
        self.decline = ""  # why payments by balance fail
        self._came = asyncio.Event()
        self.asked: asyncio.Queue[str] = asyncio.Queue()  # source ids of GetPayment

    async def taken(self, source_id: str) -> payment_pb2.Payment:
        """The payment of an attempt, once its call has come."""
        while source_id not in self.payments:
            self._came.clear()
            await self._came.wait()
        return self.payments[source_id]

    def finish(self, source_id: str, failure_reason: str = "") -> payment_pb2.Payment:
        """Ends a payment that is under way."""
        payment = self.payments[source_id]
        payment.failure_reason = failure_reason
        payment.version += 1
        if failure_reason:
            payment.state = payment_pb2.PAYMENT_STATE_FAILED
        elif payment.settlement_mode in _HELD:
            payment.state = payment_pb2.PAYMENT_STATE_AUTHORIZED
        else:
            payment.state = payment_pb2.PAYMENT_STATE_SUCCEEDED
        return payment

    def settle(self, source_id: str, amount_minor: int, *, keep_rest: bool = False) -> payment_pb2.Payment:
        """Captures so much of a held payment and, unless the rest is kept, gives that back."""
        payment = self.payments[source_id]
        payment.captured_minor += amount_minor
        payment.version += 2  # as pay_core: what is begun, and what became of it
        if not keep_rest or payment.captured_minor == payment.amount.amount_minor:
            is_captured = payment.captured_minor > 0
            payment.state = payment_pb2.PAYMENT_STATE_SUCCEEDED if is_captured else payment_pb2.PAYMENT_STATE_VOIDED
        return payment

    def of(self, payment_id: str) -> payment_pb2.Payment:
        """A payment by its id."""
        (found,) = [payment for payment in self.payments.values() if payment.payment_id == payment_id]
        return found

    def calls(self, request_type: type[Any]) -> list[Any]:
        """The requests of one type that came, each once, in order."""
        found = {request.request_id: request for request in self.requests if isinstance(request, request_type)}
        return list(found.values())

    def _take(self, request: Any, is_immediate: bool) -> payment_pb2.Payment:
        self.requests.append(request)
        self.biz_ids.append(current().biz_id)
        if self.refusal is not None and not self.lost:
            raise self.refusal
        self._came.set()
        payment = self.payments.get(request.source_id)
        if payment is None:
            payment = payment_pb2.Payment(
                payment_id=new_id("pay", slot_in(request.source_id), NOW_MS),
                source_id=request.source_id,
                amount=request.amount,
                state=payment_pb2.PAYMENT_STATE_PROCESSING,
                settlement_mode=getattr(request, "settlement_mode", payment_pb2.SETTLEMENT_MODE_UNSPECIFIED),
                version=1,
            )
            self.payments[request.source_id] = payment
            if is_immediate:
                self.finish(request.source_id, self.decline)
        if self.lost:
            self.lost -= 1
            raise Unavailable("the connection broke")
        return payment

    async def Recharge(self, request: pb.RechargeRequest, context: Any) -> pb.RechargeResponse:
        return pb.RechargeResponse(payment=self._take(request, is_immediate=False))

    async def BatchRecharge(self, request: pb.BatchRechargeRequest, context: Any) -> pb.BatchRechargeResponse:
        return await serve_batch(request, context, self.Recharge, pb.BatchRechargeResponse)

    async def Withdraw(self, request: pb.WithdrawRequest, context: Any) -> pb.WithdrawResponse:
        return pb.WithdrawResponse(payment=self._take(request, is_immediate=False))

    async def BatchWithdraw(self, request: pb.BatchWithdrawRequest, context: Any) -> pb.BatchWithdrawResponse:
        return await serve_batch(request, context, self.Withdraw, pb.BatchWithdrawResponse)

    async def Transfer(self, request: pb.TransferRequest, context: Any) -> pb.TransferResponse:
        is_immediate = not any(funding.HasField("channel") for funding in request.fundings)
        return pb.TransferResponse(payment=self._take(request, is_immediate))

    async def BatchTransfer(self, request: pb.BatchTransferRequest, context: Any) -> pb.BatchTransferResponse:
        return await serve_batch(request, context, self.Transfer, pb.BatchTransferResponse)

    async def Refund(self, request: pb.RefundRequest, context: Any) -> pb.RefundResponse:
        payment = self._take(request, is_immediate=not self.failing_refunds)
        if self.failing_refunds and payment.state == payment_pb2.PAYMENT_STATE_PROCESSING:
            self.failing_refunds -= 1
            self.finish(request.source_id, "ACCOUNT_FROZEN")
        return pb.RefundResponse(payment=payment)

    async def BatchRefund(self, request: pb.BatchRefundRequest, context: Any) -> pb.BatchRefundResponse:
        return await serve_batch(request, context, self.Refund, pb.BatchRefundResponse)

    def _settle(self, request: Any, amount_minor: int, keep_rest: bool) -> payment_pb2.Payment:
        is_known = any(request.request_id == earlier.request_id for earlier in self.requests)
        self.requests.append(request)
        if self.settle_refusal is not None:
            raise self.settle_refusal
        payment = self.of(request.payment_id)
        if not is_known:
            if payment.state != payment_pb2.PAYMENT_STATE_AUTHORIZED:
                raise FailedPrecondition("nothing is held")
            self.settle(payment.source_id, amount_minor, keep_rest=keep_rest)
        return payment

    async def CapturePayment(self, request: pb.CapturePaymentRequest, context: Any) -> pb.CapturePaymentResponse:
        payment = self.of(request.payment_id)
        left_minor = payment.amount.amount_minor - payment.captured_minor
        amount_minor = request.amount.amount_minor if request.HasField("amount") else left_minor
        return pb.CapturePaymentResponse(payment=self._settle(request, amount_minor, request.keep_rest))

    async def BatchCapturePayments(
        self, request: pb.BatchCapturePaymentsRequest, context: Any
    ) -> pb.BatchCapturePaymentsResponse:
        return await serve_batch(request, context, self.CapturePayment, pb.BatchCapturePaymentsResponse)

    async def VoidPayment(self, request: pb.VoidPaymentRequest, context: Any) -> pb.VoidPaymentResponse:
        return pb.VoidPaymentResponse(payment=self._settle(request, 0, keep_rest=False))

    async def BatchVoidPayments(
        self, request: pb.BatchVoidPaymentsRequest, context: Any
    ) -> pb.BatchVoidPaymentsResponse:
        return await serve_batch(request, context, self.VoidPayment, pb.BatchVoidPaymentsResponse)

    async def GetPayment(self, request: pb.GetPaymentRequest, context: Any) -> pb.GetPaymentResponse:
        self.asked.put_nowait(request.source_id)
        if self.blind:
            raise self.blind.pop()
        payment = self.payments.get(request.source_id)
        if payment is None:
            raise NotFound("there is no such payment")
        return pb.GetPaymentResponse(payment=payment)

    async def BatchGetPayments(self, request: pb.BatchGetPaymentsRequest, context: Any) -> pb.BatchGetPaymentsResponse:
        return await serve_batch(request, context, self.GetPayment, pb.BatchGetPaymentsResponse)
