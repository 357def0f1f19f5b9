"""Parts that are paid each on its own, on a real store: instalments, and orders paid in parts of any size."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from paykit.errors import FailedPrecondition, InvalidArgument
from tests.trade_core.part_support import (
    DAY_MS,
    a_plan,
    a_split,
    check_laws,
    close,
    ends,
    expire,
    parts,
    pay_part,
    reason_of,
    refunds_of,
    subjects,
)
from tests.trade_core.support import (
    BALANCE,
    BUYER,
    MERCHANT,
    NOW_MS,
    POLICY,
    Bench,
    an_origin,
)
from trade_core.refunds import RetryRefund
from trade_core.tables import Trade
from trade_core.trade import PayMethod
from trade_core.types import Tool, TradeType

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


async def test_closing_a_plan_and_paying_an_instalment_at_once_loses_no_money(bench: Bench) -> None:
    for _ in range(4):
        plan = (await a_plan(bench)).trade
        first, second, _ = await parts(bench, plan)
        paying = (await bench.pay(first.id)).trade
        calls: Sequence[Any] = [close(bench, plan.id), ends(bench, paying), bench.pay(second.id)]
        await asyncio.gather(*calls, return_exceptions=True)
        plan = await check_laws(bench, plan.id)
        assert plan.state == "CLOSED"
        (refund,) = await refunds_of(bench, await bench.trade(first.id))
        assert refund.amount_minor == first.amount_minor, "counted before the close or after it, it goes back"
        assert (await bench.trade(second.id)).state in ("CLOSED", "PAYING")


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


async def test_a_refund_under_way_when_the_plan_ends_is_tried_until_it_is_done(bench: Bench) -> None:
    plan = (await a_plan(bench)).trade
    first, second, _ = sorted(await parts(bench, plan), key=lambda part: part.due_at_ms or 0)
    await ends(bench, (await bench.pay(first.id)).trade)
    asked = (await bench.refund(first.id, 100)).trade
    bench.clock.advance(2 * DAY_MS)
    assert await expire(bench, second.id) is not None
    (rest,) = [refund for refund in await refunds_of(bench, first) if refund.id != asked.id]
    assert rest.amount_minor == first.amount_minor - 100
    await ends(bench, rest)
    failed = await ends(bench, asked, is_success=False)
    assert (failed.state, failed.purpose) == ("CREATED", "LATE")
    assert failed.due_at_ms is not None
    bench.clock.advance(failed.due_at_ms - bench.clock.now_ms())
    again = await bench.store.run(RetryRefund(an_origin(), POLICY, asked.id))
    assert again is not None
    await ends(bench, again.trade)
    first = await bench.trade(first.id)
    assert (first.refunded_minor, first.refundable_minor) == (first.amount_minor, 0)


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


async def test_a_part_that_the_customer_left_open_is_closed_and_makes_room(bench: Bench) -> None:
    order = (await bench.create()).trade
    awaited = await pay_part(bench, order.id, 600, Tool.WALLET)
    assert await reason_of(pay_part(bench, order.id, 500)) == "AMOUNT_EXCEEDS_UNPAID"
    assert (await close(bench, awaited.id)).state == "CLOSED"
    other = await pay_part(bench, order.id, 1000)
    late = await ends(bench, awaited)
    assert (late.state, late.paid_minor) == ("CLOSED", 0)
    assert [refund.purpose for refund in await refunds_of(bench, late)] == ["LATE"]
    await ends(bench, other)
    assert (await check_laws(bench, order.id)).state == "PAID"


async def test_a_second_confirmation_of_an_instalment_is_given_back_and_counted_once(bench: Bench) -> None:
    plan = (await a_plan(bench)).trade
    (part, *_) = await parts(bench, plan)
    wallets = [(await bench.pay(part.id, PayMethod(Tool.WALLET, f"tok_{i}"))).trade for i in range(2)]
    for wallet in wallets:
        await ends(bench, wallet)
    paid = await bench.trade(part.id)
    assert (paid.state, paid.paid_minor, paid.refundable_minor) == ("PAID", part.amount_minor, part.amount_minor)
    (refund,) = await refunds_of(bench, paid)
    assert (refund.purpose, refund.amount_minor) == ("DUPLICATE", part.amount_minor)
    plan = await check_laws(bench, plan.id)
    assert (plan.paid_minor, plan.part_paid_count) == (part.amount_minor, 1)


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
