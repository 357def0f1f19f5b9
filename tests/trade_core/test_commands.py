"""Commands on a real store: what they change, what they refuse, and that each happens once."""

from __future__ import annotations

import asyncio

import pytest

from paykit.errors import AlreadyExists, FailedPrecondition, InvalidArgument, MeshError, NotFound
from paykit.ids import new_id, slot_in
from paymesh.common.v1.money_pb2 import Money
from paymesh.event.v1.events_pb2 import TradeEvent
from paymesh.pay.v1 import pay_service_pb2, payment_pb2
from tests.trade_core.support import (
    BALANCE,
    BUYER,
    CARD,
    MERCHANT,
    NOW_MS,
    POLICY,
    SLOT,
    Bench,
    a_context,
    a_result,
    an_order,
    an_origin,
    fresh,
)
from trade_core.commands import CloseTrade, CreateTrade, ExpireTrade, PayTrade
from trade_core.refunds import RefundTrade
from trade_core.trade import PayMethod
from trade_core.types import Tool, TradeType


async def test_an_order_without_pay_methods_is_created_and_told(bench: Bench) -> None:
    view = await bench.create(merchant_order_no=fresh("order"))
    stored = await bench.trade(view.trade.id)
    assert stored == view.trade
    assert (stored.state, stored.version, stored.due_at_ms) == ("CREATED", 1, NOW_MS + 1_800_000)
    assert slot_in(stored.id) == stored.slot == SLOT
    assert [(line.line_no, line.sku, line.quantity) for line in view.lines] == [(1, "sku-1", 2)]
    (event,) = await bench.outbox(stored.id)
    assert event.destination == "trade.trade_created"
    assert TradeEvent.FromString(event.body).trade.version == 1


async def test_an_order_with_pay_methods_is_being_paid_at_once(bench: Bench) -> None:
    methods = (CARD, PayMethod(Tool.BALANCE, "", 300, "EUR"))
    view = await bench.create(pay_methods=methods)
    trade, (attempt,) = view.trade, view.attempts
    assert (trade.state, trade.version, trade.attempt_id) == ("PAYING", 2, attempt.id)
    assert trade.due_at_ms == NOW_MS + POLICY.ask_after_ms
    assert (attempt.state, attempt.attempt_no, attempt.attempt_key) == ("PAYING", 1, f"{trade.id}/1")
    (row,) = await bench.outbox(trade.id)
    assert (row.kind, row.destination) == ("call", "/paymesh.pay.v1.PayService/Transfer")
    request = pay_service_pb2.TransferRequest.FromString(row.body)
    assert request.request_id == request.source_id == attempt.id
    assert request.payer_id == BUYER
    assert request.amount == Money(currency_code="EUR", amount_minor=1000)
    assert [(f.WhichOneof("tool"), f.amount.amount_minor) for f in request.fundings] == [
        ("balance", 300),
        ("channel", 700),
    ]
    assert request.fundings[1].channel == payment_pb2.ChannelFunding(
        instrument=payment_pb2.INSTRUMENT_CARD, token="tok_visa"
    )
    assert [(p.owner_id, p.account_kind) for p in request.payees] == [(MERCHANT, payment_pb2.ACCOUNT_KIND_MERCHANT)]


@pytest.mark.parametrize(
    ("trade_type", "payee_id", "method", "call"),
    [
        (TradeType.TOP_UP, "", CARD, "Recharge"),
        (TradeType.CASH_OUT, "", PayMethod(Tool.BANK, "tok_bank"), "Withdraw"),
        (TradeType.PEER_TRANSFER, "user.bob", BALANCE, "Transfer"),
    ],
)
async def test_a_type_maps_to_its_payment_operation(
    bench: Bench, trade_type: TradeType, payee_id: str, method: PayMethod, call: str
) -> None:
    view = await bench.create(trade_type=trade_type, payee_id=payee_id, lines=(), pay_methods=(method,))
    (row,) = await bench.outbox(view.trade.id)
    assert row.destination == f"/paymesh.pay.v1.PayService/{call}"
    if call == "Recharge":
        recharge = pay_service_pb2.RechargeRequest.FromString(row.body)
        assert (recharge.owner_id, recharge.funding.channel.instrument) == (BUYER, payment_pb2.INSTRUMENT_CARD)
    elif call == "Withdraw":
        withdraw = pay_service_pb2.WithdrawRequest.FromString(row.body)
        assert (withdraw.owner_id, withdraw.destination.channel.instrument) == (
            BUYER,
            payment_pb2.INSTRUMENT_BANK_ACCOUNT,
        )
    else:
        (payee,) = pay_service_pb2.TransferRequest.FromString(row.body).payees
        assert (payee.owner_id, payee.account_kind) == ("user.bob", payment_pb2.ACCOUNT_KIND_USER)


