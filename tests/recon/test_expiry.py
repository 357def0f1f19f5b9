"""A window that passes: the silent service is asked over gRPC; its answer is a fact, a break or a later question."""

from __future__ import annotations

import socket

import pytest

from paykit.clock import ManualClock
from paykit.context import use
from paykit.store.store import Store
from paymesh.channel.v1 import channel_order_pb2
from paymesh.event.v1 import events_pb2
from paymesh.pay.v1 import payment_pb2
from paymesh.trade.v1 import trade_pb2
from recon import facts
from recon.expiry import Expiry
from recon.matching import BreakState, BreakType, Fact, MatchKind, MatchState
from recon.peers import Peers
from recon.settings import AskSettings
from tests.recon.neighbours import Neighbours, connected
from tests.recon.support import CardPayment, breaks_in, expire, pair_of, row_of, rules


async def test_a_lost_payment_event_is_made_good_by_asking(
    expiry: Expiry, store: Store, clock: ManualClock, world: Neighbours
) -> None:
    payment = CardPayment()
    world.payments = [payment.payment()]
    said = facts.of_trade(payment.trade(), payment.payment_id)
    match = await expire(expiry, store, clock, payment, said, MatchKind.TRADE_PAY, payment.payment_id)
    assert match.state == MatchState.MATCHED
    assert world.asked == [("GetPayment", payment.context.biz_id)]
    assert await breaks_in(store) == []


async def test_a_charge_that_its_payment_knows_nothing_of_is_a_break(
    expiry: Expiry, store: Store, clock: ManualClock, world: Neighbours
) -> None:
    payment = CardPayment(500)
    said = facts.of_channel_order(payment.order())
    match = await expire(expiry, store, clock, payment, said, MatchKind.PAY_CHANNEL, payment.collect_id)
    assert match.state == MatchState.BROKEN
    (found,) = await breaks_in(store)
    assert (found.type, found.amount_minor) == (BreakType.MISSING_FIRST, 500)
    assert f"pay_core knows no payment {payment.payment_id}" in found.evidence


async def test_a_payment_still_under_way_is_asked_for_again(
    expiry: Expiry, store: Store, clock: ManualClock, world: Neighbours
) -> None:
    payment = CardPayment()
    world.payments = [payment.payment(payment_pb2.PAYMENT_STATE_PROCESSING)]
    said = facts.of_channel_order(payment.order())
    match = await expire(expiry, store, clock, payment, said, MatchKind.PAY_CHANNEL, payment.collect_id)
    assert (match.state, match.ask_count) == (MatchState.WAITING, 1)
    assert match.due_at_ms == clock.now_ms() + 2_000
    world.payments = [payment.payment()]
    clock.advance(2_000)
    with use(payment.context):
        await expiry.fire(await row_of(store, payment))
    settled = await pair_of(store, MatchKind.PAY_CHANNEL, payment.collect_id)
    assert settled is not None
    assert settled.state == MatchState.MATCHED


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (channel_order_pb2.CHANNEL_ORDER_STATE_SUCCEEDED, MatchState.MATCHED),
        (channel_order_pb2.CHANNEL_ORDER_STATE_FAILED, MatchState.BROKEN),
        (channel_order_pb2.CHANNEL_ORDER_STATE_PENDING, MatchState.WAITING),
    ],
)
async def test_the_channel_order_of_a_succeeded_instruction_is_asked_for(
    expiry: Expiry,
    store: Store,
    clock: ManualClock,
    world: Neighbours,
    state: channel_order_pb2.ChannelOrderState.ValueType,
    expected: MatchState,
) -> None:
    payment = CardPayment()
    world.orders = [payment.order(state)]
    said = facts.of_payment(payment.payment())
    match = await expire(expiry, store, clock, payment, said, MatchKind.PAY_CHANNEL, payment.collect_id)
    assert match.state == expected


