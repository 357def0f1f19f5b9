"""pay_core over gRPC: whatever is wrong with a request is answered with its place, and nothing is written."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import select

from pay_core.commands import SettleInstruction
from pay_core.payment import CHANNEL
from pay_core.tables import Account, Journal, Payment
from pay_core.terms import Terms
from pay_core.tools.base import Outcome
from paykit import context as business_context
from paykit.context import BusinessContext
from paykit.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from paykit.ids import new_id
from paykit.store.command import Origin
from paykit.store.system import CommandRecord, Outbox
from paymesh.common.v1.money_pb2 import Money
from paymesh.pay.v1 import ledger_service_pb2 as ledger_pb
from paymesh.pay.v1 import pay_service_pb2 as pb
from paymesh.pay.v1 import payment_pb2
from tests.pay_core.conftest import Running
from tests.pay_core.world import RULES

BALANCE = payment_pb2.Funding(balance=payment_pb2.BalanceFunding())
CARD = payment_pb2.Funding(channel=payment_pb2.ChannelFunding(channel="sandbox_card", token="tok_ok"))
NO_INSTRUMENT = payment_pb2.Funding(channel=payment_pb2.ChannelFunding(token="tok_ok"))
POINTS = payment_pb2.Funding(points=payment_pb2.PointsFunding())
COUPON = payment_pb2.Funding(coupon=payment_pb2.CouponFunding(coupon_id=new_id("cpn", 1, 1_700_000_000_000)))
NO_COUPON = payment_pb2.Funding(coupon=payment_pb2.CouponFunding())
USER = payment_pb2.ACCOUNT_KIND_USER
RETRY = payment_pb2.CASE_RESOLUTION_RETRY
NOW_MS = 1_700_000_000_000


def eur(amount_minor: int, currency: str = "EUR") -> Money:
    """An amount."""
    return Money(currency_code=currency, amount_minor=amount_minor)


def payee(owner: str, amount_minor: int, kind: int = USER, currency: str = "EUR") -> payment_pb2.Payee:
    """Who is paid."""
    return payment_pb2.Payee(owner_id=owner, account_kind=kind, amount=eur(amount_minor, currency))  # type: ignore[arg-type]


def transfer(**changes: Any) -> pb.TransferRequest:
    """A transfer of 1.00 EUR from ann's balance to bob."""
    fields: dict[str, Any] = {
        "request_id": "t1",
        "payer_id": "ann",
        "amount": eur(100),
        "fundings": [BALANCE],
        "payees": [payee("bob", 100)],
        "source_id": "order-1",
    }
    return pb.TransferRequest(**(fields | changes))


def recharge(**changes: Any) -> pb.RechargeRequest:
    """A top-up of 10.00 EUR."""
    fields: dict[str, Any] = {"request_id": "r1", "owner_id": "ann", "amount": eur(1000), "funding": CARD}
    return pb.RechargeRequest(**(fields | changes))


def refund(**changes: Any) -> pb.RefundRequest:
    """A refund of 1 cent."""
    fields: dict[str, Any] = {"request_id": "f1", "payment_id": new_id("pay", 1, NOW_MS), "amount": eur(1)}
    return pb.RefundRequest(**(fields | changes))


def part(funding: payment_pb2.Funding, amount_minor: int, currency: str = "EUR") -> payment_pb2.Funding:
    """A funding of a part."""
    made = payment_pb2.Funding(amount=eur(amount_minor, currency))
    made.MergeFrom(funding)
    return made


