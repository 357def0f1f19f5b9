"""Repairs of trades: the result that pay_core has is taken, once, by the trade's own command."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from paykit import compensation
from paykit.context import BusinessContext, use
from paykit.errors import MeshError, NotFound, Unavailable
from paykit.ids import new_id
from paykit.rpc.channels import Channels
from paykit.store.command import Origin
from paykit.store.system import Outbox
from paymesh.common.v1 import money_pb2
from paymesh.event.v1 import compensation_pb2
from paymesh.ops.v1 import compensation_service_pb2, compensation_service_pb2_grpc
from paymesh.pay.v1 import pay_service_pb2, payment_pb2
from paymesh.recon.v1 import repair_pb2
from tests.trade_core.running import Running
from tests.trade_core.support import NOW_MS, POLICY, SLOT, Bench, a_context, a_payment, fresh
from trade_core.compensation import Completion, TakeCompensation
from trade_core.notify import Notifier
from trade_core.tables import Compensation


def asked(payment_id: str, kind: int = repair_pb2.REPAIR_KIND_COMPLETE) -> compensation.Compensation:
    """A repair as recon asks for it."""
    return compensation.Compensation(
        repair_id=new_id("rpr", SLOT, NOW_MS),
        break_id=new_id("brk", SLOT, NOW_MS),
        kind=kind,  # type: ignore[arg-type]
        service="trade_core",
        payment_id=payment_id,
        amount=money_pb2.Money(currency_code="EUR", amount_minor=1000),
    )


class Repairing:
    """What repairs do on a bench, with a pay_core that answers as it is told."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.answer: payment_pb2.Payment | MeshError = NotFound("no payment")
        self.completion = Completion(bench.store, POLICY, Notifier(1), self._get_payment)

    async def _get_payment(self, request: Any, context: BusinessContext) -> pay_service_pb2.GetPaymentResponse:
        if isinstance(self.answer, MeshError):
            raise self.answer
        assert request.payment_id == self.answer.payment_id
        return pay_service_pb2.GetPaymentResponse(payment=self.answer)

    async def take(self, request: compensation.Compensation) -> Compensation:
        """The event comes, as a message of its own."""
        origin = Origin.event(a_context(), compensation.CONSUMER, fresh("msg"))
        row = await self.bench.store.run(TakeCompensation(origin, request))
        assert isinstance(row, Compensation)
        return row

    async def fire(self, row: Compensation) -> Compensation:
        """The row's due time passes; the row as it then is."""
        if row.due_at_ms is not None:
            self.bench.clock.advance(max(0, row.due_at_ms - self.bench.clock.now_ms()))
        with use(a_context()):
            await self.completion.fire(row)
        return await self.row(row)

    async def row(self, row: Compensation) -> Compensation:
        """A row as it is stored."""
        statement = select(Compensation.__table__).where(Compensation.__table__.c.id == row.id)
        (found,) = await self.bench.store.fetch(Compensation, statement, slot=SLOT, shadow=False)
        return found

    async def told(self, repair_id: str) -> list[str]:
        """The outcomes that left for recon."""
        rows = await self.bench.store.fetch(Outbox, select(Outbox.__table__), slot=SLOT, shadow=False)
        results = [
            compensation_pb2.CompensationDoneEvent.FromString(row.body).result
            for row in rows
            if row.destination == "trade.compensation_done"
        ]
        return [repair_pb2.RepairOutcome.Name(found.outcome) for found in results if found.repair_id == repair_id]


@pytest.fixture
def repairing(bench: Bench) -> Repairing:
    return Repairing(bench)


async def test_the_result_that_nobody_told_is_taken_and_ends_the_repair(repairing: Repairing, bench: Bench) -> None:
    created = await bench.create()
    paying = await bench.pay(created.trade.id)
    payment = a_payment(paying.trade.attempt_id)
    repairing.answer = payment
    request = asked(payment.payment_id)
    row = await repairing.take(request)
    assert (row.state, row.due_at_ms) == ("ACCEPTED", bench.clock.now_ms())
    ended = await repairing.fire(row)
    assert (ended.state, ended.outcome, ended.effect_id) == ("ENDED", "DONE", created.trade.id)
    assert (await bench.trade(created.trade.id)).state == "PAID"
    again = await repairing.fire(row)  # another process found it due too
    assert again == ended
    assert await repairing.take(request) == ended
    assert await repairing.told(request.repair_id) == ["REPAIR_OUTCOME_DONE"]


