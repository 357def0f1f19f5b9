"""Captures, voids, previews, rules and cases over gRPC, as other services and operators call them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from pay_core.commands import SettleInstruction
from pay_core.payment import CHANNEL
from pay_core.rules.book import default_text
from pay_core.terms import Terms
from pay_core.tools.base import Outcome
from paykit import context as business_context
from paykit.context import BusinessContext
from paykit.errors import FailedPrecondition, NotFound
from paykit.ids import new_id
from paykit.store.command import Origin
from paymesh.pay.v1 import pay_service_pb2 as pb
from paymesh.pay.v1 import payment_pb2
from tests.pay_core.conftest import Running
from tests.pay_core.test_api import (
    BALANCE,
    CARD,
    NOW_MS,
    balance_of,
    eur,
    fund,
    part,
    payee,
    recharge,
    refund,
    transfer,
)
from tests.pay_core.test_api import written as count_written
from tests.pay_core.world import RULES

AUTHORIZE = payment_pb2.SETTLEMENT_MODE_AUTHORIZE
MERCHANT = payment_pb2.ACCOUNT_KIND_MERCHANT
TERMS = Terms(RULES, 1000, 1000)


async def reserve(running: Running, amount_minor: int, request_id: str = "a1", **changes: Any) -> payment_pb2.Payment:
    """A payment of ann's to her own shop that is AUTHORIZED."""
    request = transfer(
        request_id=request_id,
        amount=eur(amount_minor),
        payees=[payee("ann", amount_minor, MERCHANT)],
        settlement_mode=AUTHORIZE,
        **changes,
    )
    made: payment_pb2.Payment = (await running.pay.Transfer(request)).payment
    assert made.state == payment_pb2.PAYMENT_STATE_AUTHORIZED
    return made


async def test_captures_a_part_keeps_the_rest_and_voids_it(running: Running, context: BusinessContext) -> None:
    await fund(running, context)
    made = await reserve(running, 600)
    assert made.settlement_mode == AUTHORIZE
    assert made.expire_time.seconds - made.create_time.seconds == 7 * 86_400
    capture = pb.CapturePaymentRequest(request_id="c1", payment_id=made.payment_id, amount=eur(150), keep_rest=True)
    captured = (await running.pay.CapturePayment(capture)).payment
    assert (captured.state, captured.captured_minor) == (payment_pb2.PAYMENT_STATE_AUTHORIZED, 150)
    again = (await running.pay.CapturePayment(capture)).payment
    assert again == captured, "the same request is answered with the first result"
    void = pb.VoidPaymentRequest(request_id="v1", payment_id=made.payment_id, reason="DONE")
    assert (await running.pay.VoidPayment(void)).payment.state == payment_pb2.PAYMENT_STATE_SUCCEEDED
    with pytest.raises(FailedPrecondition) as caught:
        await running.pay.CapturePayment(pb.CapturePaymentRequest(request_id="c2", payment_id=made.payment_id))
    assert caught.value.reason == "NOT_AUTHORIZED"
    assert await balance_of(running, "ann") == 850


async def test_gives_each_item_of_a_batch_of_captures_and_voids_its_own_outcome(
    running: Running, context: BusinessContext
) -> None:
    await fund(running, context)
    made = [await reserve(running, 100, f"a{number}") for number in range(3)]
    own = business_context.to_proto(context)
    captures = [
        pb.CapturePaymentItem(
            context=own,
            request=pb.CapturePaymentRequest(request_id=f"c{number}", payment_id=one.payment_id, amount=eur(amount)),
        )
        for number, (one, amount) in enumerate(zip(made[:2], (100, 101), strict=True))
    ]
    results = (await running.pay.BatchCapturePayments(pb.BatchCapturePaymentsRequest(items=captures))).results
    assert [result.status.code for result in results] == [0, 9]
    voids = [
        pb.VoidPaymentItem(
            context=own, request=pb.VoidPaymentRequest(request_id=f"v{number}", payment_id=one.payment_id)
        )
        for number, one in enumerate(made)
    ]
    results = (await running.pay.BatchVoidPayments(pb.BatchVoidPaymentsRequest(items=voids))).results
    assert [result.status.code for result in results] == [9, 0, 0]
    assert await balance_of(running, "ann") == 900


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_voids_by_itself_what_nobody_captures(running: Running, context: BusinessContext) -> None:
    await fund(running, context)
    made = await reserve(running, 600, time_to_live=Duration(seconds=1))
    state = made.state
    for _ in range(300):
        state = (await running.pay.GetPayment(pb.GetPaymentRequest(payment_id=made.payment_id))).payment.state
        if state == payment_pb2.PAYMENT_STATE_VOIDED:
            break
        await asyncio.sleep(0.02)
    assert state == payment_pb2.PAYMENT_STATE_VOIDED


