"""recon's commands through the real store: matches from events, breaks that open and close, on both backends."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from paykit.clock import ManualClock
from paykit.errors import AlreadyExists, FailedPrecondition, NotFound
from paykit.store.command import Origin
from paykit.store.store import Store
from paymesh.channel.v1 import channel_order_pb2
from paymesh.event.v1 import events_pb2
from paymesh.pay.v1 import payment_pb2
from paymesh.recon.v1 import recon_service_pb2
from paymesh.trade.v1 import trade_pb2
from recon import facts
from recon.answers import Answer, Verdict
from recon.commands import ApplyAnswers, CloseBreak, TakeMismatch, TakeOrphan
from recon.heard import Heard
from recon.matching import BreakState, BreakType, CloseReason, MatchKind, MatchState
from recon.pair import Pair
from tests.conftest import MakeShards
from tests.recon.support import (
    CardPayment,
    announced,
    breaks_in,
    mint,
    opened,
    pair_of,
    row_of,
    rules,
)

NO = Answer(Verdict.NO, "said no")
LATER = Answer(Verdict.LATER, "not yet")
UNREACHABLE = Answer(Verdict.UNREACHABLE, "nobody there")


@pytest.fixture
async def store(make_shards: MakeShards, clock: ManualClock) -> AsyncIterator[Store]:
    async with opened(make_shards(2), clock) as store:
        yield store


async def waiting(store: Store, kind: MatchKind, key: str) -> Pair:
    found = await pair_of(store, kind, key)
    assert found is not None
    return found


async def answer(store: Store, payment: CardPayment, pair: Pair, answer: Answer) -> None:
    """The silent side of one pair answers."""
    match = await row_of(store, payment)
    await store.run(ApplyAnswers(Origin.timer(payment.context), match, {pair.match_key: answer}, rules()))


async def test_a_payment_whose_services_agree_is_matched_everywhere(store: Store) -> None:
    payment = CardPayment()
    for said in (
        facts.of_channel_order(payment.order()),
        facts.of_journal(payment.journal(events_pb2.BOOKING_LEG_SENT)),
        facts.of_journal(payment.arrival()),
        facts.of_payment(payment.payment()),
        facts.of_trade(payment.trade(), payment.payment_id),
    ):
        await store.run(payment.take(said))
    for kind, key in (
        (MatchKind.TRADE_PAY, payment.payment_id),
        (MatchKind.PAY_CHANNEL, payment.collect_id),
        (MatchKind.PAY_LEDGER, payment.collect_id),
        (MatchKind.PAY_LEDGER, payment.disburse_id),
        (MatchKind.TRANSIT, payment.disburse_id),
    ):
        match = await waiting(store, kind, key)
        assert (match.state, match.due_at_ms) == (MatchState.MATCHED, None), kind
    row = await row_of(store, payment)
    assert (row.biz_id, row.payment_id) == (payment.context.biz_id, payment.payment_id)
    assert (row.state, row.pair_counts, row.due_at_ms) == (MatchState.MATCHED, "1.1.2.1", None)
    assert await breaks_in(store) == []


async def test_events_in_any_order_and_number_leave_the_same_matches(store: Store) -> None:
    draw = random.Random(1)
    for _ in range(5):
        payment = CardPayment()
        said = [
            facts.of_channel_order(payment.order(channel_order_pb2.CHANNEL_ORDER_STATE_UNKNOWN)),
            facts.of_channel_order(payment.order()),
            facts.of_journal(payment.journal()),
            facts.of_payment(payment.payment()),
            facts.of_trade(payment.trade(), payment.payment_id),
        ] * 2
        draw.shuffle(said)
        for item in said:
            await store.run(payment.take(item))
        match = await waiting(store, MatchKind.PAY_CHANNEL, payment.collect_id)
        assert match.state == MatchState.MATCHED
    assert await breaks_in(store) == []


async def test_a_payment_that_no_trade_made_waits_for_none(store: Store) -> None:
    payment = CardPayment()
    payment.attempt_id = "invoice-1"
    await store.run(payment.take(facts.of_payment(payment.payment())))
    assert await pair_of(store, MatchKind.TRADE_PAY, payment.payment_id) is None
    assert await pair_of(store, MatchKind.PAY_CHANNEL, payment.collect_id) is not None


async def test_a_message_that_comes_twice_has_one_effect(store: Store) -> None:
    payment = CardPayment()
    command = payment.take(facts.of_payment(payment.payment()))
    await store.run(command)
    first = await waiting(store, MatchKind.PAY_LEDGER, payment.collect_id)
    await store.run(command)
    assert await waiting(store, MatchKind.PAY_LEDGER, payment.collect_id) == first


async def test_different_amounts_break_at_once_and_are_announced(store: Store) -> None:
    payment = CardPayment(500)
    await store.run(payment.take(facts.of_payment(payment.payment())))
    order = payment.order()
    order.amount.amount_minor = 480
    await store.run(payment.take(facts.of_channel_order(order)))
    (found,) = await breaks_in(store)
    assert (found.type, found.state) == (BreakType.AMOUNT_MISMATCH, BreakState.OPEN)
    assert (found.amount_minor, found.currency) == (20, "EUR")
    assert (found.owner, found.biz_id) == ("payment-operations", payment.context.biz_id)
    assert "5.00 EUR" in found.evidence
    assert "4.80 EUR" in found.evidence
    assert await announced(store) == [("recon.break_opened", found.id)]


async def test_a_charge_that_failed_contradicts_a_payment_that_succeeded(store: Store) -> None:
    payment = CardPayment(500)
    failed = payment.order(channel_order_pb2.CHANNEL_ORDER_STATE_FAILED)
    await store.run(payment.take(facts.of_channel_order(failed)))
    await store.run(payment.take(facts.of_payment(payment.payment())))
    (found,) = await breaks_in(store)
    assert (found.type, found.amount_minor) == (BreakType.AMOUNT_MISMATCH, 500)


async def test_a_declined_payment_is_no_break(store: Store, clock: ManualClock) -> None:
    payment = CardPayment()
    for said in (
        facts.of_channel_order(payment.order(channel_order_pb2.CHANNEL_ORDER_STATE_FAILED)),
        facts.of_payment(payment.payment(payment_pb2.PAYMENT_STATE_FAILED)),
        facts.of_trade(payment.trade(trade_pb2.TRADE_STATE_FAILED), payment.payment_id),
    ):
        await store.run(payment.take(said))
    match = await waiting(store, MatchKind.PAY_CHANNEL, payment.collect_id)
    assert (match.state, match.due_at_ms) == (MatchState.MATCHED, None)
    assert await breaks_in(store) == []


async def test_no_for_an_answer_after_the_window_is_a_break(store: Store, clock: ManualClock) -> None:
    payment = CardPayment(500)
    await store.run(payment.take(facts.of_channel_order(payment.order())))
    match = await waiting(store, MatchKind.PAY_CHANNEL, payment.collect_id)
    clock.advance(30_000)
    await answer(store, payment, match, NO)
    (found,) = await breaks_in(store)
    assert (found.type, found.amount_minor, found.state) == (BreakType.MISSING_FIRST, 500, BreakState.OPEN)
    assert "said no" in found.evidence
    broken = await waiting(store, MatchKind.PAY_CHANNEL, payment.collect_id)
    assert broken.state == MatchState.BROKEN
    assert broken.due_at_ms == clock.now_ms() + 2_000


async def test_an_answer_before_the_window_passes_decides_nothing(store: Store, clock: ManualClock) -> None:
    payment = CardPayment()
    await store.run(payment.take(facts.of_channel_order(payment.order())))
    match = await waiting(store, MatchKind.PAY_CHANNEL, payment.collect_id)
    clock.advance(29_999)
    await answer(store, payment, match, NO)
    assert await breaks_in(store) == []


async def test_an_answer_with_the_missing_fact_is_no_break(store: Store, clock: ManualClock) -> None:
    payment = CardPayment()
    await store.run(payment.take(facts.of_channel_order(payment.order())))
    match = await waiting(store, MatchKind.PAY_CHANNEL, payment.collect_id)
    clock.advance(30_000)
    lost = tuple(facts.of_payment(payment.payment()))
    await answer(store, payment, match, Answer(Verdict.NO, "succeeded", lost))
    assert (await waiting(store, MatchKind.PAY_CHANNEL, payment.collect_id)).state == MatchState.MATCHED
    # The whole of the lost event is made good, not the one fact that was asked for.
    assert (await waiting(store, MatchKind.PAY_LEDGER, payment.disburse_id)).state == MatchState.WAITING
    assert await breaks_in(store) == []


async def test_nobody_there_is_asked_again_and_is_a_break_at_a_bounded_age(store: Store, clock: ManualClock) -> None:
    payment = CardPayment()
    await store.run(payment.take(facts.of_payment(payment.payment())))
    asked_after_ms = []
    clock.advance(30_000)
    for _ in range(50):
        match = await waiting(store, MatchKind.PAY_CHANNEL, payment.collect_id)
        if match.state == MatchState.BROKEN:
            break
        await answer(store, payment, match, UNREACHABLE)
        after = await waiting(store, MatchKind.PAY_CHANNEL, payment.collect_id)
        assert after.due_at_ms is not None
        asked_after_ms.append(after.due_at_ms - clock.now_ms())
        clock.advance(asked_after_ms[-1])
    assert asked_after_ms[:4] == [2_000, 4_000, 8_000, 16_000]
    (found,) = await breaks_in(store)
    assert found.type == BreakType.MISSING_SECOND
    assert "nobody there" in found.evidence
    assert 600_000 <= found.opened_at_ms - ManualClock().now_ms() < 1_300_000


async def test_a_break_whose_partner_comes_late_closes_itself(store: Store, clock: ManualClock) -> None:
    payment = CardPayment()
    await store.run(payment.take(facts.of_payment(payment.payment())))
    match = await waiting(store, MatchKind.TRADE_PAY, payment.payment_id)
    clock.advance(30_000)
    await answer(store, payment, match, NO)
    clock.advance(1_000)
    await store.run(payment.take(facts.of_trade(payment.trade(), payment.payment_id)))
    (found,) = await breaks_in(store)
    assert (found.state, found.close_reason) == (BreakState.CLOSED, CloseReason.LATE_MATCH)
    assert found.closed_at_ms == clock.now_ms()
    assert (await waiting(store, MatchKind.TRADE_PAY, payment.payment_id)).state == MatchState.MATCHED
    assert [subject for subject, _ in await announced(store)] == ["recon.break_opened", "recon.break_closed"]


async def test_a_partner_that_comes_late_and_differs_takes_the_breaks_place(store: Store, clock: ManualClock) -> None:
    payment = CardPayment()
    await store.run(payment.take(facts.of_payment(payment.payment())))
    match = await waiting(store, MatchKind.TRADE_PAY, payment.payment_id)
    clock.advance(30_000)
    await answer(store, payment, match, NO)
    clock.advance(1_000)
    trade = payment.trade()
    trade.amount.amount_minor = 400
    await store.run(payment.take(facts.of_trade(trade, payment.payment_id)))
    first, second = await breaks_in(store)
    assert (first.state, first.close_reason) == (BreakState.CLOSED, CloseReason.SUPERSEDED)
    assert (second.state, second.type, second.amount_minor) == (BreakState.OPEN, BreakType.AMOUNT_MISMATCH, 100)


async def test_an_outcome_that_stays_unknown_is_a_break_until_it_is_known(store: Store, clock: ManualClock) -> None:
    payment = CardPayment(500)
    unknown = payment.order(channel_order_pb2.CHANNEL_ORDER_STATE_UNKNOWN)
    await store.run(payment.take(facts.of_channel_order(unknown)))
    assert await breaks_in(store) == []
    match = await waiting(store, MatchKind.PAY_CHANNEL, payment.collect_id)
    clock.advance(30_000)
    await answer(store, payment, match, NO)
    (found,) = await breaks_in(store)
    assert (found.type, found.amount_minor, found.owner) == (BreakType.RESULT_UNKNOWN, 500, "channel-operations")
    await store.run(payment.take(facts.of_channel_order(payment.order())))
    (found,) = await breaks_in(store)
    assert (found.state, found.close_reason) == (BreakState.CLOSED, CloseReason.RESULT_KNOWN)
    match = await waiting(store, MatchKind.PAY_CHANNEL, payment.collect_id)
    assert (match.state, match.due_at_ms) == (MatchState.WAITING, clock.now_ms() + 30_000)


async def test_a_break_that_is_too_old_is_asked_about_no_more(store: Store, clock: ManualClock) -> None:
    payment = CardPayment()
    await store.run(payment.take(facts.of_channel_order(payment.order())))
    match = await waiting(store, MatchKind.PAY_CHANNEL, payment.collect_id)
    clock.advance(30_000)
    await answer(store, payment, match, NO)
    clock.advance(86_400_000)
    await answer(store, payment, match, NO)
    assert (await waiting(store, MatchKind.PAY_CHANNEL, payment.collect_id)).due_at_ms is None


async def test_a_contradiction_of_a_provider_is_one_break_beside_the_match(store: Store) -> None:
    payment = CardPayment(500)
    for evidence in ("says 700", "says 700 again"):
        origin = Origin.event(payment.context, "recon", mint("msg"))
        said = Heard(payment.payment_id, tuple(facts.of_channel_order(payment.order())))
        await store.run(TakeMismatch(origin, said, rules(), (500, "EUR"), evidence))
    (found,) = await breaks_in(store)
    assert (found.type, found.state) == (BreakType.NOTIFICATION_MISMATCH, BreakState.OPEN)
    assert found.evidence == "says 700\nsays 700 again"
    await store.run(payment.take(facts.of_payment(payment.payment())))
    assert (await waiting(store, MatchKind.PAY_CHANNEL, payment.collect_id)).state == MatchState.MATCHED
    (found,) = await breaks_in(store)
    assert found.state == BreakState.OPEN, "it is closed by a person"


async def test_an_order_that_only_a_provider_knows_is_a_break(store: Store) -> None:
    payment, order_id = CardPayment(), mint("chn")
    for evidence in ("says it did", "says it did again"):
        origin = Origin.event(payment.context, "recon", mint("msg"))
        await store.run(TakeOrphan(origin, order_id, rules(), evidence))
    (found,) = await breaks_in(store)
    assert (found.type, found.match_key) == (BreakType.NOTIFICATION_MISMATCH, f"PAY_CHANNEL/{order_id}")
    assert found.evidence == "says it did\nsays it did again"


def close(payment: CardPayment, break_id: str, reason: str, request_id: str = "r1") -> CloseBreak:
    request = recon_service_pb2.CloseBreakRequest(request_id=request_id, break_id=break_id, reason=reason)
    return CloseBreak(Origin.rpc(payment.context, "CloseBreak", break_id, request_id, request), break_id, reason)


async def test_a_person_closes_a_break_once(store: Store, clock: ManualClock) -> None:
    payment = CardPayment()
    await store.run(payment.take(facts.of_payment(payment.payment())))
    order = payment.order(channel_order_pb2.CHANNEL_ORDER_STATE_FAILED)
    await store.run(payment.take(facts.of_channel_order(order)))
    (found,) = await breaks_in(store)
    clock.advance(1)
    closed = await store.run(close(payment, found.id, "written off"))
    assert (closed.state, closed.close_reason, closed.version) == (BreakState.CLOSED, "written off", 2)
    assert await store.run(close(payment, found.id, "written off")) == closed
    with pytest.raises(AlreadyExists) as reused:
        await store.run(close(payment, found.id, "another reason"))
    assert reused.value.reason == "REQUEST_ID_REUSED"
    with pytest.raises(FailedPrecondition):
        await store.run(close(payment, found.id, "written off", request_id="r2"))
    with pytest.raises(NotFound):
        await store.run(close(payment, mint("brk"), "none", request_id="r3"))
    assert [subject for subject, _ in await announced(store)] == ["recon.break_opened", "recon.break_closed"]


async def test_shadow_events_leave_nothing_in_the_live_database(store: Store) -> None:
    payment = CardPayment(shadow=True)
    await store.run(payment.take(facts.of_channel_order(payment.order())))
    assert await pair_of(store, MatchKind.PAY_CHANNEL, payment.collect_id) is None
    assert await pair_of(store, MatchKind.PAY_CHANNEL, payment.collect_id, shadow=True) is not None


def test_an_event_whose_ids_lie_on_different_slots_is_refused() -> None:
    payment = CardPayment()
    payment.collect_id = mint("ins", slot=8)
    with pytest.raises(ValueError, match="is not on the slot"):
        payment.take(facts.of_payment(payment.payment()))
