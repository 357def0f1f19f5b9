"""Orders with parts on a real store: one payment for many, many payments for one, and the races between them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from paykit.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from paykit.ids import new_id
from paymesh.event.v1.events_pb2 import TradeEvent
from paymesh.pay.v1 import pay_service_pb2, payment_pb2
from tests.trade_core.part_support import (
    DAY_MS,
    OTHER_MERCHANT,
    a_plan,
    a_split,
    check_laws,
    merge,
    parts,
    refunds_of,
    two_orders,
)
from tests.trade_core.support import (
    BALANCE,
    BUYER,
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
from trade_core.commands import CloseTrade, ExpireTrade, PayTrade, RepriceTrade
from trade_core.parts import PartInput
from trade_core.tables import Trade
from trade_core.trade import PayMethod
from trade_core.types import Tool, TradeType
from trade_core.wire import TradeView


async def close(bench: Bench, trade_id: str) -> Trade:
    return (await bench.store.run(CloseTrade(an_origin(), POLICY, trade_id, "no longer"))).trade


async def expire(bench: Bench, trade_id: str) -> TradeView | None:
    return await bench.store.run(ExpireTrade(an_origin(), POLICY, trade_id))


async def pay_part(bench: Bench, trade_id: str, amount_minor: int, tool: Tool = Tool.CARD) -> Trade:
    """Begins to pay a part of a trade; the part."""
    methods = [PayMethod(tool, "" if tool is Tool.BALANCE else f"tok_{tool}", amount_minor, "EUR")]
    view = await bench.store.run(PayTrade(an_origin(), POLICY, trade_id, methods, is_partial=True))
    (relation,) = view.relations
    return await bench.trade(relation.child_trade_id)


async def ends(bench: Bench, trade: Trade, is_success: bool = True) -> Trade:
    """The latest attempt of a trade ends; the trade as it is then."""
    await bench.apply(a_result(trade.attempt_id, is_success, trade.amount_minor))
    return await bench.trade(trade.id)


async def reason_of(call: Any) -> str:
    """Why a call is refused."""
    with pytest.raises(FailedPrecondition) as caught:
        await call
    return caught.value.reason


async def subjects(bench: Bench, trade_id: str) -> list[str]:
    """What was told about one trade, in order."""
    told = [(TradeEvent.FromString(row.body).trade, row.destination) for row in await bench.events(trade_id)]
    own = [(trade.version, subject) for trade, subject in told if trade.trade_id == trade_id]
    return [subject for _, subject in sorted(own)]


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


# Instalments


async def test_a_plan_is_paid_instalment_by_instalment(bench: Bench) -> None:
    plan = (await a_plan(bench)).trade
    due = [part.due_at_ms for part in await parts(bench, plan)]
    assert sorted(each for each in due if each) == [NOW_MS + DAY_MS, NOW_MS + 2 * DAY_MS, NOW_MS + 40 * DAY_MS]
    assert (plan.expires_at_ms, plan.due_at_ms) == (NOW_MS + 40 * DAY_MS, None)
    assert await reason_of(bench.pay(plan.id, BALANCE)) == "PAY_BY_PART"
    states = []
    for part in await parts(bench, plan):
        paid = await ends(bench, (await bench.pay(part.id)).trade)
        assert (paid.state, paid.refundable_minor) == ("PAID", paid.amount_minor)
        states.append((await check_laws(bench, plan.id)).state)
    assert states == ["PARTIALLY_PAID", "PARTIALLY_PAID", "PAID"]
    told = await subjects(bench, plan.id)
    assert told == ["trade.trade_created", "trade.trade_changed", "trade.trade_changed", "trade.trade_paid"]
    assert await reason_of(bench.refund(plan.id)) == "REFUND_BY_PART"


async def test_instalments_paid_at_once_are_all_counted(bench: Bench) -> None:
    plan = (await a_plan(bench)).trade
    paying = [(await bench.pay(part.id)).trade for part in await parts(bench, plan)]
    await asyncio.gather(*(ends(bench, part) for part in paying))
    plan = await check_laws(bench, plan.id)
    assert (plan.state, plan.paid_minor, plan.part_paid_count) == ("PAID", 1000, 3)


async def test_instalments_in_the_past_are_refused_by_field(bench: Bench) -> None:
    before = await bench.counts()
    with pytest.raises(InvalidArgument) as caught:
        await a_plan(bench, due_at_ms=(NOW_MS - 1, NOW_MS + DAY_MS, NOW_MS + 2 * DAY_MS))
    assert [violation.field for violation in caught.value.violations] == ["parts[0].due_time"]
    assert await bench.counts() == before


async def test_an_instalment_not_paid_in_time_ends_the_plan_and_gives_the_others_back(bench: Bench) -> None:
    plan = (await a_plan(bench)).trade
    first, second, third = sorted(await parts(bench, plan), key=lambda part: part.due_at_ms or 0)
    await ends(bench, (await bench.pay(first.id)).trade)
    bench.clock.advance(2 * DAY_MS)
    view = await expire(bench, second.id)
    assert view is not None
    assert (view.trade.id, view.trade.state) == (second.id, "CLOSED")
    plan = await check_laws(bench, plan.id)
    assert (plan.state, plan.reason) == ("CLOSED", "INSTALMENT_UNPAID")
    assert (await bench.trade(third.id)).state == "CLOSED"
    (refund,) = await refunds_of(bench, await bench.trade(first.id))
    assert (refund.state, refund.amount_minor) == ("PAYING", first.amount_minor)
    await ends(bench, refund)
    first = await bench.trade(first.id)
    assert (first.refunded_minor, first.refundable_minor) == (first.amount_minor, 0)
    assert await expire(bench, second.id) is None
    assert await expire(bench, third.id) is None


async def test_what_was_refunded_before_is_not_given_back_again(bench: Bench) -> None:
    plan = (await a_plan(bench)).trade
    first, second, _ = sorted(await parts(bench, plan), key=lambda part: part.due_at_ms or 0)
    await ends(bench, (await bench.pay(first.id)).trade)
    await ends(bench, (await bench.pay(second.id)).trade)
    await ends(bench, (await bench.refund(first.id)).trade)
    await ends(bench, (await bench.refund(second.id, 100)).trade)
    assert (await close(bench, plan.id)).reason == "CLOSED_BY_CALLER"
    assert len(await refunds_of(bench, await bench.trade(first.id))) == 1
    amounts = sorted(refund.amount_minor for refund in await refunds_of(bench, await bench.trade(second.id)))
    assert amounts == [100, second.amount_minor - 100]
    await check_laws(bench, plan.id)


@pytest.mark.parametrize("is_success", [True, False])
async def test_an_instalment_that_was_unknown_when_its_plan_ended_ends_with_its_result(
    bench: Bench, is_success: bool
) -> None:
    plan = (await a_plan(bench)).trade
    _, second, third = sorted(await parts(bench, plan), key=lambda part: part.due_at_ms or 0)
    unknown = (await bench.pay(third.id)).trade
    bench.clock.advance(2 * DAY_MS)
    assert await expire(bench, second.id) is not None
    assert (await bench.trade(third.id)).state == "PAYING"
    ended = await ends(bench, unknown, is_success)
    if not is_success and ended.state == "CREATED":
        assert ended.due_at_ms is not None
        assert ended.due_at_ms <= bench.clock.now_ms()
        assert await reason_of(bench.pay(third.id)) == "TRADE_EXPIRED"
        await expire(bench, third.id)
        ended = await bench.trade(third.id)
    assert (ended.state, ended.paid_minor) == ("CLOSED", 0)
    refunds = await refunds_of(bench, ended)
    assert [refund.purpose for refund in refunds] == (["LATE"] if is_success else [])
    plan = await check_laws(bench, plan.id)
    assert (plan.state, plan.paid_minor) == ("CLOSED", 0)


async def test_an_instalment_under_way_when_it_is_due_is_waited_for(bench: Bench) -> None:
    plan = (await a_plan(bench)).trade
    first, *_ = sorted(await parts(bench, plan), key=lambda part: part.due_at_ms or 0)
    paying = (await bench.pay(first.id)).trade
    bench.clock.advance(DAY_MS)
    assert await expire(bench, first.id) is None
    assert (await ends(bench, paying)).state == "PAID"
    assert (await check_laws(bench, plan.id)).state == "PARTIALLY_PAID"


# Paid in parts


async def test_a_purchase_is_paid_in_parts_of_any_size(bench: Bench) -> None:
    order = (await bench.create()).trade
    first = await pay_part(bench, order.id, 999)
    assert (first.trade_type, first.state, first.parent_trade_id) == ("PART_PAYMENT", "PAYING", order.id)
    assert (first.payee_id, first.amount_minor) == (MERCHANT, 999)
    assert (await bench.trade(order.id)).state == "CREATED"
    await ends(bench, first)
    order = await check_laws(bench, order.id)
    assert (order.state, order.paid_minor, order.due_at_ms) == ("PARTIALLY_PAID", 999, order.expires_at_ms)
    assert await reason_of(bench.pay(order.id)) == "PAID_IN_PARTS"
    assert await reason_of(pay_part(bench, order.id, 2)) == "AMOUNT_EXCEEDS_UNPAID"
    await ends(bench, await pay_part(bench, order.id, 1))
    order = await check_laws(bench, order.id)
    assert (order.state, order.paid_minor, order.due_at_ms, order.refundable_minor) == ("PAID", 1000, None, 0)
    assert (await subjects(bench, order.id))[-1] == "trade.trade_paid"
    assert await reason_of(bench.refund(order.id)) == "REFUND_BY_PART"
    assert (await bench.refund(first.id)).trade.amount_minor == 999


async def test_concurrent_parts_never_come_to_more_than_the_whole(bench: Bench) -> None:
    order = (await bench.create()).trade
    outcomes = await asyncio.gather(*(pay_part(bench, order.id, 300) for _ in range(8)), return_exceptions=True)
    begun = [outcome for outcome in outcomes if isinstance(outcome, Trade)]
    reasons = {outcome.reason for outcome in outcomes if isinstance(outcome, FailedPrecondition)}
    assert (len(begun), reasons) == (3, {"AMOUNT_EXCEEDS_UNPAID"})
    await asyncio.gather(*(ends(bench, part) for part in begun))
    assert (await check_laws(bench, order.id)).paid_minor == 900


async def test_a_part_that_failed_makes_room_again(bench: Bench) -> None:
    order = (await bench.create()).trade
    part = await pay_part(bench, order.id, 600)
    assert await reason_of(bench.pay(order.id)) == "PAID_IN_PARTS", "a part is under way"
    assert (await ends(bench, part, is_success=False)).state == "FAILED"
    paid = await ends(bench, (await bench.pay(order.id)).trade)
    assert (paid.state, paid.paid_minor, paid.refundable_minor, paid.part_paid_count) == ("PAID", 1000, 1000, 0)
    assert (await bench.refund(order.id)).trade.amount_minor == 1000, "its own payment is refunded"


async def test_a_whole_and_a_part_are_not_paid_at_once(bench: Bench) -> None:
    for _ in range(8):
        order = (await bench.create()).trade
        calls: Sequence[Any] = [bench.pay(order.id), pay_part(bench, order.id, 400)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        (refused,) = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert isinstance(refused, FailedPrecondition)
        assert refused.reason in ("PAID_IN_PARTS", "ILLEGAL_STATE")


async def test_an_order_paid_in_part_gives_it_back_when_its_time_is_up(bench: Bench) -> None:
    order = (await bench.create()).trade
    paid = await ends(bench, await pay_part(bench, order.id, 400))
    unknown = await pay_part(bench, order.id, 200)
    awaited = await pay_part(bench, order.id, 100, Tool.WALLET)
    bench.clock.advance(1_800_000)
    assert await expire(bench, order.id) is not None
    order = await check_laws(bench, order.id)
    assert (order.state, order.reason) == ("CLOSED", "EXPIRED")
    (refund,) = await refunds_of(bench, paid)
    assert refund.amount_minor == 400
    assert (await bench.trade(awaited.id)).state == "CLOSED"
    assert (await bench.trade(unknown.id)).state == "PAYING"
    for part in (awaited, unknown):
        late = await ends(bench, part)
        assert (late.state, late.paid_minor) == ("CLOSED", 0)
        (refund,) = await refunds_of(bench, late)
        assert (refund.purpose, refund.amount_minor) == ("LATE", part.amount_minor)
    order = await check_laws(bench, order.id)
    assert (order.state, order.paid_minor, order.part_paid_count) == ("CLOSED", 400, 1)


async def test_only_types_that_say_so_are_paid_in_parts(bench: Bench) -> None:
    split = (await a_split(bench)).trade
    assert await reason_of(pay_part(bench, split.id, 1)) == "PARTS_NOT_ALLOWED"
    transfer = (await bench.create(trade_type=TradeType.PEER_TRANSFER, payee_id="user.bob", lines=())).trade
    assert await reason_of(pay_part(bench, transfer.id, 1)) == "PARTS_NOT_ALLOWED"
    assert transfer.buyer_id == BUYER