async def test_what_the_trade_knows_already_leaves_nothing_to_do(repairing: Repairing, bench: Bench) -> None:
    paid = await bench.paid()
    (attempt,) = await bench.attempts(paid.trade.id)
    repairing.answer = a_payment(attempt.id, payment_id=attempt.payment_id)
    request = asked(attempt.payment_id)
    ended = await repairing.fire(await repairing.take(request))
    assert (ended.outcome, ended.detail) == ("NOTHING_TO_DO", f"{attempt.id} is EFFECTIVE already")
    assert await repairing.told(request.repair_id) == ["REPAIR_OUTCOME_NOTHING_TO_DO"]


async def test_what_never_happened_leaves_nothing_to_do(repairing: Repairing) -> None:
    for answer, detail in (
        (NotFound("none"), "has no payment"),
        (a_payment("order-of-somebody", payment_id=new_id("pay", SLOT, NOW_MS)), "was made for no trade"),
    ):
        repairing.answer = answer
        payment_id = new_id("pay", SLOT, NOW_MS) if isinstance(answer, MeshError) else answer.payment_id
        ended = await repairing.fire(await repairing.take(asked(payment_id)))
        assert ended.outcome == "NOTHING_TO_DO"
        assert detail in ended.detail


async def test_a_result_that_contradicts_the_trade_is_refused_and_changes_nothing(
    repairing: Repairing, bench: Bench
) -> None:
    paid = await bench.paid()
    (attempt,) = await bench.attempts(paid.trade.id)
    repairing.answer = a_payment(attempt.id, False, payment_id=attempt.payment_id)
    ended = await repairing.fire(await repairing.take(asked(attempt.payment_id)))
    assert (ended.outcome, ended.detail) == ("REFUSED", f"{attempt.id}: RESULT_CONFLICT")
    assert await bench.trade(paid.trade.id) == paid.trade


@pytest.mark.parametrize("away", [True, False])
async def test_an_answer_that_does_not_come_is_asked_for_with_growing_pauses_and_given_up(
    repairing: Repairing, bench: Bench, away: bool
) -> None:
    created = await bench.create()
    paying = await bench.pay(created.trade.id)
    under_way = a_payment(paying.trade.attempt_id, state=payment_pb2.PAYMENT_STATE_PROCESSING)
    repairing.answer = Unavailable("away") if away else under_way
    row = await repairing.take(asked(under_way.payment_id))
    pauses = []
    while row.state != "ENDED":
        assert row.due_at_ms is not None
        pauses.append(row.due_at_ms - bench.clock.now_ms())
        row = await repairing.fire(row)
    assert pauses == [0, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000]
    assert row.outcome == "REFUSED"
    assert row.detail.startswith("no answer after 8 questions")
    assert (await bench.trade(created.trade.id)).state == "PAYING"


async def test_trade_core_does_nothing_but_complete(repairing: Repairing) -> None:
    row = await repairing.take(asked("", repair_pb2.REPAIR_KIND_ADJUST))
    assert (row.state, row.outcome, row.detail) == ("ENDED", "REFUSED", "trade_core does no ADJUST")


async def test_a_call_is_taken_and_its_end_is_there_for_whoever_asks(running: Running) -> None:
    channels = Channels({"trade_core": f"127.0.0.1:{running.service.port}"})
    stub = compensation_service_pb2_grpc.CompensationServiceStub(channels.get("trade_core"))
    request = asked(new_id("pay", SLOT, NOW_MS), repair_pb2.REPAIR_KIND_REVERSE)
    call = compensation_service_pb2.CompensateRequest(request_id=request.repair_id, compensation=request)
    with use(a_context()):
        answer = await stub.Compensate(call)
        assert answer.result.outcome == repair_pb2.REPAIR_OUTCOME_REFUSED
        get = compensation_service_pb2.GetCompensationRequest(repair_id=request.repair_id)
        assert (await stub.GetCompensation(get)).result == answer.result
        assert (await stub.Compensate(call)).result == answer.result
    await channels.close(1.0)
