"""How an attempt ends: whatever comes, however often and in whatever order, has one effect."""

from __future__ import annotations

import asyncio

import pytest

from paykit.errors import FailedPrecondition, NotFound
from paykit.ids import new_id
from paykit.store.command import Origin
from paymesh.event.v1.events_pb2 import TradeEvent
from paymesh.trade.v1 import trade_pb2
from tests.trade_core.support import BALANCE, NOW_MS, POLICY, SLOT, WALLET, Bench, a_context, a_result, fresh
from trade_core.results import ApplyPaymentResult, AskLater, PaymentRefused
from trade_core.types import TradeType


def a_message() -> Origin:
    """The origin of a message of its own."""
    return Origin.event(a_context(), "test", fresh("msg"))


async def test_a_success_pays_the_trade_and_is_announced(bench: Bench) -> None:
    trade = (await bench.create(pay_methods=(BALANCE,))).trade
    bench.clock.advance(40)
    result = a_result(trade.attempt_id)
    view = await bench.apply(result)
    (attempt,) = view.attempts
    assert (view.trade.state, view.trade.paid_at_ms, view.trade.due_at_ms) == ("PAID", NOW_MS + 40, None)
    assert (view.trade.refundable_minor, view.trade.version) == (1000, 3)
    assert (attempt.state, attempt.payment_id, attempt.finished_at_ms) == ("EFFECTIVE", result.payment_id, NOW_MS + 40)
    (row,) = await bench.events(trade.id)
    assert row.destination == "trade.trade_paid"
    event = TradeEvent.FromString(row.body)
    assert event.payment_id == result.payment_id
    assert event.trade.state == trade_pb2.TRADE_STATE_PAID
    assert event.trade.version == 3


async def test_a_success_that_comes_often_pays_once(bench: Bench) -> None:
    trade = (await bench.create(pay_methods=(BALANCE,))).trade
    result = a_result(trade.attempt_id)
    first = await bench.apply(result)
    before = await bench.counts()
    origin = a_message()
    views = await asyncio.gather(
        *(bench.store.run(ApplyPaymentResult(origin, POLICY, result)) for _ in range(3)), bench.apply(result)
    )
    after = await bench.counts()
    assert await bench.trade(trade.id) == first.trade
    assert {view.trade for view in views if view is not None} == {first.trade}
    assert after["outbox"] == before["outbox"]
    assert after["command_record"] == before["command_record"] + 2, "one record for each message"


@pytest.mark.parametrize("trade_type", [TradeType.PURCHASE, TradeType.TOP_UP])
async def test_a_failure_lets_a_retryable_trade_be_paid_again(bench: Bench, trade_type: TradeType) -> None:
    payee_id = "shop" if trade_type is TradeType.PURCHASE else ""
    trade = (await bench.create(trade_type=trade_type, payee_id=payee_id)).trade
    paying = (await bench.pay(trade.id)).trade
    failed = await bench.apply(a_result(paying.attempt_id, is_success=False))
    assert (failed.trade.state, failed.trade.reason) == ("CREATED", "CARD_DECLINED")
    assert failed.trade.due_at_ms == trade.expires_at_ms
    assert (failed.attempts[0].state, failed.attempts[0].failure_reason) == ("FAILED", "CARD_DECLINED")
    again = await bench.pay(trade.id)
    assert [attempt.attempt_no for attempt in again.attempts] == [1, 2]
    paid = await bench.apply(a_result(again.trade.attempt_id))
    assert (paid.trade.state, paid.trade.reason) == ("PAID", "")
    states = [attempt.state for attempt in await bench.attempts(trade.id)]
    assert states == ["FAILED", "EFFECTIVE"], "one attempt at most is effective"


@pytest.mark.parametrize(("trade_type", "payee_id"), [(TradeType.CASH_OUT, ""), (TradeType.PEER_TRANSFER, "user.bob")])
async def test_a_failure_ends_any_other_trade(bench: Bench, trade_type: TradeType, payee_id: str) -> None:
    view = await bench.create(trade_type=trade_type, payee_id=payee_id, pay_methods=(BALANCE,))
    result = a_result(view.trade.attempt_id, is_success=False)
    failed = (await bench.apply(result)).trade
    assert (failed.state, failed.reason, failed.due_at_ms) == ("FAILED", "CARD_DECLINED", None)
    assert (await bench.apply(result)).trade == failed, "the same again changes nothing"
    assert [row.destination for row in await bench.events(failed.id)] == ["trade.trade_failed"]


async def test_a_result_that_contradicts_an_earlier_one_is_never_ignored(bench: Bench) -> None:
    paid = await bench.paid()
    failed = await bench.create(pay_methods=(BALANCE,))
    await bench.apply(a_result(failed.trade.attempt_id, is_success=False))
    contradictions = [
        a_result(paid.attempts[0].id, is_success=False),
        a_result(paid.attempts[0].id),  # another payment of the same attempt
        a_result(failed.attempts[0].id),
    ]
    before = await bench.counts()
    for result in contradictions:
        with pytest.raises(FailedPrecondition) as caught:
            await bench.apply(result)
        assert caught.value.reason == "RESULT_CONFLICT"
    assert await bench.counts() == before


