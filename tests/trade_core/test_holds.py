"""Money that is held: what callers, time and pay_core do to it, in whatever order they come."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from paykit.errors import FailedPrecondition, InvalidArgument
from paykit.store.command import Origin
from paymesh.pay.v1 import pay_service_pb2, payment_pb2
from paymesh.trade.v1 import trade_pb2
from paymesh.trade.v1 import trade_service_pb2 as pb
from tests.trade_core.running import BALANCE, Running, eur
from tests.trade_core.support import CARD, NOW_MS, POLICY, WALLET, Bench, a_context, a_payment, an_origin, fresh
from trade_core.commands import CloseTrade
from trade_core.holds import CaptureTrade, SettleHold, SettleRefused, VoidTrade
from trade_core.payments import PaymentResult, result_of
from trade_core.tables import Trade
from trade_core.types import HOLD_MARGIN_MS, TradeType

AUTHORIZED, SETTLING = trade_pb2.TRADE_STATE_AUTHORIZED, trade_pb2.TRADE_STATE_SETTLING
PAID, CLOSED = trade_pb2.TRADE_STATE_PAID, trade_pb2.TRADE_STATE_CLOSED
HELD = payment_pb2.PAYMENT_STATE_AUTHORIZED
STATES = {
    "SUCCEEDED": payment_pb2.PAYMENT_STATE_SUCCEEDED,
    "AUTHORIZED": HELD,
    "VOIDED": payment_pb2.PAYMENT_STATE_VOIDED,
    "FAILED": payment_pb2.PAYMENT_STATE_FAILED,
}
HOLD_MS = 60_000


def news(trade: Trade, payment_id: str, state: str, version: int, captured_minor: int = 0) -> PaymentResult:
    """Where the payment of a trade rests."""
    payment = a_payment(
        trade.attempt_id,
        payment_id=payment_id,
        state=STATES[state],
        version=version,
        captured_minor=captured_minor,
        settlement_mode=payment_pb2.SETTLEMENT_MODE_AUTHORIZE,
    )
    result = result_of(payment)
    assert result is not None
    return result


async def held(bench: Bench, trade_type: TradeType = TradeType.PRE_AUTHORIZATION) -> tuple[Trade, str]:
    """A trade of 10.00 EUR whose money is held, and its payment, at version 3."""
    view = await bench.create(trade_type=trade_type, hold_time_to_live_ms=HOLD_MS, pay_methods=(CARD,))
    payment_id = a_payment(view.trade.attempt_id).payment_id
    view = await bench.apply(news(view.trade, payment_id, "AUTHORIZED", 3))
    assert view.trade.state == "AUTHORIZED"
    return view.trade, payment_id


async def capture(bench: Bench, trade: Trade, amount_minor: int | None = None, *, keep_rest: bool = False) -> Trade:
    currency = "" if amount_minor is None else "EUR"
    command = CaptureTrade(an_origin(), POLICY, trade.id, currency, amount_minor, keep_rest)
    return (await bench.store.run(command)).trade


async def calls(bench: Bench, trade: Trade, request_type: type[Any]) -> list[Any]:
    """The calls of one kind about the payment of a trade."""
    rows = [row for row in await bench.outbox(trade.id) if row.kind == "call"]
    name = request_type.DESCRIPTOR.name.removesuffix("Request")
    return [request_type.FromString(row.body) for row in rows if row.destination.endswith(f"/{name}")]


@pytest.mark.parametrize(
    ("trade_type", "mode", "kept_ms"),
    [
        (TradeType.PRE_AUTHORIZATION, payment_pb2.SETTLEMENT_MODE_AUTHORIZE, HOLD_MS),
        (TradeType.ESCROW, payment_pb2.SETTLEMENT_MODE_ESCROW, HOLD_MS + HOLD_MARGIN_MS),
    ],
)
async def test_held_money_is_told_and_has_a_time(bench: Bench, trade_type: TradeType, mode: int, kept_ms: int) -> None:
    trade, payment_id = await held(bench, trade_type)
    (call,) = await calls(bench, trade, pay_service_pb2.TransferRequest)
    assert (call.settlement_mode, call.time_to_live.ToMilliseconds()) == (mode, kept_ms)
    assert (trade.paid_minor, trade.refundable_minor, trade.open_attempt_count) == (0, 0, 0)
    assert trade.hold_expires_at_ms == trade.due_at_ms == NOW_MS + HOLD_MS
    (attempt,) = await bench.attempts(trade.id)
    assert (attempt.state, attempt.payment_id, attempt.payment_version) == ("AUTHORIZED", payment_id, 3)
    assert [row.destination for row in await bench.events(trade.id)] == ["trade.trade_authorized"]


async def test_a_capture_of_a_part_lets_the_rest_go(bench: Bench) -> None:
    trade, payment_id = await held(bench)
    trade = await capture(bench, trade, 400)
    (call,) = await calls(bench, trade, pay_service_pb2.CapturePaymentRequest)
    assert (call.request_id, call.payment_id) == (f"{trade.attempt_id}/1", payment_id)
    assert (call.amount, call.keep_rest) == (eur(400), False)
    paid = (await bench.apply(news(trade, payment_id, "SUCCEEDED", 5, 400))).trade
    assert (paid.state, paid.paid_minor, paid.refundable_minor, paid.due_at_ms) == ("PAID", 400, 400, None)
    with pytest.raises(FailedPrecondition) as caught:
        await bench.refund(paid.id, 401)
    assert caught.value.reason == "REFUND_EXCEEDS_REFUNDABLE"
    assert (await bench.refund(paid.id)).trade.amount_minor == 400


async def test_captures_that_keep_the_rest_add_up(bench: Bench) -> None:
    trade, payment_id = await held(bench)
    await capture(bench, trade, 400, keep_rest=True)
    again = (await bench.apply(news(trade, payment_id, "AUTHORIZED", 5, 400))).trade
    assert (again.state, again.paid_minor) == ("AUTHORIZED", 400)
    with pytest.raises(FailedPrecondition) as caught:
        await capture(bench, trade, 601)
    assert (caught.value.reason, caught.value.metadata["held_minor"]) == ("CAPTURE_EXCEEDS_HELD", "600")
    await capture(bench, trade)
    requests = await calls(bench, trade, pay_service_pb2.CapturePaymentRequest)
    assert {call.request_id for call in requests} == {f"{trade.attempt_id}/1", f"{trade.attempt_id}/2"}
    paid = (await bench.apply(news(trade, payment_id, "SUCCEEDED", 7, 1000))).trade
    assert (paid.state, paid.paid_minor, paid.refundable_minor) == ("PAID", 1000, 1000)


async def test_a_void_closes_and_after_a_capture_pays_what_was_captured(bench: Bench) -> None:
    for captured_minor, state in ((0, "CLOSED"), (300, "PAID")):
        trade, payment_id = await held(bench)
        if captured_minor:
            await capture(bench, trade, captured_minor, keep_rest=True)
            await bench.apply(news(trade, payment_id, "AUTHORIZED", 5, captured_minor))
        settling = (await bench.store.run(VoidTrade(an_origin(), POLICY, trade.id, "no show"))).trade
        assert settling.state == "SETTLING"
        outcome = "SUCCEEDED" if captured_minor else "VOIDED"
        over = (await bench.apply(news(trade, payment_id, outcome, 7, captured_minor))).trade
        assert (over.state, over.paid_minor, over.note) == (state, captured_minor, "no show")
        assert over.reason == ("" if captured_minor else "VOIDED_BY_CALLER")


async def test_old_news_of_held_money_changes_nothing(bench: Bench) -> None:
    trade, payment_id = await held(bench)
    settling = await capture(bench, trade, 400)
    for version in (2, 3):
        assert (await bench.apply(news(trade, payment_id, "AUTHORIZED", version))).trade == settling
    paid = (await bench.apply(news(trade, payment_id, "SUCCEEDED", 5, 400))).trade
    assert (await bench.apply(news(trade, payment_id, "AUTHORIZED", 4))).trade == paid


async def test_a_capture_that_was_refused_holds_the_money_on(bench: Bench) -> None:
    trade, payment_id = await held(bench)
    settling = await capture(bench, trade)
    result = news(trade, payment_id, "AUTHORIZED", 3)
    origin = Origin.event(a_context(), "refusals", fresh("msg"))
    view = await bench.store.run(SettleRefused(origin, POLICY, f"{trade.attempt_id}/1", result, "ACCOUNT_FROZEN"))
    assert view is not None
    assert (view.trade.state, view.trade.reason) == ("AUTHORIZED", "ACCOUNT_FROZEN")
    assert settling.settle_count == 1
    second = await capture(bench, trade)
    origin = Origin.event(a_context(), "refusals", fresh("msg"))
    late = await bench.store.run(SettleRefused(origin, POLICY, f"{trade.attempt_id}/1", result, "ACCOUNT_FROZEN"))
    assert late is not None
    assert late.trade == second, "the refusal of the first says nothing of the second"


async def test_what_is_not_held_is_not_settled_and_what_is_held_not_closed(bench: Bench) -> None:
    created = (await bench.create(trade_type=TradeType.PRE_AUTHORIZATION, hold_time_to_live_ms=HOLD_MS)).trade
    purchase = (await bench.paid()).trade
    trade, _ = await held(bench)
    settling, _ = await held(bench)
    await capture(bench, settling)
    refused = [
        CaptureTrade(an_origin(), POLICY, created.id, "", None, False),
        VoidTrade(an_origin(), POLICY, created.id, ""),
        CaptureTrade(an_origin(), POLICY, purchase.id, "", None, False),
        CloseTrade(an_origin(), POLICY, trade.id, ""),
        CloseTrade(an_origin(), POLICY, settling.id, ""),
        VoidTrade(an_origin(), POLICY, settling.id, ""),
    ]
    for command in refused:
        with pytest.raises(FailedPrecondition) as caught:
            await bench.store.run(command)
        assert caught.value.reason == "ILLEGAL_STATE"
    with pytest.raises(InvalidArgument):
        await bench.store.run(CaptureTrade(an_origin(), POLICY, trade.id, "USD", 1, False))


@pytest.mark.parametrize(
    ("trade_type", "request_type"),
    [
        (TradeType.PRE_AUTHORIZATION, pay_service_pb2.VoidPaymentRequest),
        (TradeType.ESCROW, pay_service_pb2.CapturePaymentRequest),
    ],
)
async def test_when_its_time_is_up_the_type_says_what_becomes_of_held_money(
    bench: Bench, trade_type: TradeType, request_type: type[Any]
) -> None:
    trade, payment_id = await held(bench, trade_type)
    timer = Origin.timer(a_context())
    assert (await bench.store.run(SettleHold(timer, POLICY, trade.id))).trade == trade
    bench.clock.advance(HOLD_MS)
    settling = (await bench.store.run(SettleHold(timer, POLICY, trade.id))).trade
    assert settling.state == "SETTLING"
    (call,) = await calls(bench, trade, request_type)
    assert call.payment_id == payment_id
    outcome, captured = ("VOIDED", 0) if trade_type is TradeType.PRE_AUTHORIZATION else ("SUCCEEDED", 1000)
    over = (await bench.apply(news(trade, payment_id, outcome, 5, captured))).trade
    expected = ("CLOSED", "HOLD_EXPIRED", 0) if outcome == "VOIDED" else ("PAID", "", 1000)
    assert (over.state, over.reason, over.paid_minor) == expected


async def test_pay_core_may_void_first_when_time_is_up(bench: Bench) -> None:
    trade, payment_id = await held(bench)
    bench.clock.advance(HOLD_MS)
    closed = (await bench.apply(news(trade, payment_id, "VOIDED", 5))).trade
    assert (closed.state, closed.reason, closed.due_at_ms) == ("CLOSED", "HOLD_EXPIRED", None)
    late = await bench.store.run(SettleHold(Origin.timer(a_context()), POLICY, trade.id))
    assert late.trade == closed
    missed = (await bench.create(trade_type=TradeType.ESCROW, hold_time_to_live_ms=HOLD_MS, pay_methods=(CARD,))).trade
    payment = a_payment(missed.attempt_id)
    closed = (await bench.apply(news(missed, payment.payment_id, "VOIDED", 5))).trade
    assert (closed.state, closed.reason) == ("CLOSED", "VOIDED"), "though nobody ever told that it was held"


async def test_a_capture_that_fails_for_good_closes_and_says_why(bench: Bench) -> None:
    trade, payment_id = await held(bench)
    await capture(bench, trade)
    failed = msgspec.structs.replace(news(trade, payment_id, "FAILED", 5), failure_reason="AUTH_EXPIRED")
    view = await bench.apply(failed)
    assert (view.trade.state, view.trade.reason, view.trade.paid_minor) == ("CLOSED", "AUTH_EXPIRED", 0)
    assert (view.attempts[0].state, view.attempts[0].failure_reason) == ("FAILED", "AUTH_EXPIRED")


async def test_expiry_that_cannot_settle_is_tried_again_later_each_time(bench: Bench) -> None:
    trade, payment_id = await held(bench, TradeType.ESCROW)
    bench.clock.advance(HOLD_MS)
    waits_ms = []
    for number in range(1, 4):
        await bench.store.run(SettleHold(Origin.timer(a_context()), POLICY, trade.id))
        origin = Origin.event(a_context(), "refusals", fresh("msg"))
        result = news(trade, payment_id, "AUTHORIZED", 3)
        view = await bench.store.run(SettleRefused(origin, POLICY, f"{trade.attempt_id}/{number}", result, "NO"))
        assert view is not None
        assert view.trade.due_at_ms is not None
        waits_ms.append(view.trade.due_at_ms - bench.clock.now_ms())
        bench.clock.advance(waits_ms[-1])
    assert waits_ms == [10_000, 20_000, 40_000]


async def test_money_held_for_a_trade_that_is_over_is_let_go(bench: Bench) -> None:
    changes: dict[str, Any] = {"trade_type": TradeType.ESCROW, "hold_time_to_live_ms": HOLD_MS}
    trade = (await bench.create(pay_methods=(WALLET,), **changes)).trade
    await bench.store.run(CloseTrade(an_origin(), POLICY, trade.id, ""))
    payment_id = a_payment(trade.attempt_id).payment_id
    view = await bench.apply(news(trade, payment_id, "AUTHORIZED", 3))
    assert (view.trade.state, view.attempts[0].state, view.attempts[0].failure_reason) == ("CLOSED", "RETURNED", "LATE")
    (call,) = await calls(bench, trade, pay_service_pb2.VoidPaymentRequest)
    assert (call.request_id, call.payment_id) == (f"{trade.attempt_id}/return", payment_id)
    assert (await bench.apply(news(trade, payment_id, "VOIDED", 5))).trade == view.trade
    assert await bench.refunds(trade.id) == []


async def test_capture_racing_expiry_settles_once(bench: Bench) -> None:
    trade, _ = await held(bench)
    bench.clock.advance(HOLD_MS)
    outcomes = await asyncio.gather(
        capture(bench, trade),
        bench.store.run(SettleHold(Origin.timer(a_context()), POLICY, trade.id)),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert all(isinstance(error, FailedPrecondition) for error in refused)
    stored = await bench.trade(trade.id)
    assert (stored.state, stored.settle_count) == ("SETTLING", 1)


async def test_a_hold_is_captured_voided_and_refused_over_the_wire(running: Running) -> None:
    fields: dict[str, Any] = {"trade_type": trade_pb2.TRADE_TYPE_ESCROW, "pay_methods": [BALANCE]}
    trades = [await running.create(**fields) for _ in range(3)]
    assert [trade.state for trade in trades] == [AUTHORIZED] * 3
    assert all(trade.HasField("hold_expire_time") for trade in trades)
    captured, voided, refused = (trade.trade_id for trade in trades)
    items = [
        pb.CaptureTradeItem(request=pb.CaptureTradeRequest(request_id=fresh(), trade_id=captured, amount=eur(600))),
        pb.CaptureTradeItem(request=pb.CaptureTradeRequest(request_id=fresh(), trade_id=captured, amount=eur(1001))),
    ]
    results = (await running.stub.BatchCaptureTrades(pb.BatchCaptureTradesRequest(items=items))).results
    assert sorted(result.status.code for result in results) == [0, 9]
    (*_, paid) = await running.until(captured, PAID)
    assert (paid.paid_minor, paid.refundable_minor) == (600, 600)
    void = pb.VoidTradeItem(request=pb.VoidTradeRequest(request_id=fresh(), trade_id=voided, reason="never came"))
    (result,) = (await running.stub.BatchVoidTrades(pb.BatchVoidTradesRequest(items=[void]))).results
    assert result.response.trade.state in (SETTLING, CLOSED)
    (*_, closed) = await running.until(voided, CLOSED)
    assert closed.reason == "VOIDED_BY_CALLER"
    running.pay_core.settle_refusal = FailedPrecondition("no", reason="ACCOUNT_FROZEN")
    await running.stub.CaptureTrade(pb.CaptureTradeRequest(request_id=fresh(), trade_id=refused))
    (*_, again) = await running.until(refused, AUTHORIZED)
    assert (again.reason, again.paid_minor) == ("ACCOUNT_FROZEN", 0)
