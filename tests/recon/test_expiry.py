"""A window that passes: the silent service is asked over gRPC; its answer is a fact, a break or a later question."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from paykit.clock import ManualClock
from paykit.context import use
from paykit.ids import slot_of
from paykit.rpc.channels import Channels
from paykit.settings import ShardSettings
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
from recon.tables import Match
from tests.recon.neighbours import Neighbours, connected, serving
from tests.recon.support import NOW_MS, SLOT, CardPayment, breaks_in, match_of, mint, opened, owner_on, rules

USER = payment_pb2.ACCOUNT_KIND_USER
EXTERNAL = payment_pb2.ACCOUNT_KIND_EXTERNAL
IN_TRANSIT = payment_pb2.ACCOUNT_KIND_IN_TRANSIT


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    shards = {"s0": ShardSettings(live=f"sqlite+aiosqlite:///{tmp_path}/recon.db")}
    async with opened(shards, clock) as store:
        yield store


@pytest.fixture
def world() -> Neighbours:
    return Neighbours()


@pytest.fixture
async def channels(world: Neighbours) -> AsyncIterator[Channels]:
    async with serving(world) as channels:
        yield channels


@pytest.fixture
def expiry(store: Store, channels: Channels) -> Expiry:
    return Expiry(store, Peers(channels, AskSettings()), rules())


async def expire(
    expiry: Expiry, store: Store, clock: ManualClock, payment: CardPayment, said: list[Fact], kind: MatchKind, key: str
) -> Match:
    """Takes ``said``, lets the window pass, fires for one match, and gives it as it is then."""
    await store.run(payment.take(said))
    match = await match_of(store, kind, key)
    assert match is not None
    assert match.state == MatchState.WAITING
    clock.advance(30_000)
    with use(payment.context):
        await expiry.fire(match)
    after = await match_of(store, kind, key)
    assert after is not None
    return after


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
        await expiry.fire(match)
    settled = await match_of(store, MatchKind.PAY_CHANNEL, payment.collect_id)
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


async def test_a_payment_without_a_trade_is_a_break(
    expiry: Expiry, store: Store, clock: ManualClock, world: Neighbours
) -> None:
    payment = CardPayment(500)
    said = facts.of_payment(payment.payment())
    await expire(expiry, store, clock, payment, said, MatchKind.TRADE_PAY, payment.payment_id)
    (found,) = await breaks_in(store)
    assert (found.type, found.amount_minor) == (BreakType.MISSING_FIRST, 500)


@pytest.mark.parametrize(
    ("booked_minor", "expected"), [(500, MatchState.MATCHED), (499, MatchState.BROKEN), (None, MatchState.BROKEN)]
)
async def test_the_journal_of_a_payee_is_looked_for_on_the_payees_account(
    expiry: Expiry,
    store: Store,
    clock: ManualClock,
    world: Neighbours,
    booked_minor: int | None,
    expected: MatchState,
) -> None:
    payment = CardPayment(500)
    world.payments = [payment.payment()]
    world.book(payment.payee_id, USER, "pay_other", 500)
    if booked_minor is not None:
        world.book(payment.payee_id, USER, payment.payment_id, booked_minor)
    said = facts.of_payment(payment.payment())
    match = await expire(expiry, store, clock, payment, said, MatchKind.PAY_LEDGER, payment.disburse_id)
    assert match.state == expected


async def test_the_journal_of_a_charge_is_looked_for_on_the_slots_external_account(
    expiry: Expiry, store: Store, clock: ManualClock, world: Neighbours
) -> None:
    payment = CardPayment(500)
    world.payments = [payment.payment()]
    world.book(f"internal.{SLOT}", EXTERNAL, payment.payment_id, -500)
    for _ in range(250):
        world.book(f"internal.{SLOT}", EXTERNAL, "pay_other", -500)
    said = facts.of_payment(payment.payment())
    match = await expire(expiry, store, clock, payment, said, MatchKind.PAY_LEDGER, payment.collect_id)
    assert match.state == MatchState.MATCHED
    assert [method for method, _ in world.asked].count("ListEntries") == 2


async def test_more_entries_than_are_looked_through_is_no_answer(
    expiry: Expiry, store: Store, clock: ManualClock, world: Neighbours
) -> None:
    payment = CardPayment(500)
    world.payments = [payment.payment()]
    for _ in range(1_001):
        world.book(payment.payee_id, USER, "pay_other", 1)
    said = facts.of_payment(payment.payment())
    match = await expire(expiry, store, clock, payment, said, MatchKind.PAY_LEDGER, payment.disburse_id)
    assert (match.state, match.ask_count) == (MatchState.WAITING, 1)


async def test_entries_older_than_the_payment_are_not_looked_through(
    expiry: Expiry, store: Store, clock: ManualClock, world: Neighbours
) -> None:
    payment = CardPayment(500)
    world.payments = [payment.payment()]
    for _ in range(1_001):
        world.book(payment.payee_id, USER, "pay_other", 1, post_ms=NOW_MS - 3_600_000)
    said = facts.of_payment(payment.payment())
    match = await expire(expiry, store, clock, payment, said, MatchKind.PAY_LEDGER, payment.disburse_id)
    assert match.state == MatchState.BROKEN
    assert [method for method, _ in world.asked].count("ListEntries") == 1


async def test_what_was_taken_and_given_back_must_show_in_the_ledger_too(
    expiry: Expiry, store: Store, clock: ManualClock, world: Neighbours
) -> None:
    payment = CardPayment(500)
    reversed_payment = payment.payment()
    back = reversed_payment.instructions.add()
    back.CopyFrom(reversed_payment.instructions[1])
    back.instruction_id = mint("ins")
    back.action = payment_pb2.INSTRUCTION_ACTION_COLLECT
    world.payments = [reversed_payment]
    world.book(payment.payee_id, USER, "pay_other", 1)
    said = facts.of_payment(reversed_payment)
    match = await expire(expiry, store, clock, payment, said, MatchKind.PAY_LEDGER, payment.disburse_id)
    assert match.state == MatchState.BROKEN, "a sum of zero over no entries proves nothing"


@pytest.mark.parametrize(
    ("is_sent_heard", "has_booked", "expected"),
    [
        (True, True, MatchState.MATCHED),
        (True, False, MatchState.BROKEN),
        (False, True, MatchState.MATCHED),
        (False, False, MatchState.BROKEN),
    ],
)
async def test_both_ends_of_a_transit_are_looked_for_where_they_must_show(
    expiry: Expiry,
    store: Store,
    clock: ManualClock,
    world: Neighbours,
    is_sent_heard: bool,
    has_booked: bool,
    expected: MatchState,
) -> None:
    payment = CardPayment(500)
    payment.payee_id = owner_on(SLOT + 1)
    assert slot_of(payment.payee_id) != SLOT
    world.payments = [payment.payment()]
    if has_booked and is_sent_heard:
        world.book(payment.payee_id, USER, payment.payment_id, 500)
    if has_booked and not is_sent_heard:
        world.book(f"internal.{SLOT}", IN_TRANSIT, payment.payment_id, 500)
    journal = payment.journal(events_pb2.BOOKING_LEG_SENT) if is_sent_heard else payment.arrival()
    said = facts.of_journal(journal)
    match = await expire(expiry, store, clock, payment, said, MatchKind.TRANSIT, payment.disburse_id)
    assert match.state == expected


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
            match = await expire(unreachable, store, clock, payment, said, MatchKind.PAY_CHANNEL, payment.collect_id)
            clock.advance(600_000)
            with use(payment.context):
                await unreachable.fire(match)
    (found,) = await breaks_in(store)
    assert found.state == BreakState.OPEN
    assert found.opened_at_ms == clock_start_ms + 630_000
    assert "could not be asked for: UNAVAILABLE" in found.evidence
    world.payments = [payment.payment()]
    broken = await match_of(store, MatchKind.PAY_CHANNEL, payment.collect_id)
    assert broken is not None
    clock.advance(4_000)
    with use(payment.context):
        await expiry.fire(broken)
    (found,) = await breaks_in(store)
    assert (found.state, found.close_reason) == (BreakState.CLOSED, "LATE_MATCH")