async def test_a_payment_of_another_amount_or_of_no_attempt_is_refused(bench: Bench) -> None:
    trade = (await bench.create(pay_methods=(BALANCE,))).trade
    before = await bench.counts()
    with pytest.raises(FailedPrecondition) as caught:
        await bench.apply(a_result(trade.attempt_id, amount_minor=999))
    assert caught.value.reason == "PAYMENT_MISMATCH"
    with pytest.raises(NotFound) as unknown:
        await bench.apply(a_result(new_id("att", SLOT, NOW_MS)))
    assert unknown.value.reason == "ATTEMPT_NOT_FOUND"
    assert await bench.counts() == before
    assert (await bench.trade(trade.id)).state == "PAYING"


async def test_a_refund_done_is_counted_on_its_parent_in_the_same_step(bench: Bench) -> None:
    paid = (await bench.paid()).trade
    refund = (await bench.refund(paid.id, 400)).trade
    result = a_result(refund.attempt_id, amount_minor=400)
    done = (await bench.apply(result)).trade
    await bench.apply(result)
    parent = await bench.trade(paid.id)
    assert (done.state, done.refundable_minor) == ("PAID", 0), "a refund is not refunded"
    assert (parent.refunded_minor, parent.refundable_minor) == (400, 600)


async def test_a_refund_that_failed_gives_back_what_it_reserved_once(bench: Bench) -> None:
    paid = (await bench.paid()).trade
    refund = (await bench.refund(paid.id)).trade
    result = a_result(refund.attempt_id, is_success=False)
    assert (await bench.trade(paid.id)).refundable_minor == 0
    failed = (await bench.apply(result)).trade
    await bench.apply(result)
    parent = await bench.trade(paid.id)
    assert failed.state == "FAILED"
    assert (parent.refunded_minor, parent.refundable_minor) == (0, 1000)
    assert (await bench.refund(paid.id)).trade.state == "PAYING"


async def test_a_refusal_fails_the_attempt_with_its_reason(bench: Bench) -> None:
    paid = (await bench.paid()).trade
    refund = (await bench.refund(paid.id, 250)).trade
    purchase = (await bench.create(pay_methods=(BALANCE,))).trade
    for trade, state in ((refund, "FAILED"), (purchase, "CREATED")):
        command = PaymentRefused(a_message(), POLICY, trade.attempt_id, "LIMIT_EXCEEDED")
        view = await bench.store.run(command)
        assert view is not None
        assert (view.trade.state, view.trade.reason) == (state, "LIMIT_EXCEEDED")
        assert (view.attempts[0].state, view.attempts[0].failure_reason) == ("FAILED", "LIMIT_EXCEEDED")
        again = await bench.store.run(PaymentRefused(a_message(), POLICY, trade.attempt_id, "LIMIT_EXCEEDED"))
        assert again == view
    assert (await bench.trade(paid.id)).refundable_minor == 1000


async def test_a_refusal_of_what_was_paid_is_never_ignored(bench: Bench) -> None:
    paid = await bench.paid()
    with pytest.raises(FailedPrecondition) as caught:
        await bench.store.run(PaymentRefused(a_message(), POLICY, paid.attempts[0].id, "LIMIT_EXCEEDED"))
    assert caught.value.reason == "RESULT_CONFLICT"


async def test_what_is_long_under_way_is_told_once_so_that_lists_show_it(bench: Bench) -> None:
    at_once = (await bench.create(pay_methods=(WALLET,))).trade
    created = (await bench.create()).trade
    bench.clock.advance(10)
    later = (await bench.pay(created.id, WALLET)).trade
    for trade in (at_once, later):
        for _ in range(2):
            await bench.store.run(AskLater(Origin.timer(a_context()), POLICY, trade.id, {}))
    for trade, subjects in (
        (at_once, ["trade.trade_created"]),
        (later, ["trade.trade_created", "trade.trade_changed"]),
    ):
        events = await bench.events(trade.id)
        assert [row.destination for row in events] == subjects
        assert TradeEvent.FromString(events[-1].body).trade.state == trade_pb2.TRADE_STATE_PAYING


async def test_asking_later_backs_off_keeps_the_payment_and_stops_with_the_result(bench: Bench) -> None:
    trade = (await bench.create(pay_methods=(BALANCE,))).trade
    payment_id = new_id("pay", SLOT, NOW_MS)
    waits_ms = []
    for known in ("", payment_id, payment_id, "", "", ""):
        view = await bench.store.run(AskLater(Origin.timer(a_context()), POLICY, trade.id, {trade.attempt_id: known}))
        assert view is not None
        assert view.trade.due_at_ms is not None
        waits_ms.append(view.trade.due_at_ms - NOW_MS)
    assert waits_ms == [10_000, 20_000, 40_000, 60_000, 60_000, 60_000]
    assert (await bench.attempts(trade.id))[0].payment_id == payment_id
    result = a_result(trade.attempt_id, payment_id=payment_id)
    paid = (await bench.apply(result)).trade
    late = await bench.store.run(AskLater(Origin.timer(a_context()), POLICY, trade.id, {trade.attempt_id: payment_id}))
    assert late is not None
    assert late.trade == paid
