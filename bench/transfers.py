"""Transfers by balance through gRPC, against a pay_core process on its shards and the bus.

Run as a module it is the load generator. Payer and payee lie on one slot, so that a transfer is done when it is
answered; the payers were given money by card before.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import grpc
import msgspec

from bench import children, payments
from bench.flow import Outcome
from bench.measure import drive
from bench.payments import CALL_TIMEOUT_S
from paykit import context
from paykit.rpc import loop
from paymesh.pay.v1.pay_service_pb2 import TransferRequest
from paymesh.pay.v1.pay_service_pb2_grpc import PayServiceStub

MODULE = "bench.transfers"


class Load(msgspec.Struct, frozen=True):
    """``callers`` calls at once of ``batch`` transfers each, for ``seconds``, to the pay_core at ``address``."""

    address: str
    callers: int
    batch: int
    seconds: float


UNARY = Load(address="", callers=64, batch=1, seconds=10)
BATCH = Load(address="", callers=4, batch=100, seconds=10)


class Sender:
    """Sends transfers between random pairs, one by one or in Batch messages, and counts them."""

    def __init__(self, stub: Any, batch: int) -> None:
        self._stub = stub
        self._batch = batch
        self._pairs = payments.pairs()
        self.count = 0

    def _request(self) -> TransferRequest:
        pair = random.choice(self._pairs)
        return payments.transfer(pair.payer, pair.near, 1)

    async def one(self) -> None:
        """A single call."""
        request = self._request()
        metadata = context.to_metadata(payments.mint(request))
        self._take(await self._stub.Transfer(request, timeout=CALL_TIMEOUT_S, metadata=metadata))

    async def many(self) -> None:
        """A Batch call."""
        method, message = payments.batched(self._stub, [self._request() for _ in range(self._batch)])
        answer = await method(message, timeout=CALL_TIMEOUT_S)
        for result in answer.results:
            self._take(children.checked(result))

    def _take(self, response: Any) -> None:
        if response.payment.state != payments.SUCCEEDED:
            raise children.LoadFailed(f"a transfer was not carried out: {response.payment}")
        self.count += 1


async def run(load: Load) -> Outcome:
    """The load, in this process."""
    async with grpc.aio.insecure_channel(load.address) as channel:
        sender = Sender(PayServiceStub(channel), load.batch)
        operation: Callable[[], Any] = sender.one if load.batch == 1 else sender.many
        sample = await drive(operation, load.callers, load.seconds, load.batch)
        return Outcome(sample, sender.count, children.cpu_s())


def measure(address: str, load: Load) -> Outcome:
    """Runs ``load`` against the pay_core at ``address``, in a process of its own."""
    child = children.start(MODULE, msgspec.structs.replace(load, address=address))
    return children.result(child, Outcome, load.seconds)


if __name__ == "__main__":
    children.answer(loop.run(run(children.argument(Load))))