async def test_twins_get_the_first_result_and_one_effect(bench: Bench) -> None:
    context, request_id = a_context(), fresh()
    commands = [CreateTrade(an_origin(context, request_id), POLICY, an_order(pay_methods=(CARD,))) for _ in range(5)]
    before = await bench.counts()
    views = await asyncio.gather(*(bench.store.run(command) for command in commands))
    again = await bench.store.run(CreateTrade(an_origin(context, request_id), POLICY, an_order(pay_methods=(CARD,))))
    assert all(view == again for view in views)
    after = await bench.counts()
    assert {name: after[name] - before[name] for name in after} == {
        "trade": 1,
        "trade_line": 1,
        "trade_relation": 0,
        "pay_attempt": 1,
        "outbox": 1,
        "command_record": 1,
    }


async def test_a_request_id_with_another_body_is_refused(bench: Bench) -> None:
    context, request_id = a_context(), fresh()
    await bench.store.run(CreateTrade(an_origin(context, request_id), POLICY, an_order()))
    before = await bench.counts()
    other = an_origin(context, request_id, Money(amount_minor=2))
    with pytest.raises(AlreadyExists) as caught:
        await bench.store.run(CreateTrade(other, POLICY, an_order(amount_minor=2000)))
    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert await bench.counts() == before


async def test_a_merchant_s_number_makes_one_trade(bench: Bench) -> None:
    number = fresh("order")
    outcomes = await asyncio.gather(*(bench.create(merchant_order_no=number) for _ in range(4)), return_exceptions=True)
    made = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, AlreadyExists)]
    assert (len(made), len(refused)) == (1, 3)
    assert {error.reason for error in refused} == {"ORDER_EXISTS"}
    assert {error.metadata["trade_id"] for error in refused} == {made[0].trade.id}
    assert (await bench.create(merchant_order_no=number, payee_id="other.shop")).trade.state == "CREATED"


async def test_unknown_trades_are_not_found_and_nothing_is_written(bench: Bench) -> None:
    unknown = new_id("trd", SLOT, NOW_MS)
    before = await bench.counts()
    commands = [
        PayTrade(an_origin(), POLICY, unknown, [CARD]),
        RefundTrade(an_origin(), POLICY, unknown, "", None, ""),
        CloseTrade(an_origin(), POLICY, unknown, ""),
    ]
    for command in commands:
        with pytest.raises(NotFound) as caught:
            await bench.store.run(command)
        assert caught.value.reason == "TRADE_NOT_FOUND"
    assert await bench.counts() == before


async def test_only_a_created_trade_is_paid_or_closed(bench: Bench) -> None:
    paying = (await bench.create(pay_methods=(CARD,))).trade
    paid = (await bench.paid()).trade
    closed = (await bench.create()).trade
    closed = (await bench.store.run(CloseTrade(an_origin(), POLICY, closed.id, "changed my mind"))).trade
    assert (closed.state, closed.reason, closed.note, closed.due_at_ms) == (
        "CLOSED",
        "CLOSED_BY_CALLER",
        "changed my mind",
        None,
    )
    before = await bench.counts()
    for trade in (paying, paid, closed):
        for command in (PayTrade(an_origin(), POLICY, trade.id, [CARD]), CloseTrade(an_origin(), POLICY, trade.id, "")):
            with pytest.raises(FailedPrecondition) as caught:
                await bench.store.run(command)
            assert (caught.value.reason, caught.value.subject) == ("ILLEGAL_STATE", trade.id)
    assert await bench.counts() == before
    (event,) = [row for row in await bench.outbox(closed.id) if row.destination == "trade.trade_closed"]
    assert TradeEvent.FromString(event.body).trade.trade_id == closed.id


async def test_paying_by_what_the_trade_does_not_take_is_refused(bench: Bench) -> None:
    trade = (await bench.create()).trade
    before = await bench.counts()
    for methods in ([PayMethod(Tool.BANK, "t")], [PayMethod(Tool.CARD, "t", 999, "EUR")]):
        with pytest.raises(InvalidArgument):
            await bench.store.run(PayTrade(an_origin(), POLICY, trade.id, methods))
    assert await bench.counts() == before
    assert (await bench.trade(trade.id)) == trade


async def test_two_payments_at_once_make_one_attempt(bench: Bench) -> None:
    trade = (await bench.create()).trade
    outcomes = await asyncio.gather(*(bench.pay(trade.id) for _ in range(6)), return_exceptions=True)
    begun = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    refused = [outcome.reason for outcome in outcomes if isinstance(outcome, FailedPrecondition)]
    assert (len(begun), refused) == (1, ["ILLEGAL_STATE"] * 5)
    assert (await bench.trade(trade.id)).attempt_count == 1


