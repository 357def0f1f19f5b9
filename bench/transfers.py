"""Transfers by balance through gRPC, against a pay_core process on its shards and the bus.

Run as a module it is the load generator. Payer and payee lie on one slot, so that a transfer is done when it is
answered; the payers were given money by card before.
"""

from __future__ import annotations

import itertools
import random
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import msgspec

from bench import children
from bench.measure import Sample, drive
from meshctl.settings import load_mesh
from meshctl.stack import Stack
from paykit import context
from paykit.clock import SystemClock
from paykit.ids import slot_of
from paykit.rpc import loop
from paymesh.common.v1.money_pb2 import Money
from paymesh.pay.v1 import payment_pb2
from paymesh.pay.v1.pay_service_pb2 import (
    BatchGetPaymentsRequest,
    BatchRechargeRequest,
    BatchTransferRequest,
    GetPaymentItem,
    GetPaymentRequest,
    RechargeItem,
    RechargeRequest,
    TransferItem,
    TransferRequest,
)
from paymesh.pay.v1.pay_service_pb2_grpc import PayServiceStub

MODULE = "bench.transfers"
PAIRS = 500
CHUNK = 100
FUNDS_MINOR = 1_000_000_000
FUNDING_POLLS_MAX = 300
CALL_TIMEOUT_S = 20

_CLOCK = SystemClock()
_SUCCEEDED = payment_pb2.PAYMENT_STATE_SUCCEEDED


class Load(msgspec.Struct, frozen=True):
    """``callers`` calls at once of ``batch`` transfers each, for ``seconds``."""

    config: str
    callers: int
    batch: int
    seconds: float


UNARY = Load(config="", callers=64, batch=1, seconds=10)
BATCH = Load(config="", callers=4, batch=100, seconds=10)


def pairs() -> list[tuple[str, str]]:
    """Payers and payees, each pair on a slot."""
    chosen: list[tuple[str, str]] = []
    alone: dict[int, str] = {}
    for name in (f"owner{number}" for number in itertools.count()):
        other = alone.pop(slot_of(name), None)
        if other is None:
            alone[slot_of(name)] = name
        else:
            chosen.append((other, name))
        if len(chosen) == PAIRS:
            break
    return chosen


def fund(stack: Stack) -> None:
    """Gives every payer money by card; the stack must be whole. LoadFailed where a top-up does not succeed."""
    items = [
        RechargeItem(
            context=context.to_proto(context.mint(slot_of(payer), _CLOCK.now_ms())),
            request=RechargeRequest(
                request_id=secrets.token_hex(12),
                owner_id=payer,
                amount=Money(currency_code="EUR", amount_minor=FUNDS_MINOR),
                funding=payment_pb2.Funding(channel=payment_pb2.ChannelFunding(channel="sandbox_card", token="tok_ok")),
            ),
        )
        for payer, _ in pairs()
    ]
    with grpc.insecure_channel(stack.settings.addresses["pay_core"]) as channel:
        stub: Any = PayServiceStub(channel)
        for start in range(0, len(items), CHUNK):
            message = BatchRechargeRequest(items=items[start : start + CHUNK])
            answer = stub.BatchRecharge(message, timeout=CALL_TIMEOUT_S)
            _await_success(stub, [_checked(result).payment.payment_id for result in answer.results])


def _await_success(stub: Any, payment_ids: list[str]) -> None:
    message = BatchGetPaymentsRequest(
        items=[
            GetPaymentItem(
                context=context.to_proto(context.mint(0, _CLOCK.now_ms())),
                request=GetPaymentRequest(payment_id=payment_id),
            )
            for payment_id in payment_ids
        ]
    )
    for _ in range(FUNDING_POLLS_MAX):
        answer = stub.BatchGetPayments(message, timeout=CALL_TIMEOUT_S)
        if all(_checked(result).payment.state == _SUCCEEDED for result in answer.results):
            return
        time.sleep(0.1)
    raise children.LoadFailed("payers could not be given money")


def _checked(result: Any) -> Any:
    if result.status.code:
        raise children.LoadFailed(f"refused: {result.status}")
    return result.response


def _requests(owners: list[tuple[str, str]]) -> Iterator[tuple[context.BusinessContext, TransferRequest]]:
    """Transfers between random pairs, without end."""
    run = secrets.token_hex(6)
    amount = Money(currency_code="EUR", amount_minor=1)
    balance = payment_pb2.Funding(balance=payment_pb2.BalanceFunding())
    for number in itertools.count():
        payer, payee = random.choice(owners)
        request = TransferRequest(
            request_id=f"{run}-{number}",
            payer_id=payer,
            amount=amount,
            fundings=[balance],
            payees=[
                payment_pb2.Payee(owner_id=payee, account_kind=payment_pb2.ACCOUNT_KIND_USER, amount=amount),
            ],
        )
        yield context.mint(slot_of(payer), _CLOCK.now_ms()), request


def _unary(stub: Any) -> Callable[[], Any]:
    requests = _requests(pairs())

    async def transfer() -> None:
        business, request = next(requests)
        response = await stub.Transfer(request, timeout=CALL_TIMEOUT_S, metadata=context.to_metadata(business))
        _assert_done(response)

    return transfer


def _batch(stub: Any, size: int) -> Callable[[], Any]:
    requests = _requests(pairs())

    async def transfer() -> None:
        items = [
            TransferItem(context=context.to_proto(business), request=request)
            for business, request in itertools.islice(requests, size)
        ]
        answer = await stub.BatchTransfer(BatchTransferRequest(items=items), timeout=CALL_TIMEOUT_S)
        for result in answer.results:
            _assert_done(_checked(result))

    return transfer


def _assert_done(response: Any) -> None:
    if response.payment.state != _SUCCEEDED:
        raise children.LoadFailed(f"a transfer was not carried out: {response.payment}")


async def run(load: Load) -> Sample:
    """The load, in this process."""
    async with grpc.aio.insecure_channel(load_mesh(load.config).addresses["pay_core"]) as channel:
        stub = PayServiceStub(channel)
        operation = _unary(stub) if load.batch == 1 else _batch(stub, load.batch)
        return await drive(operation, load.callers, load.seconds, load.batch)


def measure(config: Path, load: Load) -> Sample:
    """Runs ``load`` against the stack of ``config``, in a process of its own."""
    child = children.start(MODULE, msgspec.structs.replace(load, config=str(config)))
    return children.result(child, Sample, load.seconds)


if __name__ == "__main__":
    children.answer(loop.run(run(children.argument(Load))))
