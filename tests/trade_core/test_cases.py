"""The cases that go wrong elsewhere, one by one, with pay_core as a script: the money comes out right in each."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from paykit.errors import FailedPrecondition
from paymesh.pay.v1 import pay_service_pb2
from paymesh.trade.v1 import trade_pb2
from paymesh.trade.v1 import trade_service_pb2 as pb
from tests.paykit.events.waits import until
from tests.trade_core.running import BALANCE, CARD, WALLET, Running, eur
from tests.trade_core.support import POLICY, Bench, a_result, an_origin, fresh
from tests.trade_core.support import WALLET as WALLET_METHOD
from trade_core.commands import CloseTrade, ExpireTrade

CREATED, PAYING = trade_pb2.TRADE_STATE_CREATED, trade_pb2.TRADE_STATE_PAYING
PAID, CLOSED = trade_pb2.TRADE_STATE_PAID, trade_pb2.TRADE_STATE_CLOSED
PARTIALLY_PAID = trade_pb2.TRADE_STATE_PARTIALLY_PAID
EFFECTIVE, RETURNED = trade_pb2.ATTEMPT_STATE_EFFECTIVE, trade_pb2.ATTEMPT_STATE_RETURNED
DUPLICATE_OF, REPAIR_OF = trade_pb2.RELATION_KIND_DUPLICATE_OF, trade_pb2.RELATION_KIND_REPAIR_OF
RefundRequest: Any = pay_service_pb2.RefundRequest


def last(trade: trade_pb2.Trade) -> str:
    """The latest attempt."""
    return trade.attempts[-1].attempt_id


async def check_returned(running: Running, trade: trade_pb2.Trade, attempt_id: str, purpose: str) -> trade_pb2.Trade:
    """That the money of one attempt went back by one refund of its own, and the trade is none the wiser."""
    refund = await running.returned(trade)
    (call,) = running.pay_core.calls(RefundRequest)
    payment = running.pay_core.payments[attempt_id]
    assert (call.payment_id, call.amount, call.is_repair) == (payment.payment_id, payment.amount, True)
    assert (refund.purpose, refund.amount) == (purpose, payment.amount)
    assert (refund.parent_trade_id, refund.biz_id) == (trade.trade_id, trade.biz_id)
    whole = await running.get(trade.trade_id)
    assert whole.refunded_minor == 0
    (relation,) = whole.relations
    assert relation.kind == (DUPLICATE_OF if purpose == "DUPLICATE" else REPAIR_OF)
    states = {attempt.attempt_id: attempt.state for attempt in whole.attempts}
    assert states[attempt_id] == RETURNED
    return whole


async def test_paid_twice_through_two_channels_the_first_counts_and_the_other_goes_back(running: Running) -> None:
    trade = await running.create(pay_methods=[WALLET])
    trade = await running.pay(trade.trade_id, CARD)
    first, second = (attempt.attempt_id for attempt in trade.attempts)
    await running.finished(second, trade.biz_id)
    await running.until(trade.trade_id, PAID)
    await running.finished(first, trade.biz_id)
    whole = await check_returned(running, trade, first, "DUPLICATE")
    assert (whole.state, whole.paid_minor, whole.refundable_minor) == (PAID, 1000, 1000)
    assert [attempt.state for attempt in whole.attempts] == [RETURNED, EFFECTIVE]


async def test_success_after_close_goes_back(running: Running) -> None:
    trade = await running.create(pay_methods=[WALLET])
    await running.pay_core.taken(last(trade))
    assert (await running.close(trade.trade_id)).state == CLOSED
    await running.finished(last(trade), trade.biz_id)
    whole = await check_returned(running, trade, last(trade), "LATE")
    assert (whole.state, whole.reason, whole.paid_minor) == (CLOSED, "CLOSED_BY_CALLER", 0)


async def test_success_after_expiry_goes_back(running: Running) -> None:
    trade = await running.create(pay_methods=[WALLET], time_to_live={"seconds": 1})
    (*_, expired) = await running.until(trade.trade_id, CLOSED)
    assert expired.reason == "EXPIRED"
    await running.finished(last(trade), trade.biz_id)
    assert (await check_returned(running, trade, last(trade), "LATE")).state == CLOSED


async def test_success_after_close_reopens_what_its_type_reopens(running: Running) -> None:
    top_up = trade_pb2.TRADE_TYPE_TOP_UP
    trade = await running.create(trade_type=top_up, payee_id="", pay_methods=[WALLET])
    assert (await running.close(trade.trade_id)).state == CLOSED
    await running.finished(last(trade), trade.biz_id)

    async def is_paid() -> bool:
        return (await running.get(trade.trade_id)).state == PAID

    await until(is_paid)
    whole = await running.get(trade.trade_id)
    assert (whole.paid_minor, whole.reason) == (1000, "")
    assert running.pay_core.calls(RefundRequest) == []


@pytest.mark.parametrize("ask_after_s", [0.1])
async def test_late_success_is_found_by_asking_where_no_message_comes(running: Running) -> None:
    trade = await running.create(pay_methods=[WALLET])
    await running.pay_core.taken(last(trade))
    await running.close(trade.trade_id)
    running.pay_core.finish(last(trade))
    await check_returned(running, trade, last(trade), "LATE")


async def test_a_repair_that_fails_is_tried_until_it_is_done(running: Running) -> None:
    trade = await running.create(pay_methods=[WALLET])
    await running.pay_core.taken(last(trade))
    await running.close(trade.trade_id)
    running.pay_core.failing_refunds = 1
    await running.finished(last(trade), trade.biz_id)
    refund = await running.returned(trade)
    assert [attempt.failure_reason for attempt in refund.attempts] == ["ACCOUNT_FROZEN", ""]
    calls = running.pay_core.calls(RefundRequest)
    assert [call.is_repair for call in calls] == [True, True]
    assert len({call.request_id for call in calls}) == 2


async def test_partial_payment_pays_the_rest_in_a_second_part(running: Running) -> None:
    trade = await running.create()
    part = trade_pb2.PayMethod(amount=eur(300), balance=trade_pb2.BalanceTool())
    partly = await running.pay(trade.trade_id, part, is_partial=True)
    assert (partly.state, partly.paid_minor) == (PARTIALLY_PAID, 300), "without a tool outside it is known at once"
    rest = trade_pb2.PayMethod(amount=eur(700), balance=trade_pb2.BalanceTool())
    await running.pay(trade.trade_id, rest, is_partial=True)
    (*_, paid) = await running.until(trade.trade_id, PAID)
    assert paid.paid_minor == 1000


async def test_over_payment_pays_the_trade_once_and_no_more_of_it(running: Running) -> None:
    # The channel brings more than was asked for: pay_core keeps the excess, the payment is of what was asked.
    trade = await running.create(pay_methods=[WALLET])
    await running.pay_core.taken(last(trade))
    payment = running.pay_core.payments[last(trade)]
    payment.instructions.add(moved_minor=1500)
    await running.finished(last(trade), trade.biz_id)
    (*_, paid) = await running.until(trade.trade_id, PAID)
    assert (paid.paid_minor, paid.refundable_minor) == (1000, 1000)


async def test_price_changed_between_attempts_the_old_price_goes_back(running: Running) -> None:
    trade = await running.create(pay_methods=[WALLET])
    await running.pay_core.taken(last(trade))
    request = pb.RepriceTradeRequest(request_id=fresh(), trade_id=trade.trade_id, amount=eur(800), reason="sale")
    repriced = (await running.stub.RepriceTrade(request)).trade
    assert (repriced.amount, repriced.state) == (eur(800), PAYING)
    paying = await running.pay(trade.trade_id, CARD)
    old, new = (attempt.attempt_id for attempt in paying.attempts)
    await running.finished(old, trade.biz_id)
    await check_returned(running, trade, old, "LATE")
    await running.finished(new, trade.biz_id)
    (*_, paid) = await running.until(trade.trade_id, PAID)
    assert (paid.paid_minor, paid.refundable_minor) == (800, 800)
    assert running.pay_core.payments[new].amount == eur(800)


async def test_refund_while_another_refund_is_unknown_gives_only_what_is_left(bench: Bench) -> None:
    paid = (await bench.paid()).trade
    unknown = (await bench.refund(paid.id, 700)).trade
    with pytest.raises(FailedPrecondition) as caught:
        await bench.refund(paid.id, 400)
    assert caught.value.reason == "REFUND_EXCEEDS_REFUNDABLE"
    other = (await bench.refund(paid.id, 300)).trade
    await bench.apply(a_result(other.attempt_id, amount_minor=300))
    assert (await bench.trade(paid.id)).refundable_minor == 0, "what is unknown stays reserved"
    await bench.apply(a_result(unknown.attempt_id, is_success=False, amount_minor=700))
    parent = await bench.trade(paid.id)
    assert (parent.refunded_minor, parent.refundable_minor) == (300, 700)


async def test_refund_of_a_merged_payment_s_single_order_goes_against_its_payee_alone(running: Running) -> None:
    orders = [await running.create(amount=eur(600)), await running.create(amount=eur(400), payee_id="merchant.books")]
    merged = await running.create(
        trade_type=trade_pb2.TRADE_TYPE_MERGED_PAYMENT,
        payee_id="",
        merged_trade_ids=[order.trade_id for order in orders],
        pay_methods=[BALANCE],
    )
    assert merged.state == PAID
    request = pb.RefundTradeRequest(request_id=fresh(), trade_id=orders[1].trade_id)
    refund = (await running.stub.RefundTrade(request)).refund
    await running.until(refund.trade_id, PAID)
    (call,) = running.pay_core.calls(RefundRequest)
    assert (call.payee_reference, call.amount) == (orders[1].trade_id, eur(400))
    assert call.payment_id == merged.attempts[0].payment_id
    assert [(await running.get(order.trade_id)).refunded_minor for order in orders] == [0, 400]


async def test_refund_of_a_purchase_paid_by_three_tools_is_one_refund_of_its_one_payment(running: Running) -> None:
    # pay_core divides it: in proportion to what is left of each tool, the largest remainder first.
    coupon = trade_pb2.PayMethod(amount=eur(100), coupon=trade_pb2.CouponTool(coupon_id="cpn_" + "0" * 26))
    points = trade_pb2.PayMethod(amount=eur(200), points=trade_pb2.PointsTool())
    trade = await running.create(pay_methods=[coupon, points, BALANCE])
    assert trade.state == PAID
    (payment,) = running.pay_core.calls(pay_service_pb2.TransferRequest)
    found = {funding.WhichOneof("tool"): funding.amount.amount_minor for funding in payment.fundings}
    assert found == {"balance": 700, "coupon": 100, "points": 200}
    request = pb.RefundTradeRequest(request_id=fresh(), trade_id=trade.trade_id, amount=eur(333))
    refund = (await running.stub.RefundTrade(request)).refund
    await running.until(refund.trade_id, PAID)
    (call,) = running.pay_core.calls(RefundRequest)
    assert (call.amount, call.payee_reference, call.is_repair) == (eur(333), "", False)
    whole = await running.get(trade.trade_id)
    assert (whole.refunded_minor, whole.refundable_minor) == (333, 667)


async def test_cancel_racing_pay_leaves_one_of_them(bench: Bench) -> None:
    for _ in range(10):
        trade = (await bench.create()).trade
        outcomes = await asyncio.gather(
            bench.pay(trade.id),
            bench.store.run(CloseTrade(an_origin(), POLICY, trade.id, "")),
            return_exceptions=True,
        )
        refused = [outcome for outcome in outcomes if isinstance(outcome, FailedPrecondition)]
        stored = await bench.trade(trade.id)
        assert [error.reason for error in refused] == ["ILLEGAL_STATE"]
        assert stored.state in ("PAYING", "CLOSED")
        assert len(await bench.attempts(trade.id)) == (stored.state == "PAYING")


async def test_expiry_racing_the_notification_is_paid_or_given_back(bench: Bench) -> None:
    for _ in range(10):
        trade = (await bench.create(pay_methods=(WALLET_METHOD,), time_to_live_ms=1_000)).trade
        bench.clock.advance(1_000)
        await asyncio.gather(
            bench.apply(a_result(trade.attempt_id)),
            bench.store.run(ExpireTrade(an_origin(), POLICY, trade.id)),
        )
        stored = await bench.trade(trade.id)
        (attempt,) = await bench.attempts(trade.id)
        assert (stored.state, attempt.state) in (("PAID", "EFFECTIVE"), ("CLOSED", "RETURNED"))
        assert len(await bench.refunds(trade.id)) == (stored.state == "CLOSED")


async def test_the_same_news_in_any_order_and_number_pays_once(bench: Bench) -> None:
    trade = (await bench.create(pay_methods=(WALLET_METHOD,))).trade
    again = (await bench.pay(trade.id, WALLET_METHOD)).trade
    results = [a_result(trade.attempt_id), a_result(again.attempt_id)]
    await asyncio.gather(*(bench.apply(result) for result in results * 3))
    states = sorted(attempt.state for attempt in await bench.attempts(trade.id))
    assert states == ["EFFECTIVE", "RETURNED"]
    stored = await bench.trade(trade.id)
    assert (stored.state, stored.paid_minor, stored.open_attempt_count) == ("PAID", 1000, 0)
    (refund,) = await bench.refunds(trade.id)
    assert (refund.purpose, refund.amount_minor, refund.due_at_ms is not None) == ("DUPLICATE", 1000, True)
