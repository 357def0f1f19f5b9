"""Parts that are paid together, on a real store: one payment for many orders, or for many merchants."""

from __future__ import annotations

import asyncio

import pytest

from paykit.errors import AlreadyExists, FailedPrecondition, NotFound
from paykit.ids import new_id
from paymesh.event.v1.events_pb2 import TradeEvent
from paymesh.pay.v1 import pay_service_pb2, payment_pb2
from tests.trade_core.part_support import (
    OTHER_MERCHANT,
    a_split,
    check_laws,
    close,
    ends,
    expire,
    merge,
    parts,
    pay_part,
    reason_of,
    refunds_of,
    subjects,
    two_orders,
)
from tests.trade_core.support import (
    CARD,
    MERCHANT,
    NOW_MS,
    POLICY,
    SLOT,
    Bench,
    a_result,
    an_origin,
    fresh,
)
from trade_core.commands import RepriceTrade
from trade_core.parts import PartInput
from trade_core.trade import PayMethod
from trade_core.types import Tool
from trade_core.wire import TradeView

# Merged payments


async def test_a_merged_payment_pays_its_orders_with_one_call(bench: Bench) -> None:
    orders = await two_orders(bench)
    view = await merge(bench, orders, pay_methods=(CARD,))
    group, (attempt,) = view.trade, view.attempts
    assert (group.state, group.part_count, group.part_paid_count) == ("PAYING", 2, 0)
    for order in await parts(bench, group):
        assert (order.state, order.group_trade_id, order.due_at_ms) == ("CREATED", group.id, None)
    (call,) = [row for row in await bench.outbox(group.id) if row.kind == "call"]
    payees = pay_service_pb2.TransferRequest.FromString(call.body).payees
    assert sorted((p.owner_id, p.amount.amount_minor, p.reference) for p in payees) == sorted(
        (order.payee_id, order.amount_minor, order.id) for order in orders
    )
    assert {payee.account_kind for payee in payees} == {payment_pb2.ACCOUNT_KIND_MERCHANT}
    await bench.apply(a_result(attempt.id))
    group = await check_laws(bench, group.id)
    assert (group.state, group.paid_minor, group.part_paid_count, group.refundable_minor) == ("PAID", 1000, 2, 0)
    for order in await parts(bench, group):
        assert (order.state, order.paid_minor, order.refundable_minor) == ("PAID", order.amount_minor, order.paid_minor)
        assert (order.group_trade_id, order.due_at_ms, order.paid_at_ms) == ("", None, NOW_MS)
        (told,) = [row for row in await bench.events(order.id) if row.destination == "trade.trade_paid"]
        assert TradeEvent.FromString(told.body).payment_id == ""
        assert told.biz_id == order.biz_id, "an order is told of under its own business id"


async def test_one_order_of_a_merged_payment_is_refunded_alone(bench: Bench) -> None:
    orders = await two_orders(bench)
    group = (await merge(bench, orders, pay_methods=(CARD,))).trade
    paid = await bench.apply(a_result(group.attempt_id))
    refund = (await bench.refund(orders[0].id, 200)).trade
    (call,) = [row for row in await bench.outbox(refund.id) if row.kind == "call"]
    request = pay_service_pb2.RefundRequest.FromString(call.body)
    assert request.payment_id == paid.attempts[-1].payment_id
    assert (request.payee_reference, request.amount.amount_minor) == (orders[0].id, 200)
    await ends(bench, refund)
    first, second = [await bench.trade(order.id) for order in orders]
    assert (first.refunded_minor, first.refundable_minor) == (200, 400)
    assert (second.refunded_minor, second.refundable_minor) == (0, 400)
    outcomes = await asyncio.gather(*(bench.refund(first.id, 300) for _ in range(4)), return_exceptions=True)
    begun = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len(begun) == 1, "no order gives back more than was paid for it"
    await check_laws(bench, group.id)


async def test_a_merged_payment_is_refunded_by_naming_its_orders(bench: Bench) -> None:
    orders = await two_orders(bench)
    group = (await merge(bench, orders, pay_methods=(CARD,))).trade
    await bench.apply(a_result(group.attempt_id))
    before = await bench.counts()
    with pytest.raises(FailedPrecondition) as caught:
        await bench.refund(group.id)
    assert caught.value.reason == "REFUND_BY_PART"
    assert caught.value.metadata["part_trade_ids"].split(",") == sorted(order.id for order in orders)
    assert await bench.counts() == before


