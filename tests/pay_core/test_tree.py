"""What pay_core did for an order, as one picture: payments, journals on every slot, cases and what came of them."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from paykit.context import BusinessContext
from paykit.errors import InvalidArgument
from paykit.events.message import Message, to_headers
from paykit.ids import SLOT_COUNT, new_id, slot_of
from paykit.rpc.channels import Channels
from paymesh.channel.v1 import channel_order_pb2
from paymesh.event.v1.events_pb2 import ChannelOrderEvent
from paymesh.ops.v1 import ops_service_pb2, ops_service_pb2_grpc
from paymesh.pay.v1 import pay_service_pb2 as pb
from paymesh.pay.v1 import payment_pb2
from tests.pay_core.conftest import Running
from tests.pay_core.test_api import CARD, eur, payee, recharge, refund, transfer
from tests.paykit.events.waits import until

ANN = slot_of("ann")
NOW_MS = 1_700_000_000_000
# On the other of the two shards.
FAR = next(
    name for name in map("far-{}".format, range(50)) if (slot_of(name) < SLOT_COUNT // 2) != (ANN < SLOT_COUNT // 2)
)
SUCCEEDED = payment_pb2.PAYMENT_STATE_SUCCEEDED


def a_source(slot: int = ANN) -> str:
    """What a payment is made for: an attempt of trade_core."""
    return new_id("att", slot, NOW_MS)


async def tree(running: Running, *source_ids: str) -> pb.GetPaymentTreeResponse:
    """What was done for some sources."""
    found: pb.GetPaymentTreeResponse = await running.pay.GetPaymentTree(pb.GetPaymentTreeRequest(source_ids=source_ids))
    return found


async def provider_did(running: Running, payment: payment_pb2.Payment, settled_minor: int = 0) -> None:
    """Tells that the channel order of a payment's first instruction succeeded, and how much it moved."""
    step = payment.instructions[0]
    order = channel_order_pb2.ChannelOrder(
        channel_order_id=new_id("chn", ANN, NOW_MS),
        state=channel_order_pb2.CHANNEL_ORDER_STATE_SUCCEEDED,
        amount=step.amount,
        instruction_id=step.instruction_id,
        payment_id=payment.payment_id,
        settled_minor=settled_minor,
    )
    message_id = new_id("msg", ANN, NOW_MS)
    headers = to_headers(BusinessContext(biz_id=payment.biz_id), message_id)
    body = ChannelOrderEvent(channel_order=order).SerializeToString()
    assert await running.service.bus.publish([Message(message_id, "live.channel.order_succeeded", headers, body)]) == [
        None
    ]
    await until_state(running, payment.payment_id, SUCCEEDED)


async def until_state(running: Running, payment_id: str, state: int) -> None:
    """Waits for what others bring."""

    async def is_there() -> bool:
        request = pb.GetPaymentRequest(payment_id=payment_id)
        return bool((await running.pay.GetPayment(request)).payment.state == state)

    await until(is_there)


def sums(found: pb.GetPaymentTreeResponse) -> list[dict[str, int]]:
    """What each journal comes to, per unit."""
    result = []
    for journal in found.journals:
        units: Counter[str] = Counter()
        for line in journal.lines:
            units[line.amount.currency_code] += line.amount.amount_minor
        result.append(dict(units))
    return result


async def test_a_payment_is_shown_with_its_journals_on_every_slot(running: Running, context: BusinessContext) -> None:
    top_up, order, back = a_source(), a_source(), a_source()
    made = (await running.pay.Recharge(recharge(source_id=top_up))).payment
    assert list((await tree(running, top_up)).journals) == []
    await provider_did(running, made)
    paid = (await running.pay.Transfer(transfer(payees=[payee(FAR, 100)], source_id=order))).payment
    refunded = (await running.pay.Refund(refund(payment_id=paid.payment_id, amount=eur(40), source_id=back))).payment
    await until_state(running, refunded.payment_id, SUCCEEDED)

    async def has_arrived() -> bool:
        return len((await tree(running, order)).journals) == 2

    await until(has_arrived)
    found = await tree(running, order, back)
    assert [payment.payment_id for payment in found.payments] == [paid.payment_id, refunded.payment_id]
    for payment in found.payments:
        shown = (await running.pay.GetPayment(pb.GetPaymentRequest(payment_id=payment.payment_id))).payment
        assert payment == shown
    assert {journal.slot for journal in found.journals} == {ANN, slot_of(FAR)}
    assert sums(found) == [{"EUR": 0}] * len(found.journals)
    of_far = [line.amount.amount_minor for journal in found.journals for line in journal.lines if line.owner_id == FAR]
    assert of_far == [100, -40]
    assert [payment.source_id for payment in (await tree(running, top_up, order, back)).payments] == [
        top_up, order, back,
    ]  # fmt: skip