@pytest.mark.parametrize(
    ("state", "opened_types"),
    [
        (channel_order_pb2.CHANNEL_ORDER_STATE_UNKNOWN, [BreakType.RESULT_UNKNOWN]),
        (channel_order_pb2.CHANNEL_ORDER_STATE_PENDING, []),
        (channel_order_pb2.CHANNEL_ORDER_STATE_FAILED, []),
        (channel_order_pb2.CHANNEL_ORDER_STATE_SUCCEEDED, []),
    ],
)
async def test_an_unknown_outcome_is_a_break_only_while_it_is_still_unknown(
    expiry: Expiry,
    store: Store,
    clock: ManualClock,
    world: Neighbours,
    state: channel_order_pb2.ChannelOrderState.ValueType,
    opened_types: list[BreakType],
) -> None:
    payment = CardPayment()
    world.orders = [payment.order(state)]
    said = facts.of_channel_order(payment.order(channel_order_pb2.CHANNEL_ORDER_STATE_UNKNOWN))
    await expire(expiry, store, clock, payment, said, MatchKind.PAY_CHANNEL, payment.collect_id)
    assert [row.type for row in await breaks_in(store)] == opened_types


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (trade_pb2.TRADE_STATE_PAID, MatchState.MATCHED),
        (trade_pb2.TRADE_STATE_PAYING, MatchState.WAITING),
        (trade_pb2.TRADE_STATE_FAILED, MatchState.BROKEN),
    ],
)
async def test_the_trade_of_a_succeeded_payment_is_found_by_its_attempt(
    expiry: Expiry,
    store: Store,
    clock: ManualClock,
    world: Neighbours,
    state: trade_pb2.TradeState.ValueType,
    expected: MatchState,
) -> None:
    payment, other = CardPayment(), CardPayment()
    world.trades = [other.trade(), payment.trade(state)]
    said = facts.of_payment(payment.payment())
    match = await expire(expiry, store, clock, payment, said, MatchKind.TRADE_PAY, payment.payment_id)
    assert match.state == expected


@pytest.mark.parametrize("state", [trade_pb2.TRADE_STATE_PAID, trade_pb2.TRADE_STATE_CLOSED])
async def test_a_payment_that_its_trade_gives_back_is_no_break(
    expiry: Expiry, store: Store, clock: ManualClock, world: Neighbours, state: trade_pb2.TradeState.ValueType
) -> None:
    payment = CardPayment(500)
    trade = payment.trade(state)
    trade.attempts[0].state = trade_pb2.ATTEMPT_STATE_RETURNED
    trade.attempts[0].amount.CopyFrom(payment.amount)
    world.trades = [trade]
    said = facts.of_payment(payment.payment())
    match = await expire(expiry, store, clock, payment, said, MatchKind.TRADE_PAY, payment.payment_id)
    assert match.state == MatchState.MATCHED
    assert await breaks_in(store, MatchKind.TRADE_PAY) == []


async def test_more_than_the_returned_attempt_was_for_is_a_break(
    expiry: Expiry, store: Store, clock: ManualClock, world: Neighbours
) -> None:
    payment = CardPayment(500)
    trade = payment.trade(trade_pb2.TRADE_STATE_CLOSED)
    trade.attempts[0].state = trade_pb2.ATTEMPT_STATE_RETURNED
    trade.attempts[0].amount.CopyFrom(payment.amount)
    trade.attempts[0].amount.amount_minor = 400
    world.trades = [trade]
    said = facts.of_payment(payment.payment())
    await expire(expiry, store, clock, payment, said, MatchKind.TRADE_PAY, payment.payment_id)
    (found,) = await breaks_in(store, MatchKind.TRADE_PAY)
    assert (found.type, found.amount_minor) == (BreakType.AMOUNT_MISMATCH, 100)


@pytest.mark.parametrize("state", [payment_pb2.PAYMENT_STATE_AUTHORIZED, payment_pb2.PAYMENT_STATE_REVERSING])
async def test_a_payment_that_is_held_for_days_is_no_break(
    expiry: Expiry,
    store: Store,
    clock: ManualClock,
    world: Neighbours,
    state: payment_pb2.PaymentState.ValueType,
) -> None:
    """The order's event comes, the payment's is lost or not due yet: what it says when it is asked is enough."""
    payment = CardPayment(500)
    held = payment.payment()
    held.state = state
    held.instructions[0].action = payment_pb2.INSTRUCTION_ACTION_RESERVE
    del held.instructions[1]
    world.payments = [held]
    said = facts.of_channel_order(payment.order())
    match = await expire(expiry, store, clock, payment, said, MatchKind.PAY_CHANNEL, payment.collect_id)
    assert (match.state, match.due_at_ms) == (MatchState.MATCHED, None)
    assert await pair_of(store, MatchKind.PAY_LEDGER, payment.collect_id) is None
    assert await pair_of(store, MatchKind.TRADE_PAY, payment.payment_id) is None


async def test_a_payment_without_a_trade_is_a_break(
    expiry: Expiry, store: Store, clock: ManualClock, world: Neighbours
) -> None:
    payment = CardPayment(500)
    said = facts.of_payment(payment.payment())
    await expire(expiry, store, clock, payment, said, MatchKind.TRADE_PAY, payment.payment_id)
    (found,) = await breaks_in(store, MatchKind.TRADE_PAY)
    assert (found.type, found.amount_minor) == (BreakType.MISSING_FIRST, 500)


