"""A pay_core that does as it is told: what trade_core meets at the other end of its calls, over real gRPC."""

from __future__ import annotations

import asyncio
from typing import Any

from paykit.context import current
from paykit.errors import MeshError, NotFound, Unavailable
from paykit.ids import new_id, slot_in
from paykit.rpc.batching import serve_batch
from paymesh.pay.v1 import pay_service_pb2 as pb
from paymesh.pay.v1 import pay_service_pb2_grpc, payment_pb2
from tests.trade_core.support import NOW_MS


class ScriptedPay(pay_service_pb2_grpc.PayServiceServicer):
    """Succeeds at once where all is by balance, is under way otherwise; ``refusal`` and ``decline`` change that.

    The next ``lost`` payments are made and their answers lost on the way; ``refusal`` is said only after those.
    """

    def __init__(self) -> None:
        self.payments: dict[str, payment_pb2.Payment] = {}  # by source_id
        self.requests: list[Any] = []
        self.biz_ids: list[str] = []
        self.refusal: MeshError | None = None
        self.lost = 0
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
        payment.state = payment_pb2.PAYMENT_STATE_FAILED if failure_reason else payment_pb2.PAYMENT_STATE_SUCCEEDED
        return payment

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
        is_immediate = all(funding.HasField("balance") for funding in request.fundings)
        return pb.TransferResponse(payment=self._take(request, is_immediate))

    async def BatchTransfer(self, request: pb.BatchTransferRequest, context: Any) -> pb.BatchTransferResponse:
        return await serve_batch(request, context, self.Transfer, pb.BatchTransferResponse)

    async def Refund(self, request: pb.RefundRequest, context: Any) -> pb.RefundResponse:
        return pb.RefundResponse(payment=self._take(request, is_immediate=True))

    async def BatchRefund(self, request: pb.BatchRefundRequest, context: Any) -> pb.BatchRefundResponse:
        return await serve_batch(request, context, self.Refund, pb.BatchRefundResponse)

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
