"""Orders with parts as a client sees them: a running trade_core, called over gRPC."""

from __future__ import annotations

from typing import Any

import pytest

from paykit.errors import FailedPrecondition, InvalidArgument
from paymesh.common.v1.money_pb2 import Money
from paymesh.trade.v1 import trade_pb2
from paymesh.trade.v1 import trade_service_pb2 as pb
from tests.trade_core.running import BALANCE, CARD, Running, eur
from tests.trade_core.support import MERCHANT, fresh

PAID, CLOSED, CREATED = trade_pb2.TRADE_STATE_PAID, trade_pb2.TRADE_STATE_CLOSED, trade_pb2.TRADE_STATE_CREATED
PARTLY = trade_pb2.TRADE_STATE_PARTIALLY_PAID
MERGED_PAYMENT, SPLIT = trade_pb2.TRADE_TYPE_MERGED_PAYMENT, trade_pb2.TRADE_TYPE_SPLIT_PURCHASE
PLAN = trade_pb2.TRADE_TYPE_INSTALMENT_PLAN


def a_part(amount_minor: int, **changes: Any) -> trade_pb2.TradePart:
    return trade_pb2.TradePart(amount=eur(amount_minor), **changes)


def an_instalment(running: Running, amount_minor: int, after_s: int) -> trade_pb2.TradePart:
    part = a_part(amount_minor)
    part.due_time.GetCurrentTime()
    part.due_time.seconds += after_s
    return part


def children(trade: trade_pb2.Trade) -> list[str]:
    return [relation.child_trade_id for relation in trade.relations if relation.parent_trade_id == trade.trade_id]


async def pay(running: Running, trade_id: str, *methods: trade_pb2.PayMethod, is_partial: bool = False) -> Any:
    request = pb.PayTradeRequest(
        request_id=fresh(), trade_id=trade_id, pay_methods=methods or [BALANCE], is_partial=is_partial
    )
    return (await running.stub.PayTrade(request)).trade


async def refund(running: Running, trade_id: str, amount: Money | None = None) -> trade_pb2.Trade:
    request = pb.RefundTradeRequest(request_id=fresh(), trade_id=trade_id, amount=amount)
    trade: trade_pb2.Trade = (await running.stub.RefundTrade(request)).refund
    return trade


async def test_two_orders_are_paid_at_once_and_one_is_given_back(running: Running) -> None:
    orders = [await running.create(amount=eur(600)), await running.create(amount=eur(400), payee_id="merchant.books")]
    ids = [order.trade_id for order in orders]
    merged = await running.create(
        trade_type=MERGED_PAYMENT, payee_id="", merged_trade_ids=ids, pay_methods=[BALANCE], amount=eur(1000)
    )
    assert merged.state == PAID
    assert sorted(children(merged)) == sorted(ids)
    for order in orders:
        seen = await running.until(order.trade_id, PAID)
        assert (seen[-1].paid_minor, seen[-1].refundable_minor) == (
            order.amount.amount_minor,
            order.amount.amount_minor,
        )
    with pytest.raises(FailedPrecondition) as caught:
        await refund(running, merged.trade_id)
    assert caught.value.reason == "REFUND_BY_PART"
    given_back = await refund(running, ids[0])
    await running.until(given_back.trade_id, PAID)
    request = running.pay_core.requests[-1]
    assert (request.payee_reference, request.payment_id) == (ids[0], merged.attempts[0].payment_id)
    assert (await running.get(ids[0])).refunded_minor == 600
    assert (await running.get(ids[1])).refunded_minor == 0


async def test_a_watcher_of_a_merged_order_hears_that_it_is_paid(running: Running) -> None:
    orders = [await running.create(amount=eur(500)) for _ in range(2)]
    ids = [order.trade_id for order in orders]
    merged = await running.create(trade_type=MERGED_PAYMENT, payee_id="", merged_trade_ids=ids, pay_methods=[CARD])
    attempt_id = merged.attempts[0].attempt_id
    await running.pay_core.taken(attempt_id)
    locked = await running.get(ids[0])
    assert (locked.state, locked.group_trade_id) == (CREATED, merged.trade_id)
    with pytest.raises(FailedPrecondition) as caught:
        await pay(running, ids[0])
    assert caught.value.reason == "TRADE_GROUPED"
    await running.publish(running.pay_core.finish(attempt_id), merged.biz_id)
    seen = await running.until(ids[0], PAID)
    assert seen[-1].group_trade_id == ""