async def test_a_trade_expires_once_its_time_is_up_and_not_before(bench: Bench) -> None:
    trade = (await bench.create(time_to_live_ms=1_000)).trade
    assert await bench.store.run(ExpireTrade(an_origin(), POLICY, trade.id)) is None
    bench.clock.advance(1_000)
    with pytest.raises(FailedPrecondition) as caught:
        await bench.pay(trade.id)
    assert caught.value.reason == "TRADE_EXPIRED"
    view = await bench.store.run(ExpireTrade(an_origin(), POLICY, trade.id))
    assert view is not None
    assert (view.trade.state, view.trade.reason) == ("CLOSED", "EXPIRED")
    assert await bench.store.run(ExpireTrade(an_origin(), POLICY, trade.id)) is None
    told = sorted(row.destination for row in await bench.outbox(view.trade.id))
    assert told == ["trade.trade_closed", "trade.trade_created"]


async def test_a_trade_being_paid_does_not_expire(bench: Bench) -> None:
    trade = (await bench.create(time_to_live_ms=1_000, pay_methods=(CARD,))).trade
    bench.clock.advance(10_000)
    assert await bench.store.run(ExpireTrade(an_origin(), POLICY, trade.id)) is None
    assert (await bench.trade(trade.id)).state == "PAYING"


async def test_a_trade_can_be_tried_so_often_and_no_more(bench: Bench) -> None:
    trade = (await bench.create()).trade
    attempts_max = POLICY.catalogue.spec("PURCHASE").attempts_max
    for attempt_no in range(1, attempts_max + 1):
        view = await bench.pay(trade.id)
        assert [attempt.attempt_no for attempt in view.attempts] == list(range(1, attempt_no + 1))
        await bench.apply(a_result(view.trade.attempt_id, is_success=False))
    with pytest.raises(FailedPrecondition) as caught:
        await bench.pay(trade.id)
    assert caught.value.reason == "TOO_MANY_ATTEMPTS"


async def test_a_refund_is_reserved_as_it_is_accepted_and_calls_pay_core(bench: Bench) -> None:
    paid = await bench.paid()
    view = await bench.refund(paid.trade.id, 400)
    refund, (attempt,), (relation,) = view.trade, view.attempts, view.relations
    parent = await bench.trade(paid.trade.id)
    assert (parent.refundable_minor, parent.refunded_minor, parent.state) == (600, 0, "PAID")
    assert (refund.trade_type, refund.state, refund.amount_minor) == ("REFUND", "PAYING", 400)
    assert (refund.buyer_id, refund.payee_id, refund.note) == (BUYER, MERCHANT, "broken")
    assert refund.biz_id == paid.trade.biz_id
    assert (relation.root_trade_id, relation.parent_trade_id) == (parent.id, parent.id)
    assert (relation.child_trade_id, relation.kind) == (refund.id, "REFUND_OF")
    (row,) = await bench.outbox(refund.id)
    assert row.destination == "/paymesh.pay.v1.PayService/Refund"
    request = pay_service_pb2.RefundRequest.FromString(row.body)
    assert request.request_id == request.source_id == attempt.id
    assert request.payment_id == paid.attempts[0].payment_id
    assert request.amount == Money(currency_code="EUR", amount_minor=400)


async def test_concurrent_refunds_never_exceed_what_was_paid(bench: Bench) -> None:
    paid = (await bench.paid()).trade
    outcomes = await asyncio.gather(*(bench.refund(paid.id, 300) for _ in range(10)), return_exceptions=True)
    begun = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    reasons = {outcome.reason for outcome in outcomes if isinstance(outcome, MeshError)}
    assert (len(begun), reasons) == (3, {"REFUND_EXCEEDS_REFUNDABLE"})
    assert (await bench.trade(paid.id)).refundable_minor == 100
    assert (await bench.refund(paid.id)).trade.amount_minor == 100
    with pytest.raises(FailedPrecondition) as caught:
        await bench.refund(paid.id)
    assert caught.value.metadata["refundable_minor"] == "0"


async def test_only_paid_purchases_are_refunded_and_in_their_currency(bench: Bench) -> None:
    created = (await bench.create()).trade
    top_up = (await bench.paid(trade_type=TradeType.TOP_UP, payee_id="", lines=())).trade
    paid = (await bench.paid()).trade
    before = await bench.counts()
    with pytest.raises(FailedPrecondition) as caught:
        await bench.refund(created.id)
    assert caught.value.reason == "ILLEGAL_STATE"
    with pytest.raises(FailedPrecondition) as caught:
        await bench.refund(top_up.id)
    assert caught.value.reason == "REFUND_NOT_ALLOWED"
    with pytest.raises(InvalidArgument) as wrong:
        await bench.store.run(RefundTrade(an_origin(), POLICY, paid.id, "USD", 1, ""))
    assert [violation.field for violation in wrong.value.violations] == ["amount.currency_code"]
    assert await bench.counts() == before