async def test_what_cannot_be_merged_changes_nothing(bench: Bench) -> None:
    orders = await two_orders(bench)
    paid = (await bench.paid()).trade
    other = (await bench.create(amount_minor=400, lines=())).trade
    before = await bench.counts()
    assert await reason_of(merge(bench, orders, amount_minor=999)) == "MERGED_AMOUNT_MISMATCH"
    assert await reason_of(merge(bench, [other, paid])) == "NOT_MERGEABLE"
    with pytest.raises(NotFound) as caught:
        await merge(bench, [orders[0]], also=[new_id("trd", SLOT, NOW_MS)])
    assert caught.value.reason == "TRADE_NOT_FOUND"
    assert await bench.counts() == before
    assert [await bench.trade(order.id) for order in orders] == orders
    bench.clock.advance(1_800_000)
    assert await reason_of(merge(bench, orders)) == "TRADE_EXPIRED"


async def test_two_merges_at_once_take_an_order_once(bench: Bench) -> None:
    shared, first = await two_orders(bench)
    second = (await bench.create(amount_minor=400, lines=())).trade
    outcomes = await asyncio.gather(
        merge(bench, [shared, first]), merge(bench, [shared, second]), return_exceptions=True
    )
    (won,) = [outcome for outcome in outcomes if isinstance(outcome, TradeView)]
    (lost,) = [outcome for outcome in outcomes if isinstance(outcome, FailedPrecondition)]
    assert (lost.reason, lost.subject) == ("TRADE_GROUPED", shared.id)
    assert (await bench.trade(shared.id)).group_trade_id == won.trade.id
    taken = {part.id for part in await parts(bench, won.trade)}
    (free,) = {first.id, second.id} - taken
    assert (await bench.trade(free)).group_trade_id == ""


async def test_an_order_is_paid_alone_or_merged_and_never_both(bench: Bench) -> None:
    for _ in range(8):
        orders = await two_orders(bench)
        calls = [bench.pay(orders[0].id), merge(bench, orders, pay_methods=(CARD,))]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        (refused,) = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert isinstance(refused, FailedPrecondition)
        assert refused.reason in ("TRADE_GROUPED", "NOT_MERGEABLE")
        order = await bench.trade(orders[0].id)
        assert (order.state == "PAYING") is (order.group_trade_id == "")


async def test_a_grouped_order_is_left_to_its_merged_payment(bench: Bench) -> None:
    orders = await two_orders(bench)
    group = (await merge(bench, orders)).trade
    locked = await bench.trade(orders[0].id)
    for call in (
        bench.pay(locked.id),
        pay_part(bench, locked.id, 1),
        close(bench, locked.id),
        bench.store.run(RepriceTrade(an_origin(), POLICY, locked.id, "EUR", 1, "")),
        merge(bench, orders),
    ):
        with pytest.raises(FailedPrecondition) as caught:
            await call
        assert caught.value.reason == "TRADE_GROUPED"
        assert caught.value.metadata["group_trade_id"] == group.id
    assert await bench.trade(locked.id) == locked


async def test_an_order_whose_time_is_up_waits_for_a_merged_payment_that_is_unknown(bench: Bench) -> None:
    orders = await two_orders(bench)
    group = (await merge(bench, orders, pay_methods=(CARD,))).trade
    bench.clock.advance(1_800_000)
    assert await expire(bench, orders[0].id) is None
    assert await expire(bench, group.id) is None, "its result is unknown"
    await bench.apply(a_result(group.attempt_id))
    assert [order.state for order in await parts(bench, group)] == ["PAID", "PAID"]


async def test_orders_of_a_merged_payment_that_came_to_nothing_live_on(bench: Bench) -> None:
    orders = await two_orders(bench)
    group = (await merge(bench, orders, pay_methods=(CARD,))).trade
    group = await ends(bench, group, is_success=False)
    assert group.state == "CREATED"
    assert (await bench.trade(orders[0].id)).group_trade_id == group.id, "it may be tried again"
    assert (await close(bench, group.id)).state == "CLOSED"
    for order in orders:
        freed = await bench.trade(order.id)
        assert (freed.state, freed.group_trade_id, freed.due_at_ms) == ("CREATED", "", order.expires_at_ms)
    alone = await ends(bench, (await bench.pay(orders[0].id)).trade)
    assert (alone.state, alone.refundable_minor) == ("PAID", 600)
    refund = (await bench.refund(alone.id)).trade
    (call,) = [row for row in await bench.outbox(refund.id) if row.kind == "call"]
    assert pay_service_pb2.RefundRequest.FromString(call.body).payee_reference == ""


async def test_an_order_whose_time_passed_while_it_was_merged_is_due_at_once(bench: Bench) -> None:
    orders = await two_orders(bench)
    group = (await merge(bench, orders)).trade
    bench.clock.advance(1_800_000)
    assert (await expire(bench, group.id)) is not None
    assert (await bench.trade(group.id)).reason == "EXPIRED"
    for order in orders:
        freed = await bench.trade(order.id)
        assert freed.due_at_ms is not None
        assert freed.due_at_ms <= bench.clock.now_ms()
        await expire(bench, order.id)
        assert (await bench.trade(order.id)).state == "CLOSED"