async def test_a_split_purchase_pays_each_merchant_its_part(running: Running) -> None:
    shares = [a_part(700, payee_id=MERCHANT, merchant_order_no=fresh("no")), a_part(300, payee_id="merchant.books")]
    trade = await running.create(trade_type=SPLIT, payee_id="", parts=shares, pay_methods=[BALANCE])
    assert trade.state == PAID
    (request,) = running.pay_core.requests
    assert sorted(payee.reference for payee in request.payees) == sorted(children(trade))
    parts = [await running.get(part_id) for part_id in children(trade)]
    assert {(part.payee_id, part.amount.amount_minor, part.state) for part in parts} == {
        (MERCHANT, 700, PAID),
        ("merchant.books", 300, PAID),
    }
    given_back = await refund(running, parts[0].trade_id, eur(100))
    await running.until(given_back.trade_id, PAID)
    assert running.pay_core.requests[-1].payee_reference == parts[0].trade_id


async def test_a_plan_is_paid_by_its_instalments(running: Running) -> None:
    dues = [an_instalment(running, 400, 3600), an_instalment(running, 600, 7200)]
    plan = await running.create(trade_type=PLAN, parts=dues)
    assert plan.state == CREATED
    assert plan.expire_time.seconds == dues[1].due_time.seconds
    first, second = children(plan)
    assert (await pay(running, first)).state == PAID
    assert (await running.until(plan.trade_id, PARTLY))[-1].paid_minor in (400, 600)
    assert (await pay(running, second)).state == PAID
    assert (await running.until(plan.trade_id, PAID))[-1].paid_minor == 1000


async def test_a_plan_whose_instalment_is_not_paid_in_time_gives_back_what_was_paid(running: Running) -> None:
    dues = [an_instalment(running, 400, 3), an_instalment(running, 600, 7200)]
    plan = await running.create(trade_type=PLAN, parts=dues)
    by_amount = {part.amount.amount_minor: part for part in [await running.get(id_) for id_ in children(plan)]}
    assert (await pay(running, by_amount[600].trade_id)).state == PAID
    seen = await running.until(plan.trade_id, CLOSED)
    assert seen[-1].reason == "INSTALMENT_UNPAID"
    assert (await running.get(by_amount[400].trade_id)).state == CLOSED
    (refund_id,) = children(await running.get(by_amount[600].trade_id))
    await running.until(refund_id, PAID)
    paid = await running.get(by_amount[600].trade_id)
    assert (paid.state, paid.refunded_minor, paid.refundable_minor) == (PAID, 600, 0)


async def test_a_purchase_is_paid_in_two_parts(running: Running) -> None:
    order = await running.create()
    for amount_minor in (300, 700):
        part = trade_pb2.PayMethod(balance=trade_pb2.BalanceTool(), amount=eur(amount_minor))
        await pay(running, order.trade_id, part, is_partial=True)
        await running.until(order.trade_id, PARTLY if amount_minor == 300 else PAID)
    parts = [await running.get(part_id) for part_id in children(await running.get(order.trade_id))]
    assert sorted((part.amount.amount_minor, part.state) for part in parts) == [(300, PAID), (700, PAID)]
    assert {part.parent_trade_id for part in parts} == {order.trade_id}
    with pytest.raises(FailedPrecondition) as caught:
        await refund(running, order.trade_id)
    assert caught.value.reason == "REFUND_BY_PART"


async def test_parts_that_do_not_fit_are_refused_by_field(running: Running) -> None:
    nobody = [a_part(500, payee_id="a"), a_part(500)]
    for fields, wrong in (
        ({"parts": [a_part(500, payee_id="a"), a_part(500, payee_id="b")]}, ["parts"]),
        (
            {"trade_type": SPLIT, "payee_id": "", "parts": nobody},
            ["parts[1].payee_id"],
        ),
        ({"trade_type": PLAN, "parts": [a_part(500), a_part(500)]}, ["parts[0].due_time", "parts[1].due_time"]),
        ({"trade_type": MERGED_PAYMENT, "payee_id": ""}, ["merged_trade_ids"]),
        ({"trade_type": MERGED_PAYMENT, "payee_id": "", "merged_trade_ids": ["x", "y"]}, ["merged_trade_ids[0]"]),
    ):
        with pytest.raises(InvalidArgument) as caught:
            await running.create(**fields)
        assert [violation.field for violation in caught.value.violations][: len(wrong)] == wrong