async def test_a_service_that_cannot_be_reached_is_asked_again(store: Store, clock: ManualClock) -> None:
    payment = CardPayment()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        async with connected(taken.getsockname()[1]) as channels:
            expiry = Expiry(store, Peers(channels, AskSettings(timeout_s=2.0)), rules())
            said = facts.of_channel_order(payment.order())
            match = await expire(expiry, store, clock, payment, said, MatchKind.PAY_CHANNEL, payment.collect_id)
    assert (match.state, match.ask_count) == (MatchState.WAITING, 1)
    assert await breaks_in(store) == []


async def test_a_service_unreachable_for_too_long_is_a_break_that_heals_when_it_answers(
    expiry: Expiry, store: Store, clock: ManualClock, world: Neighbours
) -> None:
    payment = CardPayment()
    said = facts.of_channel_order(payment.order())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with connected(taken.getsockname()[1]) as channels:
            clock_start_ms = clock.now_ms()
            unreachable = Expiry(store, Peers(channels, AskSettings(timeout_s=2.0)), rules())
            await expire(unreachable, store, clock, payment, said, MatchKind.PAY_CHANNEL, payment.collect_id)
            clock.advance(600_000)
            with use(payment.context):
                await unreachable.fire(await row_of(store, payment))
    (found,) = await breaks_in(store)
    assert found.state == BreakState.OPEN
    assert found.opened_at_ms == clock_start_ms + 630_000
    assert "could not be asked for: UNAVAILABLE" in found.evidence
    world.payments = [payment.payment()]
    broken = await pair_of(store, MatchKind.PAY_CHANNEL, payment.collect_id)
    assert broken is not None
    clock.advance(4_000)
    with use(payment.context):
        await expiry.fire(await row_of(store, payment))
    (found,) = await breaks_in(store)
    assert (found.state, found.close_reason) == (BreakState.CLOSED, "LATE_MATCH")


def submitted(payment: CardPayment) -> list[Fact]:
    """That the charge of a payment has left for its channel."""
    event = events_pb2.PaymentSubmittedEvent(payment_id=payment.payment_id)
    event.instructions.add(instruction_id=payment.collect_id, amount_minor=500, currency_code="EUR")
    return facts.of_submitted(event)


@pytest.mark.parametrize(
    ("state", "opened_types", "next_s"),
    [
        (channel_order_pb2.CHANNEL_ORDER_STATE_PENDING, [], 60),
        (channel_order_pb2.CHANNEL_ORDER_STATE_UNKNOWN, [], 60),
        (channel_order_pb2.CHANNEL_ORDER_STATE_FAILED, [], None),
        (None, [BreakType.RESULT_UNKNOWN], 60),
    ],
)
async def test_what_was_sent_is_asked_about_when_nobody_speaks_of_it(
    expiry: Expiry,
    store: Store,
    clock: ManualClock,
    world: Neighbours,
    state: channel_order_pb2.ChannelOrderState.ValueType | None,
    opened_types: list[BreakType],
    next_s: int | None,
) -> None:
    payment = CardPayment(500)
    world.orders = [] if state is None else [payment.order(state)]
    await store.run(payment.take(submitted(payment)))
    clock.advance(60_000)
    with use(payment.context):
        await expiry.fire(await row_of(store, payment))
    pair = await pair_of(store, MatchKind.PAY_CHANNEL, payment.collect_id)
    assert pair is not None
    assert pair.due_at_ms == (None if next_s is None else clock.now_ms() + 1000 * next_s)
    assert [row.type for row in await breaks_in(store)] == opened_types


async def test_a_slow_channel_is_no_break_for_a_day(
    expiry: Expiry, store: Store, clock: ManualClock, world: Neighbours
) -> None:
    payment = CardPayment(500)
    world.orders = [payment.order(channel_order_pb2.CHANNEL_ORDER_STATE_PENDING)]
    await store.run(payment.take(submitted(payment)))
    asked_count, sent_at_ms = 0, clock.now_ms()
    while not await breaks_in(store):
        row = await row_of(store, payment)
        assert row.due_at_ms is not None
        clock.advance(row.due_at_ms - clock.now_ms())
        with use(payment.context):
            await expiry.fire(row)
        asked_count += 1
    assert asked_count < 40, "about once an hour"
    (found,) = await breaks_in(store)
    assert found.opened_at_ms - sent_at_ms >= 86_400_000
    assert found.type == BreakType.RESULT_UNKNOWN
