"""The operations of pay_core by Batch messages, on the full stack, each until it has ended.

Run as a module it is the load generator. An operation that reaches outside ends when its payment does, which NATS
tells; a transfer to another slot when the journal that receives it is posted; any other when it is answered.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
import msgspec

from bench import children, counters, payments
from bench.counters import Measured
from bench.flow import Outcome, Pace, Room, Watch, flow, heard
from bench.payments import Pair
from meshctl.settings import load_mesh
from meshctl.stack import Stack
from paykit.rpc import loop
from paymesh.event.v1.events_pb2 import BOOKING_LEG_RECEIVED, JournalEvent, PaymentEvent
from paymesh.pay.v1.pay_service_pb2_grpc import PayServiceStub

MODULE = "bench.operations"
SUCCEEDED = "live.pay.payment_succeeded"
POSTED = "live.ledger.journal_posted"
AMOUNT_MINOR = 100
REFUND_MINOR = 1
REFUNDED = 1_000  # payments that refunds are of, of each kind
REFUNDED_MINOR = 100_000  # of each: more refunds of one cent than a load makes

PACE = Pace(callers=4, batch=payments.CHUNK, under_way=600, warm_s=2, seconds=8)


class Kind(NamedTuple):
    """One operation: for people, its request, and the subject that tells its end; "" where its answer does."""

    title: str
    request: Callable[[Pair, str], Any]
    subject: str


# ``request`` is given a pair, and a payment to refund.
KINDS: dict[str, Kind] = {
    "recharge": Kind("recharge by card", lambda pair, _: payments.recharge(pair.payer, AMOUNT_MINOR), SUCCEEDED),
    "withdraw": Kind("withdraw to a bank", lambda pair, _: payments.withdraw(pair.payer, AMOUNT_MINOR), SUCCEEDED),
    "transfer": Kind("transfer on one slot", lambda pair, _: payments.transfer(pair.payer, pair.near, 1), ""),
    "across": Kind("transfer across slots", lambda pair, _: payments.transfer(pair.payer, pair.far, 1), POSTED),
    "refund": Kind("refund to a balance", lambda _, paid: payments.refund(paid, REFUND_MINOR), ""),
    "refund_card": Kind("refund to a card", lambda _, paid: payments.refund(paid, REFUND_MINOR), SUCCEEDED),
}


class Load(msgspec.Struct, frozen=True):
    """Operations of a kind at ``pace`` against the stack of ``config``; ``refunded``: payments to refund."""

    config: str
    kind: str
    pace: Pace
    refunded: list[str]


def ended(subject: str, body: bytes) -> str:
    """The payment whose end an event tells; "" where it tells none."""
    if subject == SUCCEEDED:
        return PaymentEvent.FromString(body).payment.payment_id
    event = JournalEvent.FromString(body)
    return event.payment_id if any(ins.leg == BOOKING_LEG_RECEIVED for ins in event.instructions) else ""


class Sender:
    """Sends Batch messages of one kind."""

    def __init__(self, stub: Any, watch: Watch, load: Load) -> None:
        self._stub = stub
        self._watch = watch
        self._kind = KINDS[load.kind]
        self._batch = load.pace.batch
        self._refunded = load.refunded or [""]
        self._pairs = payments.pairs()

    async def send(self) -> None:
        """One call; LoadFailed where an operation is refused, or not done where its answer should say so."""
        chosen = [(random.choice(self._pairs), random.choice(self._refunded)) for _ in range(self._batch)]
        method, message = payments.batched(self._stub, [self._kind.request(*each) for each in chosen])
        begun_s = time.monotonic()
        answer = await method(message, timeout=payments.CALL_TIMEOUT_S)
        for result in answer.results:
            payment = children.checked(result).payment
            if self._kind.subject:
                self._watch.accepted(payment.payment_id, begun_s)
            elif payment.state == payments.SUCCEEDED:
                self._watch.answered(begun_s)
            else:
                raise children.LoadFailed(f"not carried out: {payment}")


async def drive(load: Load) -> Outcome:
    """The load, in this process, to its end."""
    settings = load_mesh(load.config)
    room = Room(load.pace.under_way)
    watch = Watch(room)
    subject = KINDS[load.kind].subject

    def hear(body: bytes) -> None:
        if payment_id := ended(subject, body):
            watch.news(payment_id)

    async with contextlib.AsyncExitStack() as open_:
        if subject:
            await open_.enter_async_context(heard(settings, subject, hear))
        channel = await open_.enter_async_context(grpc.aio.insecure_channel(settings.addresses["pay_core"]))
        sender = Sender(PayServiceStub(channel), watch, load)
        return await flow(sender.send, room, watch, load.pace)


def prepare(stack: Stack) -> dict[str, list[str]]:
    """Gives the payers money, and makes payments to refund, by kind of refund."""
    chosen = random.choices(payments.pairs(), k=REFUNDED)
    by_balance, by_card = (
        [payments.transfer(pair.payer, pair.near, REFUNDED_MINOR, by_card=by_card) for pair in chosen]
        for by_card in (False, True)
    )
    with payments.pay_core(stack) as stub:
        payments.fund(stub)
        return {"refund": payments.carry_out(stub, by_balance), "refund_card": payments.carry_out(stub, by_card)}


def measure(stack: Stack, kind: str, pace: Pace, refunded: list[str]) -> Measured:
    """Runs a load in a process of its own to its end, and until what it left to others is done."""
    before_s = counters.cpu_s(stack)
    child = children.start(MODULE, Load(str(stack.config), kind, pace, refunded))
    outcome = children.result(child, Outcome, pace.warm_s + pace.seconds)
    counters.settle(stack)
    return counters.measured(stack, before_s, outcome)


if __name__ == "__main__":
    children.answer(loop.run(drive(children.argument(Load))))