BAD: list[tuple[str, Any, str]] = [
    ("Transfer", transfer(request_id=""), "request_id"),
    ("Transfer", transfer(request_id="x" * 65), "request_id"),
    ("Transfer", transfer(request_id="a\x07b"), "request_id"),
    ("Transfer", transfer(payer_id=""), "payer_id"),
    ("Transfer", transfer(payer_id="a b"), "payer_id"),
    ("Transfer", transfer(payer_id="internal.7"), "payer_id"),
    ("Transfer", transfer(amount=eur(0)), "amount.amount_minor"),
    ("Transfer", transfer(amount=eur(-5)), "amount.amount_minor"),
    ("Transfer", transfer(amount=eur(10**15 + 1)), "amount.amount_minor"),
    ("Transfer", transfer(amount=eur(2**63 - 1)), "amount.amount_minor"),
    ("Transfer", transfer(amount=eur(100, "EURO")), "amount.currency_code"),
    ("Transfer", transfer(amount=None), "amount"),
    ("Transfer", transfer(fundings=[]), "fundings"),
    ("Transfer", transfer(fundings=[part(CARD, 10)] * 9), "fundings"),
    ("Transfer", transfer(fundings=[part(BALANCE, 50), part(BALANCE, 50)]), "fundings"),
    ("Transfer", transfer(fundings=[part(POINTS, 50), part(POINTS, 50)]), "fundings"),
    ("Transfer", transfer(fundings=[part(COUPON, 50), part(COUPON, 50)]), "fundings"),
    ("Transfer", transfer(fundings=[part(NO_COUPON, 100)]), "fundings[0].coupon.coupon_id"),
    ("Transfer", transfer(fundings=[part(NO_INSTRUMENT, 100)]), "fundings[0].channel.instrument"),
    ("Transfer", transfer(settlement_mode=9), "settlement_mode"),
    ("Transfer", transfer(settlement_mode=2, time_to_live=Duration(seconds=401 * 86_400)), "time_to_live"),
    ("Transfer", transfer(settlement_mode=2, time_to_live=Duration()), "time_to_live"),
    ("Transfer", transfer(fundings=[part(BALANCE, 99)]), "fundings"),
    ("Transfer", transfer(fundings=[part(BALANCE, 100, "USD")]), "fundings[0].amount.currency_code"),
    ("Transfer", transfer(fundings=[payment_pb2.Funding()]), "fundings[0].tool"),
    ("Transfer", transfer(payees=[]), "payees"),
    ("Transfer", transfer(payees=[payee("bob", 99)]), "payees"),
    ("Transfer", transfer(payees=[payee("bob", 100, 99)]), "payees[0].account_kind"),
    ("Transfer", transfer(payees=[payee("bob", 100, payment_pb2.ACCOUNT_KIND_FEES)]), "payees[0].account_kind"),
    ("Transfer", transfer(payees=[payee("internal.1", 100)]), "payees[0].owner_id"),
    ("Transfer", transfer(source_id="x" * 65), "source_id"),
    ("Recharge", recharge(owner_id="über"), "owner_id"),
    ("Recharge", recharge(funding=BALANCE), "funding.tool"),
    ("Recharge", recharge(funding=part(CARD, 999)), "funding.amount"),
    ("Refund", refund(payment_id="pay_1"), "payment_id"),
    ("Refund", refund(payment_id=new_id("trd", 1, NOW_MS)), "payment_id"),
    ("Refund", refund(amount=None), "amount"),
    ("Refund", refund(payee_reference="a b"), "payee_reference"),
    ("CapturePayment", pb.CapturePaymentRequest(request_id="c1", payment_id="pay_1"), "payment_id"),
    ("CapturePayment", pb.CapturePaymentRequest(payment_id=new_id("pay", 1, NOW_MS)), "request_id"),
    ("VoidPayment", pb.VoidPaymentRequest(request_id="v1", payment_id="pay_1"), "payment_id"),
    ("VoidPayment", pb.VoidPaymentRequest(request_id="v1", reason="R" * 33), "reason"),
    ("PreviewPayment", pb.PreviewPaymentRequest(), "operation"),
    ("PreviewPayment", pb.PreviewPaymentRequest(transfer=transfer(payees=[])), "payees"),
    ("GetRules", pb.GetRulesRequest(version=-1), "version"),
    ("GetCase", pb.GetCaseRequest(case_id="pay_1"), "case_id"),
    ("ListCases", pb.ListCasesRequest(state=9), "state"),  # type: ignore[arg-type]
    ("ResolveCase", pb.ResolveCaseRequest(request_id="x", case_id=new_id("cas", 1, NOW_MS)), "resolution"),
    (
        "ResolveCase",
        pb.ResolveCaseRequest(request_id="x", case_id=new_id("cas", 1, NOW_MS), resolution=RETRY),
        "reason",
    ),
    ("GetPayment", pb.GetPaymentRequest(), "by"),
    ("ListPayments", pb.ListPaymentsRequest(payer_id="ann", page_size=201), "page_size"),
    ("ListPayments", pb.ListPaymentsRequest(payer_id="ann", page_token="x"), "page_token"),
]


async def written(running: Running) -> int:
    """How many rows there are that a request may have left."""
    counts = [
        len(await running.service.store.fetch_everywhere(kind, select(kind.__table__), shadow=False))
        for kind in (Payment, Journal, Account, CommandRecord, Outbox)
    ]
    return sum(counts)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_refuses_every_malformed_request_and_names_the_field(running: Running, context: BusinessContext) -> None:
    before = await written(running)
    for method, request, field in BAD:
        with pytest.raises(InvalidArgument) as caught:
            await getattr(running.pay, method)(request)
        named = [violation.field for violation in caught.value.violations]
        assert field in named, f"{method} {request}: {named}"
        assert caught.value.reason == "INVALID_FIELD"
    assert await written(running) == before


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_refuses_an_internal_call_without_context(running: Running) -> None:
    before = await written(running)
    with pytest.raises(FailedPrecondition) as caught:
        await running.pay.Transfer(transfer())
    assert caught.value.reason == "CONTEXT_MISSING"
    assert await written(running) == before


async def fund(running: Running, context: BusinessContext, amount_minor: int = 1000) -> None:
    """Tops ann up; the provider's answer comes as channel_gateway would bring it."""
    made = (await running.pay.Recharge(recharge(request_id="fund", amount=eur(amount_minor)))).payment
    command = SettleInstruction(
        Origin.event(context, "test", "fund"),
        made.payment_id,
        made.instructions[0].instruction_id,
        tool=CHANNEL,
        outcome=Outcome("", new_id("chn", 1, NOW_MS), (amount_minor, "EUR")),
        terms=Terms(RULES, 1000, 1000),
    )
    await running.service.store.run(command)


