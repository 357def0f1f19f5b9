"""What the loads ask pay_core for: who pays whom, the requests, and the Batch messages that carry them."""

from __future__ import annotations

import contextlib
import itertools
import random
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import grpc

from bench.children import LoadFailed, checked
from meshctl.stack import Stack
from paykit import context
from paykit.clock import SystemClock
from paykit.ids import SLOT_COUNT, slot_in, slot_of
from paymesh.common.v1.money_pb2 import Money
from paymesh.pay.v1 import payment_pb2
from paymesh.pay.v1.pay_service_pb2 import (
    BatchGetPaymentsRequest,
    BatchRechargeRequest,
    BatchRefundRequest,
    BatchTransferRequest,
    BatchWithdrawRequest,
    GetPaymentItem,
    GetPaymentRequest,
    RechargeItem,
    RechargeRequest,
    RefundItem,
    RefundRequest,
    TransferItem,
    TransferRequest,
    WithdrawItem,
    WithdrawRequest,
)
from paymesh.pay.v1.pay_service_pb2_grpc import PayServiceStub

PAIRS = 500
CHUNK = 100
FUNDS_MINOR = 1_000_000_000
CALL_TIMEOUT_S = 20
SUCCEEDED = payment_pb2.PAYMENT_STATE_SUCCEEDED

_POLLS_MAX = 300
_POLL_S = 0.1
_CLOCK = SystemClock()
_BALANCE = payment_pb2.Funding(balance=payment_pb2.BalanceFunding())
_CARD = payment_pb2.Funding(channel=payment_pb2.ChannelFunding(channel="sandbox_card", token="tok_ok"))
_BANK = payment_pb2.Funding(channel=payment_pb2.ChannelFunding(channel="sandbox_bank", token="tok_ok"))


class Pair(NamedTuple):
    """A payer and two payees: one on the payer's slot, one on another shard."""

    payer: str
    near: str
    far: str


def pairs() -> list[Pair]:
    """PAIRS pairs."""
    near: list[tuple[str, str]] = []
    alone: dict[int, str] = {}
    for name in (f"owner{number}" for number in itertools.count()):
        other = alone.pop(slot_of(name), None)
        if other is None:
            alone[slot_of(name)] = name
        else:
            near.append((other, name))
        if len(near) == PAIRS:
            break
    # Shards hold ranges of slots: half of all slots away is another shard, where there are two.
    halves = [[payee for _, payee in near if _half(payee) == half] for half in (0, 1)]
    return [
        Pair(payer, payee, random.Random(payer).choice(halves[1 - _half(payer)]))  # the same in every process
        for payer, payee in near
    ]


def _half(owner: str) -> int:
    return slot_of(owner) * 2 // SLOT_COUNT


def amount(minor: int) -> Money:
    """So many cents."""
    return Money(currency_code="EUR", amount_minor=minor)


def recharge(owner: str, minor: int) -> RechargeRequest:
    """By a card that works."""
    return RechargeRequest(request_id=request_id(), owner_id=owner, amount=amount(minor), funding=_CARD)


def withdraw(owner: str, minor: int) -> WithdrawRequest:
    """To a bank account that takes it."""
    return WithdrawRequest(request_id=request_id(), owner_id=owner, amount=amount(minor), destination=_BANK)


def transfer(payer: str, payee: str, minor: int, *, by_card: bool = False) -> TransferRequest:
    """From one user's balance, or card, to another's."""
    user = payment_pb2.ACCOUNT_KIND_USER
    return TransferRequest(
        request_id=request_id(),
        payer_id=payer,
        amount=amount(minor),
        fundings=[_CARD if by_card else _BALANCE],
        payees=[payment_pb2.Payee(owner_id=payee, account_kind=user, amount=amount(minor))],
    )


def refund(payment_id: str, minor: int) -> RefundRequest:
    """Of a part of a transfer."""
    return RefundRequest(request_id=request_id(), payment_id=payment_id, amount=amount(minor))


_run = secrets.token_hex(6)
_numbers = itertools.count()


def request_id() -> str:
    """Another one each time, in every process."""
    return f"{_run}-{next(_numbers)}"


def mint(request: Any) -> context.BusinessContext:
    """A new business context on the request's slot."""
    return context.mint(_slot(request), _CLOCK.now_ms())


def _slot(request: Any) -> int:
    if isinstance(request, TransferRequest):
        return slot_of(request.payer_id)
    return slot_in(request.payment_id) if isinstance(request, RefundRequest) else slot_of(request.owner_id)


class _Form(NamedTuple):
    method: str
    message: type[Any]
    item: type[Any]


_FORMS: dict[type[Any], _Form] = {
    RechargeRequest: _Form("BatchRecharge", BatchRechargeRequest, RechargeItem),
    WithdrawRequest: _Form("BatchWithdraw", BatchWithdrawRequest, WithdrawItem),
    TransferRequest: _Form("BatchTransfer", BatchTransferRequest, TransferItem),
    RefundRequest: _Form("BatchRefund", BatchRefundRequest, RefundItem),
}


def batched(stub: Any, requests: Sequence[Any]) -> tuple[Any, Any]:
    """The method of ``stub`` that takes many requests of one kind, and its message."""
    form = _FORMS[type(requests[0])]
    items = [form.item(context=context.to_proto(mint(request)), request=request) for request in requests]
    return getattr(stub, form.method), form.message(items=items)


@contextlib.contextmanager
def pay_core(stack: Stack) -> Iterator[Any]:
    """A stub of its PayService, whose methods block."""
    with grpc.insecure_channel(stack.settings.addresses["pay_core"]) as channel:
        yield PayServiceStub(channel)


def carry_out(stub: Any, requests: Sequence[Any]) -> list[str]:
    """Makes the payments, of one operation, and waits until all have SUCCEEDED: their ids. LoadFailed where one does
    not."""
    payment_ids: list[str] = []
    for start in range(0, len(requests), CHUNK):
        method, message = batched(stub, requests[start : start + CHUNK])
        answer = method(message, timeout=CALL_TIMEOUT_S)
        made = [checked(result).payment.payment_id for result in answer.results]
        _await_success(stub, made)
        payment_ids += made
    return payment_ids


def fund(stub: Any) -> None:
    """Gives every payer money by card: the stack must be whole."""
    carry_out(stub, [recharge(pair.payer, FUNDS_MINOR) for pair in pairs()])


def _await_success(stub: Any, payment_ids: list[str]) -> None:
    items = [
        GetPaymentItem(
            context=context.to_proto(context.mint(random.randrange(SLOT_COUNT), _CLOCK.now_ms())),
            request=GetPaymentRequest(payment_id=payment_id),
        )
        for payment_id in payment_ids
    ]
    for _ in range(_POLLS_MAX):
        answer = stub.BatchGetPayments(BatchGetPaymentsRequest(items=items), timeout=CALL_TIMEOUT_S)
        if all(checked(result).payment.state == SUCCEEDED for result in answer.results):
            return
        time.sleep(_POLL_S)
    raise LoadFailed(f"payments do not succeed, one is {payment_ids[0]}")