async def test_a_case_is_shown_with_the_payment_that_carries_its_decision_out(
    running: Running, context: BusinessContext
) -> None:
    order = a_source()
    request = transfer(fundings=[CARD], payees=[payee("bob", 100)], source_id=order)
    paid = (await running.pay.Transfer(request)).payment
    await provider_did(running, paid, settled_minor=130)
    (case,) = (await tree(running, order)).cases
    assert (case.payment_id, case.amount, case.state) == (paid.payment_id, eur(30), payment_pb2.CASE_STATE_OPEN)
    decision = pb.ResolveCaseRequest(
        request_id="r", case_id=case.case_id, resolution=payment_pb2.CASE_RESOLUTION_TO_BALANCE, reason="it is hers"
    )
    decided = (await running.pay.ResolveCase(decision)).case
    found = await tree(running, order)
    assert list(found.cases) == [decided]
    assert [payment.payment_id for payment in found.payments] == [paid.payment_id, decided.resolution_payment_id]
    of_ann = [
        line.amount.amount_minor for journal in found.journals for line in journal.lines if line.owner_id == "ann"
    ]
    assert of_ann == [30]


async def test_a_payment_never_shows_money_moved_that_no_journal_books(
    running: Running, context: BusinessContext
) -> None:
    made = (await running.pay.Recharge(recharge(source_id=a_source()))).payment
    await provider_did(running, made)
    sources = [a_source() for _ in range(40)]
    is_over = asyncio.Event()
    seen: Counter[int] = Counter()

    async def pay() -> None:
        for number, source_id in enumerate(sources):
            to = payee(FAR if number % 2 else "bob", 1)
            await running.pay.Transfer(
                transfer(request_id=f"t{number}", amount=eur(1), payees=[to], source_id=source_id)
            )
        is_over.set()

    async def look() -> None:
        while not is_over.is_set():
            found = await tree(running, *sources)
            at_home = {journal.payment_id for journal in found.journals if journal.slot == ANN}
            for payment in found.payments:
                moved = [step for step in payment.instructions if step.state == payment_pb2.INSTRUCTION_STATE_SUCCEEDED]
                assert not moved or payment.payment_id in at_home
            assert not any(total for units in sums(found) for total in units.values())
            seen[len(found.payments)] += 1

    await asyncio.gather(pay(), look())
    assert len(seen) > 3


async def test_sources_are_ids_of_one_slot(running: Running) -> None:
    for sources, fields in (
        ([], ["source_ids"]),
        ([a_source()] * 1001, ["source_ids"]),
        ([a_source(), "order-7"], ["source_ids[1]"]),
        ([a_source(), a_source(), a_source(ANN + 1)], ["source_ids[2]"]),
    ):
        with pytest.raises(InvalidArgument) as refused:
            await tree(running, *sources)
        assert [violation.field for violation in refused.value.violations] == fields
    nothing = await tree(running, a_source())
    assert nothing == pb.GetPaymentTreeResponse()


async def test_the_id_of_a_case_leads_to_its_business(running: Running, context: BusinessContext) -> None:
    order = a_source()
    paid = (await running.pay.Transfer(transfer(fundings=[CARD], source_id=order))).payment
    await provider_did(running, paid, settled_minor=130)
    (case,) = (await tree(running, order)).cases
    channels = Channels({"pay_core": f"127.0.0.1:{running.service.port}"})
    try:
        ops = ops_service_pb2_grpc.OpsServiceStub(channels.get("pay_core"))
        timeline = await ops.GetTimeline(ops_service_pb2.GetTimelineRequest(id=case.case_id))
    finally:
        await channels.close()
    assert timeline.biz_id == context.biz_id