async def test_previews_without_any_effect(running: Running, context: BusinessContext) -> None:
    await fund(running, context)
    before = await count_written(running)
    request = transfer(request_id="", payees=[payee("ann", 100, MERCHANT)])
    preview = await running.pay.PreviewPayment(pb.PreviewPaymentRequest(transfer=request))
    assert preview.payment.state == payment_pb2.PAYMENT_STATE_SUCCEEDED
    assert preview.payment.rules_version == RULES.version
    assert {(p.owner_id, p.account_kind, p.amount.amount_minor) for p in preview.postings} == {
        ("ann", payment_pb2.ACCOUNT_KIND_USER, -100),
        ("ann", MERCHANT, 100),
    }
    assert [(limit.name, limit.per) for limit in preview.limits] == [("single", "payment")]
    bank = payment_pb2.Funding(channel=payment_pb2.ChannelFunding(channel="sandbox_bank", token="tok"))
    withdraw = pb.WithdrawRequest(owner_id="ann", amount=eur(70), destination=bank)
    preview = await running.pay.PreviewPayment(pb.PreviewPaymentRequest(withdraw=withdraw))
    daily = next(limit for limit in preview.limits if limit.per == "day")
    assert (daily.used_minor, daily.used_count, daily.max_count) == (0, 0, 1_000_000)
    preview = await running.pay.PreviewPayment(pb.PreviewPaymentRequest(recharge=recharge(request_id="")))
    assert [ins.action for ins in preview.payment.instructions] == [
        payment_pb2.INSTRUCTION_ACTION_COLLECT,
        payment_pb2.INSTRUCTION_ACTION_DISBURSE,
    ]
    assert not preview.postings
    with pytest.raises(NotFound):
        await running.pay.PreviewPayment(pb.PreviewPaymentRequest(refund=refund(request_id="")))
    assert await count_written(running) == before


async def test_reads_the_rules_that_are_active(running: Running, context: BusinessContext) -> None:
    active = await running.pay.GetRules(pb.GetRulesRequest())
    assert (active.version, active.active_version, active.text) == (RULES.version, RULES.version, default_text())
    assert (active.sha256, active.load_error) == (RULES.sha256, "")
    assert (await running.pay.GetRules(pb.GetRulesRequest(version=RULES.version))).sha256 == RULES.sha256
    with pytest.raises(NotFound) as caught:
        await running.pay.GetRules(pb.GetRulesRequest(version=RULES.version + 1))
    assert caught.value.reason == "RULES_NOT_FOUND"


async def overpaid(running: Running, context: BusinessContext, request_id: str) -> None:
    """A top-up that brings one euro too much."""
    made = (await running.pay.Recharge(recharge(request_id=request_id))).payment
    command = SettleInstruction(
        Origin.event(context, "test", request_id),
        made.payment_id,
        made.instructions[0].instruction_id,
        tool=CHANNEL,
        outcome=Outcome("", new_id("chn", 1, NOW_MS), (1000, "EUR"), 1100),
        terms=TERMS,
    )
    await running.service.store.run(command)


async def test_lists_cases_and_carries_out_what_is_decided(running: Running, context: BusinessContext) -> None:
    for number in range(3):
        await overpaid(running, context, f"o{number}")
    found, token = [], ""
    while True:
        page = await running.pay.ListCases(
            pb.ListCasesRequest(state=payment_pb2.CASE_STATE_OPEN, page_size=2, page_token=token)
        )
        found += page.cases
        token = page.next_page_token
        if not token:
            break
    assert [case.case_id for case in found] == sorted([case.case_id for case in found], reverse=True)
    assert [(case.type, case.amount.amount_minor) for case in found] == [(payment_pb2.CASE_TYPE_OVERPAYMENT, 100)] * 3
    request = pb.ResolveCaseRequest(
        request_id="x1",
        case_id=found[0].case_id,
        resolution=payment_pb2.CASE_RESOLUTION_TO_BALANCE,
        reason="the customer asked for it",
    )
    resolved = (await running.pay.ResolveCase(request)).case
    assert resolved.state == payment_pb2.CASE_STATE_RESOLVED
    assert (await running.pay.ResolveCase(request)).case == resolved
    assert (await running.pay.GetCase(pb.GetCaseRequest(case_id=resolved.case_id))).case == resolved
    own = (await running.pay.GetPayment(pb.GetPaymentRequest(payment_id=resolved.resolution_payment_id))).payment
    assert own.state == payment_pb2.PAYMENT_STATE_SUCCEEDED
    assert await balance_of(running, "ann") == 3100
    left = await running.pay.ListCases(pb.ListCasesRequest(state=payment_pb2.CASE_STATE_OPEN))
    assert len(left.cases) == 2
    with pytest.raises(FailedPrecondition):
        await running.pay.ResolveCase(pb.ResolveCaseRequest(**_again(request)))
    with pytest.raises(NotFound) as caught:
        await running.pay.GetCase(pb.GetCaseRequest(case_id=new_id("cas", 1, NOW_MS)))
    assert caught.value.reason == "CASE_NOT_FOUND"


def _again(request: pb.ResolveCaseRequest) -> dict[str, Any]:
    return {
        "request_id": "x2",
        "case_id": request.case_id,
        "resolution": request.resolution,
        "reason": request.reason,
    }


async def test_pays_one_order_with_several_cards(running: Running, context: BusinessContext) -> None:
    fundings = [part(CARD, 40), part(CARD, 35), part(BALANCE, 25)]
    await fund(running, context, 25)
    made = (await running.pay.Transfer(transfer(fundings=fundings))).payment
    assert made.state == payment_pb2.PAYMENT_STATE_PROCESSING
    collects = [ins for ins in made.instructions if ins.action == payment_pb2.INSTRUCTION_ACTION_COLLECT]
    assert [(ins.tool, ins.amount.amount_minor) for ins in collects] == [
        ("balance", 25),
        ("channel", 40),
        ("channel", 35),
    ]