async def test_a_merged_payment_that_the_customer_confirms_too_late_is_given_back_and_pays_nothing(
    bench: Bench,
) -> None:
    orders = await two_orders(bench)
    wallet = PayMethod(Tool.WALLET, "tok_wallet")
    group = (await merge(bench, orders, pay_methods=(wallet,))).trade
    await close(bench, group.id)
    paying = (await bench.pay(orders[0].id)).trade
    group = await ends(bench, group)
    assert (group.state, group.paid_minor) == ("CLOSED", 0)
    (refund,) = await refunds_of(bench, group)
    assert (refund.purpose, refund.amount_minor) == ("LATE", 1000)
    assert [(await bench.trade(order.id)).state for order in orders] == ["PAYING", "CREATED"]
    assert (await ends(bench, paying)).state == "PAID"
    await check_laws(bench, group.id)


async def test_a_merged_payment_that_is_over_is_not_paid_whatever_its_orders_cost_now(bench: Bench) -> None:
    orders = await two_orders(bench)
    group = (await merge(bench, orders)).trade
    await close(bench, group.id)
    await bench.store.run(RepriceTrade(an_origin(), POLICY, orders[0].id, "EUR", 1, ""))
    assert await reason_of(bench.pay(group.id)) == "ILLEGAL_STATE"


# Split purchases


async def test_a_split_purchase_pays_each_merchant_by_one_payment(bench: Bench) -> None:
    view = await a_split(bench, pay_methods=(CARD,))
    split = view.trade
    made = await parts(bench, split)
    assert {(part.payee_id, part.amount_minor, part.state) for part in made} == {
        (MERCHANT, 700, "CREATED"),
        (OTHER_MERCHANT, 300, "CREATED"),
    }
    assert {part.parent_trade_id for part in made} == {split.id}
    assert {relation.kind for relation in view.relations} == {"SPLIT"}
    (call,) = [row for row in await bench.outbox(split.id) if row.kind == "call"]
    payees = pay_service_pb2.TransferRequest.FromString(call.body).payees
    assert {payee.reference for payee in payees} == {part.id for part in made}
    await bench.apply(a_result(split.attempt_id))
    split = await check_laws(bench, split.id)
    assert (split.state, split.part_paid_count) == ("PAID", 2)
    assert [part.state for part in await parts(bench, split)] == ["PAID", "PAID"]
    assert await reason_of(bench.refund(split.id)) == "REFUND_BY_PART"
    refund = (await bench.refund(made[0].id)).trade
    (call,) = [row for row in await bench.outbox(refund.id) if row.kind == "call"]
    assert pay_service_pb2.RefundRequest.FromString(call.body).payee_reference == made[0].id


async def test_a_split_purchase_is_paid_later_just_the_same(bench: Bench) -> None:
    split = (await a_split(bench)).trade
    failed = await ends(bench, (await bench.pay(split.id)).trade, is_success=False)
    assert failed.state == "CREATED"
    assert [part.state for part in await parts(bench, split)] == ["CREATED", "CREATED"]
    paid = await ends(bench, (await bench.pay(split.id)).trade)
    assert paid.state == "PAID"
    await check_laws(bench, split.id)


async def test_a_part_of_a_split_purchase_is_neither_paid_nor_closed_alone(bench: Bench) -> None:
    split = (await a_split(bench)).trade
    (part, _) = await parts(bench, split)
    assert await reason_of(bench.pay(part.id)) == "PART_OF_ORDER"
    assert await reason_of(close(bench, part.id)) == "PART_OF_ORDER"
    assert await reason_of(bench.store.run(RepriceTrade(an_origin(), POLICY, part.id, "EUR", 1, ""))) == "PART_OF_ORDER"
    bench.clock.advance(1_800_000)
    assert (await expire(bench, split.id)) is not None
    closed = await parts(bench, split)
    assert {(part.state, part.reason) for part in closed} == {("CLOSED", "EXPIRED")}
    for part in closed:
        assert (await subjects(bench, part.id))[-1] == "trade.trade_closed"


async def test_a_part_s_number_is_taken_once(bench: Bench) -> None:
    number = fresh("order")
    taken = (await bench.create(merchant_order_no=number)).trade
    before = await bench.counts()
    numbered = (
        PartInput(amount_minor=700, currency="EUR", payee_id=MERCHANT, merchant_order_no=number),
        PartInput(amount_minor=300, currency="EUR", payee_id=OTHER_MERCHANT),
    )
    with pytest.raises(AlreadyExists) as caught:
        await a_split(bench, parts=numbered)
    assert (caught.value.reason, caught.value.metadata["trade_id"]) == ("ORDER_EXISTS", taken.id)
    assert await bench.counts() == before
