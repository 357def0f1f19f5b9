"""TradeService as a client sees it: a running trade_core, called over gRPC."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select

from paykit.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from paykit.ids import new_id
from paykit.rpc.errors import from_status
from paykit.store.system import DeadLetter
from paymesh.pay.v1 import payment_pb2
from paymesh.trade.v1 import trade_pb2
from paymesh.trade.v1 import trade_service_pb2 as pb
from tests.paykit.events.waits import until
from tests.trade_core.running import BALANCE, CARD, Running, eur, purchase
from tests.trade_core.support import BUYER, MERCHANT, NOW_MS, SLOT, fresh

PAID, PAYING, CREATED = trade_pb2.TRADE_STATE_PAID, trade_pb2.TRADE_STATE_PAYING, trade_pb2.TRADE_STATE_CREATED
FAILED, CLOSED = trade_pb2.TRADE_STATE_FAILED, trade_pb2.TRADE_STATE_CLOSED


async def test_a_payment_by_balance_is_done_in_one_call(running: Running) -> None:
    line = trade_pb2.TradeLine(sku="tea", title="Tee, grün", quantity=2, unit_price=eur(500))
    trade = await running.create(pay_methods=[BALANCE], lines=[line])
    (attempt,) = trade.attempts
    assert trade.state == PAID
    assert list(trade.lines) == [line]
    assert attempt.state == trade_pb2.ATTEMPT_STATE_EFFECTIVE
    assert attempt.payment_id == running.pay_core.payments[attempt.attempt_id].payment_id
    assert trade == await running.get(trade.trade_id)
    assert trade.refundable_minor == 1000


async def test_a_payment_by_balance_that_fails_says_so_in_the_same_call(running: Running) -> None:
    running.pay_core.decline = "INSUFFICIENT_BALANCE"
    created = await running.create()
    request = pb.PayTradeRequest(request_id=fresh(), trade_id=created.trade_id, pay_methods=[BALANCE])
    trade = (await running.stub.PayTrade(request)).trade
    assert (trade.state, trade.reason) == (CREATED, "INSUFFICIENT_BALANCE")
    assert [a.state for a in trade.attempts] == [trade_pb2.ATTEMPT_STATE_FAILED]
    running.pay_core.decline = ""
    request.request_id = fresh()
    trade = (await running.stub.PayTrade(request)).trade
    assert trade.state == PAID
    assert [(a.attempt_no, a.state) for a in trade.attempts] == [
        (1, trade_pb2.ATTEMPT_STATE_FAILED),
        (2, trade_pb2.ATTEMPT_STATE_EFFECTIVE),
    ]


async def test_a_payment_by_card_is_answered_at_once_and_ends_by_event(running: Running) -> None:
    trade = await running.create(pay_methods=[CARD])
    assert trade.state == PAYING
    attempt_id = trade.attempts[0].attempt_id
    await running.pay_core.taken(attempt_id)
    watching = asyncio.create_task(running.until(trade.trade_id, PAID))
    payment = running.pay_core.finish(attempt_id)
    await running.publish(payment, trade.biz_id)
    await running.publish(payment, trade.biz_id)
    seen = await watching
    assert [(a.state, a.payment_id) for a in seen[-1].attempts] == [
        (trade_pb2.ATTEMPT_STATE_EFFECTIVE, payment.payment_id)
    ]
    versions = [item.version for item in seen]
    assert versions == sorted(set(versions)), "each change is shown once, in order"


@pytest.mark.parametrize("ask_after_s", [0.2])
async def test_no_message_is_needed_pay_core_is_asked(running: Running) -> None:
    trade = await running.create(pay_methods=[CARD])
    attempt_id = trade.attempts[0].attempt_id
    await running.pay_core.taken(attempt_id)
    async with asyncio.timeout(20):
        assert await running.pay_core.asked.get() == attempt_id
        running.pay_core.finish(attempt_id)
        seen = await running.until(trade.trade_id, PAID)
    assert seen[-1].attempts[0].payment_id == running.pay_core.payments[attempt_id].payment_id


async def test_an_unpaid_trade_closes_when_its_time_is_up(running: Running) -> None:
    trade = await running.create(time_to_live={"seconds": 1})
    seen = await running.until(trade.trade_id, CLOSED)
    assert (seen[0].state, seen[-1].reason) == (CREATED, "EXPIRED")


async def test_a_payment_of_somebody_else_is_passed_over(running: Running) -> None:
    trade = await running.create(pay_methods=[CARD])
    attempt_id = trade.attempts[0].attempt_id
    await running.pay_core.taken(attempt_id)
    payment = running.pay_core.finish(attempt_id)
    foreign = payment_pb2.Payment()
    foreign.CopyFrom(payment)
    foreign.source_id = "payroll-7"
    await until(running.service.is_idle)  # the row of the call is gone
    before = await running.bench.counts()
    await running.publish(foreign, trade.biz_id)
    await running.publish(payment, trade.biz_id)
    await running.until(trade.trade_id, PAID)
    after = await running.bench.counts()
    assert after["outbox"] == before["outbox"] + 1, "the trade is told to be paid, and nothing else"


async def test_a_payment_that_takes_long_is_answered_paying_within_the_deadline(running: Running) -> None:
    running.pay_core.refusal = Unavailable("not now", retry_after_ms=60_000)
    started_s = asyncio.get_running_loop().time()
    trade = (await running.stub.CreateTrade(purchase(pay_methods=[BALANCE]), timeout=2)).trade
    assert trade.state == PAYING
    assert asyncio.get_running_loop().time() - started_s < 2
    assert (await running.get(trade.trade_id)).state == PAYING


async def test_a_refusal_of_pay_core_ends_the_attempt_with_its_reason(running: Running) -> None:
    running.pay_core.refusal = FailedPrecondition("no", reason="LIMIT_EXCEEDED")
    trade_type = trade_pb2.TRADE_TYPE_PEER_TRANSFER
    trade = await running.create(trade_type=trade_type, payee_id="user.bob", pay_methods=[BALANCE])
    assert (trade.state, trade.reason) == (FAILED, "LIMIT_EXCEEDED")
    assert trade.attempts[0].failure_reason == "LIMIT_EXCEEDED"


async def test_a_refusal_after_a_lost_answer_is_not_believed_where_the_payment_succeeded(running: Running) -> None:
    running.pay_core.lost = 1
    running.pay_core.refusal = FailedPrecondition("frozen meanwhile", reason="ACCOUNT_FROZEN")
    running.pay_core.blind = [Unavailable("not now", retry_after_ms=1)]  # asking is tried again as the call is
    trade = await running.create(pay_methods=[BALANCE])
    seen = await running.until(trade.trade_id, PAID)
    assert FAILED not in {each.state for each in seen}
    assert seen[-1].attempts[0].payment_id == running.pay_core.payments[seen[-1].attempts[0].attempt_id].payment_id
    assert len(running.pay_core.requests) == 3


async def test_a_refusal_after_a_lost_answer_leaves_a_payment_under_way_to_its_event(running: Running) -> None:
    running.pay_core.lost = 1
    running.pay_core.refusal = FailedPrecondition("frozen meanwhile", reason="ACCOUNT_FROZEN")
    trade = await running.create(pay_methods=[CARD])
    source_id = trade.attempts[0].attempt_id
    async with asyncio.timeout(20):
        assert await running.pay_core.asked.get() == source_id
    await until(running.service.is_idle)
    assert (await running.get(trade.trade_id)).state == PAYING
    await running.publish(running.pay_core.finish(source_id), trade.biz_id)
    await running.until(trade.trade_id, PAID)


async def test_a_refusal_that_leaves_the_payment_open_opens_a_ticket_and_fails_nothing(running: Running) -> None:
    running.pay_core.refusal = AlreadyExists("another body", reason="REQUEST_ID_REUSED")
    trade = await running.create(pay_methods=[CARD])
    everything = select(DeadLetter.__table__)
    tickets: list[DeadLetter] = []
    async with asyncio.timeout(20):
        while not tickets:  # a ticket is announced to nobody: it can only be looked for
            tickets = await running.service.store.fetch_everywhere(DeadLetter, everything, shadow=False)
    assert [ticket.biz_id for ticket in tickets] == [trade.biz_id]
    assert (await running.get(trade.trade_id)).state == PAYING


async def test_a_refund_goes_back_and_shows_on_its_parent(running: Running) -> None:
    paid = await running.create(pay_methods=[BALANCE])
    request = pb.RefundTradeRequest(request_id=fresh(), trade_id=paid.trade_id, amount=eur(250), reason="zerbrochen")
    refund = (await running.stub.RefundTrade(request)).refund
    assert (refund.trade_type, refund.state, refund.amount) == (trade_pb2.TRADE_TYPE_REFUND, PAYING, eur(250))
    assert (refund.buyer_id, refund.payee_id, refund.biz_id) == (BUYER, MERCHANT, paid.biz_id)
    await running.until(refund.trade_id, PAID)
    parent = await running.get(paid.trade_id)
    assert (parent.refunded_minor, parent.refundable_minor) == (250, 750)
    assert list(parent.relations) == list((await running.get(refund.trade_id)).relations)
    (relation,) = parent.relations
    assert (relation.parent_trade_id, relation.child_trade_id) == (paid.trade_id, refund.trade_id)


async def test_an_order_keeps_its_business_id_in_every_later_call(running: Running) -> None:
    trade = await running.create()
    request = pb.PayTradeRequest(request_id=fresh(), trade_id=trade.trade_id, pay_methods=[BALANCE])
    assert (await running.stub.PayTrade(request)).trade.state == PAID
    refund = await running.stub.RefundTrade(pb.RefundTradeRequest(request_id=fresh(), trade_id=trade.trade_id))
    await running.until(refund.refund.trade_id, PAID)
    assert running.pay_core.biz_ids == [trade.biz_id, trade.biz_id]


async def test_the_same_request_again_gives_the_same_trade(running: Running) -> None:
    request = purchase(pay_methods=[BALANCE])
    first, *others = await asyncio.gather(*(running.stub.CreateTrade(request) for _ in range(4)))
    assert first.trade.state == PAID
    assert all(other == first for other in others)
    assert (await running.stub.CreateTrade(request)) == first
    assert len(running.pay_core.payments) == 1


async def test_a_batch_answers_each_item_by_itself(running: Running) -> None:
    good, bad = purchase(pay_methods=[BALANCE]), purchase(amount=eur(-1))
    request = pb.BatchCreateTradesRequest(items=[pb.CreateTradeItem(request=item) for item in (good, bad)])
    done, refused = (await running.stub.BatchCreateTrades(request)).results
    assert (done.status.code, done.response.trade.state) == (0, PAID)
    error = from_status(refused.status)
    assert isinstance(error, InvalidArgument)
    assert [violation.field for violation in error.violations] == ["amount.amount_minor"]
    trade_id = done.response.trade.trade_id
    refund = pb.RefundTradeRequest(request_id=fresh(), trade_id=trade_id)
    again = pb.RefundTradeRequest(request_id=fresh(), trade_id=trade_id)
    refunds = pb.BatchRefundTradesRequest(items=[pb.RefundTradeItem(request=item) for item in (refund, again)])
    codes = [result.status.code for result in (await running.stub.BatchRefundTrades(refunds)).results]
    assert sorted(codes) == [0, 9], "only one of them finds anything to give back"
    payment = pb.PayTradeRequest(request_id=fresh(), trade_id=trade_id, pay_methods=[CARD])
    pays = pb.BatchPayTradesRequest(items=[pb.PayTradeItem(request=payment)])
    (result,) = (await running.stub.BatchPayTrades(pays)).results
    assert from_status(result.status).reason == "ILLEGAL_STATE"


async def test_a_buyer_s_trades_are_listed_newest_first_page_by_page(running: Running) -> None:
    buyer = fresh("buyer")
    made = [(await running.create(buyer_id=buyer)).trade_id for _ in range(5)]
    await running.create(buyer_id=fresh("buyer"))
    pages, token = [], ""
    while True:
        request = pb.ListTradesRequest(buyer_id=buyer, page_size=2, page_token=token)
        response = await running.stub.ListTrades(request)
        pages.append([trade.trade_id for trade in response.trades])
        token = response.next_page_token
        if not token:
            break
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [trade_id for page in pages for trade_id in page] == sorted(made, reverse=True)


async def test_a_page_token_of_another_list_is_refused(running: Running) -> None:
    buyer = fresh("buyer")
    for _ in range(2):
        await running.create(buyer_id=buyer)
    token = (await running.stub.ListTrades(pb.ListTradesRequest(buyer_id=buyer, page_size=1))).next_page_token
    for wrong in (pb.ListTradesRequest(buyer_id="other", page_token=token), pb.ListTradesRequest(buyer_id=buyer)):
        wrong.page_token = wrong.page_token or "no token"
        with pytest.raises(InvalidArgument) as caught:
            await running.stub.ListTrades(wrong)
        assert [violation.field for violation in caught.value.violations] == ["page_token"]


async def test_a_closed_trade_stays_closed(running: Running) -> None:
    trade = await running.create()
    request = pb.CloseTradeRequest(request_id=fresh(), trade_id=trade.trade_id, reason="changed my mind")
    closed = (await running.stub.CloseTrade(request)).trade
    assert (closed.state, closed.reason, closed.version) == (CLOSED, "CLOSED_BY_CALLER", 2)
    assert (await running.stub.CloseTrade(request)).trade == closed
    (last,) = await running.until(trade.trade_id, CLOSED)
    assert last == await running.get(trade.trade_id)


async def test_a_watch_ends_in_time_for_its_deadline(running: Running) -> None:
    trade = await running.create()
    seen = [
        response.trade.state
        async for response in running.stub.WatchTrade(pb.WatchTradeRequest(trade_id=trade.trade_id), timeout=2)
    ]
    assert seen == [CREATED]


async def test_unknown_trades_are_not_found(running: Running) -> None:
    unknown = new_id("trd", SLOT, NOW_MS)
    calls = [
        running.stub.GetTrade(pb.GetTradeRequest(trade_id=unknown)),
        running.stub.PayTrade(pb.PayTradeRequest(request_id=fresh(), trade_id=unknown, pay_methods=[CARD])),
        running.stub.RefundTrade(pb.RefundTradeRequest(request_id=fresh(), trade_id=unknown)),
        running.stub.CloseTrade(pb.CloseTradeRequest(request_id=fresh(), trade_id=unknown)),
    ]
    for call in calls:
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.reason == "TRADE_NOT_FOUND"
    with pytest.raises(NotFound):
        await anext(running.stub.WatchTrade(pb.WatchTradeRequest(trade_id=unknown)))


async def test_a_shadow_order_lives_on_the_shadow_side_alone(running: Running) -> None:
    request = purchase(pay_methods=[BALANCE])
    await until(running.service.is_idle)
    before = await running.bench.counts()
    trade = (await running.stub.CreateTrade(request, metadata=(("x-shadow", "1"),))).trade
    assert trade.state == PAID
    assert await running.bench.counts() == before
    with pytest.raises(NotFound):
        await running.get(trade.trade_id)
    found = await running.stub.GetTrade(pb.GetTradeRequest(trade_id=trade.trade_id), metadata=(("x-shadow", "1"),))
    assert found.trade.trade_id == trade.trade_id