async def balance_of(running: Running, owner: str) -> int:
    """The balance of an owner's first account; 0 without one."""
    accounts = (await running.ledger.ListAccounts(ledger_pb.ListAccountsRequest(owner_id=owner))).accounts
    return int(accounts[0].balance.amount_minor) if accounts else 0


async def until_balance(running: Running, owner: str, amount_minor: int) -> None:
    """Waits for money that comes from another slot."""
    for _ in range(500):
        if await balance_of(running, owner) == amount_minor:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{owner} has {await balance_of(running, owner)}, not {amount_minor}")


async def test_moves_money_between_slots_through_its_own_outbox(running: Running, context: BusinessContext) -> None:
    await fund(running, context)
    done = (await running.pay.Transfer(transfer())).payment
    assert done.state == payment_pb2.PAYMENT_STATE_SUCCEEDED
    await until_balance(running, "bob", 100)
    assert await balance_of(running, "ann") == 900
    refunded = (await running.pay.Refund(refund(payment_id=done.payment_id, amount=eur(40)))).payment
    assert refunded.state == payment_pb2.PAYMENT_STATE_PROCESSING
    await until_balance(running, "ann", 940)
    assert await balance_of(running, "bob") == 60


async def test_answers_twins_once_and_refuses_another_body(running: Running, context: BusinessContext) -> None:
    await fund(running, context)
    answers = await asyncio.gather(*(running.pay.Transfer(transfer()) for _ in range(10)))
    assert len({answer.payment.payment_id for answer in answers}) == 1
    with pytest.raises(AlreadyExists) as caught:
        await running.pay.Transfer(transfer(source_id="order-2"))
    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert await balance_of(running, "ann") == 900


async def test_gives_each_item_of_a_batch_its_own_outcome(running: Running, context: BusinessContext) -> None:
    await fund(running, context, 250)
    items = [
        pb.TransferItem(context=business_context.to_proto(context), request=transfer(request_id=f"b{i}"))
        for i in range(4)
    ]
    items[1].request.payer_id = ""
    results = (await running.pay.BatchTransfer(pb.BatchTransferRequest(items=items))).results
    assert [result.status.code for result in results] == [0, 3, 0, 0]
    states = sorted(result.response.payment.state for result in results if result.status.code == 0)
    assert states == [payment_pb2.PAYMENT_STATE_SUCCEEDED] * 2 + [payment_pb2.PAYMENT_STATE_FAILED]
    assert await balance_of(running, "ann") == 50


async def test_never_passes_the_floor_under_concurrent_withdrawals(running: Running, context: BusinessContext) -> None:
    await fund(running, context, 1000)
    bank = payment_pb2.Funding(channel=payment_pb2.ChannelFunding(channel="sandbox_bank", token="tok_ok"))
    answers = await asyncio.gather(
        *(
            running.pay.Withdraw(
                pb.WithdrawRequest(request_id=f"w{i}", owner_id="ann", amount=eur(30), destination=bank)
            )
            for i in range(60)
        )
    )
    taken = [a for a in answers if a.payment.state == payment_pb2.PAYMENT_STATE_PROCESSING]
    assert len(taken) == 33
    assert await balance_of(running, "ann") == 10


async def test_lets_no_transit_answer_settle_what_a_channel_carries_out(
    running: Running, context: BusinessContext
) -> None:
    made = (await running.pay.Recharge(recharge())).payment
    forged = ledger_pb.SettleTransitRequest(
        instruction_id=made.instructions[0].instruction_id, payment_id=made.payment_id, drawn=True
    )
    with pytest.raises(FailedPrecondition) as caught:
        await running.transit.SettleTransit(forged)
    assert caught.value.reason == "WRONG_TOOL"
    assert await balance_of(running, "ann") == 0


async def test_lists_payments_page_by_page(running: Running, context: BusinessContext) -> None:
    made = [(await running.pay.Recharge(recharge(request_id=f"p{i}"))).payment.payment_id for i in range(5)]
    found, token = [], ""
    while True:
        page = await running.pay.ListPayments(pb.ListPaymentsRequest(payer_id="ann", page_size=2, page_token=token))
        found += [payment.payment_id for payment in page.payments]
        token = page.next_page_token
        if not token:
            break
    assert found == sorted(made, reverse=True)


async def test_finds_a_payment_by_id_and_by_source(running: Running, context: BusinessContext) -> None:
    await fund(running, context)
    made = (await running.pay.Transfer(transfer())).payment
    by_id = await running.pay.GetPayment(pb.GetPaymentRequest(payment_id=made.payment_id))
    by_source = await running.pay.GetPayment(pb.GetPaymentRequest(source_id="order-1"))
    assert by_id.payment.payment_id == by_source.payment.payment_id == made.payment_id
    for unknown in (
        pb.GetPaymentRequest(payment_id=new_id("pay", 1, NOW_MS)),
        pb.GetPaymentRequest(source_id=new_id("att", 1, NOW_MS)),
    ):
        with pytest.raises(NotFound) as caught:
            await running.pay.GetPayment(unknown)
        assert caught.value.reason == "PAYMENT_NOT_FOUND"
